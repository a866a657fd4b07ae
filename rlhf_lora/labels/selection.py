"""Which rows of labels files count: by which criterion and which raters, and of one rater's labels on one thing the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlhf_lora.errors import DataError, did_you_mean
from rlhf_lora.labels.rows import LabelRow, distinct
from rlhf_lora.records import Unused

ALL = "all"
MARGINS: Mapping[str, tuple[float, ...]] = {"small": (0.0, 1 / 3, 2 / 3, 1.0), "large": (0.0, 1.0, 2.0, 3.0)}
"""What strengths in words are as margins, negligibly first (Touvron et al. 2023, table 27)."""

Placed = tuple[str, LabelRow]
"""Where a row stands, and the row."""


@dataclass(frozen=True)
class Counting:
    """How labels are counted.

    Attributes:
        criterion: only labels by this one; "all" = every criterion, each apart; None = the one that there is.
        raters: only theirs; empty = everybody's.
        ties: of a comparison with several raters, `drop` leaves ties out of the vote, `half` counts them one half for each
            side. What is a tie on the whole gives no pair, or with `half` one of label ½.
        margins: what strengths in words are worth: a key of `MARGINS`, or "none" for no margins, of numbers either.
        min_raters: fewer leave the thing out.
        min_agreement: the share of its raters that must have said the same, the commonest thing said; not of ratings.
    """

    criterion: str | None = None
    raters: tuple[str, ...] = ()
    on_disagreement: Literal["majority", "soft", "drop"] = "majority"
    ties: Literal["drop", "half"] = "drop"
    margins: str = "small"
    min_raters: int = 1
    min_agreement: float = 0.0


def selected(rows: Sequence[Placed], how: Counting) -> tuple[list[Placed], list[Unused]]:
    """The rows that count, and the others, each with its reason.

    Raises:
        DataError: several criteria and none chosen, a criterion or rater that has no label, a prompt of two groups.
    """
    rows = with_one_group(rows)
    _known(rows, how)
    last = {(row.rater, row.principle, row.item): at for at, (_, row) in enumerate(rows)}
    kept: list[Placed] = []
    unused: list[Unused] = []
    for at, (where, row) in enumerate(rows):
        counts = last[row.rater, row.principle, row.item]
        if counts != at:
            again = f"{where} (again: {rows[counts][0]})"
            unused.append(Unused(again, "labelled again by the same rater; the last counts"))
        elif reason := _not_wanted(row, how):
            unused.append(Unused(where, reason))
        else:
            kept.append((where, row))
    return kept, unused


def with_one_group(rows: Sequence[Placed]) -> list[Placed]:
    """Every row of one prompt with the group that any of them names: it decides the split, and one prompt is in one split.

    Raises:
        DataError: a prompt has two groups.
    """
    groups: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        prompt = row.prompt
        before, known = groups.setdefault(prompt.text, (where, prompt.group))
        if prompt.group and known and prompt.group != known:
            raise DataError(
                "one prompt is of two groups, and a group is in one split only",
                where=f"{before}: '{known[:40]}'; {where}: '{prompt.group[:40]}'", fix="give its rows one group",
            )  # fmt: skip
        if prompt.group:
            groups[prompt.text] = (where, prompt.group)
    named = {text: group for text, (_, group) in groups.items()}
    return [
        (where, row if row.prompt.group == named[row.prompt.text] else
         replace(row, prompt=replace(row.prompt, group=named[row.prompt.text])))
        for where, row in rows
    ]  # fmt: skip


def _known(rows: Sequence[Placed], how: Counting) -> None:
    """Raises DataError where what is asked for is not there, or it must be said what is."""
    every = [row for _, row in rows]
    criteria = Counter(row.criterion for row in every)
    listed = ", ".join(f"{name} ({count:,})" for name, count in criteria.most_common())
    if how.criterion is None and len(criteria) > 1:
        raise DataError(
            f"the labels are by several criteria: {listed}",
            where="dataset.criterion=null", fix=f"choose one, such as dataset.criterion={min(criteria)}, or all",
        )  # fmt: skip
    if how.criterion not in (None, ALL, *criteria):
        raise DataError(
            f"no label is by '{how.criterion}'{did_you_mean(str(how.criterion), criteria)}",
            where="dataset.criterion", fix=f"labels there are: {listed}",
        )  # fmt: skip
    names = distinct(every, "rater")
    for rater in how.raters:
        if rater not in names:
            raise DataError(
                f"no label is by '{rater}'{did_you_mean(rater, names)}",
                where="dataset.raters", fix=f"raters: {', '.join(name or '(not named)' for name in names)}",
            )  # fmt: skip


def _not_wanted(row: LabelRow, how: Counting) -> str:
    if how.criterion not in (None, ALL, row.criterion):
        return f"a label by another criterion than {how.criterion}"
    if how.raters and row.rater not in how.raters:
        return "a label by another rater (dataset.raters)"
    if row.skipped:
        return "skipped by its rater"
    if not row.prompt.text.strip():
        return "the prompt is empty"
    if not all(answer.strip() for answer in row.answers):
        return "an answer is empty"
    return "all answers are the same" if len(row.answers) > 1 and len(set(row.answers)) == 1 else ""


def one_scale(rows: Sequence[Placed]) -> None:
    """Raises DataError where ratings are on several scales: their values cannot be compared."""
    scales = Counter(row.scale for _, row in rows if row.kind == "rating" and row.scale)
    if len(scales) > 1:
        listed = ", ".join(f"{low:g} to {high:g} ({count:,})" for (low, high), count in scales.most_common())
        raise DataError(
            f"the ratings are on several scales: {listed}",
            where="dataset.path", fix="bring them to one, or choose the criterion or the raters of one",
        )  # fmt: skip
