"""How good and bad are told apart: figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from rlhf_lora.records import Label, Prompt
from rlhf_lora.stages.label_figures import auc, by_rule, figures


def labels(*good: bool, rules: str = "") -> list[Label]:
    columns = [{"rule": rule} for rule in rules] or [{}] * len(good)
    return [Label(Prompt("p", columns=about), "a", is_good) for is_good, about in zip(good, columns, strict=True)]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_auc_is_the_share_of_good_and_bad_in_order_ties_one_half():
    """Good 3, 1; bad 2, 1: of four couples 3 > 2, 3 > 1, 1 < 2 and one tie: 2.5 of 4."""
    assert auc([3, 1, 2, 1], [True, True, False, False]) == 2.5 / 4
    assert auc([0.0] * 4, [True, False, False, False]) == 0.5
    assert auc([5, 1], [True, False]) == 1
    assert auc([1, 5], [True, False]) == 0


def test_auc_without_both_kinds_is_none_and_not_a_number():
    assert auc([1, 2], [True, True]) is None
    assert "label_auc" not in figures([1.0, 2.0], labels(True, True), 0.5)
    assert figures([], [], 0.5) == {}


def test_accuracy_stands_beside_the_majority_and_brier_beside_the_share():
    """P(good) 0.9, 0.8, 0.6, 0.4; the third is bad. Right: 1, 1, 0, 0 (0.4 < ½ and good). Always good: 3 of 4."""
    found = figures([logit(p) for p in (0.9, 0.8, 0.6, 0.4)], labels(True, True, False, True), 0.75)
    assert (found["label_accuracy"], found["label_accuracy_of_majority"]) == (0.5, 0.75)
    assert found["label_brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.6**2 + 0.6**2) / 4)
    assert found["label_brier_of_share"] == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    assert found["label_bad_share"] == 0.25
    assert found["label_auc"] == pytest.approx(2 / 3)


def test_calibration_is_how_far_each_bin_says_something_else_than_it_holds():
    """Bin 0.6–0.7: says 0.65 twice, holds 1 of 2, so 0.3 of 2 too much; bin 0.2–0.3: says 0.25, holds 1, so 0.75 too little."""
    found = figures([logit(0.65), logit(0.65), logit(0.25)], labels(True, False, True), 0.5)
    assert found["label_calibration_error"] == pytest.approx((0.3 + 0.75) / 3)


def test_scores_that_are_no_log_odds_have_an_auc_and_no_probability():
    assert set(figures([1.0, 2.0], labels(True, False), None)) == {"labels", "label_bad_share", "label_auc"}


def test_the_truth_has_an_auc_of_its_own_without_what_it_does_not_know():
    found = figures([1.0, 2.0, 3.0, 9.0], labels(False, True, False, True), None, [False, True, True, None])
    assert (found["label_auc"], found["label_gold_auc"]) == (0.75, 1.0)


def test_each_rule_has_figures_of_its_own():
    """Pooled one couple of four is in the wrong order, within each rule none: what a rule's base rate does to a pool."""
    given = labels(True, False, True, False, rules="aabb")
    found = by_rule([4.0, 3.0, 2.0, 1.0], given, None, None)
    assert found["label_auc"] == 0.75
    assert {name: part["label_auc"] for name, part in found["labels_by_rule"].items()} == {"a": 1.0, "b": 1.0}
    assert "labels_by_rule" not in by_rule([1.0, 2.0], labels(True, False), None, None)


def test_scores_far_out_are_sure_and_do_not_overflow():
    found = figures([900.0, -900.0], labels(True, False), 0.5)
    assert (found["label_brier"], found["label_accuracy"]) == (0.0, 1.0)
