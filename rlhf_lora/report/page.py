"""`report.html`: one self-contained page of a run, from summary.json, metrics.jsonl and samples/evaluation.parquet.

No script, no network (a content security policy says so, too), light and dark, phone and desk. What a run does not
have is left out with a sentence, never drawn as zero. Every text is escaped: completions are the work of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlhf_lora import feedback_text
from rlhf_lora.atomic import write_text
from rlhf_lora.judging import canaries
from rlhf_lora.report import curves, held_out, overoptimization, plots, rounds
from rlhf_lora.report.document import document
from rlhf_lora.report.headline import control_notice, duration, facts, lede, mended_notice, reference_name
from rlhf_lora.report.plots import Series, number
from rlhf_lora.run_folder import RunFolder

Rows = Sequence[Mapping[str, Any]]

STAGES = {
    "sft": "Supervised fine-tuning",
    "revised_sft": "Supervised fine-tuning on revisions",
    "reward_model": "Reward model",
    "policy": "Policy",
    "evaluation": "Held-out prompts, within the run",
}
SHOWN = 10
"""Prompts shown side by side."""
LONGEST = 4000
"""Characters of a text that are shown."""


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` from what the run folder holds; fine at any time, also for an interrupted run."""
    path = folder.path / "report.html"
    write_text(path, render(folder))
    return path


def render(folder: RunFolder) -> str:
    """The page as text."""
    summary, metrics = folder.summary, folder.metrics()
    samples = folder.read_samples("evaluation")
    reference = reference_name(summary, metrics)
    judged = [row for row in metrics if row["stage"] == "evaluation"]
    warning = f'<p class="status">{told}</p>' if (told := overoptimization.warning(judged)) else ""
    if told := canaries.warning(summary.get("canaries", {})):
        warning += f'<p class="status">{told}</p>'
    further = overoptimization.figures(judged, summary)
    sections = [
        ("before-after", "Before and after", _before_after(samples, metrics, reference, further)),
        *([("rounds", "Rounds", rounds.section(summary, reference))] if summary.get("rounds") else []),
        ("samples", "Samples", _samples(samples, reference)),
        *([("feedback", "AI feedback", told)] if (told := _feedback(summary)) else []),
        ("training", "Training", rounds.answers(summary) + _training(metrics, folder.config, summary)),
        ("time", "Time", _time(summary)),
        ("settings", "Settings", _settings(folder)),
    ]
    links = "".join(f'<a href="#{id_}">{title}</a>' for id_, title, _ in sections)
    body = "".join(f'<section><h2 id="{id_}">{title}</h2>{html}</section>' for id_, title, html in sections)
    status = str(summary.get("status", "not finished"))
    header = (
        f'{control_notice(summary)}{mended_notice(summary)}<p class="lede">{lede(summary, reference)}</p>'
        f'{warning}<p class="soft">{_what_ran(summary, folder)}</p><nav>{links}</nav>'
    )
    return document(folder.name, status, header, f"{facts(summary, reference)}{body}{_FOOTER}")


_FOOTER = (
    "<footer><p>Scores are raw rewards on held-out prompts, before KL, clipping or whitening. KL is the mean over "
    "samples of the sum over tokens of log π − log ρ (estimator k1), in nats. A tie counts half a win. Intervals are "
    "95 %. Where a line is drawn twice, the strong one is a moving average over a tenth of the run.</p></footer>"
)


def _what_ran(summary: Mapping[str, Any], folder: RunFolder) -> str:
    config = folder.config
    model = config.get("model", {}).get("path") if isinstance(config.get("model"), Mapping) else None
    data = config.get("dataset", {}).get("name") if isinstance(config.get("dataset"), Mapping) else None
    parts = [
        (summary.get("optimizer"), "optimizer"),
        (summary.get("reward"), "reward"),
        (data, "dataset"),
        (model, "model"),
        (summary.get("seed"), "seed"),
    ]
    return " · ".join(f"{name} {escape(str(value))}" for value, name in parts if value is not None)


# --- before and after -------------------------------------------------------------------------------------------------


def _before_after(samples: Rows, metrics: Rows, reference: str, further: Sequence[str]) -> str:
    figures = [
        _distribution(samples, "score", "Reward", reference),
        _distribution(samples, "gold", "Gold reward", reference),
        curves.against_kl([row for row in metrics if row["stage"] == "policy"]),
        *further,
    ]
    if not any(figures):
        return _absent("No held-out evaluation in this run folder, and no policy that was trained against a reward.")
    without = "" if figures[0] else _absent("No held-out evaluation in this run folder yet.")
    return f'{without}<div class="plots">{"".join(figures)}</div>'


def _distribution(samples: Rows, kind: str, title: str, reference: str) -> str:
    """Histograms of both policies over the prompts that both have a value for."""
    both = _scored(samples, kind)
    if len(both) < 2:
        return ""
    before, after = [r[f"reference_{kind}"] for r in both], [r[f"policy_{kind}"] for r in both]
    wins = sum(a > b for a, b in zip(after, before, strict=True))
    ties = sum(a == b for a, b in zip(after, before, strict=True))
    note = f"{wins} won · {ties} tied · {len(both) - wins - ties} lost"
    groups = [Series(reference, (), before, "reference"), Series("policy", (), after, "policy")]
    return curves.figure(title, note, plots.histograms(groups, "gold reward" if kind == "gold" else "reward"))


