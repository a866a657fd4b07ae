"""Preference losses against numbers worked out by hand, and against what they must do at the edges."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lora.objectives import preference


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_pairwise_of_equal_scores_is_log_2():
    scores = torch.tensor([0.3, -7.0])
    assert preference.pairwise(scores, scores).item() == pytest.approx(math.log(2))


def test_pairwise_is_the_mean_over_pairs():
    # differences 2 and -1: (0.126928 + 1.313262) / 2
    loss = preference.pairwise(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx((0.126928 + 1.313262) / 2, abs=1e-6)


def test_margin_is_taken_from_the_difference():
    # 3 - 1 - 0.5 = 1.5
    loss = preference.pairwise(torch.tensor([3.0]), torch.tensor([1.0]), margin_B=torch.tensor([0.5]))
    assert loss.item() == pytest.approx(minus_log_sigmoid(1.5))


def test_soft_label_weighs_both_directions_and_is_least_at_its_own_logit():
    chosen, rejected, label = torch.tensor([0.4]), torch.tensor([0.0]), torch.tensor([0.75])
    loss = preference.pairwise(chosen, rejected, label_B=label)
    assert loss.item() == pytest.approx(0.75 * minus_log_sigmoid(0.4) + 0.25 * minus_log_sigmoid(-0.4))
    # The best difference is log(p / (1 - p)) = log 3: there the gradient is 0.
    best = torch.tensor([math.log(3)], requires_grad=True)
    preference.pairwise(best, torch.zeros(1), label_B=label).backward()
    assert best.grad is not None
    assert best.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_hard_label_given_as_one_is_the_hard_loss():
    chosen, rejected = torch.randn(5), torch.randn(5)
    soft = preference.pairwise(chosen, rejected, torch.zeros(5), torch.ones(5))
    assert torch.equal(soft, preference.pairwise(chosen, rejected))


def test_pairwise_does_not_overflow_where_a_plain_logarithm_would():
    chosen = torch.tensor([-500.0], requires_grad=True)
    loss = preference.pairwise(chosen, torch.tensor([500.0]))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-1.0)


def test_kwise_of_two_is_pairwise_and_order_of_the_columns_does_not_matter():
    scores = torch.tensor([[2.0, 0.5], [1.0, 3.0]])
    ranks = torch.tensor([[1, 2], [1, 2]])
    expected = preference.pairwise(scores[:, 0], scores[:, 1]).item()
    assert preference.kwise(scores, ranks).item() == pytest.approx(expected)
    assert preference.kwise(scores.flip(1), ranks.flip(1)).item() == pytest.approx(expected)


def test_kwise_averages_the_decided_pairs_of_each_prompt_then_the_prompts():
    # Prompt 0: ranks 1, 2, 3: three pairs. Prompt 1: a tie of the last two: two pairs. Prompt 2: all tied: left out.
    scores = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 3.0], [9.0, 8.0, 7.0]])
    ranks = torch.tensor([[1, 2, 3], [1, 2, 2], [4, 4, 4]])
    first = (minus_log_sigmoid(2) + minus_log_sigmoid(3) + minus_log_sigmoid(1)) / 3
    second = (minus_log_sigmoid(-1) + minus_log_sigmoid(-2)) / 2
    assert preference.kwise(scores, ranks).item() == pytest.approx((first + second) / 2)


def test_kwise_of_nothing_but_ties_is_zero():
    assert preference.kwise(torch.randn(2, 3), torch.ones(2, 3)).item() == 0.0


def test_best_of_n_is_cross_entropy_and_best_of_two_is_pairwise():
    # softmax(1, 2, 3)[2] = 0.665241
    loss = preference.best_of_n(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]))
    assert loss.item() == pytest.approx(-math.log(0.665241), abs=1e-5)
    two = preference.best_of_n(torch.tensor([[0.2, 1.3]]), torch.tensor([1]))
    assert two.item() == pytest.approx(preference.pairwise(torch.tensor([1.3]), torch.tensor([0.2])).item())


def test_dpo_by_hand():
    # h = (-10 + 12) - (-20 + 19) = 3; beta h = 0.3
    loss = preference.dpo(*(torch.tensor([x]) for x in (-10.0, -20.0, -12.0, -19.0)), beta=0.1)
    assert loss.item() == pytest.approx(minus_log_sigmoid(0.3))


def test_dpo_smoothing_per_pair_is_the_soft_label_loss():
    # cDPO: wrong with 0.2 = a soft label of 0.8 on the difference beta h.
    policy_w, policy_l, ref_w, ref_l = (torch.randn(4) for _ in range(4))
    wrong = torch.tensor([0.0, 0.1, 0.2, 0.4])
    loss = preference.dpo(policy_w, policy_l, ref_w, ref_l, beta=0.5, label_smoothing=wrong)
    implied = 0.5 * (policy_w - ref_w), 0.5 * (policy_l - ref_l)
    assert loss.item() == pytest.approx(preference.pairwise(*implied, label_B=1 - wrong).item(), rel=1e-6)


def test_dpo_of_the_reference_itself_is_log_2():
    logprobs = torch.tensor([-5.0, -6.0])
    assert preference.dpo(logprobs, logprobs, logprobs, logprobs, beta=0.1).item() == pytest.approx(math.log(2))


def test_kto_of_two_answers_by_hand():
    # z0 = 0.5, beta 0.4. Good: r = 1.5, sigma(0.4 (1.5 - 0.5)) = sigma(0.4) = 0.598688; loss 1.2 (1 - 0.598688)
    # Bad: r = -1, sigma(0.4 (0.5 + 1)) = sigma(0.6) = 0.645656; loss 0.9 (1 - 0.645656)
    loss = preference.kto(
        torch.tensor([-2.0, -4.0]), torch.tensor([-3.5, -3.0]), torch.tensor([True, False]), 0.5, 0.4, 1.2, 0.9
    )
    assert loss.item() == pytest.approx((1.2 * 0.401312 + 0.9 * 0.354344) / 2, abs=1e-6)


def test_kto_pushes_good_answers_up_and_bad_ones_down():
    policy = torch.zeros(2, requires_grad=True)
    preference.kto(policy, torch.zeros(2), torch.tensor([True, False]), 0.0, 1.0).backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-0.125, 0.125])  # -1/4 and 1/4 of a mean over two


def test_kl_of_kto_is_a_mean_of_at_least_0_without_gradient():
    policy = torch.tensor([1.0, 2.0], requires_grad=True)
    kl = preference.kto_kl(policy, torch.tensor([0.5, 1.0]))
    assert (kl.item(), kl.requires_grad) == (0.75, False)
    assert preference.kto_kl(policy.detach(), torch.tensor([5.0, 5.0])).item() == 0.0
