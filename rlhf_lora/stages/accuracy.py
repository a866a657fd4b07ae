"""How often a reward model prefers the chosen answer, beside what length alone would get; how sure it may be; and how near
it comes to people's ratings.

Reward models on "helpful" data learn length: the longer answer wins 75 %, and bag-of-words gets no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlhf_lora.comparison import wilson
from rlhf_lora.records import Pair, Rating

BINS = 10
"""Of confidence, from 0.5 to 1: bins of 0.05."""


def accuracy(scores_chosen: Sequence[float], scores_rejected: Sequence[float], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy on held-out pairs, with Wilson intervals. Ties count one half. Length is in characters.

    Returns:
        `pairs`, `accuracy`, `length_baseline` (the longer answer wins), `accuracy_where_shorter_chosen` and
        `pairs_where_shorter_chosen` (where length is wrong), `accuracy_where_longer_chosen`, each share with its
        `_ci95`; `margin_mean` is the mean score difference. A share over no pairs is absent.
    """
    deltas = [c - r for c, r in zip(scores_chosen, scores_rejected, strict=True)]
    longer = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    if len(longer) != len(deltas):
        raise ValueError(f"{len(deltas)} scores for {len(longer)} pairs")
    wins = [_win(delta) for delta in deltas]
    shorter_chosen = [win for win, by in zip(wins, longer, strict=True) if by < 0]
    longer_chosen = [win for win, by in zip(wins, longer, strict=True) if by > 0]
    result: dict[str, Any] = {"pairs": len(pairs), "pairs_where_shorter_chosen": len(shorter_chosen)}
    result |= _share("accuracy", wins) | _share("length_baseline", [_win(by) for by in longer])
    result |= _share("accuracy_where_shorter_chosen", shorter_chosen)
    result |= _share("accuracy_where_longer_chosen", longer_chosen)
    if deltas:
        result["margin_mean"] = sum(deltas) / len(deltas)
    return result


def calibration(
    scores_chosen: Sequence[float], scores_rejected: Sequence[float], pairs: Sequence[Pair]
) -> dict[str, Any]:  # fmt: skip
    """Whether σ(Δ) is the probability that it claims to be (Bai et al. 2022a, figure 9): over bins of how sure the model
    is, σ(|Δ|), how often it is right.

    A soft label counts as what it says: p right where the model goes with it, 1 − p where it does not; Δ = 0 one half.

    Returns:
        `calibration_error`, the mean of |right − sure| weighted by pairs, 0 to 1; and `calibration`, a list of
        `from`, `to`, `pairs`, `sure` and `right` of each bin that has pairs. Nothing over no pairs.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for chosen, rejected, pair in zip(scores_chosen, scores_rejected, pairs, strict=True):
        delta = chosen - rejected
        sure = 1 / (1 + math.exp(-abs(delta)))
        right = 0.5 if delta == 0 else pair.label if delta > 0 else 1 - pair.label
        bins[min(BINS - 1, int((sure - 0.5) * 2 * BINS))].append((sure, right))
    table = [
        {"from": 0.5 + i / (2 * BINS), "to": 0.5 + (i + 1) / (2 * BINS), "pairs": len(found),
         "sure": sum(sure for sure, _ in found) / len(found), "right": sum(right for _, right in found) / len(found)}
        for i, found in enumerate(bins) if found
    ]  # fmt: skip
    if not table:
        return {}
    error = sum(row["pairs"] * abs(row["right"] - row["sure"]) for row in table) / sum(row["pairs"] for row in table)
    return {"calibration_error": error, "calibration": table}


def closeness(scores: Sequence[float], ratings: Sequence[Rating], mean: float) -> dict[str, Any]:
    """How near scores on the labellers' scale come to held-out ratings.

    Args:
        mean: of the ratings that were learned from: what someone who knows no more would say every time.

    Returns:
        `ratings`, `rating_mse`, `rating_mse_of_mean` (the same for `mean` alone); `rating_pearson` and `rating_spearman`
        (ties share their mean rank), absent where all scores or all ratings are the same.
    """
    if not ratings:
        return {}
    values, n = [rating.value for rating in ratings], len(ratings)
    found: dict[str, Any] = {
        "ratings": n,
        "rating_mse": sum((s - v) ** 2 for s, v in zip(scores, values, strict=True)) / n,
        "rating_mse_of_mean": sum((mean - v) ** 2 for v in values) / n,
    }
    for name, xs, ys in (("pearson", scores, values), ("spearman", mean_ranks(scores), mean_ranks(values))):
        if len(set(xs)) > 1 and len(set(ys)) > 1:
            found[f"rating_{name}"] = _correlation(xs, ys)
    return found


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    covariance = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / math.sqrt(math.fsum((x - mean_x) ** 2 for x in xs) * math.fsum((y - mean_y) ** 2 for y in ys))


def mean_ranks(values: Sequence[float]) -> list[float]:
    """1 for the lowest; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + 1 + end) / 2
        start = end
    return ranks


def _win(by: float) -> float:
    return 0.5 if by == 0 else float(by > 0)


def _share(name: str, wins: Sequence[float]) -> dict[str, Any]:
    if not wins:
        return {}
    return {name: sum(wins) / len(wins), f"{name}_ci95": list(wilson(sum(wins), len(wins)))}
