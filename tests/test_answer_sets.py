"""Rows out of scored answers, by hand: pairs, labels, the best; and what gives none."""

from __future__ import annotations

import math

import pytest

from rlhf_lora import answer_sets
from rlhf_lora.answer_sets import Answered, AnswerSet
from rlhf_lora.records import Demonstration, Label, Pair, Prompt, Score


def answers(*scores: float | None, golds: tuple[float, ...] | None = None, texts: str = "abcdefgh") -> AnswerSet:
    """Answers a, b, c, … with these scores; None = no score."""
    golds_or_none = golds or (None,) * len(scores)
    return AnswerSet(
        Prompt("p"),
        tuple(
            Answered(text, Score.none("declined") if value is None else Score(value), gold=gold)
            for text, value, gold in zip(texts, scores, golds_or_none, strict=False)
        ),
    )


def told(pairs: list[Pair]) -> list[tuple[str, str, float | None]]:
    return [(pair.chosen, pair.rejected, pair.margin) for pair in pairs]


def test_best_and_worst_are_one_pair_a_prompt():
    made = answer_sets.pairs([answers(1.0, 5.0, -2.0, 3.0), answers(2.0, 1.0)])
    assert told(made.rows) == [("b", "c", 7.0), ("a", "b", 1.0)]
    assert {pair.label for pair in made.rows} == {1.0}


def test_the_best_with_each_other_and_every_two():
    assert told(answer_sets.pairs([answers(1.0, 3.0, 2.0)], "best_rest").rows) == [("b", "a", 2.0), ("b", "c", 1.0)]
    assert told(answer_sets.pairs([answers(1.0, 3.0, 2.0)], "all").rows) == [
        ("b", "a", 2.0), ("c", "a", 1.0), ("b", "c", 1.0)
    ]  # fmt: skip


@pytest.mark.parametrize("which", answer_sets.PAIRS_FROM)
def test_what_gives_no_pair_is_counted_by_reason(which: str):
    sets = [answers(1.0, 1.0), answers(None, 2.0), answers(), answers(1.0, 1.2), answers(1.0, 3.0, texts="aa")]
    made = answer_sets.pairs(sets, which, min_margin=0.5)
    assert made.rows == []
    assert made.left_out == {
        answer_sets.EQUAL: 1, answer_sets.NO_TWO: 2, answer_sets.CLOSE: 1, answer_sets.SAME_WORDS: 1
    }  # fmt: skip


def test_a_missing_score_is_in_no_pair():
    assert told(answer_sets.pairs([answers(None, 1.0, 2.0)], "all").rows) == [("c", "b", 1.0)]


def test_of_several_best_one_is_drawn_and_the_same_seed_draws_the_same():
    sets = [answers(2.0, 2.0, 2.0, 1.0)] * 60
    chosen = [pair.chosen for pair in answer_sets.pairs(sets, seed=3).rows]
    assert set(chosen) == {"a", "b", "c"}
    assert chosen == [pair.chosen for pair in answer_sets.pairs(sets, seed=3).rows]
    assert chosen != [pair.chosen for pair in answer_sets.pairs(sets, seed=4).rows]


def test_a_soft_label_is_the_probability_of_bradley_and_terry():
    (pair,) = answer_sets.pairs([answers(2.0, 0.5)], soft=True).rows
    assert pair.label == pytest.approx(1 / (1 + math.exp(-1.5)))


def test_agreement_with_the_truth_leaves_its_ties_out():
    sets = [
        answers(2.0, 1.0, golds=(5.0, 4.0)),
        answers(2.0, 1.0, golds=(1.0, 4.0)),
        answers(2.0, 1.0, golds=(3.0, 3.0)),
    ]
    assert answer_sets.pairs(sets).figures == {"gold_agreement": 0.5, "gold_compared": 2.0}


def test_cut_answers_stay_cut_in_the_rows():
    one = AnswerSet(Prompt("p"), (Answered("a", Score(2.0), finished=False), Answered("b", Score(1.0))))
    assert answer_sets.pairs([one]).rows[0].finished == (False, True)
    assert [label.finished for label in answer_sets.labels([one]).rows] == [False, True]
    assert answer_sets.best([one]).rows == [Demonstration(Prompt("p"), "a", finished=False)]


@pytest.mark.parametrize(
    ("threshold", "good", "bad", "on"),
    [("median", "cd", "ab", 0), ("mean", "d", "abc", 0), (2.0, "cd", "a", 1), (100, "", "abcd", 0)],
)
def test_good_is_above_the_threshold_and_bad_below_it(threshold: str | float, good: str, bad: str, on: int):
    """Scores 1, 2, 3, 9: median 2.5, mean 3.75. The fifth answer has none."""
    made = answer_sets.labels([answers(1.0, 2.0, 3.0, 9.0, None)], threshold)
    found = {kind: "".join(label.completion for label in made.rows if label.good == kind) for kind in (True, False)}
    assert found == {True: good, False: bad}
    assert made.left_out[answer_sets.AT_THRESHOLD] == on
    assert made.left_out[answer_sets.UNSCORED] == 1


def test_one_answer_is_its_own_median_and_no_label():
    made = answer_sets.labels([answers(7.0)])
    assert (made.rows, made.left_out[answer_sets.AT_THRESHOLD]) == ([], 1)


def test_labels_agree_with_the_truth_where_the_good_one_is_better():
    made = answer_sets.labels([answers(1.0, 2.0, 3.0, 4.0, golds=(1.0, 6.0, 5.0, 7.0))])
    assert made.figures == {"good_share": 0.5, "gold_agreement": 0.75, "gold_compared": 4.0}  # 5 > 6 is wrong
    assert made.rows[0] == Label(Prompt("p"), "a", False)


def test_the_best_is_a_demonstration_and_the_gap_is_to_the_median():
    made = answer_sets.best([answers(1.0, 4.0, 2.0, golds=(0.0, 3.0, 3.0)), answers(None, None), answers(5.0, 5.0)])
    assert next(row.completion for row in made.rows) == "b"
    assert made.left_out == {answer_sets.NO_BEST: 1}
    assert made.figures == {"max_median_gap": 1.0, "gold_gain": 1.0}  # (2 + 0) / 2; 3 - (0 + 3 + 3) / 3


@pytest.mark.parametrize("threshold", ["best", None, True, math.nan, math.inf])
def test_a_threshold_that_is_none_is_refused(threshold: object):
    with pytest.raises(ValueError, match="threshold must be"):
        answer_sets.check_threshold(threshold)
