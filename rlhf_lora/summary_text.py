"""A run's summary as lines for a terminal: the figures that matter, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lora import feedback_text
from rlhf_lora.controls import must_give
from rlhf_lora.judging import canaries
from rlhf_lora.run_folder import mended


def lines(summary: Mapping[str, Any]) -> list[str]:
    """What the run learned; what does not apply has no line."""
    own = f"reward={summary.get('reward')}"
    found = []
    if "control" in summary:
        found.append(f"control={summary['control']}: {must_give(summary['control'])}")
    found += mended(summary)
    for name, what in (("gold", "gold"), ("policy", own), ("judge", "judge")):
        if "win_rate_vs_reference" in (part := summary.get(name, {})):
            found.append(_against_reference(part, f"judge={part['name']}" if name == "judge" else what))
    if told := canaries.warning(summary.get("canaries", {})):
        found.append(told)
    if "kl_to_reference" in summary.get("policy", {}):
        found.append(f"KL to the reference: {summary['policy']['kl_to_reference']:.2f} nats a sequence")
    found += [_round(row) for row in summary.get("rounds", ())]
    if "rows" in (made := summary.get("answers", {})):
        found.append(_answers(made))
    for n, best in summary.get("best_of_n", {}).items():
        for part, what in ((best.get("gold", {}), "gold"), (best, own)):
            if "win_rate_vs_reference" in part:
                found.append(f"best of {n}, at most {best['kl_bound']:.2f} nats: {_against_reference(part, what)}")
    found += feedback_text.lines(summary)
    for name, what in (("reward_model", "reward model"), ("implicit_reward", "the policy as a reward model")):
        if "accuracy" in (model := summary.get(name, {})):
            found.append(_accuracy(model, what))
        if "rating_mse" in model:
            found.append(_ratings(model, what))
        for labels, of in ((model, ""), (model.get("labels_unseen", {}), " of rules that training has not seen")):
            if "label_auc" in labels:
                found.append(_labels(labels, what, of))
    return found


def _against_reference(part: Mapping[str, Any], what: str) -> str:
    low, high = part["win_rate_ci95"]
    line = f"{what}: wins {part['win_rate_vs_reference']:.3f} [{low:.3f}, {high:.3f}] against the reference"
    if "win_rate_length_controlled" in part:
        line += f", at equal length {part['win_rate_length_controlled']:.3f}"
    if "score_mean" in part:
        line += f", mean {part['score_mean_reference']:.3f} → {part['score_mean']:.3f}"
    if "flip_rate" in part:
        line += f", {100 * part['flip_rate']:.0f} % changed with the order"
    return line


def _round(row: Mapping[str, Any]) -> str:
    said = []
    for name, what in (("gold", "gold wins"), ("policy", "wins by its reward")):
        if "win_rate_vs_reference" in (part := row.get(name, {})):
            said.append(_with_interval(what, part, "win_rate_vs_reference", "win_rate_ci95"))
    if "kl_to_reference" in row.get("policy", {}):
        said.append(f"KL {row['policy']['kl_to_reference']:.2f} nats")
    if "accuracy" in (model := row.get("reward_model", {})):
        said.append(_with_interval("reward model", model, "accuracy"))
    return f"round {row['round']}: {', '.join(said)}{_refreshed(model.get('new', {}))}"


def _with_interval(what: str, figures: Mapping[str, Any], name: str, interval: str = "") -> str:
    low_high = figures.get(interval or f"{name}_ci95")
    return f"{what} {figures[name]:.3f}" + ("" if low_high is None else f" [{low_high[0]:.3f}, {low_high[1]:.3f}]")


def _refreshed(new: Mapping[str, Any]) -> str:
    """What the reward model of a round was refreshed with."""
    if "labels" not in new:
        return ""
    told = [
        _with_interval(what, new, name)
        for name, what in (
            ("gold_agreement", "in the true order"),
            ("accuracy_before", "as the model before orders them"),
        )
        if name in new
    ]
    line = f"; refreshed with {new['labels']} labels of {new['asked']} comparisons by {new['by']}"
    return f"{line}: {', '.join(told)}" if told else line


def _answers(made: Mapping[str, Any]) -> str:
    line = f"answers: {made['answers']} to {made['prompts']} prompts were scored, {made['rows']} rows made of them"
    if made.get("left_out"):
        line += f" ({', '.join(f'{count} × {why}' for why, count in made['left_out'].items())})"
    if "max_median_gap" in made:
        line += f", the best {made['max_median_gap']:.3f} above the median"
    if "gold_agreement" in made:
        line += f", {made['gold_agreement']:.3f} in the true order"
    return line


def _ratings(model: Mapping[str, Any], what: str) -> str:
    line = f"{what}: mean squared error {model['rating_mse']:.3f} of {model['ratings']} held-out ratings, "
    line += f"the mean alone {model['rating_mse_of_mean']:.3f}"
    told = [f"{name} {model[f'rating_{name}']:.3f}" for name in ("pearson", "spearman") if f"rating_{name}" in model]
    return ", ".join([line, *told])


def _labels(model: Mapping[str, Any], what: str, of: str) -> str:
    line = f"{what}: AUC {model['label_auc']:.3f} on {model['labels']} held-out labels{of}, "
    line += f"{100 * model['label_bad_share']:.0f} % bad"
    if "label_gold_auc" in model:
        line += f", against the truth {model['label_gold_auc']:.3f}"
    if "label_calibration_error" in model:
        line += f", calibration error {model['label_calibration_error']:.3f}"
    return line


def _accuracy(model: Mapping[str, Any], what: str) -> str:
    low, high = model["accuracy_ci95"]
    line = f"{what}: {model['accuracy']:.3f} [{low:.3f}, {high:.3f}] of {model['pairs']} held-out pairs, "
    line += f"length alone {model['length_baseline']:.3f}"
    if "calibration_error" in model:
        line += f", calibration error {model['calibration_error']:.3f}"
    if "gold_accuracy" in model:
        line += f", against the true order {model['gold_accuracy']:.3f}"
    return line
