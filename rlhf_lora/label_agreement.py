"""How far the raters of a labels file agree: for each kind of label and each criterion, with intervals.

What is compared: of comparisons the answer that is better, or a tie; of rankings every two answers; of choices the answer that
was picked; ratings and verdicts as they are. Where raters said how much better, `ac` is on that scale too: from one answer
significantly better over a tie to the other one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora import rater_agreement
from rlhf_lora.label_rows import STRENGTHS, LabelRow
from rlhf_lora.label_votes import places, said_of
from rlhf_lora.rater_agreement import Items, Scale

Interval = tuple[float, float]
Said = dict[str, dict[str, Any]]
"""What was judged → rater → what they said."""


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one kind of label by one criterion. None: not defined for these labels.

    Attributes:
        things: that two raters or more labelled.
        percent, kappa, alpha, ac: see `rater_agreement`; kappa of two raters alone, AC2 of ordered labels and AC1 of others;
            each with its 95 % interval.
        scale: of alpha and AC.
        each: rater → share of the others' labels, on the same things, that are the same, and how many those are.
    """

    kind: str
    criterion: str
    raters: tuple[str, ...]
    things: int
    scale: Scale
    percent: float | None
    percent_ci95: Interval | None
    kappa: float | None
    kappa_ci95: Interval | None
    alpha: float | None
    alpha_ci95: Interval | None
    ac: float | None
    ac_ci95: Interval | None
    each: dict[str, tuple[float, int]]

    @property
    def in_words(self) -> str:
        """One line for a terminal."""
        figures = [
            f"{name} {_shown(getattr(self, field))}{_within(getattr(self, f'{field}_ci95'))}"
            for name, field in (("the same", "percent"), ("κ", "kappa"), ("α", "alpha"), (self.ac_name, "ac"))
            if getattr(self, field) is not None
        ]
        head = f"{self.kind}s on {self.criterion}: {len(self.raters)} raters, {self.things:,} things labelled by two or more"
        return head + "".join(f"; {figure}" for figure in figures)

    @property
    def ac_name(self) -> str:
        return "AC1" if self.scale == "nominal" else "AC2"


def measured(rows: Sequence[LabelRow], seed: int = 0) -> list[Agreement]:
    """The agreement of each kind and criterion that two raters labelled one thing of. What was skipped is not counted; of a
    rater's labels of one thing the last is."""
    groups: dict[tuple[str, str], list[LabelRow]] = defaultdict(list)
    for row in rows:
        if row.label is not None:
            groups[row.kind, row.criterion].append(row)
    found = (_measured(kind, criterion, group, seed) for (kind, criterion), group in sorted(groups.items()))
    return [agreement for agreement in found if agreement is not None]


def _measured(kind: str, criterion: str, rows: Sequence[LabelRow], seed: int) -> Agreement | None:
    said, scale, categories = _said(kind, rows)
    shared = {thing: by for thing, by in said.items() if len(by) > 1}
    if not shared:
        return None
    raters = tuple(sorted({rater for by in shared.values() for rater in by}))
    items = [tuple(by.values()) for by in shared.values()]
    both = [tuple(by[rater] for rater in raters) for by in shared.values()] if len(raters) == 2 else []
    statistics: dict[str, tuple[Items, Callable[[Items], float | None]]] = {
        "percent": (items, rater_agreement.percent),
        "kappa": (both, lambda given: rater_agreement.cohen_kappa(given, scale)),
        "alpha": (items, lambda given: rater_agreement.krippendorff_alpha(given, scale)),
        "ac": (items, lambda given: rater_agreement.gwet_ac(given, scale, categories)),
    }
    figures: dict[str, Any] = {}
    for name, (given, statistic) in statistics.items():
        figures[name] = statistic(given) if given else None
        figures[f"{name}_ci95"] = None if figures[name] is None else rater_agreement.interval(given, statistic, seed)
    return Agreement(kind, criterion, raters, len(shared), scale, each=_each(raters, shared), **figures)


def _said(kind: str, rows: Sequence[LabelRow]) -> tuple[Said, Scale, Sequence[Any] | None]:
    """What was said of each thing by whom, on which scale, and all that could have been said (None: what was)."""
    said: Said = defaultdict(dict)
    if kind == "comparison":
        graded = all(row.label == "tie" or isinstance(row.strength, str) for row in rows)
        levels = range(-len(STRENGTHS), len(STRENGTHS) + 1) if graded else range(-1, 2)
        for row in rows:
            by = 0 if row.label == "tie" else 1 + (STRENGTHS.index(str(row.strength)) if graded else 0)
            first = said_of(row) == min(row.answers)
            said[row.item][row.rater] = by if first else -by
        return said, "ordinal", list(levels)
    if kind == "ranking":
        for row in rows:
            placed = sorted(zip(row.answers, places(row), strict=True))
            for (a, i), (b, j) in itertools.combinations(placed, 2):
                said[f"{row.item}\0{a}\0{b}"][row.rater] = (i < j) - (i > j)
        return said, "ordinal", [-1, 0, 1]
    for row in rows:
        said[row.item][row.rater] = said_of(row)
    return said, "interval" if kind == "rating" else "nominal", ["good", "bad"] if kind == "verdict" else None


def _each(raters: Sequence[str], shared: Said) -> dict[str, tuple[float, int]]:
    found = {}
    for rater in raters:
        same = [
            by[rater] == said for by in shared.values() if rater in by for other, said in by.items() if other != rater
        ]
        found[rater] = (sum(same) / len(same), len(same))
    return found


def _shown(value: float) -> str:
    return f"{value:.2f}"


def _within(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
