"""Conformance vectors: numbers worked out by hand, or with nothing but `math`, against the kit's functions of tensors.

No model, no settings, no data. Right answers stand as literals, with the sum that gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_lora.checks.registry import Outcome, check, failed, within
from rlhf_lora.objectives import advantages, kl, logprobs, ppo, preference

LIMIT = 1e-6
"""Of float64 arithmetic on numbers of order one, and of literals given to seven places."""

ZIEGLER = "Ziegler et al. 2019, released code"


def tensor(*values: float | Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def apart(*pairs: tuple[Tensor | float, Tensor | float]) -> float:
    """Largest distance between any two that should be equal; NaN is infinitely far."""
    worst = 0.0
    for ours, right in pairs:
        distance = (
            (torch.as_tensor(ours, dtype=torch.float64) - torch.as_tensor(right, dtype=torch.float64)).abs().max()
        )
        worst = max(worst, math.inf if torch.isnan(distance) else float(distance))
    return worst


def softplus(x: float) -> float:
    """−log σ(−x)."""
    return math.log1p(math.exp(x))


# --- log-probabilities ------------------------------------------------------------------------------------------------


@check("C06", "log-prob of a token is taken at the temperature", source=f"{ZIEGLER}, analyze_responses_op")
def logprob_at_temperature() -> Outcome:
    # Hidden states that are the logits: the projection is the identity. Logits 1, 2, 4 at T = 0.7.
    logits, temperature = [1.0, 2.0, 4.0], 0.7
    total = math.log(sum(math.exp(x / temperature) for x in logits))
    right = tensor([x / temperature - total for x in logits])
    hidden_BTD = torch.tensor([[logits, logits, logits]])
    ours = logprobs.selected(hidden_BTD, torch.eye(3), torch.tensor([[0, 1, 2]]), temperature, chunk=2)
    return within(apart((ours, right)), LIMIT)


# --- KL ---------------------------------------------------------------------------------------------------------------


@check("C23", "KL estimators k1, k2, k3 of one token", source="Schulman 2020, Approximating KL divergence")
def estimators() -> Outcome:
    # log π = −1, log ρ = −1.5: k1 = 0.5, k2 = 0.125, k3 = e^−0.5 − 1 + 0.5 = 0.1065307
    given = tensor([-1.0]), tensor([-1.5])
    return within(apart((kl.k1(*given), 0.5), (kl.k2(*given), 0.125), (kl.k3(*given), 0.10653066)), LIMIT)


@check("C25", "adaptive KL: β after an update", source=f"{ZIEGLER}, AdaptiveKLController")
def adaptive_kl() -> Outcome:
    # 512 episodes, target 6, horizon 10,000. KL 12: e is cut to 0.2, β = 0.15 · 1.01024; KL 0: 0.15 · 0.98976;
    # KL 6.6: e = 0.1, β = 0.15 · 1.00512
    found = [kl.AdaptiveKL(0.15, 6.0, 10_000).update(value, 512) for value in (12.0, 0.0, 6.6)]
    return within(apart((tensor(found), tensor([0.151536, 0.148464, 0.150768]))), LIMIT)


# --- advantages -------------------------------------------------------------------------------------------------------


@check("C26", "whitening uses the population's variance", source=f"{ZIEGLER}, tf.nn.moments")
def whitening() -> Outcome:
    # 1, 2, 3: mean 2, variance 2/3 (Bessel's would be 1), so 1 → −1.2247449. The masked 100 counts for nothing.
    x_BT, mask_BT = tensor([1.0, 2.0, 3.0, 100.0]), torch.tensor([[True, True, True, False]])
    return within(apart((advantages.whiten(x_BT, mask_BT), tensor([-1.22474487, 0.0, 1.22474487, 0.0]))), LIMIT)


@check("C27", "whitened rewards keep their mean", source=f"{ZIEGLER}, whiten(shift_mean=False)")
def whitening_keeps_mean() -> Outcome:
    x_BT, mask_BT = tensor([1.0, 2.0, 3.0]), torch.ones(1, 3, dtype=torch.bool)
    ours = advantages.whiten(x_BT, mask_BT, shift_mean=False)
    return within(apart((ours, tensor([0.77525513, 2.0, 3.22474487]))), LIMIT)


@check("C28", "GAE and returns", source="Schulman et al. 2016, eq. 16")
def gae() -> Outcome:
    # γ = 1, λ = 0.95, r = 0, 0, 1, V = ½: A_3 = 0.5, A_2 = 0.95 · 0.5, A_1 = 0.95² · 0.5
    mask_BT = torch.ones(1, 3, dtype=torch.bool)
    found = advantages.gae(tensor([0.0, 0.0, 1.0]), tensor([0.5, 0.5, 0.5]), mask_BT, 1.0, 0.95)
    return within(apart((found[0], tensor([0.45125, 0.475, 0.5])), (found[1], tensor([0.95125, 0.975, 1.0]))), LIMIT)


@check("C28", "GAE with γ < 1 and a row that ends early", source="Schulman et al. 2016, eq. 16")
def gae_masked() -> Outcome:
    # γ = 0.5, λ = 0.5, r = 1, 2, V = 1, 3, then padding full of rubbish: A_2 = 2 − 3 = −1,
    # A_1 = 1 + 0.5 · 3 − 1 + 0.25 · (−1) = 1.25; returns A + V = 2.25, 2
    mask_BT = torch.tensor([[True, True, False]])
    found = advantages.gae(tensor([1.0, 2.0, 99.0]), tensor([1.0, 3.0, 99.0]), mask_BT, 0.5, 0.5)
    return within(apart((found[0], tensor([1.25, -1.0, 0.0])), (found[1], tensor([2.25, 2.0, 0.0]))), LIMIT)


@check("RLOO", "baseline is the mean of the others", source="Ahmadian et al. 2024, eq. 8")
def leave_one_out() -> Outcome:
    # One prompt with rewards 1, 2, 6: 1 − 4, 2 − 3.5, 6 − 1.5; another with a single answer: nothing to compare with
    ours = advantages.leave_one_out(tensor(1.0, 2.0, 6.0, 5.0), torch.tensor([0, 0, 0, 1]))
    return within(apart((ours, tensor(-3.0, -1.5, 4.5, 0.0))), LIMIT)


@check("GRPO", "advantage is relative to the group", source="Shao et al. 2024, §4.1.2")
def group_relative() -> Outcome:
    # Rewards 1, 2, 6: mean 3, sample deviation √7, plus ε = 1e-6
    ours = advantages.group_relative(tensor(1.0, 2.0, 6.0), torch.tensor([0, 0, 0]))
    plain = advantages.group_relative(tensor(1.0, 2.0, 6.0), torch.tensor([0, 0, 0]), scale=False)
    right = tensor(*(x / (math.sqrt(7.0) + 1e-6) for x in (-2.0, -1.0, 3.0)))
    return within(apart((ours, right), (plain, tensor(-2.0, -1.0, 3.0))), LIMIT)


# --- PPO --------------------------------------------------------------------------------------------------------------


@check("C30", "value loss, clipped, with the ½", source=f"{ZIEGLER}; N+ details, ppo.py")
def value_loss() -> Outcome:
    # V_old = 0, clip 0.2. V = 1, R = 1: errors 0 and (0.2 − 1)² = 0.64. V = 0.1, R = 1: 0.81 both. Masked: 99.
    mask_BT = torch.tensor([[True, True, False]])
    given = tensor([1.0, 0.1, 99.0]), tensor([0.0, 0.0, 0.0]), tensor([1.0, 1.0, 0.0])
    clipped, stats = ppo.value_loss(*given, mask_BT, 0.2)
    plain, _ = ppo.value_loss(*given, mask_BT, None)
    # ½ · (0.64 + 0.81) / 2 = 0.3625; without the clip ½ · 0.81 / 2 = 0.2025; clipped is one of two
    return within(apart((clipped, 0.3625), (plain, 0.2025), (stats["clipfrac"], 0.5)), LIMIT)


@check("C31", "policy loss, clipped on the worse side only", source="Schulman et al. 2017, eq. 7")
def policy_loss() -> Outcome:
    # Ratios 1.5, 1.5, 0.5, 0.5 with advantages 1, −1, 1, −1 and clip 0.2:
    # −1.2 (cut), 1.5 (not cut), −0.5 (not cut), 0.8 (cut): mean 0.15, half of them cut
    logs = [math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)]
    mask_BT = torch.ones(1, 4, dtype=torch.bool)
    loss, stats = ppo.policy_loss(tensor(logs), tensor([0.0] * 4), tensor([1.0, -1.0, 1.0, -1.0]), mask_BT, 0.2)
    return within(apart((loss, 0.15), (stats["clipfrac"], 0.5), (stats["ratio"], 1.0)), LIMIT)


@check("C35", "approxkl is ½ mean (log ρ)², masked", source=f"{ZIEGLER}; N+ details, ppo.py")
def approxkl() -> Outcome:
    mask_BT = torch.tensor([[True, True, False]])
    new, old = tensor([-1.0, -2.0, -50.0]), tensor([-1.2, -1.9, 0.0])  # log ρ = 0.2, −0.1: ½ · 0.05 / 2
    return within(apart((ppo.policy_loss(new, old, tensor([0.0] * 3), mask_BT, 0.2)[1]["approxkl"], 0.0125)), LIMIT)


@check("C34", "means weigh tokens alike, whatever row they stand in", source="trl#583; token-weighted mean")
def token_weighted() -> Outcome:
    # Three tokens of 1 and one of 5: (3 + 5) / 4 = 2, where a mean of row means would say 3
    x_BT, mask_BT = tensor([1.0, 1.0, 1.0], [5.0, 9.0, 9.0]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    return within(apart((advantages.masked_mean(x_BT, mask_BT), 2.0)), LIMIT)


# --- preferences ------------------------------------------------------------------------------------------------------


@check("BT", "pairwise loss, with margin and soft label", source="Ouyang et al. 2022, eq. 1; Touvron et al. 2023")
def bradley_terry() -> Outcome:
    # Δ = 1: log(1 + e^−1). Margin 0.4: log(1 + e^−0.6). Label 0.75: 0.75 log(1 + e^−1) + 0.25 log(1 + e).
    chosen, rejected = tensor(2.0), tensor(1.0)
    return within(
        apart(
            (preference.pairwise(chosen, rejected), softplus(-1.0)),
            (preference.pairwise(chosen, rejected, margin_B=tensor(0.4)), softplus(-0.6)),
            (preference.pairwise(chosen, rejected, label_B=tensor(0.75)), 0.75 * softplus(-1.0) + 0.25 * softplus(1.0)),
        ),
        LIMIT,
    )


@check("BT", "K ranked answers, a tie left out", source="Ouyang et al. 2022, eq. 1")
def ranked() -> Outcome:
    # Scores 2, 1, 0 with ranks 1, 2, 2: two decided pairs, Δ = 1 and 2
    ours = preference.kwise(tensor([2.0, 1.0, 0.0]), tensor([1.0, 2.0, 2.0]))
    return within(apart((ours, (softplus(-1.0) + softplus(-2.0)) / 2)), LIMIT)


@check("BT", "best of four", source="Ziegler et al. 2019, eq. 1")
def best_of_four() -> Outcome:
    scores = [0.0, 1.0, 2.0, 3.0]
    right = math.log(sum(math.exp(x) for x in scores)) - 2.0
    return within(apart((preference.best_of_n(tensor(scores), torch.tensor([2])), right)), LIMIT)


@check("DPO", "loss, and with label smoothing", source="Rafailov et al. 2023, eq. 7; Mitchell 2023 (cDPO)")
def dpo() -> Outcome:
    # h = (−10 + 12) − (−11 + 10) = 3; β = 0.1: −log σ(0.3), and 0.9 of it with 0.1 of −log σ(−0.3)
    given = tensor(-10.0), tensor(-11.0), tensor(-12.0), tensor(-10.0), 0.1
    smooth = 0.9 * softplus(-0.3) + 0.1 * softplus(0.3)
    return within(apart((preference.dpo(*given), softplus(-0.3)), (preference.dpo(*given, 0.1), smooth)), LIMIT)


@check("DPO", "no gain at the reference: the loss is log 2", source="Rafailov et al. 2023, eq. 7")
def dpo_at_reference() -> Outcome:
    loss = preference.dpo(tensor(-5.0), tensor(-9.0), tensor(-5.0), tensor(-9.0), 0.5)
    return within(apart((loss, math.log(2.0))), LIMIT) if torch.isfinite(loss) else failed(f"the loss is {loss}")
