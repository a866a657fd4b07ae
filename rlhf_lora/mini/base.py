"""The tiny base of the embedded default: a word-level tokenizer and a Llama of 0.12 M parameters, pretrained from scratch
on generated text in under a CPU-minute and cached by content.

It lies in Transformers layout (`config.json`, `model.safetensors`, `tokenizer.json`), so that the path which loads it is
the one that loads a real model. Torch and Transformers are imported when a base is built, not before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import orders, pretraining
from rlhf_lora.splits import bucket

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` after each training step."""

MAX_POSITIONS = 64


@dataclass(frozen=True)
class BaseSettings:
    """What decides the base, bit for bit on one machine. All widths are multiples of 64, the block of NF4.

    Attributes:
        items: how many different things can be ordered; that of the dataset.
        clean, slips: shares of the documents that are careful replies, and kitchen slips; the rest is messy web text.
    """

    items: int = 12
    hidden: int = 64
    layers: int = 2
    heads: int = 2
    feed_forward: int = 192
    steps: int = 700
    batch: int = 96
    learning_rate: float = 4e-3
    clean: float = 0.2
    slips: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 4 <= self.items <= len(orders.ITEMS):
            raise ConfigError(f"a base with {self.items} items", where="items", fix=f"give 4 to {len(orders.ITEMS)}")
        if self.steps < 1 or self.batch < 1:
            raise ConfigError("a base needs at least one step and one document a batch", where="steps, batch")


def ensure_base(cache_dir: Path, settings: BaseSettings | None = None, progress: Progress | None = None) -> Path:
    """The folder of the base that `settings` describe, built when the cache does not hold it.

    The name is a hash of the settings and of the code that builds it. A folder appears under its name only when it is
    whole (built beside it, then renamed), so a second process waits for the lock and finds it whole; where locks do not
    work, as on some network drives, the one that comes second takes the winner's.
    """
    from filelock import FileLock

    settings = settings or BaseSettings()
    home = Path(cache_dir) / "bases"
    target = home / f"orders-{content_hash(settings)}"
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=home))
        try:
            build_base(building, settings, progress)
            _publish(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def build_base(folder: Path, settings: BaseSettings, progress: Progress | None = None) -> None:
    """Make the tokenizer, pretrain the model, save both in `folder`. Torch's random state and threads stay as they were."""
    import torch

    def report(done: int, total: int, _loss: float) -> None:
        if progress:
            progress(done, total)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at this width a second thread costs more than it gives
    try:
        with torch.random.fork_rng(devices=[]), pretraining.quiet_transformers():
            torch.manual_seed(settings.seed)
            tokenizer = make_tokenizer()
            model = make_model(settings, tokenizer)
            batches = _batches(tokenizer, settings)
            losses = pretraining.pretrain(model, batches, settings.steps, settings.learning_rate, report)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)
    last = losses[-max(1, len(losses) // 10) :]
    facts = {"task": "orders", "settings": dataclasses.asdict(settings), "last_loss": round(sum(last) / len(last), 4)}
    (folder / "base.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def make_tokenizer() -> Any:
    """One token per word, split at white space. It has an end token and no pad token: masks come from lengths."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: index for index, word in enumerate(orders.vocabulary())}
    words = Tokenizer(models.WordLevel(table, unk_token=orders.UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=orders.END,
        unk_token=orders.UNKNOWN,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def make_model(settings: BaseSettings, tokenizer: Any) -> Any:
    """A fresh Llama of these widths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=False,
        # 0.02, the usual, suits widths in the thousands. Here copying the items begins after 200 steps, there after 700.
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config)


# --- text -------------------------------------------------------------------------------------------------------------


def documents(settings: BaseSettings) -> Iterator[str]:
    """The endless pretraining text: orders with their replies, and kitchen slips, none of a held-out group."""
    rng = random.Random(f"base/{settings.seed}")
    seen = [t for t in orders.triples(settings.items) if bucket(orders.group(t)) < pretraining.HELD_OUT_BUCKET]
    while True:
        kind = rng.random()
        triple = rng.choice(seen)
        if kind < settings.slips:
            yield f"{orders.slip(rng, triple, settings.items)} {orders.END}"
            continue
        habits = orders.CAREFUL if kind < settings.slips + settings.clean else orders.WEB
        reply, finished = orders.draft(rng, triple, settings.items, habits)
        text = f"{orders.prompt_text(triple, rng.randrange(len(orders.TEMPLATES)))} {reply}"
        yield f"{text} {orders.END}" if finished else text


def _batches(tokenizer: Any, settings: BaseSettings, pool: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of documents of like length (so little is filler), in random order; labels are -100 on the filler."""
    import torch

    rng = random.Random(f"batches/{settings.seed}")
    table = tokenizer.get_vocab()
    text = documents(settings)
    while True:
        rows = [[table[word] for word in next(text).split()] for _ in range(settings.batch * pool)]
        rows.sort(key=len)
        starts = list(range(0, len(rows), settings.batch))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + settings.batch]
            width = max(map(len, batch))
            ids_BS = torch.tensor([row + [0] * (width - len(row)) for row in batch])
            labels_BS = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
            yield ids_BS, labels_BS


# --- the cache --------------------------------------------------------------------------------------------------------


def content_hash(settings: BaseSettings) -> str:
    """16 hex digits over the settings and the code that decides the base."""
    source = b"".join(Path(file).read_bytes() for file in (orders.__file__, pretraining.__file__, __file__))
    text = json.dumps(dataclasses.asdict(settings), sort_keys=True)
    return hashlib.sha256(text.encode() + b"\0" + source).hexdigest()[:16]


def _publish(building: Path, target: Path) -> None:
    """Rename into place; when another process was faster, keep its folder."""
    os.chmod(building, 0o755)  # mkdtemp makes it private, and a cache may be shared
    try:
        os.replace(building, target)
    except OSError:
        if not target.is_dir():
            raise
