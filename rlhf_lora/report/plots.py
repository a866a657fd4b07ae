"""Small inline SVG figures: lines, histograms, a path, an interval, a sparkline. Colours and type come from style.css.

Every figure is 360 units wide so that its text has the same size on a phone and on a desk. Series are named where they
are drawn, never in a legend; colours are from Okabe & Ito's palette, which colour-blind readers tell apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 24, 36
MOST_POINTS = 200
"""A line is thinned to this many points, each the mean of its neighbours."""


@dataclass(frozen=True)
class Series:
    """A named line: `tone` is a class of style.css (`policy`, `reference`)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tone: str = "policy"


@dataclass(frozen=True)
class Scale:
    """From values to places in the drawing: `low` is at `start`, `high` at `end`; called with a value."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, thin and readable: 0.0812, 2.61, 1,250, 3.2e−05; a true minus sign."""
    if value == 0 or (float(value).is_integer() and abs(value) < 1e6):
        text = f"{value:,.0f}"
    elif abs(value) < 1e-3 or abs(value) >= 1e6:
        text = f"{value:.{digits - 1}e}"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"
    return text.replace("-", "−")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers within [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    from_zero: bool = False,
    guide: tuple[float, str] | None = None,
) -> str:
    """Lines over steps. Noisy ones (30 points or more) are drawn faint under their moving average.

    Args:
        from_zero: the vertical axis starts at 0, for quantities whose size matters and not only their change.
        guide: a height to compare with, and what it is.
    """
    series = [_thin(one) for one in series]
    values = [y for one in series for y in one.y] + ([guide[0]] if guide else [])
    low, high = extent(values, from_zero=from_zero)
    right = RIGHT if len(series) == 1 else 66
    steps = [v for one in series for v in one.x]
    x = Scale(*extent(steps, pad=0.0, unit=True), LEFT + 4, WIDTH - right)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = axes(x, y, x_label, y_label, whole_x=True)
    if guide:
        parts.append(f'<line class="guide" x1="{LEFT}" x2="{WIDTH - right}" y1="{y(guide[0])}" y2="{y(guide[0])}"/>')
        parts.append(text_at(WIDTH - right, y(guide[0]) - 4, guide[1], "note", "end"))
    for one in series:
        parts += _line(one, x, y)
    if len(series) > 1:
        parts += end_names([(one.name, y(one.y[-1]), one.tone) for one in series], WIDTH - right + 7)
    return svg(parts, f"{y_label} over {x_label}")


def _line(one: Series, x: Scale, y: Scale) -> list[str]:
    smooth = _moving_mean(one.y)
    parts = []
    if smooth is not None:
        parts.append(f'<polyline class="line faint {one.tone}" points="{coordinates(one.x, one.y, x, y)}"/>')
    shown = smooth or one.y
    parts.append(f'<polyline class="line {one.tone}" points="{coordinates(one.x, shown, x, y)}"/>')
    parts.append(f'<circle class="dot {one.tone}" cx="{x(one.x[-1])}" cy="{y(shown[-1])}" r="3"/>')
    return parts


def histograms(groups: Sequence[Series], x_label: str, count_label: str = "prompts") -> str:
    """Two distributions over one axis (only `y` of a series is used), with their means marked.

    Few distinct whole numbers get a pair of bars each; other values get outlines over shared bins.
    """
    values = [v for one in groups for v in one.y]
    whole = all(float(v).is_integer() for v in values) and max(values) - min(values) <= 12
    edges = _whole_edges(values) if whole else _edges(values)
    counts = [_count(one.y, edges) for one in groups]
    x = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0, max(max(c) for c in counts) * 1.06, HEIGHT - BOTTOM, TOP + 30)
    parts = axes(x, y, x_label, count_label, whole_x=whole)
    for i, (one, count) in enumerate(zip(groups, counts, strict=True)):
        parts += _bars(one, count, edges, x, y, i, len(groups)) if whole else _outline(one, count, edges, x, y)
    parts += _mean_marks(groups, x)
    return svg(parts, f"Distribution of {x_label}: " + " and ".join(one.name for one in groups))


def _mean_marks(groups: Sequence[Series], x: Scale) -> list[str]:
    """A dashed line at each mean, named on the side that faces away from the other one, room permitting."""
    means = [sum(one.y) / len(one.y) for one in groups]
    parts = []
    for i, (one, mean) in enumerate(zip(groups, means, strict=True)):
        at, row = x(mean), TOP + 14 * i
        rightmost = mean == max(means)
        side = "start" if (rightmost and at < WIDTH - 120) or at < LEFT + 110 else "end"
        parts.append(f'<line class="mean {one.tone}" x1="{at}" x2="{at}" y1="{row}" y2="{HEIGHT - BOTTOM}"/>')
        label = f"{one.name}, mean {number(mean)}"
        parts.append(text_at(at + (5 if side == "start" else -5), row + 9, label, f"name {one.tone}", side))
    return parts


