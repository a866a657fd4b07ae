"""A small base from a user's own text: byte-level BPE, 3 to 10 M parameters, a few CPU-minutes of pretraining.

For trying the whole of RLHF on real data where no model can be downloaded. It knows the words of that text and little
else. It lies in Transformers layout and is loaded like any model.

    python -m rlhf_lora.mini text --data train.jsonl.gz --to my-base --architecture qwen2
    rlhf-lora train dataset=jsonl dataset.path=train.jsonl.gz model.path=my-base

What the later run keeps for judging is not read here: of comparisons and demonstrations, rows whose prompt falls into the
splits `tuning` and `final` are left out, and of every comparison the rejected answer is.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import registry
from rlhf_lora.atomic import staging
from rlhf_lora.errors import ConfigError, DataError, did_you_mean
from rlhf_lora.mini.pretraining import HELD_OUT_BUCKET, pretrain, quiet_transformers
from rlhf_lora.progress import Progress
from rlhf_lora.records import Data, Prompt
from rlhf_lora.splits import bucket

if TYPE_CHECKING:
    from torch import Tensor

END = "<|end|>"
ARCHITECTURES = ("llama", "qwen2")
LEAST_TOKENS = 2_000
BLOCK = 64
"""Every width is a multiple of the block of NF4, so that each linear layer can be held in 4 bits."""


@dataclass(frozen=True)
class TextBaseSettings:
    """What decides a base made from text.

    Attributes:
        params: about how many parameters; the width follows from it.
        vocabulary: entries of the byte-level BPE; fewer are made when the text does not give as many.
        context: tokens of one training block, and twice this the positions the model takes.
        steps: training steps of `batch` blocks.
    """

    architecture: str = "llama"
    params: int = 5_000_000
    vocabulary: int = 2048
    layers: int = 4
    context: int = 256
    batch: int = 8
    steps: int = 200
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(
                f"no architecture named '{self.architecture}'{did_you_mean(self.architecture, ARCHITECTURES)}",
                where="--architecture",
                fix=f"one of: {', '.join(ARCHITECTURES)}",
            )
        limits = {"params": (300_000, 50_000_000), "vocabulary": (320, 32_000), "steps": (1, 1_000_000)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name} is {getattr(self, name):,}", where=f"--{name}", fix=f"give {low:,} to {high:,}"
                )


def build_text_base(files: Sequence[str], folder: Path, settings: TextBaseSettings | None = None) -> dict[str, Any]:
    """Train a tokenizer and a model on the text of `files` and publish them as `folder`.

    Returns:
        What `base.json` in the folder says: settings, files, texts, tokens, parameters, first and last loss.

    Raises:
        ConfigError: the folder exists. DataError: a file cannot be read, or holds too little text.
    """
    import torch

    settings = settings or TextBaseSettings()
    if folder.exists():
        raise ConfigError(f"{folder} exists", where="--to", fix="give a folder that does not exist")
    texts = [text for file in files for text in texts_of(file)]
    tokenizer = train_tokenizer(texts, settings)
    tokens = _stream(tokenizer, texts)
    if len(tokens) < LEAST_TOKENS:
        raise DataError(
            f"{len(texts)} texts with {len(tokens)} tokens are too few to learn from",
            where=", ".join(files),
            fix=f"give at least {LEAST_TOKENS} tokens, about {4 * LEAST_TOKENS:,} characters",
        )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(settings.seed)
        model = make_model(settings, tokenizer)
        with Progress("text base", settings.steps) as bar:
            losses = pretrain(
                model,
                _blocks(tokens, settings),
                settings.steps,
                settings.learning_rate,
                lambda _done, _of, loss: bar.update(1, loss=loss),
            )
        facts = {
            "settings": dataclasses.asdict(settings),
            "files": [Path(file).name for file in files],
            "texts": len(texts),
            "tokens": len(tokens),
            "parameters": model.num_parameters(),
            "first_loss": round(losses[0], 4),
            "last_loss": round(losses[-1], 4),
        }
        with staging(folder) as building:
            model.save_pretrained(building)
            tokenizer.save_pretrained(building)
            (building / "base.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


# --- text -------------------------------------------------------------------------------------------------------------


def texts_of(file: str) -> list[str]:
    """The texts of one file: rows with a string `text` (TRL's format for language modelling), or any format that
    `dataset=jsonl` reads. Of comparisons it takes prompt and chosen answer, of labelled answers the good ones.

    Raises:
        DataError: as `dataset=jsonl`.
    """
    plain = _text_rows(file)
    if plain:
        return [text for text in plain if bucket(text.strip()) < HELD_OUT_BUCKET]
    data: Data = registry.build("dataset", {"name": "jsonl", "path": file}, where="--data").load()
    answered = [(row.prompt, row.chosen) for row in data.pairs]
    answered += [(row.prompt, row.completion) for row in data.demonstrations]
    answered += [(label.prompt, label.completion) for label in data.labels if label.good]
    answered += [(prompt, "") for prompt in data.prompts]
    return [joined(prompt, reply) for prompt, reply in answered if bucket(prompt.split_key) < HELD_OUT_BUCKET]


def _text_rows(file: str) -> list[str]:
    """The texts of a JSONL file whose every row has one; none when it is another kind of file, sound or not: what is
    wrong with it is for `dataset=jsonl` to say."""
    try:
        content = Path(file).expanduser().read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError):
        return []
    texts = [row.get("text") for row in rows if isinstance(row, dict)]
    return (
        [text for text in texts if text] if len(texts) == len(rows) and all(isinstance(t, str) for t in texts) else []
    )


def joined(prompt: Prompt, reply: str) -> str:
    """Prompt and reply as one text; white space between them when neither brings any."""
    if not reply or prompt.text[-1:].isspace() or reply[:1].isspace():
        return prompt.text + reply
    return f"{prompt.text} {reply}" if prompt.text.endswith(":") else f"{prompt.text}\n{reply}"


def train_tokenizer(texts: Sequence[str], settings: TextBaseSettings) -> Any:
    """A byte-level BPE: every text has tokens and comes back as it was. One special token, the end; no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        model_max_length=2 * settings.context,
        clean_up_tokenization_spaces=False,
    )


