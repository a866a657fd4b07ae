"""Having somebody say which of two answers is better, of many comparisons: a judge, or people simulated by a reward.

Comparisons go in portions. What was said of one is on the disk before the next is asked about, and a run that is taken up
again asks about none of it twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rlhf_lora import progress
from rlhf_lora.comparison_rows import HEAD, Row, Sampled, comparison_id, newest, row_of
from rlhf_lora.errors import Stopped
from rlhf_lora.judging.orders import Compared, Orders, compare, raised_by
from rlhf_lora.records import Comparison, Prompt, Score, Verdict, named_seed
from rlhf_lora.row_file import RowFile, leave_if
from rlhf_lora.stages.scoring import Scorer

AT_ONCE = 64
"""Comparisons in a portion: enough for a server that answers several at a time, few enough to ask again after a kill."""


class Annotator(Protocol):
    """A row for each comparison, in order: a label, or why there is none."""

    def rows(self, comparisons: Sequence[Comparison]) -> list[Row]: ...


@dataclass(frozen=True)
class Judging:
    """An opened judge. `name`: as rows and messages have it."""

    judge: Any
    name: str
    orders: Orders = "both"
    tie_within: float = 0.0

    def rows(self, comparisons: Sequence[Comparison]) -> list[Row]:
        """Raises ContractError: the judge raised, or gave no verdicts."""
        with raised_by(f"the judge '{self.name}'"):
            told = compare(self.judge, comparisons, self.orders, self.tie_within)
        return [row_of(one, said, self.name, self._principle(one)) for one, said in zip(comparisons, told, strict=True)]

    def _principle(self, comparison: Comparison) -> str:
        """What a judge with a constitution went by, where it says so."""
        told = getattr(self.judge, "principle_of", None)
        return str(told(comparison)) if callable(told) else ""


@dataclass(frozen=True)
class People:
    """Simulated people: they see the score of both answers and call the higher one better, with P = σ(difference / tau),
    tau = 0: always (Bradley and Terry 1952). They are certain in tone, so P in their rows is 0, ½ or 1. The same comparison
    gets the same answer whatever was asked before."""

    scorer: Scorer
    tau: float
    seed: int
    sampled: Sampled

    def rows(self, comparisons: Sequence[Comparison]) -> list[Row]:
        scores = self.scorer([self.sampled.sample(one.prompt, text) for one in comparisons for text in (one.a, one.b)])
        told = [self._told(*these) for these in zip(comparisons, scores[::2], scores[1::2], strict=True)]
        name = self.scorer.name
        return [
            row_of(one, Compared(said, said), name, source="program")
            for one, said in zip(comparisons, told, strict=True)
        ]

    def _told(self, comparison: Comparison, a: Score, b: Score) -> Verdict:
        if a.value is None or b.value is None:
            unread = a if a.value is None else b
            return Verdict(None, reason=unread.reason or unread.kind)
        if self.tau == 0 and a.value == b.value:
            return Verdict("tie", 0.5)
        sure = (
            float(a.value > b.value) if self.tau == 0 else 0.5 * (1 + math.tanh((a.value - b.value) / (2 * self.tau)))
        )
        drawn = random.Random(named_seed(self.seed, comparison_id(comparison))).random()
        choice: Literal["A", "B"] = "A" if drawn < sure else "B"
        return Verdict(choice, float(choice == "A"))


def truth(gold: Scorer | None, sampled: Sampled) -> Callable[[Sequence[tuple[Prompt, str]]], list[float | None]] | None:
    """What is true of answers to prompts, as they were sampled; None where the truth is not known."""
    if gold is None:
        return None
    return lambda answers: [score.value for score in gold([sampled.sample(*one) for one in answers])]


def label(
    annotator: Annotator, comparisons: Sequence[Comparison], file: RowFile, missing_share: float = 0.5,
    interrupted: Callable[[], int | None] = lambda: None,
) -> Sequence[Row]:  # fmt: skip
    """Have comparisons labelled, and write each portion's rows down.

    A comparison that the file has a label for is not asked about again; one that could not be read is. One that comes
    several times is asked about once.

    Args:
        missing_share: of comparisons that could not be read; more than that, of all that were asked about so far, ends it.

    Returns:
        All rows of the file.

    Raises:
        Stopped: too many could not be read. Interrupted: a signal came. What was answered is on the disk.
    """
    rows = file.rows()
    if not rows:
        file.append([HEAD])
    have = {key for key, row in newest(rows).items() if "label" in row}
    every = {comparison_id(one): one for one in comparisons}
    todo = [one for key, one in every.items() if key not in have]
    done, unread = len(every) - len(todo), 0
    with progress.Progress("labels", len(every), start=done) as bar:
        for start in range(0, len(todo), AT_ONCE):
            leave_if(interrupted, "the labels so far are kept")
            made = annotator.rows(todo[start : start + AT_ONCE])
            file.append(made)
            done, unread = done + len(made), unread + sum("label" not in row for row in made)
            bar.update(len(made), unread=str(unread) if unread else None)
            _stop_if_missing(unread, done, missing_share, made)
    return file.rows()


def _stop_if_missing(unread: int, asked: int, share: float, rows: Sequence[Row]) -> None:
    if unread > share * asked:
        why = next(row["skipped"] for row in reversed(rows) if "skipped" in row)
        raise Stopped(
            f"{unread} of {asked} comparisons could not be read, more than scoring.missing_share={share:g} allows; "
            f"the last time: {why}. What was answered is kept: the same command asks for the rest"
        )
