"""A judge's verdict as a row, and a row as something to learn from."""

import json

import pytest

from rlhf_lora.comparison_rows import among, comparison_id, in_a_coins_order, newest, pair_of, row_of
from rlhf_lora.judging.orders import compare
from rlhf_lora.records import Comparison, Prompt, Verdict

PROMPT = Prompt("which?", columns={"kind": "safe"}, group="which")


class Says:
    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)

    def compare(self, prompt, a, b):
        return self.verdicts.pop(0)


def row(*verdicts, orders="both", tie_within=0.0):
    one = Comparison(PROMPT, "a", "b")
    (said,) = compare(Says(*verdicts), [one], orders, tie_within)
    return row_of(one, said, "says")


def test_which_answer_is_read_first_does_not_depend_on_which_is_the_better_one():
    for i in range(50):
        prompt = Prompt(f"prompt {i}")
        assert in_a_coins_order(prompt, "x", "y") == in_a_coins_order(prompt, "y", "x")


def test_the_better_answer_is_read_first_about_half_of_the_time():
    first = sum(in_a_coins_order(Prompt(f"prompt {i}"), "better", "worse").a == "better" for i in range(400))
    assert 160 < first < 240  # a coin leaves this once in 20,000 times


def test_every_two_different_answers_are_compared_once():
    found = among(PROMPT, ["x", "y", "x", "z"])
    assert {frozenset((one.a, one.b)) for one in found} == {frozenset(two) for two in ("xy", "xz", "yz")}
    assert len(found) == 3
    assert among(PROMPT, ["x", "x"]) == []


def test_a_row_tells_both_orders_in_the_terms_of_a():
    # first order: A with 0.9; the other order: what it read first is B, with 0.6, so A with 0.4
    found = row(Verdict("A", 0.9, "longer"), Verdict("A", 0.6))
    assert found["p_orders"] == pytest.approx([0.9, 0.4])
    assert found["p"] == pytest.approx((0.9 + 0.4) / 2)
    assert (found["label"], found["order"], found["more"]) == ("A", "both", {"flipped": True, "calls": 2})
    assert (found["rater"], found["source"], found["rationale"]) == ("says", "ai", "longer")


def test_what_could_not_be_read_has_no_label_and_says_why():
    found = row(Verdict("A", 0.9), Verdict(None, reason="refusal: will not"))
    assert found["skipped"] == "refusal: will not"
    assert not {"label", "p", "p_orders"} & found.keys()
    assert pair_of(Comparison(PROMPT, "a", "b"), found) is None


@pytest.mark.parametrize(
    ("verdicts", "hard", "expected"),
    [
        ((Verdict("A", 0.75), Verdict("B", 0.25)), False, ("a", "b", 0.75)),
        ((Verdict("B", 0.25), Verdict("A", 0.75)), False, ("b", "a", 0.75)),
        ((Verdict("B", 0.25), Verdict("A", 0.75)), True, ("b", "a", 1.0)),
        ((Verdict("A"), Verdict("B")), False, ("a", "b", 1.0)),
        ((Verdict("A"), Verdict("A")), False, None),  # whatever it reads first: nothing is learned from that
    ],
)
def test_a_label_is_the_better_answer_first_and_how_sure_it_is(verdicts, hard, expected):
    pair = pair_of(Comparison(PROMPT, "a", "b"), row(*verdicts), hard)
    assert (pair and (pair.chosen, pair.rejected, pair.label)) == expected


def test_a_row_holds_what_the_prompt_needs_to_be_known_again():
    messages = ({"role": "user", "content": "which?"},)
    found = row_of(
        one := Comparison(Prompt("other", messages, group="g"), "a", "b"),
        compare(Says(Verdict("A")), [one], "once")[0],
        "j",
    )
    assert (found["prompt"], found["messages"], found["group"]) == ("other", [dict(messages[0])], "g")
    assert json.loads(json.dumps(found)) == found
    assert found["order"] == "AB"
    assert found["more"] == {"calls": 1}


def test_of_two_rows_about_one_comparison_the_last_counts():
    one = Comparison(PROMPT, "a", "b")
    first, second = row(Verdict(None), orders="once"), row(Verdict("A"), orders="once")
    assert newest([{"format": "labels/1"}, first, second]) == {comparison_id(one): second}


def test_other_answers_another_order_and_another_conversation_are_other_comparisons():
    ones = [
        Comparison(PROMPT, "a", "b"), Comparison(PROMPT, "b", "a"), Comparison(PROMPT, "a", "c"),
        Comparison(Prompt("which?", ({"role": "user", "content": "?"},)), "a", "b"), Comparison(Prompt("other"), "a", "b"),
    ]  # fmt: skip
    assert len({comparison_id(one) for one in ones}) == len(ones)
