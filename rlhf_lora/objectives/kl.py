"""KL estimators and controllers.

Estimators (Schulman 2020, "Approximating KL divergence"), elementwise over tokens sampled from π, in nats:

    k1 = log π − log ρ                    unbiased, can be negative
    k2 = ½ (log π − log ρ)²               biased, low variance
    k3 = ρ/π − 1 − log(ρ/π)               unbiased, never negative
"""

from __future__ import annotations

from torch import Tensor


def k1(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    return logprobs_BT - ref_logprobs_BT


def k2(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    return 0.5 * (logprobs_BT - ref_logprobs_BT) ** 2


def k3(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    # expm1 keeps the precision that exp(x) − 1 loses where π ≈ ρ, which is where training starts.
    log_ratio_BT = ref_logprobs_BT - logprobs_BT
    return log_ratio_BT.expm1() - log_ratio_BT


class AdaptiveKL:
    """β that steers KL towards a target (Ziegler et al. 2019, released code, `AdaptiveKLController`).

    β ← β · (1 + e · n / horizon), with e = clip(KL / target − 1, −0.2, 0.2).

    Args:
        initial: β to start with. target: KL per sequence in nats, > 0. horizon: in episodes.
    """

    def __init__(self, initial: float, target: float, horizon: float = 10_000):
        if target <= 0:
            raise ValueError(f"the KL target must be above 0 nats, got {target}")
        self.value, self.target, self.horizon = float(initial), float(target), float(horizon)

    def update(self, kl: float, n: int) -> float:
        """Move β after an update of `n` episodes whose mean KL per sequence was `kl`; returns the new β."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.value *= 1.0 + error * n / self.horizon
        return self.value
