"""The win rate at equal length: what generated data was made with is found again, and what data cannot tell is absent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import few

from rlhf_lora.length_control import RIDGE, fit, length_controlled

RATE, INTERVAL = "win_rate_length_controlled", "win_rate_length_controlled_ci95"


def drawn(theta: float, phi: float, count: int, seed: int, longer_by: float = 20.0) -> tuple[Any, Any]:
    """Wins of a judge with known coefficients, over answers that are 20 tokens longer on average."""
    draw = np.random.default_rng(seed)
    differences = np.round(draw.normal(longer_by, 30.0, count))
    p = 1 / (1 + np.exp(-(theta + phi * np.tanh(differences / differences.std()))))
    return (draw.random(count) < p).astype(float), differences


@pytest.mark.parametrize(("theta", "phi"), few([(0.0, 2.0), (0.0, 0.0), (0.8, 0.0), (-0.6, 1.5), (1.0, -1.0)], 1))
def test_the_rate_at_equal_length_is_found_again_within_its_interval(theta, phi):
    true, covered, errors = 1 / (1 + np.exp(-theta)), 0, []
    for seed in range(20):
        found = length_controlled(*drawn(theta, phi, 400, seed))
        low, high = found[INTERVAL]
        covered += low <= true <= high
        errors.append(found[RATE] - true)
        assert low < found[RATE] < high
    # 19 of 20 expected, deviation 1; the mean of 20 rates of 400 draws each is known to about 0.007.
    assert covered >= 16
    assert abs(np.mean(errors)) < 0.025


def test_a_judge_of_length_alone_comes_out_at_one_half_where_the_plain_rate_says_nine_tenths():
    # Ours is the longer one in nine of ten comparisons, and the longer one always wins.
    draw = np.random.default_rng(0)
    differences = np.where(draw.random(1000) < 0.9, 1, -1) * (1 + np.floor(draw.exponential(40, 1000)))
    wins = (differences > 0).astype(float)
    found = length_controlled(wins, differences)
    assert wins.mean() == pytest.approx(0.9, abs=0.02)
    assert found[RATE] == pytest.approx(0.5, abs=0.05)
    assert found[INTERVAL] == pytest.approx([0.5, 0.5], abs=0.1)
    # One in twenty verdicts is the wrong way round; then it is chance that is left at equal length.
    noisy = np.where(draw.random(1000) < 0.05, 1 - wins, wins)
    low, high = length_controlled(noisy, differences)[INTERVAL]
    assert low < 0.5 < high < noisy.mean()


def test_without_differences_in_length_it_is_the_plain_rate():
    found = length_controlled([1.0] * 15 + [0.0] * 4 + [0.5], [0.0] * 20)
    assert found[RATE] == pytest.approx(15.5 / 20, abs=1e-12)
    assert found[INTERVAL][0] < 15.5 / 20 < found[INTERVAL][1]


def test_a_length_that_has_nothing_to_do_with_it_hardly_moves_the_rate():
    # Three of four are won at +10, and three of four at −10.
    assert length_controlled([1.0, 1.0, 1.0, 0.0] * 50, ([10.0] * 4 + [-10.0] * 4) * 25)[RATE] == pytest.approx(
        0.75, abs=0.001
    )


def test_a_tie_is_half_a_win_and_half_a_loss():
    # Twice the data with every tie split into a win and a loss has the same maximum, but for the penalty.
    differences = [float(d) for d in range(-10, 11)] * 2
    wins = [1.0, 0.5, 0.0, 0.5, 1.0, 1.0] * 7
    split = [w for w in wins for w in ((1.0, 0.0) if w == 0.5 else (w, w))]
    twice = [d for d in differences for _ in range(2)]
    assert length_controlled(wins, differences)[RATE] == pytest.approx(length_controlled(split, twice)[RATE], abs=5e-3)


@pytest.mark.parametrize(
    ("wins", "differences"),
    [
        ([1.0, 0.0] * 9, [3.0, -3.0] * 9),  # 18 comparisons
        ([1.0] * 50, [3.0, -2.0] * 25),  # all won
        ([0.0] * 50, [3.0, -2.0] * 25),
        ([1.0, 0.0] * 25, [3.0, 2.0] * 25),  # ours is always the longer
        ([1.0, 0.0] * 25, [-3.0, -2.0] * 25),
        ([1.0, 0.0] * 25, [7.0] * 50),  # longer by the same each time
    ],
)
def test_what_the_data_cannot_tell_is_absent(wins, differences):
    assert length_controlled(wins, differences) == {}


def test_wins_that_length_explains_without_a_remainder_stay_finite():
    differences = [-3.0, -1.0, 1.0, 2.0] * 10
    found = length_controlled([float(d > 0) for d in differences], differences)
    assert 0 < found[INTERVAL][0] < found[RATE] < found[INTERVAL][1] < 1


def columns(differences: Any) -> Any:
    x = np.asarray(differences, dtype=float)
    return np.stack([np.ones_like(x), np.tanh(x), np.sign(x)], 1)


def test_the_fit_is_at_the_maximum_of_the_penalised_likelihood():
    # There the gradient of the likelihood, Σ (win − p) x, is what the penalty pulls with.
    draw = np.random.default_rng(1)
    x, won = columns(draw.normal(0.5, 1, 60)), draw.choice([0.0, 0.5, 1.0], 60)
    counts = draw.integers(0, 3, (5, 60)).astype(float)
    for found, count in zip(fit(x, won, counts), counts, strict=True):
        residual = count * (won - 1 / (1 + np.exp(-x @ found)))
        assert residual @ x == pytest.approx(np.array(RIDGE) * found, abs=1e-6)


def test_the_penalty_is_as_small_as_its_comment_says():
    def rate(count: int) -> float:
        x, won = columns([-0.5, -0.5, 0.5, 0.5]), np.array([0.0, 1.0, 0.0, 1.0])
        found = fit(x, won, np.array([[0.2, 0.8, 0.2, 0.8]]) * count / 2)
        return float(1 / (1 + np.exp(-found[0, 0])))

    assert rate(20) == pytest.approx(0.793, abs=0.001)
    assert rate(1000) == pytest.approx(0.8, abs=0.0002)


def test_swapping_sides_gives_the_other_side_the_rest():
    wins, differences = drawn(0.7, 1.0, 300, 3)
    one, other = length_controlled(wins, differences), length_controlled(1 - wins, -differences)
    assert one[RATE] + other[RATE] == pytest.approx(1, abs=1e-9)


def test_the_same_data_gives_the_same_interval():
    data = drawn(0.7, 1.0, 100, 3)
    assert length_controlled(*data) == length_controlled(*data)
    assert length_controlled(*data, seed=1)[INTERVAL] != length_controlled(*data)[INTERVAL]
