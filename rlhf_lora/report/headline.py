"""The top of a report: one sentence that says how the run ended, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlhf_lora.controls import must_give
from rlhf_lora.report import plots
from rlhf_lora.report.plots import number
from rlhf_lora.run_folder import mended


def reference_name(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """What the policy is compared with: "SFT" when this run made it, else "reference"."""
    stages = {*summary.get("seconds", {}), *summary.get("reused", []), *(row["stage"] for row in metrics)}
    if "revised_sft" in stages:
        return "SFT on revisions"
    return "SFT" if "sft" in stages else "reference"


def lede(summary: Mapping[str, Any], reference: str) -> str:
    """One honest sentence: the win rate by gold if there is one, and whether it is more than chance."""
    for part, judge in (("gold", " by the gold reward"), ("policy", " by its own reward")):
        figures = summary.get(part, {})
        rate = figures.get("win_rate_vs_reference")
        if rate is None:
            continue
        low, high = figures.get("win_rate_ci95", (rate, rate))
        text = f"The policy beats {escape(reference)} on {_percent(rate)} of held-out prompts{judge}"
        if low <= 0.5 <= high:
            return text + ", which is not clearly different from a coin flip."
        kl = summary.get("policy", {}).get("kl_to_reference")
        return text + (f", at a KL of {number(kl)} nats." if kl is not None else ".")
    model = summary.get("reward_model", {}).get("accuracy")
    if model is not None:
        return f"The reward model puts {_percent(model)} of held-out pairs in the right order."
    if summary.get("status") == "finished":  # `stages` named others, or no reward can be asked
        return "No policy was compared with a reference: this page shows what has been recorded."
    return "No evaluation yet: this page shows what has been recorded so far."


def mended_notice(summary: Mapping[str, Any]) -> str:
    """Above the headline of a run whose plugin files were edited on the way. Nothing for other runs."""
    return "".join(f'<p class="control">{escape(line)}.</p>' for line in mended(summary))


def control_notice(summary: Mapping[str, Any]) -> str:
    """Above the headline of a control: nobody is to take its figures for a result. Nothing for other runs."""
    control = summary.get("control")
    if control is None:
        return ""
    return f'<p class="control"><b>Control, not a result: {escape(str(control))}.</b> {escape(must_give(str(control)))}</p>'


def facts(summary: Mapping[str, Any], reference: str) -> str:
    """The figures as a list; what does not apply is not in it."""
    found = [
        *(_win_rate(summary, part, title) for part, title in (("gold", "Wins by gold"), ("policy", "Wins by reward"))),
        _means(summary, "gold", "Gold reward", reference),
        _means(summary, "policy", "Reward", reference),
        _kl(summary),
        *_best_of_n(summary),
        _length(summary, reference),
        _reward_model(summary),
        _cost(summary),
        _missing(summary),
    ]
    return f'<dl class="facts">{"".join(found)}</dl>' if any(found) else ""


def duration(seconds: float) -> str:
    """`0.4 s`, `41 s`, `3 min 35 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _win_rate(summary: Mapping[str, Any], part: str, title: str) -> str:
    figures = summary.get(part, {})
    rate = figures.get("win_rate_vs_reference")
    if rate is None:
        return ""
    interval = figures.get("win_rate_ci95")
    if not interval:
        return _fact(title, _percent(rate))
    drawn = plots.interval(rate, *interval)
    notes = [f"95 % interval {_between(interval)}; dotted: a coin flip", *_at_equal_length(figures)]
    return _fact(title, _percent(rate), " · ".join(notes), drawn)


def _at_equal_length(figures: Mapping[str, Any]) -> list[str]:
    rate = figures.get("win_rate_length_controlled")
    if rate is None:
        return []
    return [f"at equal length {_percent(rate)} ({_between(figures['win_rate_length_controlled_ci95'])})"]


def _best_of_n(summary: Mapping[str, Any]) -> list[str]:
    """What sampling alone gives: by gold if there is one, so that it stands beside the policy's figure."""
    found = []
    for n, figures in summary.get("best_of_n", {}).items():
        judged, by = (figures["gold"], "gold") if "gold" in figures else (figures, "reward")
        rate = judged.get("win_rate_vs_reference")
        if rate is not None:
            note = f"by {by}, {_between(judged['win_rate_ci95'])} · a KL of {number(figures['kl_bound'])} nats at most"
            drawn = plots.interval(rate, *judged["win_rate_ci95"])
            found.append(_fact(f"Wins of the best of {escape(n)}", _percent(rate), note, drawn))
    return found


def _means(summary: Mapping[str, Any], part: str, title: str, reference: str) -> str:
    figures = summary.get(part, {})
    after, before = figures.get("score_mean"), figures.get("score_mean_reference")
    if after is None:
        return ""
    if before is None:
        return _fact(title, number(after), "mean on held-out prompts")
    note = f"mean on held-out prompts, {reference} → policy"
    return _fact(title, f"<i>{number(before)} →</i> {number(after)}", note)


def _kl(summary: Mapping[str, Any]) -> str:
    kl = summary.get("policy", {}).get("kl_to_reference")
    if kl is None:
        return ""
    return _fact("KL to the reference", f'{number(kl)} <i class="unit">nats</i>', "mean per reply")


def _length(summary: Mapping[str, Any], reference: str) -> str:
    """Length is what policies are first paid for by mistake, so it stands beside what they gained."""
    figures = summary.get("policy", {})
    after, before = figures.get("mean_length"), figures.get("mean_length_reference")
    if after is None or before is None:
        return ""
    value = f'<i>{number(before)} →</i> {number(after)} <i class="unit">tokens</i>'
    return _fact("Reply length", value, f"mean on held-out prompts, {reference} → policy")


def _reward_model(summary: Mapping[str, Any]) -> str:
    figures = summary.get("reward_model", {})
    accuracy = figures.get("accuracy")
    others = _ratings(figures) + _labels(figures)
    if accuracy is None:
        return others
    notes = []
    if (interval := figures.get("accuracy_ci95")) is not None:
        notes.append(f"95 % interval {_between(interval)}")
    if (pairs := figures.get("pairs")) is not None:
        notes.append(f"{number(pairs)} held-out pairs")
    if (length := figures.get("length_baseline")) is not None:
        notes.append(f"length alone gets {_percent(length)}")
    if (gold := figures.get("gold_accuracy")) is not None:
        notes.append(f"{_percent(gold)} against the gold order")
    if (shorter := figures.get("accuracy_where_shorter_chosen")) is not None:
        notes.append(f"{_percent(shorter)} where the shorter reply is the better one")
    if (calibration := figures.get("calibration_error")) is not None:
        notes.append(f"calibration error {_percent(calibration)}")
    return _fact("Reward model accuracy", _percent(accuracy), " · ".join(notes)) + others


def _ratings(figures: Mapping[str, Any]) -> str:
    error = figures.get("rating_mse")
    if error is None:
        return ""
    notes = [
        f"{number(figures['ratings'])} held-out ratings",
        f"the mean alone gets {number(figures['rating_mse_of_mean'])}",
    ]
    notes += [f"{name.title()} {number(r)}" for name in ("pearson", "spearman") if (r := figures.get(f"rating_{name}"))]
    return _fact("Squared error of ratings", number(error), " · ".join(notes))


def _labels(figures: Mapping[str, Any]) -> str:
    auc = figures.get("label_auc")
    if auc is None:
        return ""
    notes = [f"{number(figures['labels'])} held-out labels, {_percent(figures['label_bad_share'])} of them bad"]
    if (gold := figures.get("label_gold_auc")) is not None:
        notes.append(f"{number(gold)} against the truth")
    if (unseen := figures.get("labels_unseen", {}).get("label_auc")) is not None:
        notes.append(f"{number(unseen)} on rules that training has not seen")
    if (error := figures.get("label_calibration_error")) is not None:
        notes.append(f"calibration error {_percent(error)}")
    return _fact("Good told from bad (AUC)", number(auc), " · ".join(notes))


def _cost(summary: Mapping[str, Any]) -> str:
    total, memory = summary.get("seconds", {}).get("total"), summary.get("peak_memory_gib")
    note = f"{number(memory)} GiB memory at the peak" if memory is not None else ""
    return "" if total is None else _fact("Time", duration(float(total)), note)


def _missing(summary: Mapping[str, Any]) -> str:
    abstained, errors = summary.get("abstained"), summary.get("errors")
    if abstained is None and errors is None:
        return ""
    note = f"{number(abstained or 0)} abstained · {number(errors or 0)} failed; none of them counted as 0"
    return _fact("Scores missing", number((abstained or 0) + (errors or 0)), note)


def _fact(title: str, value: str, note: str = "", drawn: str = "") -> str:
    return f'<div class="fact"><dt>{title}</dt><dd><b>{value}</b>{drawn}<small>{escape(note)}</small></dd></div>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _between(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.3g}–{100 * interval[1]:.3g} %"
