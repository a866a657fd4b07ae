"""Reward against √KL: what the policy is trained on, and what is really wanted, as it moves from its reference.

After Gao, Schulman and Hilton 2023 (arXiv 2210.10760): both rise at first and with √KL nearly in a line; then the
reward goes on rising while the truth turns. Each is drawn as its gain over the reference, from (0, 0). Best of n, where
it was judged, stands at the bound of its KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rlhf_lora.report import plots
from rlhf_lora.report.curves import figure
from rlhf_lora.report.plots import number

Figures = Mapping[str, Any]
TITLES = {"score": "reward", "gold": "gold reward"}
TONES = {"score": "policy", "gold": "reference"}
ALIKE = 4.0
"""How many times further one may reach than the other for both to be drawn in one plane."""


@dataclass(frozen=True)
class Point:
    """The gain over the reference at one KL.

    Attributes:
        name: "update 20", "best of 4". kl: in nats; for best of n the bound.
        gains: `score`, `gold` → (gain, the ends of its interval or None).
        update: None for what is no update.
    """

    name: str
    kl: float
    gains: Mapping[str, tuple[float, tuple[float, float] | None]]
    update: int | None = None

    @property
    def x(self) -> float:
        return math.sqrt(max(0.0, self.kl))  # the estimate of a small KL may fall below 0


def updates(rows: Sequence[Figures]) -> list[Point]:
    """A point for each evaluation within the run that has a KL and a score: rows of the stage `evaluation`."""
    found = []
    for row in rows:
        parts = {"score": _flat(row, "eval/"), "gold": _flat(row, "eval/gold/")}
        gains = {name: gain for name, part in parts.items() if (gain := _gain(part)) is not None}
        if gains and "eval/kl_to_reference" in row:
            found.append(Point(f"update {row['step']}", row["eval/kl_to_reference"], gains, row["step"]))
    return found


def at_the_end(summary: Figures) -> tuple[list[Point], list[Point]]:
    """The policy at the end, and best of n: of summary.json, so both on the final prompts."""
    policy = []
    parts = {"score": summary.get("policy", {}), "gold": summary.get("gold", {})}
    gains = {name: gain for name, part in parts.items() if (gain := _gain(part)) is not None}
    if gains and "kl_to_reference" in parts["score"]:
        policy.append(Point("policy", parts["score"]["kl_to_reference"], gains))
    best = []
    for n, part in summary.get("best_of_n", {}).items():
        told = {"score": part, "gold": part.get("gold", {})}
        gains = {name: gain for name, figures in told.items() if (gain := _gain(figures)) is not None}
        if gains:
            best.append(Point(f"best of {n}", part["kl_bound"], gains))
    return policy, best


def figures(rows: Sequence[Figures], summary: Figures) -> list[str]:
    """The figure; two, where reward and truth are of different sizes. None without evaluations within the run or best
    of n: one point alone is no curve."""
    way = updates(rows)
    end, best = at_the_end(summary)
    way = way or (end if best else [])
    if not way:
        return []
    names = [name for name in TITLES if any(name in point.gains for point in way)]
    reach = {name: max(abs(point.gains[name][0]) for point in (*way, *best) if name in point.gains) for name in names}
    together = len(names) < 2 or max(reach.values()) <= ALIKE * min(reach.values())
    note = "rings: best of n, at its bound" if best else ""
    planes = [names] if together else [[name] for name in names]
    return [
        figure("Gains against √KL" if len(shown) > 1 else f"{TITLES[shown[0]].capitalize()} against √KL", note,
               draw(way, best, shown))
        for shown in planes
    ]  # fmt: skip


def hacked(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """(where the truth stood highest, the update from which on the reward was hacked); None where that cannot be said.

    From that update to the last the reward stands higher than at the peak, and the truth lower by more than chance: its
    interval lies wholly below that of the peak. The peak may be the start, where both gains are 0.
    """
    told = [p for p in points if p.update is not None and all(p.gains.get(name, (0, None))[1] for name in TITLES)]
    start = Point("the start", 0.0, dict.fromkeys(TITLES, (0.0, (0.0, 0.0))), 0)
    peak = max([start, *told], key=lambda point: point.gains["gold"][0])
    first = None
    for point in reversed(told):
        fell = point.gains["gold"][1][1] < peak.gains["gold"][1][0]  # type: ignore[index]
        if point is peak or not fell or point.gains["score"][0] <= peak.gains["score"][0]:
            break
        first = point
    return None if first is None else (peak, first)


def warning(rows: Sequence[Figures]) -> str:
    """A sentence on reward hacking, or nothing."""
    found = hacked(updates(rows))
    if found is None:
        return ""
    peak, first = found
    gold = [number(point.gains["gold"][0]) for point in found]
    return (
        f"Reward hacking from {first.name} on: the reward rises while the gold reward falls, from a gain of {gold[0]} "
        f"over the reference at {peak.name} to {gold[1]}."
    )


def draw(way: Sequence[Point], best: Sequence[Point], names: Sequence[str]) -> str:
    """Lines with intervals from (0, 0) in the order of training; best of n as rings."""
    every = [(point, *point.gains[name]) for name in names for point in (*way, *best) if name in point.gains]
    heights = [0.0, *(gain for _, gain, _ in every), *(end for *_, ends in every for end in ends or ())]
    x = plots.Scale(*plots.extent([0.0, *(p.x for p, *_ in every)], from_zero=True), plots.LEFT, plots.WIDTH - 82)
    y = plots.Scale(*plots.extent(heights), plots.HEIGHT - plots.BOTTOM, plots.TOP)
    parts = plots.axes(x, y, "√KL to the reference, √nats", "gain over the reference")
    parts.append(f'<line class="guide" x1="{plots.LEFT}" x2="{plots.WIDTH - 82}" y1="{y(0)}" y2="{y(0)}"/>')
    ends = []
    for name in names:
        points = [(p, *p.gains[name]) for p in way if name in p.gains]
        xs, ys = [0.0, *(p.x for p, *_ in points)], [0.0, *(gain for _, gain, _ in points)]
        parts.append(f'<polyline class="line {TONES[name]}" points="{plots.coordinates(xs, ys, x, y)}"/>')
        parts += [_mark(p, gain, ends_, TONES[name], x, y) for p, gain, ends_ in points]
        parts += [_mark(p, *p.gains[name], TONES[name], x, y, ring=True) for p in best if name in p.gains]
        ends.append((TITLES[name], y(ys[-1]), TONES[name]))
    for point in best:  # named once, above the highest of its rings
        top = max(point.gains[name][0] for name in names if name in point.gains)
        parts.append(plots.text_at(x(point.x), y(top) - 9, point.name, "note"))
    parts += plots.end_names(ends, plots.WIDTH - 75)
    return plots.svg(parts, f"{' and '.join(TITLES[name] for name in names)} against √KL")


def _mark(
    point: Point, gain: float, ends: tuple[float, float] | None, tone: str, x: Any, y: Any, ring: bool = False
) -> str:  # fmt: skip
    at = f'cx="{x(point.x)}" cy="{y(gain)}"'
    shape = f'class="kept line {tone}" {at} r="4.5"' if ring else f'class="dot {tone}" {at} r="2.5"'
    told = f"{point.name}: {number(gain)} at a KL of {number(point.kl)}"
    drawn = f"<circle {shape}><title>{escape(told)}</title></circle>"
    if ends is None:
        return drawn
    heights = f'y1="{y(ends[0])}" y2="{y(ends[1])}"'
    return f'<line class="line faint {tone}" x1="{x(point.x)}" x2="{x(point.x)}" {heights}/>{drawn}'


def _gain(part: Figures) -> tuple[float, tuple[float, float] | None] | None:
    mean, before, ends = (part.get(name) for name in ("score_mean", "score_mean_reference", "score_gain_ci95"))
    return None if mean is None or before is None else (mean - before, (ends[0], ends[1]) if ends else None)


def _flat(row: Figures, place: str) -> dict[str, Any]:
    """The figures of one scorer in a row of metrics, as they stood in the summary."""
    part = {name: row[place + name] for name in ("score_mean", "score_mean_reference") if place + name in row}
    if f"{place}score_gain_ci95_low" in row:
        part["score_gain_ci95"] = (row[f"{place}score_gain_ci95_low"], row[f"{place}score_gain_ci95_high"])
    return part
