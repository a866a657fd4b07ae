"""PPO's two losses (Schulman et al. 2017; as released with Ziegler et al. 2019). Masked means are token-weighted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_lora.objectives.advantages import masked_mean


def policy_loss(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float,
    mean: Callable[[Tensor, Tensor], Tensor] = masked_mean,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """mean max(−A ρ, −A clip(ρ, 1 − clip, 1 + clip)), ρ = π / π_old (eq. 7, as a loss).

    Args:
        mean: over tokens, or over sequences (`advantages.sequence_mean`).

    Returns:
        The loss, and `approxkl` = ½ mean (log ρ)², `clipfrac`, `ratio` (mean ρ).
    """
    mask_BT = mask_BT.to(logprobs_BT.dtype)
    # Masked first: what lies in padded places must not overflow into inf × 0.
    log_ratio_BT = (logprobs_BT - old_logprobs_BT) * mask_BT
    ratio_BT = log_ratio_BT.exp()
    unclipped_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1.0 - clip, 1.0 + clip)
    loss = mean(torch.maximum(unclipped_BT, clipped_BT), mask_BT)
    with torch.no_grad():
        stats = {
            "approxkl": 0.5 * masked_mean(log_ratio_BT**2, mask_BT),
            "clipfrac": masked_mean((clipped_BT > unclipped_BT).to(mask_BT.dtype), mask_BT),
            "ratio": masked_mean(ratio_BT, mask_BT),
        }
    return loss, stats


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """½ mean max((V − R)², (clip(V, V_old ± clip) − R)²); `clip=None` leaves out the second term.

    Returns:
        The loss (with the ½), and `clipfrac`.
    """
    mask_BT = mask_BT.to(values_BT.dtype)
    error_BT = (values_BT - returns_BT) ** 2
    worst_BT = error_BT
    if clip is not None:
        near_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        worst_BT = torch.maximum(error_BT, (near_BT - returns_BT) ** 2)
    loss = 0.5 * masked_mean(worst_BT, mask_BT)
    with torch.no_grad():
        stats = {"clipfrac": masked_mean((worst_BT > error_BT).to(mask_BT.dtype), mask_BT)}
    return loss, stats
