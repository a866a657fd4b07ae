"""Training curves: which metrics are drawn for a stage, and the table of all the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rlhf_lora.report import plots
from rlhf_lora.report.plots import Series, number

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """One figure: the first of `names` that a stage recorded is drawn.

    Attributes:
        second: names of a line to draw beside it.
        labels: what the two lines are called.
        tone: class of style.css that the first line has.
    """

    title: str
    y_label: str
    names: tuple[str, ...]
    from_zero: bool = False
    guide: tuple[float, str] | None = None
    second: tuple[str, ...] = ()
    labels: tuple[str, str] = ("", "")
    tone: str = "policy"


SCORE = ("objective/scores", "objective/score", "score/mean", "scores/mean", "reward/mean", "reward", "score")
KL = ("objective/kl", "kl")

CURVES = (
    Curve("Loss", "nats", ("loss", "train_loss", "train/loss")),
    Curve("Held-out loss", "nats", ("eval_loss", "eval/loss")),
    Curve("Score", "mean reward", SCORE),
    Curve("KL to the reference", "nats per sequence", KL, from_zero=True),
    Curve("Entropy", "nats per token", ("objective/entropy", "policy/entropy_avg", "entropy"), from_zero=True),
    Curve(
        "Clip fraction",
        "share of tokens",
        ("policy/clipfrac", "policy/clipfrac_avg", "clip_ratio/region_mean"),
        from_zero=True,
    ),
    Curve(
        "Response length",
        "tokens",
        ("completions/mean_length", "response_length", "rollout/length"),
        from_zero=True,
    ),
    Curve("Value loss", "half squared error", ("loss/value", "loss/value_avg"), from_zero=True),
    Curve("Returns explained by the value", "share", ("val/explained_variance",), guide=(0.0, "the mean alone")),
    Curve("Accuracy of next tokens", "share", ("mean_token_accuracy",)),
    Curve("Pairs in the right order", "share", ("accuracy", "rewards/accuracies"), guide=(0.5, "coin flip")),
    Curve("Held-out pairs in the right order", "share", ("eval_accuracy", "eval/accuracy"), guide=(0.5, "coin flip")),
    Curve("Margin", "chosen − rejected", ("margin", "rewards/margins"), guide=(0.0, "equal")),
    Curve(
        "Implicit reward",
        "reward",
        ("rewards/chosen",),
        second=("rewards/rejected",),
        labels=("chosen", "rejected"),
    ),
)


def section(stage: str, rows: Rows) -> str:
    """The figures of one stage and, folded, every metric it recorded; a sentence when there is nothing to draw."""
    x_label = "update" if _first(rows, ("objective/kl", "objective/rlhf_reward")) else "step"
    figures = [drawn for curve in (*CURVES, *_parts(rows)) if (drawn := _figure(curve, rows, x_label))]
    body = f'<div class="plots">{"".join(figures)}</div>' if figures else _too_few(rows)
    return body + table(stage, rows)


def against_kl(rows: Rows) -> str:
    """The way of the score as the policy moves from its reference; empty when a run has no such numbers."""
    score, kl = _first(rows, SCORE), _first(rows, KL)
    if score is None or kl is None:
        return ""
    both = [row for row in rows if score in row and kl in row]
    if len(both) < 2:
        return ""
    ends = [f"update {row['step']}" for row in (both[0], both[-1])]
    xs, ys = [row[kl] for row in both], [row[score] for row in both]
    drawn = plots.path(xs, ys, "KL to the reference, nats per sequence", "mean reward", ends[0], ends[1])
    return figure("Score against KL, in training", "", drawn)


def figure(title: str, note: str, drawn: str) -> str:
    return f"<figure><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>{drawn}</figure>"


def _parts(rows: Rows) -> list[Curve]:
    """One figure for each part of the score, those that are only watched dashed; what a part has for parts is in the table."""
    curves = []
    for name in sorted({name for row in rows for name in row}):
        if found := re.fullmatch(r"rewards/(shadow/)?([^/]+)/mean", name):
            title = f"{found[2]}: shadow, not trained on" if found[1] else f"{found[2]}: part of the score"
            curves.append(Curve(title, "mean", (name,), tone="shadow" if found[1] else "policy"))
    return curves


def _figure(curve: Curve, rows: Rows, x_label: str) -> str:
    series = []
    for names, label, tone in (
        (curve.names, curve.labels[0], curve.tone),
        (curve.second, curve.labels[1], "reference"),
    ):
        name = _first(rows, names)
        points = [(row["step"], row[name]) for row in rows if name in row] if name else []
        if len(points) >= 2:
            series.append(Series(label, [x for x, _ in points], [y for _, y in points], tone))
    if not series:
        return ""
    values = series[0].y
    note = f"{number(values[0])} → {number(values[-1])}" if len(series) == 1 else ""
    return figure(curve.title, note, plots.lines(series, x_label, curve.y_label, curve.from_zero, curve.guide))


def table(stage: str, rows: Rows) -> str:
    """Every metric with first, last, lowest and highest value, and its shape in small."""
    names = sorted({name for row in rows for name in row} - {"stage", "step", "time_s"})
    if not names:
        return ""
    lines = []
    for name in names:
        values = [row[name] for row in rows if name in row]
        cells = "".join(f'<td class="n">{number(v)}</td>' for v in (values[0], values[-1], min(values), max(values)))
        lines.append(f'<tr><th scope="row">{escape(name)}</th><td>{plots.sparkline(values)}</td>{cells}</tr>')
    head = "".join(f'<th class="n" scope="col">{h}</th>' for h in ("first", "last", "lowest", "highest"))
    return (
        f"<details><summary>All {len(names)} metrics of {escape(stage)}, {len(rows)} rows</summary>"
        f'<div class="scroll"><table><thead><tr><th scope="col">metric</th><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _too_few(rows: Rows) -> str:
    return f'<p class="soft">{len(rows)} row{"" if len(rows) == 1 else "s"} recorded: too few for a curve.</p>'


def _first(rows: Rows, names: Sequence[str]) -> str | None:
    return next((name for name in names if any(name in row for row in rows)), None)
