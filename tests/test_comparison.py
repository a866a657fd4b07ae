"""Comparing two models' answers: ties, missing scores, intervals, and judges that have a favourite place."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlhf_lora.comparison import bootstrap_ci95, compare, compare_by_judge, length_differences
from rlhf_lora.errors import ContractError
from rlhf_lora.length_control import length_controlled
from rlhf_lora.records import Prompt, Sample, Score, Verdict


def scores(*values: float | None) -> list[Score]:
    return [Score.none("no idea") if value is None else Score(value) for value in values]


def test_a_win_counts_one_and_a_tie_one_half():
    # Won, lost, tied, won: (1 + 0 + ½ + 1) / 4.
    found = compare(scores(2.0, 0.0, 1.0, 5.0), scores(1.0, 3.0, 1.0, 4.0))
    assert found["win_rate_vs_reference"] == 0.625
    assert (found["score_mean"], found["score_mean_reference"], found["compared"]) == (2.0, 2.25, 4)
    assert "unscored" not in found


def test_a_prompt_that_one_side_has_no_score_for_is_left_out_on_both_and_counted():
    found = compare(scores(2.0, None, 9.0), scores(1.0, 100.0, None))
    assert (found["compared"], found["unscored"], found["win_rate_vs_reference"]) == (1, 2, 1.0)
    assert (found["score_mean"], found["score_mean_reference"]) == (2.0, 1.0)


def test_without_any_score_nothing_is_made_up():
    assert compare(scores(None), scores(1.0)) == {"unscored": 1}


def test_the_interval_is_that_of_the_mean():
    # 400 wins and 400 losses: 0.5 ± 1.96 · 0.5 / √800.
    low, high = bootstrap_ci95([1.0, 0.0] * 400)
    half = 1.96 * 0.5 / math.sqrt(800)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.003)
    assert bootstrap_ci95([1.0, 0.0] * 400) == [low, high]
    assert bootstrap_ci95([1.0] * 5) == [1.0, 1.0]


def test_the_interval_of_the_gain_is_paired():
    # Scores vary by hundreds between prompts, the gain is 1 on each.
    ours = scores(*[100.0 * i + 1 for i in range(30)])
    assert compare(ours, scores(*[100.0 * i for i in range(30)]))["score_gain_ci95"] == [1.0, 1.0]


def test_the_rate_at_equal_length_looks_at_the_prompts_that_were_compared():
    wins, differences = [1.0, 0.0, 1.0, 1.0] * 10, [float(i % 7 - 3) for i in range(40)]
    ours, theirs = scores(*[None] * 10, *wins), scores(*[0.5] * 50)
    found = compare(ours, theirs, 0, [99.0] * 10 + differences)
    assert found["unscored"] == 10
    assert found["win_rate_length_controlled"] == length_controlled(wins, differences)["win_rate_length_controlled"]
    assert "win_rate_length_controlled" not in compare(ours, theirs)


def test_length_is_counted_in_tokens_or_else_in_words():
    words = [Sample("p", "one two three")], [Sample("p", "one")]
    assert length_differences(*words) == [2.0]
    assert length_differences([Sample("p", "x", tokens=[1, 2])], [Sample("p", "x y z", tokens=[1])]) == [1.0]


# --- judges -----------------------------------------------------------------------------------------------------------


class Judge:
    """Says what the function says."""

    def __init__(self, decide: Any):
        self.decide, self.asked = decide, []  # type: ignore[var-annotated]

    def compare(self, prompt: Prompt, a: str, b: str) -> Any:
        self.asked.append((prompt.text, a, b))
        return self.decide(a, b)


def answers(*texts: str) -> list[Sample]:
    return [Sample(f"prompt {i}", text) for i, text in enumerate(texts)]


def test_a_judge_that_favours_the_first_place_says_one_half_and_flips_always():
    judge = Judge(lambda a, b: Verdict("A"))
    found = compare_by_judge(judge, answers("x", "y"), answers("u", "v"))
    assert (found["win_rate_vs_reference"], found["flip_rate"], found["compared"]) == (0.5, 1.0, 2)
    assert judge.asked == [
        ("prompt 0", "x", "u"), ("prompt 0", "u", "x"), ("prompt 1", "y", "v"), ("prompt 1", "v", "y"),
    ]  # fmt: skip


def test_a_fair_judge_never_flips_and_a_tie_in_one_order_is_three_quarters():
    fair = Judge(lambda a, b: Verdict("A" if len(a) > len(b) else "B" if len(a) < len(b) else "tie"))
    found = compare_by_judge(fair, answers("long", "x", "ab"), answers("x", "long", "cd"))
    assert (found["win_rate_vs_reference"], found["flip_rate"]) == (0.5, 0.0)
    half = Judge(lambda a, b: Verdict("A" if a == "ours" else "tie"))
    found = compare_by_judge(half, answers("ours"), answers("theirs"))
    assert (found["win_rate_vs_reference"], found["flip_rate"]) == (0.75, 0.0)


def test_a_pair_with_an_unreadable_verdict_is_left_out_and_counted():
    # The first pair is unreadable in one order, the second in both, the third is won in both.
    def decide(a: str, b: str) -> Verdict:
        none = (a, b) == ("x1", "y1") or "x2" in (a, b)
        return Verdict(None if none else "A" if a.startswith("x") else "B")

    found = compare_by_judge(Judge(decide), answers("x1", "x2", "x3"), answers("y1", "y2", "y3"))
    assert (found["win_rate_vs_reference"], found["compared"]) == (1.0, 1)
    assert (found["unscored"], found["unread_verdicts"]) == (2, 3)
    silent = compare_by_judge(Judge(lambda a, b: Verdict(None)), answers("x"), answers("y"))
    assert silent == {"unscored": 1, "unread_verdicts": 2}


@pytest.mark.parametrize("wrong", ["A", None, 1.0, Verdict("C")])  # type: ignore[arg-type]
def test_what_is_no_verdict_is_the_judges_fault(wrong):
    with pytest.raises(ContractError, match="wanted a Verdict"):
        compare_by_judge(Judge(lambda a, b: wrong), answers("x"), answers("y"))


def test_a_judge_that_takes_many_is_asked_once():
    judge, calls = Judge(lambda a, b: pytest.fail("one by one")), []

    async def compare_all(comparisons):
        calls.append(len(comparisons))
        return [Verdict("A" if one.a == "x" else "B") for one in comparisons]

    judge.compare_all = compare_all  # type: ignore[attr-defined]
    assert compare_by_judge(judge, answers("x", "x"), answers("y", "y"))["win_rate_vs_reference"] == 1.0
    assert calls == [4]
    judge.compare_all = lambda comparisons: [Verdict("A")]  # type: ignore[attr-defined]
    with pytest.raises(ContractError, match="1 verdicts for 2"):
        compare_by_judge(judge, answers("x"), answers("y"))


def test_a_judge_that_raises_is_named():
    with pytest.raises(ContractError, match="the judge 'Judge' raised ZeroDivisionError"):
        compare_by_judge(Judge(lambda a, b: 1 / 0), answers("x"), answers("y"))
