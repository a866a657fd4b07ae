"""Losses on preferences: functions of scores or log-probs, no model, no config.

Scores are scalars per answer, higher is better; every loss is a mean over the batch, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def pairwise(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None, label_B: Tensor | None = None
) -> Tensor:
    """Bradley-Terry: L = −p log σ(Δ − m) − (1−p) log σ(−(Δ − m)), with Δ = r(chosen) − r(rejected).

    Args:
        margin_B: m, by how much the chosen answer should win (Llama 2, Touvron et al. 2023); None = 0.
        label_B: p = P(chosen is better) in [0, 1]; None = 1, a hard label.
    """
    delta_B = chosen_B - rejected_B if margin_B is None else chosen_B - rejected_B - margin_B
    if label_B is None:
        return -logsigmoid(delta_B).mean()
    return -(label_B * logsigmoid(delta_B) + (1 - label_B) * logsigmoid(-delta_B)).mean()


def kwise(scores_BK: Tensor, ranks_BK: Tensor) -> Tensor:
    """All pairs of K ranked answers to one prompt (InstructGPT, Ouyang et al. 2022, eq. 1).

    Each prompt weighs the same, however many of its pairs are decided: the mean of −log σ(r_w − r_l) over its pairs.

    Args:
        ranks_BK: lower is better; equal ranks are ties, and their pair is left out.

    Returns:
        The mean over prompts with at least one decided pair; 0 when there is none.
    """
    better_BKK = ranks_BK.unsqueeze(2) < ranks_BK.unsqueeze(1)
    loss_BKK = -logsigmoid(scores_BK.unsqueeze(2) - scores_BK.unsqueeze(1))
    pairs_B = better_BKK.sum(dim=(1, 2))
    loss_B = torch.where(better_BKK, loss_BKK, 0.0).sum(dim=(1, 2)) / pairs_B.clamp(min=1)
    return loss_B.sum() / (pairs_B > 0).sum().clamp(min=1)


def best_of_n(scores_BN: Tensor, best_B: Tensor) -> Tensor:
    """One answer picked out of N (Ziegler et al. 2019, eq. 1): L = −log softmax(r)[best]. N = 2 is `pairwise`."""
    return torch.nn.functional.cross_entropy(scores_BN, best_B)


def dpo(
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    ref_chosen_B: Tensor,
    ref_rejected_B: Tensor,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), with the smoothing of cDPO (Mitchell 2023).

    h = (log π_w − log ρ_w) − (log π_l − log ρ_l);  L = −(1−ε) log σ(βh) − ε log σ(−βh).

    Args:
        policy_chosen_B, …: log-probs of whole answers: sums over their tokens, not means.
        beta: strength of the KL that the loss stands for, > 0.
        label_smoothing: ε = P(the label is wrong) in [0, 0.5), one for all or one per pair (`1 − Pair.label`).
    """
    h_B = (policy_chosen_B - ref_chosen_B) - (policy_rejected_B - ref_rejected_B)
    wrong_B = torch.as_tensor(label_smoothing, dtype=h_B.dtype, device=h_B.device)
    return -((1 - wrong_B) * logsigmoid(beta * h_B) + wrong_B * logsigmoid(-beta * h_B)).mean()


def kto(
    policy_B: Tensor, ref_B: Tensor, good_B: Tensor, kl: Tensor | float, beta: float,
    desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7): the mean of λ_y − v(x, y).

    r = log π(y|x) − log ρ(y|x);  v = λ_D σ(β(r − z₀)) of a good answer, λ_U σ(β(z₀ − r)) of a bad one.

    Args:
        policy_B, ref_B: log-probs of whole answers: sums over their tokens.
        good_B: True of a good answer.
        kl: z₀ ≥ 0, the point that gains and losses are told from; see `kto_kl`. It gets no gradient.
        desirable_weight, undesirable_weight: λ_D and λ_U. The paper wants λ_D n_D / (λ_U n_U) between 1 and 4/3.
    """
    gain_B = beta * (policy_B - ref_B - torch.as_tensor(kl, dtype=policy_B.dtype, device=policy_B.device).detach())
    loss_B = torch.where(
        good_B.bool(), desirable_weight * torch.sigmoid(-gain_B), undesirable_weight * torch.sigmoid(gain_B)
    )
    return loss_B.mean()


def kto_kl(policy_B: Tensor, ref_B: Tensor) -> Tensor:
    """z₀ of KTO: max(0, mean of log π(y'|x) − log ρ(y'|x)), where y' answers another prompt than x; no gradient.

    A cheap and biased estimate of KL(π ‖ ρ) (arXiv 2402.01306, §4.2).
    """
    return (policy_B - ref_B).mean().clamp(min=0).detach()