def _scored(samples: Rows, kind: str) -> list[Mapping[str, Any]]:
    return [r for r in samples if r.get(f"reference_{kind}") is not None and r.get(f"policy_{kind}") is not None]


# --- samples ----------------------------------------------------------------------------------------------------------


def _samples(samples: Rows, reference: str) -> str:
    if not samples:
        return _absent("No held-out samples in this run folder yet.")
    chosen, how = _choose(samples)
    return f"<p>{how}</p>" + "".join(_sample(row, reference) for row in chosen)


def _choose(samples: Rows) -> tuple[list[Mapping[str, Any]], str]:
    """Ten rows that are not picked by hand: evenly spaced from the largest loss to the largest gain."""
    kind = "gold" if len(_scored(samples, "gold")) >= SHOWN else "score"
    ranked = sorted(_scored(samples, kind), key=lambda r: r[f"policy_{kind}"] - r[f"reference_{kind}"], reverse=True)
    if len(ranked) <= SHOWN:
        return list(samples[:SHOWN]), f"{min(SHOWN, len(samples))} of {len(samples)} held-out prompts."
    rows = [ranked[round(i * (len(ranked) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    what = "gold reward" if kind == "gold" else "reward"
    how = f"evenly spaced from the largest gain in {what} to the largest loss"
    return rows, f"Ten of {len(samples)} held-out prompts, {how}."


def _sample(row: Mapping[str, Any], reference: str) -> str:
    return (
        f'<article class="sample"><div class="prompt"><h3>Prompt</h3>{_text(row["prompt"])}</div>'
        f'<div><h3 class="reference">{escape(reference)}<small>{_marks(row, "reference")}</small></h3>'
        f"{_text(row['reference_text'])}</div>"
        f'<div><h3 class="policy">policy<small>{_marks(row, "policy")}</small></h3>'
        f"{_text(row['policy_text'])}</div></article>"
    )


def _marks(row: Mapping[str, Any], who: str) -> str:
    score = row.get(f"{who}_score")
    parts = [f"reward {number(score)}" if score is not None else "no reward"]
    for kind in ("gold", "kl"):
        value = row.get(f"{who}_{kind}")
        if value is not None:
            parts.append(f"{kind.upper() if kind == 'kl' else kind} {number(value)}")
    return " · ".join(parts)


def _text(text: str | None) -> str:
    """A text as it was, escaped; control characters, which no page may hold, become visible."""
    if not text:
        return '<div class="text empty">empty</div>'
    shown = "".join(c if c in "\n\t" or c.isprintable() or c == "\u200d" else "\ufffd" for c in text[:LONGEST])
    more = f'<span class="empty"> … {len(text) - LONGEST} more characters</span>' if len(text) > LONGEST else ""
    return f'<div class="text" dir="auto">{escape(shown)}{more}</div>'


def _feedback(summary: Mapping[str, Any]) -> str:
    """Who labelled and who revised, where it was no person."""
    lines = feedback_text.lines(summary)
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


# --- training, time, settings -----------------------------------------------------------------------------------------


def _training(metrics: Rows, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    finished = summary.get("status") == "finished"
    stages = list(dict.fromkeys(row["stage"] for row in metrics))
    if not stages:
        return _absent("No metrics recorded yet.")
    parts = []
    order = {"policy": 0, "evaluation": 1}
    newest = next((stage for stage in reversed(stages) if stage.startswith("reward_model")), None)
    for stage in sorted(stages, key=lambda s: order.get(s, 2)):
        rows = [row for row in metrics if row["stage"] == stage]
        body = held_out.section(rows, config, finished) if stage == "evaluation" else curves.section(stage, rows)
        body += held_out.calibration(summary.get("reward_model", {})) if stage == newest else ""
        parts.append(f"<h3>{escape(_title_of(stage))}</h3>{body}")
    return "".join(parts)


def _title_of(stage: str) -> str:
    """`reward_model_2` is that of the second round."""
    name, _, number = stage.rpartition("_")
    return f"{STAGES[name]}, round {number}" if name in STAGES and number.isdigit() else STAGES.get(stage, stage)


def _time(summary: Mapping[str, Any]) -> str:
    seconds = {k: float(v) for k, v in summary.get("seconds", {}).items()}
    if not seconds:
        return _absent("No times recorded yet.")
    total = seconds.pop("total", None)
    most = max(seconds.values(), default=0.0) or 1.0
    lines = []
    for name in [*seconds, *(r for r in summary.get("reused", []) if r not in seconds)]:
        took = duration(seconds[name]) if name in seconds else ""
        took += " (reused)" if name in summary.get("reused", []) else ""
        bar = f'<i style="width:{100 * seconds[name] / most:.1f}%"></i>' if name in seconds else ""
        label = escape(name.replace("_", " "))
        cells = f'<td class="n">{took.strip()}</td><td class="share">{bar}</td>'
        lines.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    if total is not None:
        lines.append(f'<tr><th scope="row">total</th><td class="n">{duration(total)}</td><td></td></tr>')
    return f'<table style="width:100%;max-width:44rem"><tbody>{"".join(lines)}</tbody></table>'


def _settings(folder: RunFolder) -> str:
    config = (folder.path / "config.yaml").read_text("utf-8")
    rows = ((escape(name), escape(str(value))) for name, value in folder.versions.items())
    table = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return (
        f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>"
        f"<details><summary>Versions</summary><table><tbody>{table}</tbody></table></details>"
    )


def _absent(sentence: str) -> str:
    return f'<p class="soft">{sentence}</p>'
