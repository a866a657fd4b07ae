"""KL estimators against numbers worked out by hand and against the exact value; the controller against its vector."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lora.objectives.kl import AdaptiveKL, k1, k2, k3


def test_estimators_give_what_their_formulas_give():
    # log π − log ρ = 0.5 and −0.5, so ρ/π = e^∓0.5.
    policy_T, reference_T = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.5])
    assert k1(policy_T, reference_T).tolist() == [0.5, -0.5]
    assert k2(policy_T, reference_T).tolist() == [0.125, 0.125]
    expected = [math.exp(-0.5) - 1 + 0.5, math.exp(0.5) - 1 - 0.5]
    torch.testing.assert_close(k3(policy_T, reference_T), torch.tensor(expected))


def test_estimators_average_to_the_exact_divergence():
    # Over all of a small vocabulary, weighted by π: k1 and k3 are unbiased, k2 is not.
    policy_V, reference_V = (
        torch.tensor(logits).double().log_softmax(0) for logits in ([0.0, 1.0, 2.0], [1.0, 0.3, 0.5])
    )
    exact = (policy_V.exp() * (policy_V - reference_V)).sum()
    for estimator in (k1, k3):
        torch.testing.assert_close((policy_V.exp() * estimator(policy_V, reference_V)).sum(), exact)
    assert abs((policy_V.exp() * k2(policy_V, reference_V)).sum() - exact) > 0.02


def test_k3_keeps_its_precision_where_policy_and_reference_are_almost_the_same():
    # k3 ≈ x²/2 there. In float32, exp(x) − 1 − x is 0 or noise for x = 1e-4: this fails when expm1 is simplified away.
    difference_T = torch.tensor([1e-4, 3e-4, -1e-4, -3e-4])
    exact_T = difference_T.double().expm1() - difference_T.double()
    torch.testing.assert_close(k3(torch.zeros(4), difference_T).double(), exact_T, rtol=2e-3, atol=0)


def test_k3_is_never_negative():
    policy_N, reference_N = -torch.rand(2, 10_000, generator=torch.Generator().manual_seed(0)) * 5
    assert k3(policy_N, reference_N).min() >= 0


@pytest.mark.parametrize(("kl", "after"), [(12.0, 0.151536), (0.0, 0.148464), (6.0, 0.15), (6.6, 0.15 * 1.00512)])
def test_adaptive_beta_follows_the_published_vector(kl, after):
    # β ← β (1 + clip(KL/6 − 1, ±0.2) · 512 / 10000): both sides clipped, on target, and 10 % above it.
    controller = AdaptiveKL(0.15, 6.0, 10_000)
    assert controller.update(kl, 512) == pytest.approx(after, rel=1e-9)
    assert controller.value == pytest.approx(after, rel=1e-9)


@pytest.mark.parametrize("target", [0.0, -1.0])
def test_a_target_that_is_not_above_zero_is_refused(target):
    with pytest.raises(ValueError, match="above 0 nats"):
        AdaptiveKL(0.1, target)


@pytest.mark.parametrize(("estimator", "forward"), [(k1, None), (k2, False), (k3, True)])
def test_what_the_gradient_of_an_estimator_in_a_loss_pulls_towards(estimator, forward):
    """Over all actions, exactly: E_π ∇k1 = 0, E_π ∇k2 = ∇KL(π‖ρ), E_π ∇k3 = ∇KL(ρ‖π); what GRPO's `kl` chooses."""
    stream = torch.Generator().manual_seed(0)
    logits_V = torch.randn(7, generator=stream, dtype=torch.float64).requires_grad_()
    reference_V = torch.log_softmax(torch.randn(7, generator=stream, dtype=torch.float64), 0)
    policy_V = torch.log_softmax(logits_V, 0)
    sampled = (policy_V.detach().exp() * estimator(policy_V, reference_V)).sum()
    (got_V,) = torch.autograd.grad(sampled, logits_V, retain_graph=True)
    if forward is None:
        divergence = 0.0 * policy_V.sum()
    elif forward:
        divergence = (reference_V.exp() * (reference_V - policy_V)).sum()
    else:
        divergence = (policy_V.exp() * (policy_V - reference_V)).sum()
    (want_V,) = torch.autograd.grad(divergence, logits_V)
    torch.testing.assert_close(got_V, want_V, atol=1e-12, rtol=1e-9)
