"""Which stages a setting touches: what has another key is made anew, everything else may come from the cache."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import few

RELABEL = ("judge=scripted", "reward_model.pairs=relabel")
ROLLED = ("judge=scripted", "reward_model.pairs=rollouts")
REVISED = ("judge=scripted", "revisions.rounds=2", "revisions.by=judge")
MADE = ("optimizer=dpo", "optimizer.pairs=rollouts", "reward=ai_feedback", "judge=scripted")
ASKED = ("judge=openai_api", "judge.model=m", "judge.base_url=http://127.0.0.1:1/v1", "reward_model.pairs=relabel")
LEARNED = {"labels", "reward_model", "policy"}
MENDED = {"revisions", "revised_sft", "reward_model", "policy"}

CHANGES: list[tuple[tuple[str, ...], str, set[str]]] = [
    (RELABEL, "judge.first=0.5", LEARNED),
    (RELABEL, "judge.seed=1", LEARNED),
    (RELABEL, "ai_labels.orders=once", LEARNED),
    (RELABEL, "ai_labels.tie_within=0.1", LEARNED),
    (RELABEL, "ai_labels.hard=true", LEARNED),
    (RELABEL, "hardware.rollout_batch=7", set()),  # nothing is sampled for them
    (RELABEL, "rollout.temperature=0.5", {"policy"}),
    (ROLLED, "hardware.rollout_batch=7", LEARNED),  # one stream of random numbers goes through all batches
    (ROLLED, "rollout.temperature=0.5", LEARNED),
    (ROLLED, "ai_labels.samples_per_prompt=3", LEARNED),
    (REVISED, "revisions.rounds=3", MENDED),
    (REVISED, "revisions.helpful=0.5", MENDED),
    (REVISED, "judge.mends=0.9", MENDED),
    (REVISED, "hardware.rollout_batch=7", MENDED),
    (REVISED, "splits={sft: 20, reward_model: 55, prompts: 15, tuning: 8, final: 2}", {"revised_sft", "reward_model", "policy"}),
    (MADE, "judge.first=0.5", {"answers", "policy"}),
    (MADE, "reward.orders=once", {"answers", "policy"}),
    (MADE, "rollout.temperature=0.5", {"answers", "policy"}),
    (MADE, "optimizer.samples_per_prompt=3", {"answers", "policy"}),
    (MADE, "optimizer.beta=0.3", {"policy"}),
    (MADE, "optimizer.pairs_from=all", {"policy"}),
    (ASKED, "judge.model=n", LEARNED),
    (ASKED, "judge.concurrency=3", set()),
    (ASKED, "judge.max_calls=9", set()),
    ((*ASKED, "refresh.by=judge", "rounds=2"), "judge.concurrency=3", set()),
    ((*ASKED[:3], "reward=ai_feedback", "optimizer=rejection_sampling"), "judge.max_calls=9", set()),
]  # fmt: skip


def keys(made: Any) -> dict[str, str]:
    return {stage.name: stage.key for stage in made.stages}


@pytest.mark.parametrize(("given", "change", "touched"), few(CHANGES, 9))
def test_a_setting_touches_the_stages_that_it_decides_and_no_other(plan, given, change, touched):
    one, other = (keys(plan(*given, *more)) for more in ((), (change,)))
    assert {name for name in one if one[name] != other[name]} == touched


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (RELABEL, {"sft", "labels", "reward_model", "policy"}),
        (MADE, {"sft", "answers", "policy"}),
        (ASKED, {"sft"}),
        ((*ASKED[:3], "rounds=2", "refresh.by=judge"), {"sft", "reward_model"}),
        ((*ASKED[:3], *MADE[:3]), {"sft"}),
    ],
)
def test_what_a_judge_says_is_kept_for_other_runs_where_the_judge_repeats_itself(plan, given, kept):
    assert {stage.name for stage in plan(*given).stages if stage.repeatable} == kept
