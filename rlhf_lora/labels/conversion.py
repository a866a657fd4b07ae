"""The kit's records as rows of a labels file, and back: a record that went through a file is the same record.

A dataset that is read by any reader can so be written down as labels, labelled further, and read again.
"""

from __future__ import annotations

from typing import Any

from rlhf_lora.labels.rows import STRENGTHS, LabelRow
from rlhf_lora.labels.selection import MARGINS
from rlhf_lora.labels.votes import places
from rlhf_lora.records import Data, Label, Pair, Ranking, Rating

Labelled = Pair | Ranking | Rating | Label


def row_of(record: Labelled, **said: Any) -> LabelRow:
    """The row that says what a record does.

    Args:
        said: what else the row has: `rater`, `criterion`, `time`, …; of a rating `scale`, which a record does not know.

    Raises:
        ValueError: a rating without its scale or outside it.
    """
    if isinstance(record, Pair):
        answers, tie = (record.chosen, record.rejected), record.label == 0.5
        soft = {} if record.label == 1.0 or tie else {"p": record.label}
        strength = {} if record.margin is None or tie else {"strength": record.margin}
        return LabelRow(kind="comparison", prompt=record.prompt, answers=answers, label="tie" if tie else "A",
                        **{**soft, **strength, **said})  # fmt: skip
    if isinstance(record, Ranking):
        return LabelRow(kind="ranking", prompt=record.prompt, answers=record.completions, label=record.ranks, **said)
    if isinstance(record, Rating):
        return LabelRow(kind="rating", prompt=record.prompt, answers=(record.completion,), label=record.value, **said)
    label = "good" if record.good else "bad"
    return LabelRow(kind="verdict", prompt=record.prompt, answers=(record.completion,), label=label, **said)


def record_of(row: LabelRow, margins: str = "small") -> Labelled:
    """The record that one row says, whatever other raters say (`votes.counted` hears them all).

    Args:
        margins: what strengths in words are worth: a key of `selection.MARGINS`.

    Raises:
        ValueError: the rater skipped it, or ranked all answers the same.
    """
    if row.label is None:
        raise ValueError("a label that was skipped says nothing")
    label: Any = row.label
    if row.kind == "comparison":
        a, b = row.answers
        if label == "tie":
            return Pair(row.prompt, a, b, label=0.5)
        strength = MARGINS[margins][STRENGTHS.index(row.strength)] if isinstance(row.strength, str) else row.strength
        p = 1.0 if row.p is None else max(row.p, 1 - row.p)
        return Pair(row.prompt, *((a, b) if label == "A" else (b, a)), strength, p)
    if row.kind == "ranking":
        return Ranking(row.prompt, row.answers, label)
    if row.kind == "choice":
        return Ranking(row.prompt, row.answers, tuple(places(row)))
    if row.kind == "rating":
        return Rating(row.prompt, row.answers[0], label)
    return Label(row.prompt, row.answers[0], label == "good")


def rows_of(data: Data, **said: Any) -> list[LabelRow]:
    """Every label of a dataset, its test set apart: pairs that no ranking says, rankings, ratings, labels.

    Args:
        said: as of `row_of`; ratings get the range of their values for a scale, where none is given.
    """
    ranked = {(p.prompt.text, p.chosen, p.rejected) for ranking in data.rankings for p in ranking.pairs()}
    pairs = [p for p in data.pairs if (p.prompt.text, p.chosen, p.rejected) not in ranked]
    values = [rating.value for rating in data.ratings]
    scale = {"scale": (min(values), max(values))} if values and len(set(values)) > 1 else {}
    plain = {name: value for name, value in said.items() if name != "scale"}
    rated = [row_of(rating, **{**scale, **said}) for rating in data.ratings]
    others: tuple[Labelled, ...] = (*pairs, *data.rankings)
    return [*(row_of(one, **plain) for one in others), *rated, *(row_of(label, **plain) for label in data.labels)]