def _bars(one: Series, count: list[int], edges: list[float], x: Scale, y: Scale, i: int, of: int) -> list[str]:
    wide = (x(edges[1]) - x(edges[0])) * 0.8 / of
    parts = []
    for n, low in zip(count, edges, strict=False):
        at, top = x(low + 0.5) + (i - of / 2) * wide, y(n)
        shape = f'x="{at:.1f}" y="{top}" width="{wide - 1:.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
        parts.append(f'<rect class="bar {one.tone}" {shape}><title>{one.name}: {n} at {low + 0.5:g}</title></rect>')
    return parts


def _outline(one: Series, count: list[int], edges: list[float], x: Scale, y: Scale) -> list[str]:
    corners = [(edges[0], 0)]
    for i, n in enumerate(count):
        corners += [(edges[i], n), (edges[i + 1], n)]
    corners.append((edges[-1], 0))
    points = " ".join(f"{x(a)},{y(b)}" for a, b in corners)
    return [f'<polygon class="area {one.tone}" points="{points}"/>']


def path(xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, first: str, last: str) -> str:
    """A way through a plane, such as reward against KL: faint where it begins, strong where it ends."""
    one = _thin(Series("", xs, ys), 80)
    x = Scale(*extent(one.x, from_zero=min(one.x) >= 0), LEFT, WIDTH - RIGHT)
    y = Scale(*extent(one.y), HEIGHT - BOTTOM, TOP)
    parts = axes(x, y, x_label, y_label)
    parts.append(f'<polyline class="line faint policy" points="{coordinates(one.x, one.y, x, y)}"/>')
    for i, (a, b) in enumerate(zip(one.x, one.y, strict=True)):
        strength = 0.25 + 0.75 * (i + 1) / len(one.x)
        parts.append(f'<circle class="dot policy" cx="{x(a)}" cy="{y(b)}" r="2.5" opacity="{strength:.2f}"/>')
    for at, name in ((0, first), (-1, last)):
        px, py = x(one.x[at]), y(one.y[at])
        side, shift = ("start", 7) if px < WIDTH * 0.6 else ("end", -7)
        below = at == 0 and py < HEIGHT - BOTTOM - 22
        parts.append(text_at(px + shift, py + (15 if below else -8), name, "name policy", side))
    return svg(parts, f"{y_label} against {x_label}")


def judged(
    xs: Sequence[float],
    ys: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    x_label: str,
    y_label: str,
    marked: float | None = None,
    mark: str = "kept",
    guide: tuple[float, str] | None = None,
) -> str:
    """Points with their intervals; a ring around the one at `marked`, and what it is."""
    spread = [v for pair in intervals if pair for v in pair]
    x = Scale(*extent(xs, pad=0.04, unit=True), LEFT + 4, WIDTH - RIGHT)
    y = Scale(*extent([*ys, *spread, *([guide[0]] if guide else [])]), HEIGHT - BOTTOM, TOP)
    parts = axes(x, y, x_label, y_label, whole_x=True)
    if guide:
        parts.append(f'<line class="guide" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(guide[0])}" y2="{y(guide[0])}"/>')
        parts.append(text_at(WIDTH - RIGHT, y(guide[0]) - 4, guide[1], "note", "end"))
    for a, pair in zip(xs, intervals, strict=True):
        if pair:
            ends = f'y1="{y(pair[0])}" y2="{y(pair[1])}"'
            parts.append(f'<line class="line faint policy" x1="{x(a)}" x2="{x(a)}" {ends}/>')
    parts.append(f'<polyline class="line policy" points="{coordinates(xs, ys, x, y)}"/>')
    for a, b in zip(xs, ys, strict=True):
        parts.append(f'<circle class="dot policy" cx="{x(a)}" cy="{y(b)}" r="2.5"/>')
        if a == marked:
            parts.append(f'<circle class="kept line policy" cx="{x(a)}" cy="{y(b)}" r="6.5"/>')
            side, shift = ("start", 10) if x(a) < WIDTH * 0.8 else ("end", -10)
            parts.append(text_at(x(a) + shift, y(b) - 6, f"{mark}: update {a:g}", "name policy", side))
    return svg(parts, f"{y_label} over {x_label}")


def interval(value: float, low: float, high: float, mark: float = 0.5) -> str:
    """A value with its interval on the line from 0 to 1, and a mark to compare with."""
    x = Scale(0, 1, 4, 196)
    return (
        '<svg class="interval" viewBox="0 0 200 16" role="img" '
        f'aria-label="{value:.2f}, interval {low:.2f} to {high:.2f}, on a line from 0 to 1">'
        '<line class="rail" x1="4" x2="196" y1="8" y2="8"/>'
        f'<line class="guide" x1="{x(mark)}" x2="{x(mark)}" y1="2" y2="14"/>'
        f'<line class="range" x1="{x(low)}" x2="{x(high)}" y1="8" y2="8"/>'
        f'<circle class="dot policy" cx="{x(value)}" cy="8" r="4.5"/></svg>'
    )


