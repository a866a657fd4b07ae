"""GAE and whitening against hand-worked vectors; what lies behind the end counts for nothing."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lora.objectives.advantages import gae, masked_mean, whiten


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


def test_gae_gives_the_published_vector():
    # γ = 1, λ = 0.95: δ = [0, 0, 0.5]; A₂ = 0.5, A₁ = 0.95·0.5, A₀ = 0.95·0.475.
    advantages_BT, returns_BT = gae(rows([0, 0, 1.0]), rows([0.5, 0.5, 0.5]), torch.ones(1, 3, dtype=bool), 1.0, 0.95)
    torch.testing.assert_close(advantages_BT, rows([0.45125, 0.475, 0.5]))
    torch.testing.assert_close(returns_BT, rows([0.95125, 0.975, 1.0]))


def test_gae_discounts():
    # γ = 0.5, λ = 0.5: δ = [1 + 0.5·4 − 2, 3 − 4] = [1, −1]; A₀ = 1 + 0.25·(−1).
    advantages_BT, returns_BT = gae(rows([1.0, 3.0]), rows([2.0, 4.0]), torch.ones(1, 2, dtype=bool), 0.5, 0.5)
    torch.testing.assert_close(advantages_BT, rows([0.75, -1.0]))
    torch.testing.assert_close(returns_BT, rows([2.75, 3.0]))


def test_lambda_one_gives_the_return_whatever_the_values():
    draw = torch.Generator().manual_seed(1)
    rewards_BT, values_BT = torch.randn(2, 4, 7, generator=draw)
    _, returns_BT = gae(rewards_BT, values_BT, torch.ones(4, 7, dtype=bool), 1.0, 1.0)
    torch.testing.assert_close(returns_BT, rewards_BT.flip(1).cumsum(1).flip(1))


def test_a_shorter_row_gets_what_it_would_get_alone():
    # What stands behind the end is garbage on purpose.
    garbage = 1e6
    rewards_BT, values_BT = rows([1.0, 2.0, 3.0], [1.0, 2.0, garbage]), rows([0.1, 0.2, 0.3], [0.1, 0.2, -garbage])
    mask_BT = torch.tensor([[True, True, True], [True, True, False]])
    both = gae(rewards_BT, values_BT, mask_BT, 0.9, 0.8)
    alone = gae(rewards_BT[1:, :2], values_BT[1:, :2], mask_BT[1:, :2], 0.9, 0.8)
    for together_BT, alone_BT in zip(both, alone, strict=True):
        torch.testing.assert_close(together_BT[1:, :2], alone_BT)
        assert together_BT[1, 2] == 0


def test_whitening_uses_the_population_variance():
    # μ = 2.5, var = (1.5² + 0.5² + 0.5² + 1.5²) / 4 = 1.25. Bessel's 5/3 would give 1.162 instead of 1.342.
    whitened_BT = whiten(rows([1.0, 2.0], [3.0, 4.0]), torch.ones(2, 2, dtype=bool))
    torch.testing.assert_close(whitened_BT, rows([-1.5, -0.5], [0.5, 1.5]) / math.sqrt(1.25))


def test_whitening_without_shift_keeps_the_mean():
    whitened_BT = whiten(rows([1.0, 2.0], [3.0, 4.0]), torch.ones(2, 2, dtype=bool), shift_mean=False)
    torch.testing.assert_close(whitened_BT, rows([-1.5, -0.5], [0.5, 1.5]) / math.sqrt(1.25) + 2.5)


def test_whitening_looks_at_nothing_behind_the_mask():
    mask_BT = torch.tensor([[True, True, True], [True, False, False]])
    given_BT = rows([1.0, 2.0, 3.0], [4.0, 1e6, -1e6])
    whitened_BT = whiten(given_BT, mask_BT)
    torch.testing.assert_close(whitened_BT[mask_BT], torch.tensor([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25))
    assert (whitened_BT[~mask_BT] == 0).all()


def test_whitening_equal_numbers_gives_zeros():
    assert (whiten(torch.full((3, 4), 0.7), torch.ones(3, 4, dtype=bool)).abs() < 1e-2).all()
    assert (whiten(torch.zeros(3, 4), torch.ones(3, 4, dtype=bool)) == 0).all()


def test_means_weigh_tokens_alike_not_sequences():
    # Four tokens: (1 + 2 + 3 + 9) / 4. A mean of the rows' means would be (2 + 9) / 2.
    mask_BT = torch.tensor([[True, True, True], [True, False, False]])
    assert masked_mean(rows([1.0, 2.0, 3.0], [9.0, 50.0, 50.0]), mask_BT).item() == pytest.approx(3.75)
