"""Held-out figures taken within the run (`evaluation.every`): how they went over the updates, and which was kept; and how
sure the reward model may be of held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lora.report import plots
from rlhf_lora.report.curves import figure, table
from rlhf_lora.report.plots import number

Rows = Sequence[Mapping[str, Any]]

DRAWN = (
    ("gold.win_rate_vs_reference", "Wins by gold", "share of prompts"),
    ("policy.win_rate_vs_reference", "Wins by reward", "share of prompts"),
    ("gold.score_mean", "Mean gold reward", "gold reward"),
    ("policy.score_mean", "Mean reward", "reward"),
    ("policy.kl_to_reference", "KL to the reference", "nats per sequence"),
)


def section(rows: Rows, config: Mapping[str, Any], finished: bool) -> str:
    """A plot for each figure with the kept update marked on it, and the table of all; empty without rows.

    Args:
        rows: metrics of the stage `evaluation`, one for each update that was judged.
        finished: while a run is not, the best so far is only that.
    """
    if not rows:
        return ""
    settings = config.get("evaluation") or {}
    update, why = kept(rows, settings, finished)
    drawn = "".join(
        _plot(rows, name, title, y_label, update, "kept" if finished else "best so far")
        for name, title, y_label in DRAWN
    )
    count = f"judged {len(rows)} times" if len(rows) > 1 else "judged once"
    text = f'<p class="soft">The policy was {count} on the tuning prompts, not on those of the final figures. {why}</p>'
    return f'{text}<div class="plots">{drawn}</div>{table("evaluation", rows)}'


def calibration(figures: Mapping[str, Any]) -> str:
    """The table of how sure the reward model was of held-out pairs and how often it was right; empty without one."""
    if not figures.get("calibration"):
        return ""
    lines = "".join(
        f'<tr><th scope="row">{100 * row["from"]:.0f}–{100 * row["to"]:.0f} %</th><td class="n">{number(row["pairs"])}</td>'
        f'<td class="n">{100 * row["sure"]:.1f} %</td><td class="n">{100 * row["right"]:.1f} %</td></tr>'
        for row in figures["calibration"]
    )
    head = "".join(f'<th class="n" scope="col">{name}</th>' for name in ("pairs", "sure", "right"))
    return (
        f"<details><summary>How sure the reward model is of held-out pairs, and how often it is right: "
        f"{100 * figures['calibration_error']:.1f} points apart in the mean</summary>"
        f'<div class="scroll"><table><thead><tr><th scope="col">σ(|Δ|)</th>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></details>"
    )


def kept(rows: Rows, settings: Mapping[str, Any], finished: bool) -> tuple[int | None, str]:
    """(update whose policy is in adapters/policy, or is the best so far; a sentence on it)."""
    if settings.get("keep") != "best":
        last = rows[-1]["step"]
        return (last, f"Kept is the last, update {last}.") if finished else (None, "")
    metric = str(settings.get("metric"))
    told = [row for row in rows if _key(metric) in row]
    if not told:
        return None, ""
    best = max(told, key=lambda row: row[_key(metric)])  # the first of equals, as it is while training
    which = "Kept is the best" if finished else "The best so far is"
    return best["step"], f"{which} by {metric}: update {best['step']}, {number(best[_key(metric)])}."


def _key(metric: str) -> str:
    """`gold.score_mean` is logged as `eval/gold/score_mean`, `policy.score_mean` as `eval/score_mean`."""
    part, _, name = metric.partition(".")
    return f"eval/{name}" if part == "policy" else f"eval/{part}/{name}"


def _plot(rows: Rows, metric: str, title: str, y_label: str, update: int | None, mark: str) -> str:
    key = _key(metric)
    found = [row for row in rows if key in row]
    if not found:
        return ""
    ends = key.replace("win_rate_vs_reference", "win_rate_ci95")
    between = [(row[f"{ends}_low"], row[f"{ends}_high"]) if f"{ends}_low" in row else None for row in found]
    steps, values = [row["step"] for row in found], [row[key] for row in found]
    guide = (0.5, "coin flip") if "win_rate" in metric else None
    note = next((f"{mark}: {number(value)}" for step, value in zip(steps, values, strict=True) if step == update), "")
    return figure(title, note, plots.judged(steps, values, between, "update", y_label, update, mark, guide))
