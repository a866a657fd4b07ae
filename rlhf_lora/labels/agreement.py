"""How far the raters of a labels file agree: for each kind of label and each criterion, with intervals.

What is compared: of comparisons the answer that is better, or a tie; of rankings every two answers; of choices the answer that
was picked; ratings and verdicts as they are. Where raters said in words how much better, `ac` is on that scale: from the
one answer significantly better over a tie to the other one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora.labels import coefficients
from rlhf_lora.labels.coefficients import Items, Scale
from rlhf_lora.labels.rows import STRENGTHS, LabelRow
from rlhf_lora.labels.votes import places, said_of

Interval = tuple[float, float]
Said = defaultdict[str, dict[str, Any]]
"""What was judged → rater → what they said. Parts of one thing have its name and theirs behind a NUL."""


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on one kind of label by one criterion. None: not defined for these labels.

    Attributes:
        things: that two raters or more labelled.
        percent, kappa, alpha, ac: see `coefficients`, each with its 95 % interval; kappa of two raters alone.
        scale: of kappa and alpha. ac_scale: of `ac`, which is AC1 on a nominal scale and AC2 on others.
        each: rater → share of the others' labels, on the same things, that are the same, and how many those are.
    """

    kind: str
    criterion: str
    raters: tuple[str, ...]
    things: int
    scale: Scale
    ac_scale: Scale
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
        return "AC1" if self.ac_scale == "nominal" else "AC2"


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
    said, scale = SAID[kind](rows), _scale(kind)
    ac_scale: Scale = scale
    categories: list[Any] | None = ["good", "bad"] if kind == "verdict" else None
    shared = {thing: by for thing, by in said.items() if len(by) > 1}
    if not shared:
        return None
    graded = shared
    if kind in ("comparison", "ranking"):
        ac_scale, categories = (
            "ordinal",
            list(range(-len(STRENGTHS), len(STRENGTHS) + 1)) if _graded(rows) else [-1, 0, 1],
        )
        shared = {thing: {rater: _side(level) for rater, level in by.items()} for thing, by in graded.items()}
    raters = tuple(sorted({rater for by in shared.values() for rater in by}))
    items, levels = [tuple(by.values()) for by in shared.values()], [tuple(by.values()) for by in graded.values()]
    both = [tuple(by[rater] for rater in raters) for by in shared.values()] if len(raters) == 2 else []
    statistics: dict[str, tuple[Items, Callable[[Items], float | None]]] = {
        "percent": (items, coefficients.percent),
        "kappa": (both, lambda given: coefficients.cohen_kappa(given, scale)),
        "alpha": (items, lambda given: coefficients.krippendorff_alpha(given, scale)),
        "ac": (levels, lambda given: coefficients.gwet_ac(given, ac_scale, categories)),
    }
    together, figures = [thing.partition("\0")[0] for thing in shared], dict[str, Any]()
    for name, (given, statistic) in statistics.items():
        value = figures[name] = statistic(given) if given else None
        within = None if value is None else coefficients.interval(given, statistic, seed, together=_parts(together))
        figures[f"{name}_ci95"] = within
    things = len(set(together))
    return Agreement(kind, criterion, raters, things, scale, ac_scale, each=_each(raters, shared), **figures)


def _scale(kind: str) -> Scale:
    return "interval" if kind == "rating" else "nominal"


def _parts(together: list[str]) -> list[str] | None:
    """None where no two belong together."""
    return together if len(set(together)) < len(together) else None


def _graded(rows: Sequence[LabelRow]) -> bool:
    """Whether every comparison says in words by how much."""
    return rows[0].kind == "comparison" and all(row.label == "tie" or isinstance(row.strength, str) for row in rows)


def _side(level: int) -> int:
    return (level > 0) - (level < 0)


# --- what was said, in the same words whatever the order of the answers -----------------------------------------------


def _comparisons(rows: Sequence[LabelRow]) -> Said:
    """0 is a tie, above 0 the answer that is first in the alphabet wins: by 1, or from 1 to 4 where all say how much."""
    graded, said = _graded(rows), Said(dict)
    for row in rows:
        by = 0 if row.label == "tie" else 1 + (STRENGTHS.index(row.strength) if graded else 0)
        said[row.item][row.rater] = by if said_of(row) == min(row.answers) else -by
    return said


def _rankings(rows: Sequence[LabelRow]) -> Said:
    """Every two answers of a ranking: 1, 0 or −1."""
    said = Said(dict)
    for row in rows:
        placed = sorted(zip(row.answers, places(row), strict=True))
        for at, ((_, i), (_, j)) in enumerate(itertools.combinations(placed, 2)):
            said[f"{row.item}\0{at}"][row.rater] = _side(int(j - i))
    return said


def _choices(rows: Sequence[LabelRow]) -> Said:
    said = Said(dict)
    for row in rows:
        said[row.item][row.rater] = sorted(row.answers).index(said_of(row))
    return said


def _plain(rows: Sequence[LabelRow]) -> Said:
    said = Said(dict)
    for row in rows:
        said[row.item][row.rater] = row.label
    return said


SAID: dict[str, Callable[[Sequence[LabelRow]], Said]] = {
    "comparison": _comparisons,
    "ranking": _rankings,
    "choice": _choices,
    "rating": _plain,
    "verdict": _plain,
}


def _each(raters: Sequence[str], shared: Mapping[str, dict[str, Any]]) -> dict[str, tuple[float, int]]:
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
