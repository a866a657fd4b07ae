"""A tiny base that can judge: 0.28 M parameters, word-level, built in four CPU-minutes. It knows the words of `orders`, and
answers the short questions of `judge=local judge.style=bare` through the log-probs of A and B, or of 1 to 10.

    python -m rlhf_lora.mini judge --to my-judge
    rlhf-lora evaluate judge=local judge.path=my-judge judge.style=bare dataset=orders

It is there to try AI feedback where no model can be downloaded, and lies in Transformers layout, so it can be the base of a
run as well (`model.path=my-judge dataset=orders`). How good it is: docs/judge_base.md.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import judge_lessons as lessons
from rlhf_lora.mini import orders
from rlhf_lora.mini.judge_lessons import Lesson
from rlhf_lora.mini.pretraining import HELD_OUT_BUCKET, quiet_transformers, rate
from rlhf_lora.splits import bucket

if TYPE_CHECKING:
    from torch import Tensor

MAX_POSITIONS = 160
Report = Callable[[int, int], None]

NOTED = tuple(enumerate(lessons.SORTS, 1))
"""After which layer which notes are to be read off: a layer for each sort, since each needs what the one before has found."""
NOTES_WEIGHT = 0.5
"""Of each sort of notes in the loss, beside the answers."""


@dataclass(frozen=True)
class JudgeBaseSettings:
    """What decides the base, bit for bit on one machine. All widths are multiples of 64, the block of NF4.

    Attributes:
        items: how many different things can be ordered; that of the dataset.
        warm_up: share of the steps that are on plain text alone, before the first question.
        plain, ratings: shares of the later batches that are plain text, and ratings; the rest is comparisons.
        seed: of the generator and of the weights; its streams are not those of any `dataset.seed`.
    """

    items: int = 12
    hidden: int = 64
    layers: int = 5
    heads: int = 4
    feed_forward: int = 192
    warm_up: float = 0.07
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 4e-3
    plain: float = 0.2
    ratings: float = 0.1
    seed: int = 1

    def __post_init__(self) -> None:
        if not 4 <= self.items <= len(orders.ITEMS):
            raise ConfigError(f"a base with {self.items} items", where="items", fix=f"give 4 to {len(orders.ITEMS)}")
        if self.layers < 5 or not 0 <= self.warm_up < 1 or min(self.steps, self.batch) < 1:
            raise ConfigError(
                "a judge needs five layers, and steps behind its warm-up", where="layers, warm_up, steps, batch"
            )


def build_judge_base(folder: Path, settings: JudgeBaseSettings, progress: Report | None = None) -> None:
    """Train the model and save it with its tokenizer in `folder`. Torch's random state and threads stay as they were."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at this width a second thread costs more than it gives
    try:
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.manual_seed(settings.seed)
            tokenizer = make_tokenizer()
            model = make_model(settings, tokenizer)
            losses = train(model, _batches(tokenizer.get_vocab(), settings), settings, progress)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)
    facts = {
        "task": "judging orders", "settings": dataclasses.asdict(settings), "parameters": model.num_parameters(),
        "last_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
    }  # fmt: skip
    (folder / "base.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def make_tokenizer() -> Any:
    """One token per word, split at white space; what it does not know is one and the same. It has an end token, no pad token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    table = {word: index for index, word in enumerate(lessons.vocabulary())}
    words = Tokenizer(models.WordLevel(table, unk_token=orders.UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=orders.END, unk_token=orders.UNKNOWN, model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_model(settings: JudgeBaseSettings, tokenizer: Any) -> Any:
    """A fresh Llama of these widths. In every head queries start equal to keys: a word looks for itself, so that a reply finds
    its words in the prompt from the first step on. Begun apart, that took most of the training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.hidden, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.heads,
        max_position_embeddings=MAX_POSITIONS, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
        tie_word_embeddings=False, initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # a word is found by what it is, however far away
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.copy_(layer.self_attn.k_proj.weight.data)
    return model


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Lessons of one sort: token ids, labels (-100 where nothing is to be said), notes (NaN where there is none)."""

    ids_BS: Tensor
    labels_BS: Tensor
    notes_BSN: Tensor | None


def train(
    model: Any, batches: Iterator[Batch], settings: JudgeBaseSettings, progress: Report | None = None
) -> list[float]:  # fmt: skip
    """Train all of `model`; what reads the notes off its layers is thrown away. Returns the loss of each step, in nats per
    learned token, the notes not counted."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    readers = nn.ModuleList([nn.Linear(settings.hidden, part.stop - part.start) for _, part in NOTED])
    parameters = [*model.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    model.train()
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate(step, settings.steps)
        batch = next(batches)
        out = model.model(input_ids=batch.ids_BS, output_hidden_states=True, use_cache=False)
        said_BS = batch.labels_BS[:, 1:] != -100
        logits_NV = model.lm_head(out.last_hidden_state[:, :-1][said_BS])  # of these places alone
        loss = F.cross_entropy(logits_NV, batch.labels_BS[:, 1:][said_BS])
        losses.append(loss.item())
        if batch.notes_BSN is not None:
            loss = loss + _unread(readers, out.hidden_states, batch.notes_BSN)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress:
            progress(step + 1, settings.steps)
    model.eval()
    return losses


def _unread(readers: Any, hidden: Sequence[Tensor], notes_BSN: Tensor) -> Tensor:
    """How much of the notes a linear reader of the layers misses: mean squared error over variance, summed over the sorts."""
    import torch
    from torch.nn import functional as F

    total = torch.zeros(())
    for reader, (layer, part) in zip(readers, NOTED, strict=True):
        wanted_BSN = notes_BSN[..., part]
        there_BS = ~wanted_BSN[..., 0].isnan()
        wanted_MN = wanted_BSN[there_BS]
        read_MN = reader(F.rms_norm(hidden[layer][there_BS], hidden[layer].shape[-1:]))
        variance = wanted_MN.var(0).mean().clamp(min=0.01)
        total = total + (read_MN - wanted_MN).square().mean() / variance
    return NOTES_WEIGHT * total


def _batches(table: dict[str, int], settings: JudgeBaseSettings) -> Iterator[Batch]:
    """Batches of one sort of lesson each; no prompt of a held-out bucket is in any."""
    rng = random.Random(f"judge base/{settings.seed}")
    seen = [t for t in orders.triples(settings.items) if bucket(orders.group(t)) < HELD_OUT_BUCKET]
    step = 0
    while True:
        sort = rng.random()
        if step < settings.warm_up * settings.steps or sort < settings.plain:
            lesson, count = lessons.text, settings.batch * 3 // 2
        else:
            lesson, count = (
                lessons.rating if sort < settings.plain + settings.ratings else lessons.comparison,
                settings.batch,
            )
        yield _batch([lesson(rng, rng.choice(seen), settings.items) for _ in range(count)], table)
        step += 1


def _batch(given: Sequence[Lesson], table: dict[str, int]) -> Batch:
    import torch

    width = max(len(lesson.words) for lesson in given)
    unknown, nothing = table[orders.UNKNOWN], [float("nan")] * len(lessons.NONE)
    rows = [[table.get(word, unknown) for word in lesson.words] for lesson in given]
    ids_BS = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels_BS = ids_BS.clone()
    for i, lesson in enumerate(given):
        labels_BS[i, len(rows[i]) :] = -100
        if lesson.answer:
            labels_BS[i, : len(rows[i]) - 1] = -100
    if not given[0].notes:
        return Batch(ids_BS, labels_BS, None)
    notes = [
        [[float("nan") if one is None else one for one in of_word] for of_word in lesson.notes]
        + [nothing] * (width - len(lesson.notes))
        for lesson in given
    ]
    return Batch(ids_BS, labels_BS, torch.tensor(notes))
