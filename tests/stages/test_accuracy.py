"""Accuracy of a reward model and what length alone would get, worked out by hand."""

from __future__ import annotations

import pytest

from rlhf_lora.records import Pair, Prompt
from rlhf_lora.stages.accuracy import accuracy, wilson


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
