"""Asking in both orders: what comes of two verdicts, and how much of a liking for a place is left."""

from __future__ import annotations

import pytest

from rlhf_lora import registry
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ContractError
from rlhf_lora.judging.orders import compare, probability
from rlhf_lora.mini import orders
from rlhf_lora.records import Comparison, Prompt, Verdict

ONE = Comparison(Prompt("say something"), "left", "right")


class Says:
    """Gives what it is told to for (A, B), and remembers what it was asked."""

    def __init__(self, **verdicts: Verdict):
        self.verdicts, self.asked = verdicts, []

    def compare(self, prompt, a, b):
        self.asked.append((a, b))
        return self.verdicts[a]


@pytest.mark.parametrize(
    ("verdict", "p"),
    [
        (Verdict("A"), 1.0), (Verdict("B"), 0.0), (Verdict("tie"), 0.5), (Verdict("A", 0.6), 0.6), (Verdict(None), None),
        (Verdict(None, 0.9), None),
    ],
)  # fmt: skip
def test_a_verdict_without_a_probability_counts_one_half_or_nothing(verdict, p):
    assert probability(verdict) == p


def test_the_mean_of_both_orders_counts_and_the_second_is_read_the_other_way_round():
    # P(left) is 0.9 when it is read first. Read second, P(what is read first = right) = 0.3, so P(left) = 0.7: mean 0.8.
    judge = Says(left=Verdict("A", 0.9, "one"), right=Verdict("B", 0.3, "two"))
    (found,) = compare(judge, [ONE])
    assert judge.asked == [("left", "right"), ("right", "left")]
    assert found.verdict == Verdict("A", pytest.approx(0.8), "one; two")
    assert found.flipped is False
    assert (found.first.probability_a, found.second.probability_a) == (0.9, 0.3)


def test_a_judge_that_always_says_first_ends_in_a_tie_and_is_told_of():
    (found,) = compare(Says(left=Verdict("A"), right=Verdict("A")), [ONE])
    assert found.verdict.choice == "tie"
    assert found.verdict.probability_a == 0.5
    assert found.flipped is True


def test_asked_once_the_second_order_is_not_asked():
    judge = Says(left=Verdict("A", 0.6))
    (found,) = compare(judge, [ONE], "once")
    assert judge.asked == [("left", "right")]
    assert (found.verdict.choice, found.second, found.flipped) == ("A", None, None)


@pytest.mark.parametrize("unread", ["left", "right"])
def test_half_an_opinion_is_none(unread):
    verdicts = {"left": Verdict("A", 0.9), "right": Verdict("B", 0.1)} | {unread: Verdict(None, reason="refusal: no")}
    (found,) = compare(Says(**verdicts), [ONE])
    assert found.verdict == Verdict(None, reason="refusal: no")
    assert found.flipped is None


@pytest.mark.parametrize(("within", "choice"), [(0.0, "A"), (0.05, "A"), (0.1, "tie"), (0.2, "tie")])
def test_what_is_close_to_one_half_is_a_tie_where_that_is_asked_for(within, choice):
    judge = Says(left=Verdict("A", 0.59), right=Verdict("B", 0.41))
    assert compare(judge, [ONE], tie_within=within)[0].verdict.choice == choice


def test_a_judge_of_many_is_asked_once_for_all_and_may_be_async():
    class Many:
        calls = 0

        def compare(self, prompt, a, b):
            raise AssertionError("one by one")

        async def compare_all(self, comparisons):
            self.calls += 1
            return [Verdict("A" if len(one.a) > len(one.b) else "B") for one in comparisons]

    judge = Many()
    found = compare(judge, [ONE, ONE.swapped])
    assert [one.verdict.choice for one in found] == ["B", "A"]
    assert judge.calls == 1
    assert compare(judge, []) == []


@pytest.mark.parametrize("given", [[Verdict("A")], ["A", "B"], [Verdict("A")] * 3, None])
def test_not_one_verdict_for_each_is_the_judges_fault(given):
    judge = Says()
    judge.compare_all = lambda comparisons: given
    with pytest.raises(ContractError, match=r"the judge 'Says' (gave|returned)"):
        compare(judge, [ONE])


@pytest.mark.parametrize("p", [float("nan"), -0.1, 1.5, float("inf"), True, "0.5"])
def test_what_is_no_probability_is_the_judges_fault_and_never_a_score(p):
    with pytest.raises(ContractError, match=r"'Says' returned .*from 0 to 1"):
        compare(Says(left=Verdict("A", p), right=Verdict("B", 0.5)), [ONE])


@pytest.mark.parametrize("choice", ["C", "a", 1, True])
def test_a_choice_that_is_not_on_the_menu_is_the_judges_fault(choice):
    with pytest.raises(ContractError, match=r"'Says' returned .*A, B, tie or None"):
        compare(Says(left=Verdict(choice), right=Verdict("B")), [ONE])


@pytest.mark.parametrize("percent", range(101))
def test_a_judge_that_says_the_same_of_whatever_is_first_finds_a_tie_however_that_is_rounded(percent):
    said = Verdict("A" if percent > 50 else "B", percent / 100)
    (found,) = compare(Says(left=said, right=said), [ONE], tie_within=0.0)
    assert (found.verdict.choice, found.verdict.probability_a) == ("tie", 0.5)


def test_the_mean_over_both_orders_cuts_what_the_order_decides_five_times():
    """J1: the truth of the orders task, log-odds of 2 for what is read first, and an error in each reading. Whether A or B
    is better is asked twice, the pair given one way and then the other, all errors drawn anew. How often do both disagree?"""
    data = registry.build(
        "dataset", {"name": "orders", "demonstrations": 1, "pairs": 400, "prompts": 1, "seed": 0}
    ).load()
    pairs = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs]
    assert orders.gold(pairs[0].prompt.text, pairs[0].a, True)
    settings = {"name": "scripted", "first": 2.0, "slips": 0.3}
    one, other = (registry.build("judge", settings | {"seed": seed}).open(Context()) for seed in (1, 2))

    def disagreements(how):
        there = compare(one, pairs, how)
        back = compare(other, [pair.swapped for pair in pairs], how)
        return sum(
            (a.verdict.probability_a > 0.5) == (b.verdict.probability_a > 0.5) for a, b in zip(there, back, strict=True)
        )

    once, both = disagreements("once"), disagreements("both")
    assert once >= 0.25 * len(pairs)
    assert once >= 5 * both
