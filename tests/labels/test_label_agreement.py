"""Statistics of agreement against published figures and against sums that are worked out here."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
from label_examples import comparison

from rlhf_lora.labels.agreement import measured
from rlhf_lora.labels.coefficients import cohen_kappa, gwet_ac, interval, items_of, krippendorff_alpha, percent
from rlhf_lora.labels.rows import LabelRow
from rlhf_lora.records import Prompt

N = None
FOUR_CODERS = items_of(
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
)
"""Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: twelve units, labels missing."""


@pytest.mark.parametrize(("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_what_krippendorff_published(scale, published):
    assert krippendorff_alpha(FOUR_CODERS, scale) == pytest.approx(published, abs=5e-4)


def test_percent_and_ac1_are_what_gwets_own_program_gives():
    """`pa.coeff.raw` and `gwet.ac1.raw` of irrCAC on its `cac.raw4raters`, which are these ratings."""
    assert percent(FOUR_CODERS) == pytest.approx(0.81818, abs=1e-5)
    assert gwet_ac(FOUR_CODERS) == pytest.approx(0.77544, abs=1e-5)


def test_kappa_of_fifty_grants():
    """20 both yes, 5 and 10 apart, 15 both no: agreed 0.7, by chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5, κ = 0.2 / 0.5."""
    counts = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    assert cohen_kappa(counts) == pytest.approx(0.4)
    listed = [said for said, count in counts.items() for _ in range(count)]
    assert cohen_kappa(listed) == pytest.approx(0.4)
    assert cohen_kappa([(b, a) for a, b in listed]) == pytest.approx(0.4)


def test_weighted_kappa_counts_near_misses_less():
    """Apart by 0, 1 and 2 once each: observed (0 + 1 + 2) / 3 = 1. The first says 1, 1, 1, the second 1, 2, 3: expected 1."""
    assert cohen_kappa([(1, 1), (1, 2), (1, 3)], "ordinal") == pytest.approx(0.0)
    # (1,1) (2,3) (3,2): observed 2/3; expected over all nine pairs (0+1+2+1+0+1+2+1+0)/9 = 8/9.
    assert cohen_kappa([(1, 1), (2, 3), (3, 2)], "ordinal") == pytest.approx(1 - (2 / 3) / (8 / 9))
    # squares: observed 2/3; expected (0+1+4+1+0+1+4+1+0)/9 = 12/9.
    assert cohen_kappa([(1, 1), (2, 3), (3, 2)], "interval") == pytest.approx(1 - (2 / 3) / (12 / 9))


def test_ac2_of_three_levels_by_hand():
    """Weights of 3 ordered categories: 1 on the diagonal, 1 − 1/3 one apart, 1 − 3/3 two apart.

    Things (1,1) (1,2) (2,3) (3,3): p_a = (1 + 2/3 + 2/3 + 1) / 4 = 5/6. Shares 3/8, 2/8, 3/8; Σ π(1−π) = 0.65625.
    T_w = 3 + 4 · 2/3 = 17/3; p_e = 17/3 / 6 · 0.65625.
    """
    chance = 17 / 3 / 6 * 0.65625
    found = gwet_ac([(1, 1), (1, 2), (2, 3), (3, 3)], "ordinal")
    assert found == pytest.approx((5 / 6 - chance) / (1 - chance))
    # Squares: 1 − 1/4 one apart, 0 two apart; p_a = 7/8, T_w = 6.
    chance = 6 / 6 * 0.65625
    assert gwet_ac([(1, 1), (1, 2), (2, 3), (3, 3)], "interval") == pytest.approx((7 / 8 - chance) / (1 - chance))


def test_where_nearly_all_is_one_label_ac_stays_and_alpha_falls():
    items = [("good", "good")] * 94 + [("good", "bad")] * 6
    assert percent(items) == 0.94
    assert krippendorff_alpha(items) < 0.05
    assert gwet_ac(items) > 0.9


def test_what_is_not_defined_is_none():
    assert percent([("a",), ()]) is None
    assert krippendorff_alpha([("a", "a")]) is None
    assert cohen_kappa([("a", "a")] * 3) is None
    assert gwet_ac([("a", "a")]) is None
    assert gwet_ac([("a", "a")], categories=["a", "b"]) == 1.0
    assert interval([], percent) is None
    assert cohen_kappa([]) is None
    with pytest.raises(ValueError, match="two raters"):
        cohen_kappa([("a", "a", "b")])


def test_by_chance_all_are_about_zero():
    rng = random.Random(0)
    items = [tuple(rng.choice([1, 2, 3]) for _ in range(2)) for _ in range(4000)]
    assert abs(krippendorff_alpha(items, "ordinal")) < 0.05
    assert abs(cohen_kappa(items)) < 0.05
    assert abs(gwet_ac(items)) < 0.05


def test_interval_covers_the_truth_as_often_as_it_says():
    """Two raters who agree with P = 0.7 on a hundred things, two hundred times: 95 % of the intervals hold 0.7."""
    rng, held = random.Random(1), 0
    for seed in range(200):
        items = [("a", "a") if rng.random() < 0.7 else ("a", "b") for _ in range(100)]
        low, high = interval(items, percent, seed, draws=200)
        held += low <= 0.7 <= high
    assert 180 <= held <= 198


def test_interval_is_the_same_every_time_and_wider_where_things_belong_together():
    items = [("a", "a")] * 60 + [("a", "b")] * 40
    alone = interval(items, percent)
    assert alone == interval(items, percent)
    low, high = interval(items, percent, together=[i // 20 for i in range(100)])
    assert high - low > 1.5 * (alone[1] - alone[0])
    statistic = functools.partial(gwet_ac, scale="nominal")
    assert interval(items, statistic)[0] < gwet_ac(items) < interval(items, statistic)[1]


# --- of labels --------------------------------------------------------------------------------------------------------


def row(kind: Any, thing: int, answers: tuple[str, ...], label: Any, rater: str, **more: Any) -> LabelRow:
    return LabelRow(kind=kind, prompt=Prompt(f"Q{thing}"), answers=answers, label=label, rater=rater, **more)


def test_raters_who_saw_the_answers_in_another_order_agree():
    rows = [comparison("A", "ann"), comparison("B", "bob", answers=("no", "yes"))]
    rows += [
        comparison("B", "ann", prompt="2"),
        comparison("B", "bob", prompt="2"),
        comparison("tie", "ann", prompt="3"),
    ]
    (found,) = measured(rows)
    assert (found.kind, found.criterion, found.raters, found.things) == ("comparison", "overall", ("ann", "bob"), 2)
    assert found.percent == found.kappa == found.alpha == 1.0
    assert found.each == {"ann": (1.0, 2), "bob": (1.0, 2)}
    assert "2 raters, 2 things labelled by two or more; the same 1.00 [1.00, 1.00]; κ 1.00" in found.in_words


def test_each_kind_and_criterion_is_measured_apart():
    rows = []
    for i in range(8):
        for rater in ("ann", "bob", "cy"):
            odd = rater == "cy" and i % 2 == 0
            rows += [
                row("comparison", i, ("a", "b"), "B" if odd else "A", rater, strength="slightly"),
                row("verdict", i, ("a",), "bad" if odd != (i % 4 == 1) else "good", rater, criterion="harmless"),
                row("ranking", i, ("a", "b", "c"), (1, 3, 2) if odd else (1, 2, 3), rater),
                row("choice", i, ("a", "b", "c"), 1 if odd else i % 3, rater),
                row("rating", i, ("a",), 1 + i - odd, rater, scale=(0, 10)),
            ]
    found = {agreement.kind: agreement for agreement in measured(rows)}
    assert set(found) == {"comparison", "verdict", "ranking", "choice", "rating"}
    assert found["verdict"].criterion == "harmless"
    for agreement in found.values():
        assert agreement.things == 8
        assert agreement.kappa is None  # three raters
        assert agreement.alpha < 1
        assert agreement.percent_ci95[0] < agreement.percent < agreement.percent_ci95[1]
        assert agreement.each["cy"][0] < agreement.each["ann"][0]
    assert found["comparison"].percent == pytest.approx(0.5 + 0.5 / 3)
    assert found["ranking"].percent == pytest.approx(1 - (2 / 3) * 0.5 / 3)  # one of three pairs, on half of the things
    assert found["rating"].alpha > 0.9
    assert {kind: agreement.ac_name for kind, agreement in found.items()} == {
        "comparison": "AC2", "ranking": "AC2", "rating": "AC2", "choice": "AC1", "verdict": "AC1",
    }  # fmt: skip


def test_pairs_of_one_ranking_are_drawn_together():
    """Ten rankings of six answers, half of them turned round by the other rater: ten things were seen, and not 150."""
    order = (1, 2, 3, 4, 5, 6)
    rows = []
    for i in range(10):
        rows.append(row("ranking", i, tuple("abcdef"), order, "ann"))
        rows.append(row("ranking", i, tuple("abcdef"), order[::-1] if i % 2 else order, "bob"))
    (found,) = measured(rows)
    assert (found.things, found.percent) == (10, 0.5)
    low, high = found.percent_ci95
    assert high - low > 0.4  # 2 · 1.96 · √(0.25 / 10) = 0.62; of 150 pairs 0.16


def test_ac2_of_strengths_counts_how_far_apart_two_raters_are():
    def of(other: str, label: str = "A") -> float:
        rows = []
        for i in range(10):
            rows.append(row("comparison", i, ("a", "b"), "A", "ann", strength="significantly"))
            rows.append(row("comparison", i, ("a", "b"), label, "bob", strength=other))
        return measured(rows)[0].ac

    assert of("significantly") == 1.0
    assert of("significantly") > of("better") > of("negligibly") > of("negligibly", "B") > of("significantly", "B")


def test_alone_or_skipped_or_said_again_is_no_agreement():
    again = [comparison("A", "ann"), comparison("B", "ann")]
    assert not measured(again)
    assert not measured([comparison("A", "ann"), comparison(None, "bob", skipped=True)])
    (found,) = measured([*again, comparison("B", "bob")])
    assert found.percent == 1.0
