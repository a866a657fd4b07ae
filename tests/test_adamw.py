"""AdamW's settings, and where ε stands."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lora.adamw import AdamW


@pytest.mark.parametrize("placement", ["torch", "tensorflow"])
def test_epsilon_stands_where_it_is_said_to(placement):
    """Huang et al. 2023: at t = 1 with |g| = ε, TensorFlow moves 0.0307 lr and torch 0.5 lr."""
    settings = AdamW(lr=0.1, eps=1e-5, eps_placement=placement)
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adamw = torch.optim.AdamW([weight], lr=0.1, eps=settings.eps, weight_decay=0.0)
    m = v = by_hand = 0.0
    for step, gradient in enumerate([1e-5, 3e-5, -2e-5], start=1):
        adamw.param_groups[0]["eps"] = settings.eps_at(step)
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        adamw.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        corrected, unbiased = m / (1 - 0.9**step), v / (1 - 0.999**step)
        if placement == "torch":
            by_hand -= 0.1 * corrected / (math.sqrt(unbiased) + 1e-5)
        else:
            by_hand -= 0.1 * math.sqrt(1 - 0.999**step) * corrected / (math.sqrt(v) + 1e-5)
        assert weight.item() == pytest.approx(by_hand, rel=1e-9)
        if step == 1:
            assert -weight.item() / 0.1 == pytest.approx(0.5 if placement == "torch" else 0.0307, abs=5e-4)


def test_a_placement_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'torch' or 'tensorflow'"):
        AdamW.of({"lr": 1e-3, "eps_placement": "keras"})
