"""The tiny base that knows the words of *helpdesk*: the Llama of `base`, pretrained on requests, replies and notes.

It is a module of its own, and `base` and `orders` know nothing of it: the hash that names the base of `orders` covers
their source, so another task's base must not touch them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import base, helpdesk, helpdesk_writers, orders, pretraining
from rlhf_lora.splits import bucket

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HelpdeskBase:
    """What decides the base, bit for bit on one machine. Widths as those of `base.BaseSettings`.

    Attributes:
        clean, notes: shares of the documents that are careful replies, and notes; the rest is messy web text.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    feed_forward: int = 192
    steps: int = 700
    batch: int = 96
    learning_rate: float = 4e-3
    clean: float = 0.2
    notes: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ConfigError("a base needs at least one step and one document a batch", where="steps, batch")


def build_base(folder: Path, settings: HelpdeskBase, progress: base.Progress | None = None) -> None:
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
            model = base.make_model(settings, tokenizer)  # type: ignore[arg-type]  # it reads the widths alone
            batches = _batches(tokenizer, settings)
            losses = pretraining.pretrain(model, batches, settings.steps, settings.learning_rate, report)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)
    last = losses[-max(1, len(losses) // 10) :]
    facts = {"task": "helpdesk", "settings": dataclasses.asdict(settings), "last_loss": round(sum(last) / len(last), 4)}
    (folder / "base.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def make_tokenizer() -> Any:
    """One token per word, as the tokenizer of `orders`: an end token, no pad token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: index for index, word in enumerate(helpdesk.vocabulary())}
    words = Tokenizer(models.WordLevel(table, unk_token=helpdesk.UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=helpdesk.END,
        unk_token=helpdesk.UNKNOWN,
        model_max_length=base.MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def documents(settings: HelpdeskBase) -> Iterator[str]:
    """The endless pretraining text: requests with their replies, and notes, none of a held-out group. No rule is in it."""
    rng = random.Random(f"helpdesk base/{settings.seed}")
    while True:
        items = helpdesk.draw_items(rng, helpdesk.draw_kind(rng, unsafe=0.35, borderline=0.25))
        if bucket(helpdesk.group(items)) >= pretraining.HELD_OUT_BUCKET:
            continue
        kind = rng.random()
        if kind < settings.notes:
            yield f"{helpdesk_writers.note(rng, items)} {helpdesk.END}"
            continue
        careful = kind < settings.notes + settings.clean
        reply, finished = helpdesk_writers.draft(
            rng, items, helpdesk_writers.CAREFUL if careful else helpdesk_writers.WEB
        )
        text = f"{helpdesk.prompt_text(items, rng.randrange(len(helpdesk.TEMPLATES)))} {reply}".rstrip()
        yield f"{text} {helpdesk.END}" if finished else text


def _batches(tokenizer: Any, settings: HelpdeskBase, pool: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of documents of like length, in random order; labels are -100 on the filler."""
    import torch

    rng = random.Random(f"helpdesk batches/{settings.seed}")
    table, text = tokenizer.get_vocab(), documents(settings)
    while True:
        rows = sorted(([table[w] for w in next(text).split()] for _ in range(settings.batch * pool)), key=len)
        starts = list(range(0, len(rows), settings.batch))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + settings.batch]
            width = max(map(len, batch))
            ids_BS = torch.tensor([row + [0] * (width - len(row)) for row in batch])
            labels_BS = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
            yield ids_BS, labels_BS


def content_hash(settings: HelpdeskBase) -> str:
    """16 hex digits over the settings and the code that decides the base."""
    modules = (orders, helpdesk, helpdesk_writers, pretraining, base)
    source = b"".join(Path(str(module.__file__)).read_bytes() for module in modules) + Path(__file__).read_bytes()
    text = json.dumps(dataclasses.asdict(settings), sort_keys=True)
    return hashlib.sha256(text.encode() + b"\0" + source).hexdigest()[:16]
