"""`sweep.html`: the table of a sweep and its reward against KL, one dot a job. Self-contained, as report.html is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlhf_lora.atomic import write_text
from rlhf_lora.report import plots
from rlhf_lora.report.document import document, table


def write_sweep_page(
    path: Path, title: str, status: str, header: Sequence[str], cells: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]],
    seeds: tuple[Sequence[str], Sequence[Sequence[str]]] = ((), ()),
) -> Path:  # fmt: skip
    """Write the page.

    Args:
        header, cells: the table as text, one line a row.
        rows: the same jobs with their figures (`job`, `kl`, `gold_score`, `score`, `win_rate`, `reward`).
        seeds: header and lines of the settings over seeds; without lines there is no such table.
    """
    done = sum(row["status"] == "finished" for row in rows)
    body = (
        f"<section><h2>Jobs, best first</h2>{table(header, cells, [_job(row) for row in rows])}</section>"
        + (f"<section><h2>Settings over seeds</h2>{_SEEDS_NOTE}{table(*seeds)}</section>" if seeds[1] else "")
        + f"<section><h2>Reward against KL</h2>{_frontier(rows)}</section>{_FOOTER}"
    )
    write_text(path, document(title, status, f'<p class="lede">{done} of {len(rows)} jobs finished.</p>', body))
    return path


_SEEDS_NOTE = "<p>Settings that differ by less than a setting's own range over seeds may be the same.</p>"
_FOOTER = (
    "<footer><p>Scores are raw rewards on held-out prompts. KL is the mean over samples of the sum over tokens of "
    "log π − log ρ, in nats. Intervals are 95 %.</p></footer>"
)


def _job(row: Mapping[str, Any]) -> str:
    """A job's number, with a link to its report: only a finished one has it for certain."""
    number = escape(str(row["job"]))
    return f'<a href="{number}/report.html">{number}</a>' if row["status"] == "finished" else number


def measure(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The figure of merit that all jobs share, and its name: gold scores; else scores, which only jobs with one and the
    same reward share; else win rates."""
    judged = [row for row in rows if row.get("kl") is not None]
    if judged and all("gold_score" in row for row in judged):
        return "gold_score", "gold score"
    if len({row.get("reward") for row in judged}) == 1 and all("score" in row for row in judged):
        return "score", "score"
    return "win_rate", "win rate"


def efficient(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The frontier: those for which no other has more reward at the same KL or less. Ordered by KL."""
    kept: list[tuple[float, float]] = []
    for kl, reward in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or reward > kept[-1][1]:
            kept.append((kl, reward))
    return kept


def _frontier(rows: Sequence[Mapping[str, Any]]) -> str:
    kind, name = measure(rows)
    judged = [row for row in rows if row.get("kl") is not None and row.get(kind) is not None]
    if not judged:
        return '<p class="soft">No job has both a score and a KL.</p>'
    note = "One dot a job, by number. The line joins those that no other job beats at the same KL or less."
    points = [(float(row["kl"]), float(row[kind]), str(row["job"])) for row in judged]
    return (
        f'<p>{note}</p><div class="plots"><figure>{scatter(points, "KL to the reference, nats", name)}</figure></div>'
    )


def scatter(points: Sequence[tuple[float, float, str]], x_label: str, y_label: str) -> str:
    """Named dots in a plane, with their frontier as a line."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x = plots.Scale(*plots.extent(xs, from_zero=min(xs) >= 0), plots.LEFT, plots.WIDTH - plots.RIGHT)
    y = plots.Scale(*plots.extent(ys), plots.HEIGHT - plots.BOTTOM, plots.TOP)
    parts = plots.axes(x, y, x_label, y_label)
    best = efficient([(a, b) for a, b, _ in points])
    line = plots.coordinates([p[0] for p in best], [p[1] for p in best], x, y)
    parts.append(f'<polyline class="line faint policy" points="{line}"/>')
    for a, b, name in points:
        tone = "policy" if (a, b) in best else "reference"
        parts.append(
            f'<circle class="dot {tone}" cx="{x(a)}" cy="{y(b)}" r="3.5"><title>job {escape(name)}</title></circle>'
        )
        parts.append(plots.text_at(x(a) + 6, y(b) - 5, name, "note", "start"))
    return plots.svg(parts, f"{y_label} against {x_label}, a dot a job")
