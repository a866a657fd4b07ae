"""How the labels of several raters become what is trained on, and that every row is used or has a reason why not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from label_examples import comparison

from rlhf_lora.errors import DataError
from rlhf_lora.labels.rows import LabelRow
from rlhf_lora.labels.selection import Counting
from rlhf_lora.labels.votes import counted
from rlhf_lora.records import Data, Label, Pair, Prompt, Ranking, Rating

PROMPT = Prompt("Is it?")


def count(*rows: LabelRow, **how: Any) -> Data:
    """Rows in a file of their own, from line 1 on; each is used or unused."""
    data = counted([(f"line {number}", row) for number, row in enumerate(rows, 1)], Counting(**how))
    assert data.rows is not None
    assert data.rows + len(data.unused) == len(rows)
    return data


def votes(labels: str, **more: Any) -> list[LabelRow]:
    """`AAB-`: what raters of their own said of one comparison; - is a tie."""
    return [comparison("tie" if label == "-" else label, f"rater {i}", **more) for i, label in enumerate(labels)]


YES, NO = ("yes", "no"), ("no", "yes")


@pytest.mark.parametrize(
    ("labels", "how", "expected"),
    [
        ("A", {}, (YES, 1.0)),
        ("B", {}, (NO, 1.0)),
        ("AAB", {}, (YES, 1.0)),
        ("ABB", {}, (NO, 1.0)),
        ("AB", {}, None),
        ("A-", {}, (YES, 1.0)),
        ("A---", {"ties": "half"}, (YES, 1.0)),  # 1 + 3/2 of 4 votes
        ("AB-", {"ties": "half"}, (YES, 0.5)),
        ("--", {}, None),
        ("--", {"ties": "half"}, (YES, 0.5)),
        ("AAB", {"on_disagreement": "soft"}, (YES, 2 / 3)),
        ("AAAB", {"on_disagreement": "soft"}, (YES, 3 / 4)),
        ("BBBA", {"on_disagreement": "soft"}, (NO, 3 / 4)),
        ("AA-", {"on_disagreement": "soft"}, (YES, 1.0)),
        ("AA-", {"on_disagreement": "soft", "ties": "half"}, (YES, 5 / 6)),
        ("AB", {"on_disagreement": "soft"}, None),
        ("AAB", {"on_disagreement": "drop"}, None),
        ("AAA", {"on_disagreement": "drop"}, (YES, 1.0)),
        ("AA-", {"on_disagreement": "drop"}, (YES, 1.0)),
        ("AA-", {"on_disagreement": "drop", "ties": "half"}, None),
        ("AAB", {"min_agreement": 0.66}, (YES, 1.0)),
        ("AAB", {"min_agreement": 2 / 3}, (YES, 1.0)),
        ("AAB", {"min_agreement": 0.67}, None),
        ("AA", {"min_raters": 3}, None),
        ("AAB", {"min_raters": 3}, (YES, 1.0)),
    ],
)
def test_comparisons_are_counted(labels, how, expected):
    data = count(*votes(labels), **how)
    if expected is None:
        assert not data.pairs
        assert len(data.unused) == len(labels)
    else:
        (pair,) = data.pairs
        assert ((pair.chosen, pair.rejected), pair.label) == (expected[0], pytest.approx(expected[1]))
        assert data.rows == len(labels) - (labels.count("-") if how.get("ties") != "half" else 0)


def test_order_in_which_the_answers_stood_is_no_matter():
    rows = [comparison("A", "ann"), comparison("B", "bob", answers=("no", "yes")), comparison("A", "cy")]
    for on_disagreement in ("majority", "soft", "drop"):
        assert count(*rows[:2], on_disagreement=on_disagreement).pairs == [Pair(PROMPT, "yes", "no")]
        assert count(*rows, on_disagreement=on_disagreement).pairs == [Pair(PROMPT, "yes", "no")]


def test_probabilities_are_soft_labels_and_a_majority_is_as_sure_as_its_voters():
    one, two, three = (comparison(label, p=p, rater=str(p)) for label, p in (("A", 0.8), ("A", 0.6), ("B", 0.1)))
    assert count(one).pairs[0].label == 0.8
    swapped = comparison("B", p=0.2, answers=("no", "yes"))
    assert count(swapped).pairs == [Pair(PROMPT, "yes", "no", label=0.8)]
    assert count(one, two, three).pairs == [Pair(PROMPT, "yes", "no", label=pytest.approx(0.7))]
    assert count(one, two, three, on_disagreement="soft").pairs == []  # (0.8 + 0.6 + 0.1) / 3 = ½
    assert count(one, two, on_disagreement="soft").pairs[0].label == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("margins", "expected"),
    [("small", [1.0, 2 / 3, 1 / 3, 0.0]), ("large", [3.0, 2.0, 1.0, 0.0]), ("none", [None] * 4)],
)
def test_strengths_become_margins(margins, expected):
    words = ("significantly", "better", "slightly", "negligibly")
    rows = [comparison(prompt=word, strength=word) for word in words]
    assert [pair.margin for pair in count(*rows, margins=margins).pairs] == expected
    number = count(comparison(strength=7.5), margins=margins).pairs[0].margin
    assert number == (None if margins == "none" else 7.5)


def test_margin_of_several_is_the_mean_of_those_who_chose_it():
    rows = [comparison("A", "1", strength=2), comparison("A", "2", strength=1), comparison("A", "3")]
    assert count(*rows, comparison("B", "4", strength=9)).pairs[0].margin == 1.5


def test_last_label_of_one_rater_counts_and_skipping_takes_one_back():
    data = count(comparison("A", "ann"), comparison("B", "ann", answers=("no", "yes")), comparison("B", "ann"))
    assert data.pairs == [Pair(PROMPT, "no", "yes")]
    assert [row.where for row in data.unused] == ["line 1 (again: line 3)", "line 2 (again: line 3)"]
    data = count(comparison("A", "ann"), comparison(None, "ann", skipped="cannot tell"), comparison("B", "bob"))
    assert data.pairs == [Pair(PROMPT, "no", "yes")]
    assert Counter(row.reason for row in data.unused) == {
        "labelled again by the same rater; the last counts": 1, "skipped by its rater": 1,
    }  # fmt: skip
    principled = [comparison("A", "judge", principle=str(i), p=0.9) for i in range(2)]
    assert count(*principled).rows == 2


def test_raters_and_criteria_are_chosen():
    rows = [
        comparison("A", "ann", criterion="helpful"), comparison("B", "bob", criterion="helpful"),
        comparison("B", "ann", criterion="harmless"),
    ]  # fmt: skip
    assert count(*rows, criterion="helpful", raters=("bob",)).pairs == [Pair(PROMPT, "no", "yes")]
    assert count(*rows, criterion="harmless").pairs == [Pair(PROMPT, "no", "yes")]
    assert len(count(*rows, criterion="all", raters=("ann",)).pairs) == 2
    for how, words in (
        ({}, r"several criteria: helpful \(2\), harmless \(1\)"),
        ({"criterion": "helpfull"}, "no label is by 'helpfull'; did you mean 'helpful'"),
        ({"criterion": "all", "raters": ("anne",)}, "no label is by 'anne'; did you mean 'ann'"),
    ):
        with pytest.raises(DataError, match=words):
            count(*rows, **how)


def several(kind: Any, answers: tuple[str, ...], *labels: Any, **more: Any) -> list[LabelRow]:
    return [
        LabelRow(kind=kind, prompt=PROMPT, answers=answers, label=label, rater=f"rater {i}", **more)
        for i, label in enumerate(labels)
    ]


ABC = ("a", "b", "c")


def test_ranking_of_one_rater_stands_as_it_is_with_its_pairs():
    data = count(*several("ranking", ABC, (10.0, 2.0, 2.0)))
    ranking = Ranking(PROMPT, ABC, (10.0, 2.0, 2.0))
    assert (data.rankings, data.pairs) == ([ranking], ranking.pairs())
    assert data.left_out == {"a tie": 1}


def test_rankings_of_several():
    rows = several("ranking", ABC, (1, 2, 3), (1, 3, 2))
    rows.append(
        LabelRow(kind="ranking", prompt=PROMPT, answers=("c", "b", "a"), label=(3, 2, 1), rater="in another order")
    )
    together = count(*rows)  # mean places 1, 7/3, 8/3
    assert [ranking.ranks for ranking in together.rankings] == [pytest.approx((1, 7 / 3, 8 / 3))]
    assert [(pair.chosen, pair.rejected) for pair in together.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    soft = count(*rows, on_disagreement="soft")
    assert [ranking.ranks for ranking in soft.rankings] == [(1, 2, 3), (1, 3, 2), (1, 2, 3)]
    assert [(p.chosen, p.rejected, p.label) for p in soft.pairs] == [
        ("a", "b", 1.0), ("a", "c", 1.0), ("b", "c", pytest.approx(2 / 3)),
    ]  # fmt: skip
    assert not count(*rows, on_disagreement="drop").rankings
    assert count(rows[0], rows[2], on_disagreement="drop").rankings == [Ranking(PROMPT, ABC, (1.0, 2.0, 3.0))]
    assert not count(rows[0], LabelRow(kind="ranking", prompt=PROMPT, answers=ABC, label=(3, 2, 1), rater="x")).rankings


def test_choices_of_several():
    rows = several("choice", ABC, 0, 0, 2)
    assert count(*rows).rankings == [Ranking.choice(PROMPT, ABC, 0)]
    soft = count(*rows, on_disagreement="soft")
    assert [ranking.best for ranking in soft.rankings] == [0, 0, 2]
    # a against c: two for a, one for c. a against b: two for a; b against c: one for c; the others say nothing of these.
    assert [(p.chosen, p.rejected, p.label) for p in soft.pairs] == [
        ("a", "b", 1.0), ("a", "c", pytest.approx(2 / 3)), ("c", "b", 1.0),
    ]  # fmt: skip
    assert not count(*rows[1:]).rankings
    assert not count(*rows, on_disagreement="drop").rankings
    assert not count(*rows, min_agreement=0.7).rankings


def test_ratings_of_several():
    rows = several("rating", ("a",), 1, 2, 6, scale=(1, 7))
    assert count(*rows).ratings == [Rating(PROMPT, "a", 2.0)]
    assert count(*rows, on_disagreement="soft").ratings == [Rating(PROMPT, "a", 3.0)]
    assert not count(*rows, on_disagreement="drop").ratings
    with pytest.raises(DataError, match=r"several scales: 1 to 7 \(3\), 0 to 1 \(1\)"):
        count(*rows, LabelRow(kind="rating", prompt=Prompt("2"), answers=("a",), label=1, scale=(0, 1)))


def test_verdicts_of_several():
    rows = several("verdict", ("a",), "good", "good", "bad")
    assert count(*rows).labels == [Label(PROMPT, "a", True)]
    assert [label.good for label in count(*rows, on_disagreement="soft").labels] == [True, True, False]
    assert not count(*rows, on_disagreement="drop").labels
    assert not count(*rows[1:]).labels


def test_texts_that_teach_nothing_are_listed():
    rows = [
        comparison(prompt=" "), comparison(answers=("a", " ")), comparison(answers=("a", "a")),
        *several("ranking", ABC, (1, 1, 1)),
    ]  # fmt: skip
    data = count(*rows)
    assert [(row.where, row.reason) for row in data.unused] == [
        ("line 1", "the prompt is empty"), ("line 2", "an answer is empty"), ("line 3", "all answers are the same"),
        ("line 4", "a tie"),
    ]  # fmt: skip


def test_one_prompt_has_one_group():
    known = LabelRow(kind="verdict", prompt=Prompt("Hi", group="g"), answers=("a",), label="good")
    unknown = LabelRow(kind="verdict", prompt=Prompt("Hi"), answers=("b",), label="bad")
    assert {label.prompt.split_key for label in count(unknown, known).labels} == {"g"}
    other = LabelRow(kind="verdict", prompt=Prompt("Hi", group="h"), answers=("c",), label="bad")
    with pytest.raises(DataError, match="two groups") as caught:
        count(known, unknown, other)
    assert caught.value.where == "line 1: 'g'; line 3: 'h'"