def sparkline(values: Sequence[float]) -> str:
    """A line as small as a word."""
    one = _thin(Series("", range(len(values)), values), 48)
    x, y = Scale(*extent(one.x, 0.0, unit=True), 1, 95), Scale(*extent(one.y), 19, 1)
    return (
        '<svg class="spark" viewBox="0 0 96 20" aria-hidden="true">'
        f'<polyline class="line policy" points="{coordinates(one.x, one.y, x, y)}"/></svg>'
    )


# --- parts, for other figures too -------------------------------------------------------------------------------------


def svg(parts: Sequence[str], label: str) -> str:
    """A whole drawing; `label` says in words what it shows."""
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def text_at(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    """Text, escaped here; `kind` is a class of style.css, `anchor` which end of it stands at x."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def axes(x: Scale, y: Scale, x_label: str, y_label: str, whole_x: bool = False) -> list[str]:
    """Light horizontal lines, round numbers on both axes, and titles that can be read without turning the head."""
    parts = [text_at(0, 10, y_label, "label", "start")]
    for tick, name in _named(ticks(y.low, y.high)):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(text_at(LEFT - 7, y(tick) + 3.5, name, "tick", "end"))
    for tick, name in _named([t for t in ticks(x.low, x.high, 5) if not whole_x or float(t).is_integer()]):
        parts.append(text_at(x(tick), HEIGHT - BOTTOM + 15, name, "tick"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{x.end}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(text_at((x.start + x.end) / 2, HEIGHT - 4, x_label, "label"))
    return parts


def _named(values: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks with their labels, all to the same number of decimals."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4 or max(map(abs, values), default=0) >= 1e6:
        return [(v, number(v, 2)) for v in values]
    return [(v, f"{v:,.{decimals}f}".replace("-", "−")) for v in values]


def end_names(entries: list[tuple[str, float, str]], x: float) -> list[str]:
    """Names at the lines' ends, moved apart when they would touch."""
    placed: list[tuple[str, float, str]] = []
    for name, y, tone in sorted(entries, key=lambda entry: entry[1]):
        placed.append((name, max(y + 3.5, placed[-1][1] + 13 if placed else TOP), tone))
    return [text_at(x, y, name, f"name {tone}", "start") for name, y, tone in placed]


def coordinates(xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale) -> str:
    """The corners of a line, as `points` of an SVG element."""
    return " ".join(f"{x(a):g},{y(b):g}" for a, b in zip(xs, ys, strict=True))


def extent(
    values: Sequence[float], pad: float = 0.06, from_zero: bool = False, unit: bool = False
) -> tuple[float, float]:
    """Lowest and highest with some air; a constant gets a range around it (to the next step with `unit`)."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return (low, low + 1) if unit or from_zero else (low - (abs(low) * 0.1 or 1), low + (abs(low) * 0.1 or 1))
    air = (high - low) * pad
    return (low if from_zero and low == 0 else low - air), (high if from_zero and high == 0 else high + air)


def _thin(one: Series, most: int = MOST_POINTS) -> Series:
    size = math.ceil(len(one.x) / most)
    if size <= 1:
        return one
    chunks = [slice(i, i + size) for i in range(0, len(one.x), size)]
    xs = [sum(one.x[c]) / len(one.x[c]) for c in chunks]
    return Series(one.name, xs, [sum(one.y[c]) / len(one.y[c]) for c in chunks], one.tone)


def _moving_mean(values: Sequence[float]) -> list[float] | None:
    """Centred moving average over a tenth of the points; None for lines short enough to read as they are."""
    if len(values) < 30:
        return None
    half = max(1, len(values) // 20)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(w) / len(w) for w in windows]


def _whole_edges(values: Sequence[float]) -> list[float]:
    return [v - 0.5 for v in range(int(min(values)), int(max(values)) + 2)]


def _edges(values: Sequence[float]) -> list[float]:
    """Shared bins of Freedman and Diaconis' width, 8 to 40 of them: a few far values must not hide the rest's shape."""
    low, high = extent(values, pad=0.0)
    ordered = sorted(values)
    middle_half = ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]
    width = 2 * middle_half / len(ordered) ** (1 / 3) or (high - low) / 40
    bins = min(40, max(8, math.ceil((high - low) / width)))
    return [low + (high - low) * i / bins for i in range(bins + 1)]


def _count(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    bins = len(edges) - 1
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - edges[0]) / (edges[-1] - edges[0]) * bins))] += 1
    return counts
