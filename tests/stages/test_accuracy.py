"""Accuracy of a reward model and what length alone would get, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rlhf_lora.comparison import wilson
from rlhf_lora.records import Pair, Prompt, Rating
from rlhf_lora.stages.accuracy import accuracy, calibration, closeness


def pair(chosen: str, rejected: str) -> Pair:
    return Pair(Prompt("p"), chosen, rejected)


PAIRS = [pair("long answer", "short"), pair("longer still", "s"), pair("no", "a long refusal"), pair("same", "size")]


def test_accuracy_and_length_baseline_count_ties_as_one_half():
    # right, wrong, tie, right: 2.5 of 4. Longer wins: right, right, wrong, tie: 2.5 of 4.
    figures = accuracy([2.0, 0.0, 1.0, 3.0], [1.0, 1.0, 1.0, 2.0], PAIRS)
    assert figures["pairs"] == 4
    assert figures["accuracy"] == 2.5 / 4
    assert figures["length_baseline"] == 2.5 / 4
    # (2-1) + (0-1) + 0 + (3-2) = 1 over 4
    assert figures["margin_mean"] == 0.25


def test_accuracy_where_length_is_wrong_is_shown_on_its_own():
    figures = accuracy([2.0, 2.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0], PAIRS)
    assert figures["accuracy"] == 0.75
    assert figures["pairs_where_shorter_chosen"] == 1
    assert figures["accuracy_where_shorter_chosen"] == 0.0
    assert figures["accuracy_where_longer_chosen"] == 1.0


def test_share_over_no_pairs_is_absent_not_zero():
    figures = accuracy([1.0], [0.0], [pair("longer", "s")])
    assert "accuracy_where_shorter_chosen" not in figures
    assert "accuracy" not in accuracy([], [], [])


def test_wilson_by_hand_and_within_bounds():
    # 8 of 10: centre (0.8 + 3.8415/20) / 1.38415 = 0.71674, half 1.96/1.38415 * sqrt(0.016 + 0.0096036) = 0.22658
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=2e-4)
    assert high == pytest.approx(0.9433, abs=2e-4)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(5, 5)[0] == pytest.approx(1 / (1 + 3.8415 / 5), abs=1e-4)


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="2 scores for 4 pairs"):
        accuracy([1.0, 2.0], [0.0, 0.0], PAIRS)


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    """σ(0) = 0.5, σ(log 3) = 0.75, σ(log 9) = 0.9: one tie; three pairs at 0.75, two of them right; one at 0.9, right.
    In each bin |right − sure|: 0; |2/3 − 0.75| = 1/12; 0.1. Weighted over 5 pairs: (3/12 + 0.1) / 5 = 0.07."""
    deltas = [0.0, math.log(3), math.log(3), -math.log(3), math.log(9) + 1e-9]
    figures = calibration(deltas, [0.0] * 5, [pair("a", "b")] * 5)
    assert figures["calibration_error"] == pytest.approx(0.07)
    shown = [(round(row["from"], 2), round(row["to"], 2), row["pairs"]) for row in figures["calibration"]]
    assert shown == [(0.5, 0.55, 1), (0.75, 0.8, 3), (0.9, 0.95, 1)]
    assert [row["right"] for row in figures["calibration"]] == pytest.approx([0.5, 2 / 3, 1.0])
    assert [row["sure"] for row in figures["calibration"]] == pytest.approx([0.5, 0.75, 0.9])


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error_and_an_overconfident_one_has():
    pairs = [pair("a", "b")] * 100
    right = [math.log(4)] * 80 + [-math.log(4)] * 20  # sure to 0.8, right 80 times
    assert calibration(right, [0.0] * 100, pairs)["calibration_error"] == pytest.approx(0.0, abs=1e-12)
    sure = [1000.0] * 80 + [-1000.0] * 20
    assert calibration(sure, [0.0] * 100, pairs)["calibration_error"] == pytest.approx(0.2)


def test_a_soft_label_is_right_as_often_as_it_says():
    soft = [replace(pair("a", "b"), label=0.75)] * 2
    figures = calibration([math.log(3), -math.log(3)], [0.0, 0.0], soft)
    (row,) = figures["calibration"]
    assert row["right"] == pytest.approx((0.75 + 0.25) / 2)


def test_calibration_over_no_pairs_is_absent():
    assert calibration([], [], []) == {}


# --- ratings ----------------------------------------------------------------------------------------------------------


def ratings(*values: float) -> list[Rating]:
    return [Rating(Prompt("p"), "a", value) for value in values]


def test_closeness_to_ratings_by_hand():
    """Squared errors 1, 0, 4, 0 → 5/4; of the mean 2 alone: 1, 0, 1, 4 → 6/4. Pearson of (2, 2, 1, 4) and (1, 2, 3, 4):
    deviations (−.25, −.25, −1.25, 1.75) and (−1.5, −.5, .5, 1.5): 2.5 / sqrt(4.75 · 5). Spearman: ranks (2.5, 2.5, 1, 4)
    and (1, 2, 3, 4): 2 / … = (0 · −1.5 + 0 · −.5 − 1.5 · .5 + 1.5 · 1.5) / sqrt(4.5 · 5) = 1.5 / sqrt(22.5)."""
    figures = closeness([2.0, 2.0, 1.0, 4.0], ratings(1, 2, 3, 4), 2.0)
    assert figures["ratings"] == 4
    assert figures["rating_mse"] == 5 / 4
    assert figures["rating_mse_of_mean"] == 6 / 4
    assert figures["rating_pearson"] == pytest.approx(2.5 / math.sqrt(4.75 * 5))
    assert figures["rating_spearman"] == pytest.approx(1.5 / math.sqrt(22.5))


def test_correlation_with_what_is_always_the_same_is_absent_not_zero():
    assert set(closeness([1.0, 1.0], ratings(1, 2), 1.5)) == {"ratings", "rating_mse", "rating_mse_of_mean"}
    assert closeness([], [], 1.0) == {}


def test_a_steep_but_ordered_score_has_spearman_1_and_less_pearson():
    figures = closeness([math.exp(x) for x in range(8)], ratings(*range(8)), 3.5)
    assert figures["rating_spearman"] == pytest.approx(1.0)
    assert figures["rating_pearson"] < 0.9
