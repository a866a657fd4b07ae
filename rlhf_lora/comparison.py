"""Who wins, how often, how surely: two models' answers to the same prompts, by their scores or by a judge.

Always paired by prompt, ties count one half, and every rate has its interval. What has no score, or no readable
verdict, is left out on both sides and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from rlhf_lora.judging.orders import raised_by, verdicts
from rlhf_lora.length_control import length_controlled
from rlhf_lora.records import Comparison, Prompt, Sample, Score

RESAMPLES = 10_000


def compare(
    ours: Sequence[Score], theirs: Sequence[Score], seed: int = 0, differences: Sequence[float] | None = None
) -> dict[str, Any]:  # fmt: skip
    """Means and win rate over the prompts where both sides have a score.

    Args:
        differences: our answer's length minus theirs, one for each prompt; adds the rate at equal length.

    Returns:
        `score_mean`, `score_mean_reference`, `score_gain_ci95` (of the difference of the two, paired),
        `win_rate_vs_reference` (ties ½) with `win_rate_ci95`, `win_rate_length_controlled` with its `…_ci95` where the
        data can tell it, `compared`, and `unscored` when a prompt had to be left out. Nothing but `unscored` when none
        is left.
    """
    kept = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a.value is not None and b.value is not None]
    missing = {"unscored": len(ours) - len(kept)} if len(kept) < len(ours) else {}
    if not kept:
        return missing
    both = [(cast(float, ours[i].value), cast(float, theirs[i].value)) for i in kept]
    return {
        "score_mean": sum(a for a, _ in both) / len(both),
        "score_mean_reference": sum(b for _, b in both) / len(both),
        "score_gain_ci95": bootstrap_ci95([a - b for a, b in both], seed),
        **_rates([0.5 if a == b else float(a > b) for a, b in both], _at(differences, kept), seed),
        **missing,
    }


def compare_by_judge(
    judge: Any, ours: Sequence[Sample], theirs: Sequence[Sample], seed: int = 0
) -> dict[str, Any]:  # fmt: skip
    """Have a judge compare the answers, each pair in both orders; a win is the mean of the two.

    Judges favour a place. One that always names the first answer comes out at a rate of 0.5, and `flip_rate` says that
    it told nothing.

    Args:
        judge: an opened `Judge`.

    Returns:
        The win rates of `compare`, `compared`, `flip_rate` (share of the compared pairs whose winner changed with the
        order; a tie in one order is no flip), and where there are any: `unscored`, pairs that were left out because a
        verdict of theirs could not be read, and `unread_verdicts`, how many verdicts those were.

    Raises:
        ContractError: the judge raised, or what it returned is no verdict.
    """
    both_orders = _asked_twice(judge, ours, theirs)
    # One order alone would bring the favoured place back in.
    kept = [i for i, verdicts in enumerate(both_orders) if None not in verdicts]
    unread = sum(verdicts.count(None) for verdicts in both_orders)
    missing = {"unscored": len(both_orders) - len(kept), "unread_verdicts": unread} if unread else {}
    if not kept:
        return missing
    read = [cast(tuple[float, float], both_orders[i]) for i in kept]
    wins = [(first + second) / 2 for first, second in read]
    differences = length_differences([ours[i] for i in kept], [theirs[i] for i in kept])
    flips = sum(abs(first - second) == 1 for first, second in read)
    return {**_rates(wins, differences, seed), "flip_rate": flips / len(kept), **missing}


def _asked_twice(
    judge: Any, ours: Sequence[Sample], theirs: Sequence[Sample]
) -> list[tuple[float | None, float | None]]:
    """1 we won, 0 we lost, ½ a tie, None unreadable: with ours in the first place, and in the second."""
    pairs = [Comparison(Prompt.of(a), a.text, b.text) for a, b in zip(ours, theirs, strict=True)]
    given = _choices(judge, [one for pair in pairs for one in (pair, pair.swapped)])
    return [
        (first, None if second is None else 1 - second) for first, second in zip(given[::2], given[1::2], strict=True)
    ]


def _choices(judge: Any, comparisons: Sequence[Comparison]) -> list[float | None]:
    """1 for A, ½ for a tie, 0 for B."""
    with raised_by(f"the judge '{type(judge).__name__}'"):
        told = verdicts(judge, comparisons)
    return [None if one.choice is None else {"A": 1.0, "B": 0.0, "tie": 0.5}[one.choice] for one in told]


def _rates(wins: Sequence[float], differences: Sequence[float] | None, seed: int) -> dict[str, Any]:
    controlled = {} if differences is None else length_controlled(wins, differences, seed)
    return {
        "win_rate_vs_reference": sum(wins) / len(wins),
        "win_rate_ci95": bootstrap_ci95(wins, seed),
        **controlled,
        "compared": len(wins),
    }


def length_differences(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Our answers' lengths minus theirs: in tokens, or in words where no tokens are known."""
    if all(sample.tokens is not None for sample in (*ours, *theirs)):
        return [float(len(a.tokens or ()) - len(b.tokens or ())) for a, b in zip(ours, theirs, strict=True)]
    return [float(len(a.text.split()) - len(b.text.split())) for a, b in zip(ours, theirs, strict=True)]


def mean_length(samples: Sequence[Sample]) -> float:
    """In tokens, the end token included."""
    return sum(len(sample.tokens or ()) for sample in samples) / len(samples)


def _at(values: Sequence[float] | None, places: Sequence[int]) -> list[float] | None:
    return None if values is None else [values[i] for i in places]


def bootstrap_ci95(values: Sequence[float], seed: int = 0) -> list[float]:
    """Percentile bootstrap interval of a mean over prompts, 10,000 resamples of a fixed stream."""
    import numpy as np

    draw, data = np.random.default_rng(seed), np.asarray(values, dtype=np.float64)
    means = [data[draw.integers(0, len(data), (500, len(data)))].mean(1) for _ in range(RESAMPLES // 500)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return [float(low), float(high)]


def wilson(wins: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share: within [0, 1], and honest for few trials and shares near 0 or 1."""
    share, z2 = wins / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Exactly at the ends, where rounding would leave 3e-17.
    return 0.0 if wins == 0 else max(0.0, centre - half), 1.0 if wins == n else min(1.0, centre + half)
