"""From rewards and values to advantages: GAE, whitening, and the means they share."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Token-weighted mean over all that is given: every token counts the same, whatever sequence it is in."""
    return (x_BT * mask_BT).sum() / mask_BT.sum()


def sequence_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over sequences of each one's mean over its tokens: a long answer counts no more than a short one."""
    return ((x_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()


def group_sums(x_B: Tensor, group_B: Tensor) -> Tensor:
    """Sum of x over the group of each row, shape (B,). Groups are the completions of one prompt."""
    return x_B.new_zeros(int(group_B.max()) + 1).index_add(0, group_B, x_B)[group_B]


def leave_one_out(rewards_B: Tensor, group_B: Tensor, counted_B: Tensor | None = None) -> Tensor:
    """r_i minus the mean of the others of its group (RLOO: Ahmadian et al. 2024, eq. 8); 0 where there are no others.

    Args:
        counted_B: rows that are others to somebody; None = all.
    """
    weight_B = torch.ones_like(rewards_B) if counted_B is None else counted_B.to(rewards_B.dtype)
    others_B = group_sums(weight_B, group_B) - weight_B
    baseline_B = (group_sums(weight_B * rewards_B, group_B) - weight_B * rewards_B) / others_B.clamp(min=1)
    return torch.where(others_B > 0, rewards_B - baseline_B, 0.0)


def group_relative(rewards_B: Tensor, group_B: Tensor, scale: bool = True, counted_B: Tensor | None = None) -> Tensor:
    """(r_i − mean) / deviation within its group (GRPO: Shao et al. 2024, §4.1.2); sample deviation, n − 1.

    Args:
        scale: False leaves out the division, which weighs prompts by how equal their rewards are (Liu et al. 2025).
        counted_B: rows that mean and deviation are taken over; None = all.
    """
    weight_B = torch.ones_like(rewards_B) if counted_B is None else counted_B.to(rewards_B.dtype)
    count_B = group_sums(weight_B, group_B)
    centred_B = rewards_B - group_sums(weight_B * rewards_B, group_B) / count_B.clamp(min=1)
    if not scale:
        return centred_B
    deviation_B = (group_sums(weight_B * centred_B**2, group_B) / (count_B - 1).clamp(min=1)).sqrt()
    return centred_B / (deviation_B + 1e-6)


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    δ_t = r_t + γ V_{t+1} − V_t,  A_t = δ_t + γ λ A_{t+1}, with V = 0 after the last token.

    Args:
        mask_BT: a run of True from the first response token on; what lies behind it counts for nothing.

    Returns:
        advantages_BT (not whitened) and returns_BT = A + V, both 0 where masked.
    """
    mask_BT = mask_BT.to(values_BT.dtype)
    values_BT, rewards_BT = values_BT * mask_BT, rewards_BT * mask_BT
    advantage_B = next_value_B = torch.zeros_like(values_BT[:, 0])
    columns = []
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = (delta_B + gamma * lam * advantage_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t]
        columns.append(advantage_B)
    advantages_BT = torch.stack(columns[::-1], dim=1)
    return advantages_BT, advantages_BT + values_BT


def whiten(x_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True, counted_B: Tensor | None = None) -> Tensor:
    """(x − μ) / √(var + 1e-8) over masked positions; population variance, as `tf.nn.moments` gives (Ziegler 2019).

    Args:
        shift_mean: False keeps the mean: what rewards want, so that their sign survives.
        counted_B: rows that μ and var are taken over; None = all.
    """
    mask_BT = mask_BT.to(x_BT.dtype)
    over_BT = mask_BT if counted_B is None else mask_BT * counted_B[:, None]
    mean = masked_mean(x_BT, over_BT)
    variance = masked_mean((x_BT - mean) ** 2, over_BT)
    whitened_BT = (x_BT - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened_BT if shift_mean else whitened_BT + mean) * mask_BT
