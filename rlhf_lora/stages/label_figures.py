"""How well a reward model tells answers called good from those called bad, and whether its probability is one.

Most replies keep most rules: who calls every one of them good is right nine times of ten. So the figure is AUC, the
probability that a good answer has a higher score than a bad one, whatever their shares; accuracy stands beside what the
commoner label alone would get.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlhf_lora.comparison import wilson
from rlhf_lora.records import Label
from rlhf_lora.stages.accuracy import BINS, mean_ranks

RULE = "rule"
"""Column of the prompt that names what a label is about, where labels are about several things."""


def rule_of(record: Any) -> str | None:
    """What a label, or a pair, is about; None where the data does not say."""
    rule = record.prompt.columns.get(RULE)
    return None if rule is None else str(rule)


def by_rule(
    scores: Sequence[float], labels: Sequence[Label], good_share: float | None, truth: Sequence[bool | None] | None
) -> dict[str, Any]:
    """The figures of all labels, and under `labels_by_rule` those of each value of the column `rule`, where there is one."""
    found = figures(scores, labels, good_share, truth)
    rules = {rule: [i for i, label in enumerate(labels) if rule_of(label) == rule] for rule in map(rule_of, labels)}
    if set(rules) <= {None}:
        return found
    found["labels_by_rule"] = {
        str(rule): figures(
            [scores[i] for i in at],
            [labels[i] for i in at],
            good_share,
            None if truth is None else [truth[i] for i in at],
        )
        for rule, at in sorted(rules.items(), key=lambda item: str(item[0]))
    }
    return found


def figures(
    scores: Sequence[float],
    labels: Sequence[Label],
    good_share: float | None,
    truth: Sequence[bool | None] | None = None,
) -> dict[str, Any]:
    """AUC on held-out labels; of scores that are log-odds also accuracy, Brier score and calibration.

    Args:
        good_share: of the labels that were learned from; None for scores that are no log-odds.
        truth: whether each answer is good in truth, where that is known: labels are noisy, and where few are bad most
            of these may be noise.

    Returns:
        `labels`, `label_bad_share`, `label_auc`; `label_gold_auc` against the truth; `label_accuracy` (with `_ci95`) and
        `label_accuracy_of_majority`, `label_brier` = mean (p − y)² and `label_brier_of_share` (saying `good_share` every
        time), `label_calibration_error`, the mean over ten bins of p of |share of good − mean p|, weighted by answers.
        An AUC without both kinds is absent.
    """
    good = [label.good for label in labels]
    if not good:
        return {}
    found: dict[str, Any] = {"labels": len(good), "label_bad_share": 1 - sum(good) / len(good)}
    known = [(s, t) for s, t in zip(scores, truth or (), strict=bool(truth)) if t is not None]
    areas = {"label_auc": auc(scores, good), "label_gold_auc": auc([s for s, _ in known], [t for _, t in known])}
    found |= {name: area for name, area in areas.items() if area is not None}
    return found if good_share is None else found | _of_probabilities(scores, good, good_share)


def auc(scores: Sequence[float], good: Sequence[bool]) -> float | None:
    """P(score of a good answer > score of a bad one), ties one half; None without both kinds."""
    goods = sum(good)
    bads = len(good) - goods
    if not goods or not bads:
        return None
    above = math.fsum(rank for rank, is_good in zip(mean_ranks(scores), good, strict=True) if is_good)
    return (above - goods * (goods + 1) / 2) / (goods * bads)


def _of_probabilities(scores: Sequence[float], good: Sequence[bool], good_share: float) -> dict[str, Any]:
    n, said = len(good), [1 / (1 + math.exp(-s)) if s >= 0 else math.exp(s) / (1 + math.exp(s)) for s in scores]
    rights = sum(0.5 if s == 0 else float((s > 0) == y) for s, y in zip(scores, good, strict=True))
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for p, y in zip(said, good, strict=True):
        bins[min(BINS - 1, int(p * BINS))].append((p, y))
    return {
        "label_accuracy": rights / n,
        "label_accuracy_ci95": list(wilson(rights, n)),
        "label_accuracy_of_majority": max(sum(good), n - sum(good)) / n,
        "label_brier": math.fsum((p - y) ** 2 for p, y in zip(said, good, strict=True)) / n,
        "label_brier_of_share": math.fsum((good_share - y) ** 2 for y in good) / n,
        "label_calibration_error": math.fsum(abs(sum(y for _, y in b) - math.fsum(p for p, _ in b)) for b in bins) / n,
    }
