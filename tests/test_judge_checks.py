"""The run's judge in a plan: one that is missing, one that nobody asks, and pairs that cannot be made, in words."""

from __future__ import annotations

import pytest
from tiny import few

from rlhf_lora.errors import ConfigError, UserError

ASKING = ("reward=ai_feedback", "judge=scripted")
MIX = ("reward=mix", "+reward@reward.parts.a=ai_feedback", "+reward@reward.parts.b=length")


@pytest.mark.parametrize(
    ("settings", "where", "says"),
    few([
        (("reward=ai_feedback",), "judge=null", "reward=ai_feedback asks a judge, and the run has none"),
        (MIX, "judge=null", "reward.parts.a: its reward asks a judge"),
        (("reward=length", "judge=scripted"), "judge=scripted", "nobody in this run asks the judge"),
        (("judge=scripted",), "judge=scripted", "reward=learned does without"),
        ((*ASKING, "reward.against=group"), "reward.against=group", "answered once"),
        ((*ASKING, "reward.against=group", "optimizer=grpo"), "optimizer.scale_scores=reference", "single answers"),
        ((*MIX, "judge=scripted", "reward.parts.a.against=group"), "reward.parts.a.against=group", "within a mix"),
        ((*ASKING, "reward.mode=pointwise", "reward.against=group"), "reward.mode=pointwise", "one answer alone"),
        ((*ASKING, "judge.always=third"), "judge.always", "third"),
        (("reward=ai_feedback", "judge=local", "model.path=null"), "judge=local judge.path=null", "so it cannot judge"),
    ], fast=5),
)  # fmt: skip
def test_what_a_judge_cannot_do_is_refused(settings, where, says, plan):
    with pytest.raises(UserError, match=says) as refused:
        plan(*settings)
    assert refused.value.where == where


def test_a_judge_that_cannot_rate_is_refused_before_anything_is_trained(plan, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from rlhf_lora import Verdict, judge\n@judge('compares_alone')\nclass Mine:\n"
        "    def compare(self, prompt, a, b):\n        return Verdict('A')\n"
    )
    given = [f"plugins=[{file}]", "reward=ai_feedback", "judge=compares_alone"]
    assert plan(*given).judge is not None
    with pytest.raises(ConfigError, match="has no rate_all"):
        plan(*given, "reward.mode=pointwise")


@pytest.mark.parametrize(
    "settings",
    few([
        [*ASKING], [*MIX, "judge=scripted"], [*ASKING, "reward.mode=pointwise"],
        [*ASKING, "reward.against=group", "optimizer=rloo", "optimizer.scale_scores=none"],
        [*ASKING, "optimizer=dpo"], ["judge=scripted", "control=random_reward"],
    ], fast=2),
)  # fmt: skip
def test_what_it_can_do_is_planned(settings, plan):
    made = plan(*settings)
    assert made.judge.truth == "orders_gold"
    assert made.stage("reward_model") is None


def test_a_plan_says_what_a_score_is(plan):
    told = plan(*ASKING, "reward.orders=once").reward.in_words()
    assert told == "probability that the judge prefers it to the reference's answer, asked in one order"
