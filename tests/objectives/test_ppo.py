"""PPO's losses against numbers worked out by hand; how a minibatch is cut does not change its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lora.objectives.ppo import policy_loss, value_loss

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_policy_loss_takes_the_worse_of_clipped_and_unclipped():
    # ratios 1.5, 1.5, 0.5, 0.5 with advantages 1, −1, 1, −1, clip 0.2:
    #   A > 0, ρ high: −clip(ρ) = −1.2 · A < 0, ρ high: 1.5 · A > 0, ρ low: −0.5 · A < 0, ρ low: clip(ρ) = 0.8
    ratios_BT, advantages_BT = torch.tensor([[1.5, 1.5, 0.5, 0.5]]), torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    loss, stats = policy_loss(ratios_BT.log(), torch.zeros(1, 4), advantages_BT, ALL, 0.2)
    assert loss.item() == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4)
    assert stats["clipfrac"].item() == pytest.approx(0.5)
    assert stats["ratio"].item() == pytest.approx(1.0)
    log_2 = [math.log(1.5) ** 2] * 2 + [math.log(0.5) ** 2] * 2
    assert stats["approxkl"].item() == pytest.approx(0.5 * sum(log_2) / 4)


def test_clipped_tokens_have_no_policy_gradient():
    logprobs_BT = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log().requires_grad_()
    advantages_BT = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    policy_loss(logprobs_BT, torch.zeros(1, 4), advantages_BT, ALL, 0.2)[0].backward()
    # Unclipped tokens: d(−A ρ) = −A ρ, a quarter each.
    torch.testing.assert_close(logprobs_BT.grad, torch.tensor([[0.0, 1.5 / 4, -0.5 / 4, 0.0]]))


def test_at_the_old_policy_the_ratio_is_one_and_nothing_is_clipped():
    logprobs_BT = -torch.rand(1, 4)
    loss, stats = policy_loss(logprobs_BT, logprobs_BT, torch.tensor([[1.0, -1.0, 2.0, -2.0]]), ALL, 0.2)
    assert (loss.item(), stats["approxkl"].item(), stats["clipfrac"].item(), stats["ratio"].item()) == (
        0.0,
        0.0,
        0.0,
        1.0,
    )


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    # V_old = 0, R = 1, clip 0.2.  V = 1: error 0, clipped 0.2 → 0.64, the worse.  V = −1: error 4, clipped 1.44;
    # V = 0.1: inside, 0.81 both ways.  V = 3: error 4, clipped 0.64.
    values_BT, returns_BT = torch.tensor([[1.0, -1.0, 0.1, 3.0]]), torch.ones(1, 4)
    loss, stats = value_loss(values_BT, torch.zeros(1, 4), returns_BT, ALL, 0.2)
    assert loss.item() == pytest.approx(0.5 * (0.64 + 4 + 0.81 + 4) / 4)
    assert stats["clipfrac"].item() == pytest.approx(0.25)
    unclipped, _ = value_loss(values_BT, torch.zeros(1, 4), returns_BT, ALL, None)
    assert unclipped.item() == pytest.approx(0.5 * (0 + 4 + 0.81 + 4) / 4)


def test_masked_places_cannot_spoil_a_loss():
    # exp(1e4) is inf, and inf · 0 would be NaN.
    mask_BT = torch.tensor([[True, True, True, False]])
    wild_BT, zeros_BT = torch.tensor([[0.0, 0.1, 0.2, 1e4]]), torch.zeros(1, 4)
    for sign in (1.0, -1.0):
        advantages_BT = torch.full((1, 4), sign)
        loss, stats = policy_loss(wild_BT, zeros_BT, advantages_BT, mask_BT, 0.2)
        alone, _ = policy_loss(wild_BT[:, :3], zeros_BT[:, :3], advantages_BT[:, :3], mask_BT[:, :3], 0.2)
        assert loss == alone
        assert all(value.isfinite() for value in stats.values())
    assert value_loss(wild_BT, zeros_BT, torch.ones(1, 4), mask_BT, 0.2)[0].isfinite()


def test_losses_weigh_tokens_alike():
    # Rows of 4 and 1 tokens: the share of a micro-batch is its share of tokens, and the parts add up to the whole.
    draw = torch.Generator().manual_seed(0)
    new_BT, old_BT, advantages_BT = torch.randn(3, 2, 4, generator=draw)
    mask_BT = torch.tensor([[True] * 4, [True, False, False, False]])
    whole = policy_loss(new_BT, old_BT, advantages_BT, mask_BT, 0.2)[0]
    parts = [
        policy_loss(new_BT[i : i + 1], old_BT[i : i + 1], advantages_BT[i : i + 1], mask_BT[i : i + 1], 0.2)[0]
        for i in (0, 1)
    ]
    torch.testing.assert_close(whole, parts[0] * 4 / 5 + parts[1] * 1 / 5)
