"""A win rate with the length of the answers taken out of it.

Judges and reward models like long answers, and policies find that out. After AlpacaEval 2.0 (Dubois et al. 2024,
arXiv 2404.04475): a logistic regression of who won on the difference in length,

    P(ours wins) = σ(θ + φ · tanh(Δ / s) + ω · sign(Δ)),    Δ = our length − theirs, s = the standard deviation of Δ,

and the rate that it predicts at no difference, σ(θ). Two things differ from theirs. The difficulty of the instruction,
estimated over many models there, cannot be told from chance with two, and is not here. The sign is ours: a rule that
always prefers the longer answer is a step, which tanh cannot follow, and what it cannot follow it leaves in θ (0.82
where 0.5 is right and 0.89 was counted). Where the judge is as smooth as they suppose, the sign costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FEWEST = 20
"""Comparisons below which two coefficients are not worth fitting."""
RIDGE = (0.1, 0.001, 0.001)
"""The penalty ½ · (0.1 θ² + 0.001 φ² + 0.001 ω²) on the log-likelihood, which is a sum over comparisons: wins that length
explains without a remainder have no finite maximum. θ is held tighter, so that they are put down to length. It moves a
rate of 0.8 from 20 comparisons by 0.007, one from 1,000 not."""
RESAMPLES = 1_000


def length_controlled(wins: Sequence[float], differences: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """The win rate at equal length, with a percentile bootstrap interval over comparisons.

    Args:
        wins: 1 won, 0 lost, ½ a tie (a soft label: half a win and half a loss).
        differences: our length minus theirs, in tokens, one for each win.

    Returns:
        `win_rate_length_controlled` and `win_rate_length_controlled_ci95`; nothing where the data cannot tell: fewer
        than `FEWEST` comparisons; our answers always the longer ones, or always the shorter ones, so that equal length
        would be a guess beyond what was seen; or all won, or all lost, whatever the difference. Without any difference
        in length the rate is the plain one.
    """
    import numpy as np

    won, delta = np.asarray(wins, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    one_sided = won.min() == won.max() != 0.5 and delta.any()
    if len(won) < FEWEST or one_sided or not delta.min() <= 0 <= delta.max():
        return {}
    spread = float(delta.std())
    # Comparisons that are alike are one cell with a count, which makes a resample a draw of counts.
    cells, counts = np.unique(np.stack([delta, won], 1), axis=0, return_counts=True)
    delta_C, won_C = cells.T
    x_C3 = np.stack([np.ones_like(delta_C), np.tanh(delta_C / (spread or 1.0)), np.sign(delta_C)], 1)
    drawn = np.random.default_rng(seed).multinomial(len(won), counts / len(won), size=RESAMPLES)
    rate = _rates_at_equal_length(x_C3, won_C, counts[None])[0]
    low, high = np.quantile(_rates_at_equal_length(x_C3, won_C, drawn), [0.025, 0.975])
    return {
        "win_rate_length_controlled": float(rate),
        "win_rate_length_controlled_ci95": [float(low), float(high)],
    }


def _rates_at_equal_length(x_C3: Any, won_C: Any, counts_RC: Any) -> Any:
    """σ(θ) of R data sets that are given as counts of the same C cells."""
    import numpy as np

    if not x_C3[:, 1:].any():  # no difference anywhere: the mean, which is what θ alone would give but for the penalty
        return counts_RC @ won_C / counts_RC.sum(1)
    theta_R = fit(x_C3, won_C, counts_RC.astype(np.float64))[:, 0]
    return 1 / (1 + np.exp(-theta_R))


def fit(x_C3: Any, won_C: Any, counts_RC: Any) -> Any:
    """(θ, φ, ω) of every data set, R × 3, by Newton's method from 0.

    A step is held within 2: from far out, where σ is flat, a full one may overshoot.
    """
    import numpy as np

    ridge, found_R3 = np.asarray(RIDGE), np.zeros((len(counts_RC), 3))
    products_C9 = (x_C3[:, :, None] * x_C3[:, None, :]).reshape(-1, 9)
    for _ in range(100):
        p_RC = 1 / (1 + np.exp(-found_R3 @ x_C3.T))
        gradient_R3 = (counts_RC * (won_C - p_RC)) @ x_C3 - ridge * found_R3
        curvature_R33 = ((counts_RC * p_RC * (1 - p_RC)) @ products_C9).reshape(-1, 3, 3) + np.diag(ridge)
        step_R3 = np.linalg.solve(curvature_R33, gradient_R3[:, :, None])[:, :, 0]
        found_R3 += np.clip(step_R3, -2, 2)
        if np.abs(step_R3).max() < 1e-8:
            break
    return found_R3
