"""Figures that stand alone, for a notebook cell or a file: SVG that brings its own colours.

A notebook draws SVG as a picture, which sees neither the page's style sheet nor its theme, so each figure has a light
ground of its own, as those of most plotting libraries do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rlhf_lora.report import plots
from rlhf_lora.report.curves import KL, SCORE
from rlhf_lora.report.frontier import measure, scatter
from rlhf_lora.report.plots import HEIGHT, WIDTH, Series

Rows = Sequence[Mapping[str, Any]]

GAP = 28
STYLE = """
text { font: 11px ui-sans-serif, system-ui, "Segoe UI", "Helvetica Neue", "Noto Sans", sans-serif; fill: #62666d; }
.title { font-size: 13px; font-weight: 600; fill: #1b1c1e; }
.name, .note { paint-order: stroke; stroke: #fdfdfc; stroke-width: 3px; stroke-linejoin: round; }
.name { font-weight: 600; }
.grid { stroke: #e3e4e6; } .axis { stroke: #62666d; } .guide { stroke: #62666d; stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line.faint { stroke-width: 1; opacity: .35; }
.mean { stroke-width: 1.2; stroke-dasharray: 3 3; } .area { fill-opacity: .16; stroke-width: 1.4; }
.policy { stroke: #0068a8; } .reference { stroke: #b24a00; }
.dot, .bar, text { stroke: none; } .dot.policy, .area.policy, .bar.policy, .name.policy { fill: #0068a8; }
.dot.reference, .area.reference, .bar.reference, .name.reference { fill: #b24a00; }
"""


@dataclass(frozen=True)
class Figure:
    """Drawings side by side. A notebook shows it; `str()` is the file's text."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return "Figure"


def figure(*drawn: tuple[str, str]) -> Figure:
    """Put drawings of `plots` side by side, each under its title: `figure(("Score", plots.lines(…)), …)`."""
    tall, wide = HEIGHT + 26, len(drawn) * (WIDTH + GAP) - GAP
    parts = []
    for i, (title, svg) in enumerate(drawn):
        left = i * (WIDTH + GAP)
        parts.append(f'<text class="title" x="{left}" y="12">{escape(title)}</text>')
        place = f'<svg x="{left}" y="26" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(svg.replace("<svg ", place, 1))
    box = f'viewBox="-12 -12 {wide + 24} {tall + 24}" width="{wide + 24}" height="{tall + 24}"'
    ground = f'<rect x="-12" y="-12" width="{wide + 24}" height="{tall + 24}" fill="#fdfdfc"/>'
    return Figure(f'<svg xmlns="http://www.w3.org/2000/svg" {box}><style>{STYLE}</style>{ground}{"".join(parts)}</svg>')


def training(history: Rows) -> Figure:
    """Score and KL of the updates so far, as `run.step()` returned them; fine with none yet."""
    return figure(
        ("Score of the answers", _over_updates(history, SCORE, "mean reward")),
        ("Distance from the reference", _over_updates(history, KL, "nats per sequence", from_zero=True)),
    )


def frontier(rows: Rows) -> Figure:
    """A sweep's jobs in the plane of reward and KL, with the line of those that none beats at the same KL or less.

    Args:
        rows: as `read_sweep` gives them.

    Raises:
        ValueError: no job has both figures.
    """
    kind, name = measure(rows)
    judged = [(float(r["kl"]), float(r[kind]), str(r["job"])) for r in rows if None not in (r.get("kl"), r.get(kind))]
    if not judged:
        raise ValueError("no job has both a score and a KL")
    return figure(("Reward against KL, a dot a job", scatter(judged, "KL to the reference, nats", name)))


def _over_updates(history: Rows, names: Sequence[str], y_label: str, from_zero: bool = False) -> str:
    points = [(i, float(row[name])) for i, row in enumerate(history, 1) for name in names if name in row]
    if not points:
        middle = f'x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle"'
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}"><text {middle}>before the first update</text></svg>'
    series = Series("policy", [x for x, _ in points], [y for _, y in points])
    return plots.lines([series], "update", y_label, from_zero)
