"""Which labels the reward model of a run learns from: `reward_model.loss`, what it reads, and how many answers that is.

`auto` takes what the data says most with: rankings of more than two answers as they are (`kwise`), ratings where nothing
else is there (`regression`), answers called good or bad where there is nothing but these (`labels`), else pairs
(`pairwise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.records import Label, Pair, prompt_of
from rlhf_lora.splits import Splits, bucket
from rlhf_lora.train_settings import micro_batch_within

READS = {"pairwise": "pairs", "kwise": "rankings", "best_of_n": "choices", "regression": "ratings", "labels": "labels"}
"""Loss → the list of `Splits` that it learns from."""
LOSSES = ("auto", *READS)
HALVES = "rlhf_lora half\n"
"""Salt of the halves: by that of the splits, the prompts of one split all fall into few buckets."""

LISTS = {"choices": "rankings"}
"""Where a list is part of another one, that one: it is what the data holds."""

WANTS = {
    "pairs": "pairs (chosen and rejected)",
    "rankings": "rankings (several answers with scores or ranks)",
    "choices": "choices (several answers, one of them the best)",
    "ratings": "ratings (answers with a number each)",
    "labels": "labels (answers called good or bad)",
}


def loss_for(asked: str, splits: Splits) -> str:
    """The loss that `reward_model.loss` names; of `auto`, the one that fits what is there to learn from."""
    if asked != "auto":
        return asked
    if any(len(ranking.completions) > 2 for ranking in splits.rankings):
        return "kwise"
    if splits.pairs or not (splits.ratings or splits.labels):
        return "pairwise"
    return "regression" if splits.ratings else "labels"


def may_read_labels(asked: str) -> bool:
    """Whether a reward model with this `reward_model.loss` learns from labels, if only where there is nothing else: then
    they have a share of the prompts of their own."""
    return asked in ("auto", "labels")


def refuse_one_kind(labels: Sequence[Label]) -> None:
    """A model of labels learns from good answers and from bad ones.

    Raises:
        DataError: all labels are the same.
    """
    good = sum(label.good for label in labels)
    if labels and good in (0, len(labels)):
        raise DataError(
            f"the {len(labels)} labels to learn from are all {'good' if good else 'bad'}",
            where="reward_model.loss=labels", fix="give answers that are called good and answers that are called bad, or pairs",
        )  # fmt: skip


def refuse_ties(optimizer: Any, pairs: Sequence[Pair]) -> None:
    """Pairs of label ½ are for losses that know how sure a label is: to the others one of two equal answers would be better.

    Raises:
        ConfigError: there are such pairs, and the optimizer's loss takes every label for sure.
    """
    ties = sum(pair.label == 0.5 for pair in pairs)
    loss = getattr(optimizer, "loss", "sigmoid")
    if ties and getattr(optimizer, "learns_from", None) == "pairs" and loss != "sigmoid":
        raise ConfigError(
            f"{ties:,} pairs are ties, and the loss {loss} would take one of the answers for the better one",
            where=f"optimizer.loss={loss}", fix="optimizer.loss=sigmoid, or data without ties: dataset.ties=drop",
        )  # fmt: skip


def asked_for(rows: Sequence[Any], settings: DictConfig) -> Sequence[Any]:
    """Of the rows that a reward model may learn from, those that `reward_model.half` and `reward_model.rows` name.

    A half has half of the prompts, by their hash: two reward models that have seen nothing of each other's. The policy is
    trained against one and watched by the other: what both say is learned, what the first alone says is exploited
    (Bai et al. 2022, the robustness experiments). `rows` takes the first so many.

    Raises:
        ConfigError: there are fewer than `rows`. What was to be learned from so many labels would be learned from less.
    """
    if settings.half is not None:
        rows = [row for row in rows if (bucket(prompt_of(row).split_key, HALVES) < 50) == (settings.half == "first")]
    most = settings.rows
    if most is not None and most > len(rows):
        raise ConfigError(
            f"the reward model was to learn from {most:,} rows, and its split has {len(rows):,}",
            where="reward_model.rows", fix="fewer, or more data, or a larger splits.reward_model",
        )  # fmt: skip
    return rows[:most]


def answers_in_a_row(loss: str, splits: Splits) -> int:
    """How many answers one row of training holds, at most: each is a sequence of its own in memory."""
    if loss in ("kwise", "best_of_n"):
        return max((len(ranking.completions) for ranking in splits.rankings), default=2)
    return 1 if loss in ("regression", "labels") else 2


def micro_batch(config: DictConfig, splits: Splits) -> int:
    """Rows in memory at a time: no more answers than `hardware.micro_batch` pairs have, and at least one row."""
    answers = answers_in_a_row(config.reward_model.loss, splits)
    most = max(1, 2 * config.hardware.micro_batch // max(2, answers))
    return micro_batch_within(config.reward_model.batch_size, most)


def notes(loss: str, splits: Splits) -> list[str]:
    """What of the data the loss does not learn from, and on which scale the reward will be."""
    found = []
    if loss in ("kwise", "best_of_n"):
        ranked = {(r.prompt.text, c) for r in splits.rankings for c in r.completions}
        alone = sum(not {(p.prompt.text, p.chosen), (p.prompt.text, p.rejected)} <= ranked for p in splits.pairs)
        if alone:
            found.append(f"{alone:,} pairs stand in no ranking: reward_model.loss={loss} does not learn from them")
    if loss == "best_of_n" and (tied := len(splits.rankings) - len(splits.choices)):
        found.append(
            f"{tied:,} rankings have several best answers: reward_model.loss=best_of_n does not learn from them"
        )
    if loss == "regression":
        found.append("rewards will be on the labellers' scale, as their ratings are; optimizer.beta is in its units")
    if loss == "labels":
        if splits.pairs:
            found.append(f"{len(splits.pairs):,} pairs: reward_model.loss=labels does not learn from them")
        found.append("rewards will be the log-odds that an answer is good; optimizer.beta is in that unit")
    return found