def _stream(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """All texts behind one another, each with its end token, shape (tokens,)."""
    import torch

    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def _blocks(tokens: Tensor, settings: TextBaseSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (B, S) cut from the stream at random places, and the same as labels."""
    import torch

    width = min(settings.context, len(tokens) - 1)
    source = torch.Generator().manual_seed(settings.seed)
    while True:
        starts_B = torch.randint(0, len(tokens) - width, (settings.batch,), generator=source)
        ids_BS = tokens[starts_B[:, None] + torch.arange(width)]
        yield ids_BS, ids_BS


# --- model ------------------------------------------------------------------------------------------------------------


def make_model(settings: TextBaseSettings, tokenizer: Any) -> Any:
    """A fresh model. Llama with its own output matrix; Qwen2 with biases on q, k, v and the embedding as output matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    qwen2 = settings.architecture == "qwen2"
    hidden = width_for(settings, len(tokenizer))
    shape: dict[str, Any] = dict(  # noqa: C408
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=_feed_forward(hidden),
        num_hidden_layers=settings.layers,
        num_attention_heads=hidden // BLOCK,
        num_key_value_heads=hidden // BLOCK,
        max_position_embeddings=2 * settings.context,
        initializer_range=1 / math.sqrt(hidden),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=qwen2,
    )
    return Qwen2ForCausalLM(Qwen2Config(**shape)) if qwen2 else LlamaForCausalLM(LlamaConfig(**shape))


def width_for(settings: TextBaseSettings, vocabulary: int) -> int:
    """The width, a multiple of 64, whose model comes nearest to the parameters wanted."""

    def count(hidden: int) -> int:
        matrices = 1 if settings.architecture == "qwen2" else 2
        return (
            settings.layers * (4 * hidden * hidden + 3 * hidden * _feed_forward(hidden))
            + matrices * vocabulary * hidden
        )

    return min(range(BLOCK, 17 * BLOCK, BLOCK), key=lambda hidden: abs(count(hidden) - settings.params))


def _feed_forward(hidden: int) -> int:
    return BLOCK * round(hidden * 8 / 3 / BLOCK)
