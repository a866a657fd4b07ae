"""`sweep.html`: the table of a sweep and its reward against KL, one dot a job. Self-contained, as report.html is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlhf_lora.atomic import write_text
from rlhf_lora.report import plots

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


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
    style = Path(__file__).with_name("style.css").read_text("utf-8")
    done = sum(row["status"] == "finished" for row in rows)
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · rlhf_lora</title><style>{style}</style></head>\n<body><main>"
        f'<header><div class="top"><h1>{escape(title)}</h1>'
        f'<span class="{"status finished" if status == "finished" else "status"}">{escape(status)}</span></div>'
        f'<p class="lede">{done} of {len(rows)} jobs finished.</p></header>'
        f"<section><h2>Jobs, best first</h2>{_table(header, cells, rows)}</section>"
        + (f"<section><h2>Settings over seeds</h2>{_over_seeds(*seeds)}</section>" if seeds[1] else "")
        + f"<section><h2>Reward against KL</h2>{_frontier(rows)}</section>"
        "<footer><p>Scores are raw rewards on held-out prompts. KL is the mean over samples of the sum over tokens of "
        "log π − log ρ, in nats. Intervals are 95 %.</p></footer></main></body></html>\n",
    )
    return path


def _table(header: Sequence[str], cells: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for row, line in zip(rows, cells, strict=True):
        first = escape(line[0])
        if row["status"] == "finished":  # only then there is a report for certain
            first = f'<a href="{first}/report.html">{first}</a>'
        lines.append(
            f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:]) + "</tr>"
        )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _over_seeds(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    note = "Settings that differ by less than a setting's own range over seeds may be the same."
    return f'<p>{note}</p><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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
    x = plots._Scale(*plots._range(xs, from_zero=min(xs) >= 0), plots.LEFT, plots.WIDTH - plots.RIGHT)
    y = plots._Scale(*plots._range(ys), plots.HEIGHT - plots.BOTTOM, plots.TOP)
    parts = plots._axes(x, y, x_label, y_label)
    best = efficient([(a, b) for a, b, _ in points])
    line = plots._points([p[0] for p in best], [p[1] for p in best], x, y)
    parts.append(f'<polyline class="line faint policy" points="{line}"/>')
    for a, b, name in points:
        tone = "policy" if (a, b) in best else "reference"
        parts.append(
            f'<circle class="dot {tone}" cx="{x(a)}" cy="{y(b)}" r="3.5"><title>job {escape(name)}</title></circle>'
        )
        parts.append(plots._text(x(a) + 6, y(b) - 5, name, "note", "start"))
    return plots._svg(parts, f"{y_label} against {x_label}, a dot a job")
