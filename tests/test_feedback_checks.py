"""Stages of AI feedback in a plan: when they run unasked, and what is refused in words."""

import pytest
from tiny import few, overrides

from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.feedback_checks import unasked
from rlhf_lora.plan import make_plan

JUDGE = ("plugins=[tests/feedback_judge.py]", "judge=knowing")


@pytest.fixture(autouse=True)
def _root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), ["sft", "reward_model", "policy"]),
        (("reward_model.pairs=relabel",), ["sft", "labels", "reward_model", "policy"]),
        (("revisions.rounds=2",), ["sft", "revisions", "revised_sft", "reward_model", "policy"]),
        (("reward_model.pairs=rollouts", "revisions.rounds=1"),
         ["sft", "revisions", "revised_sft", "labels", "reward_model", "policy"]),
    ],
)  # fmt: skip
def test_stages_run_unasked_where_the_settings_ask_for_them(settings, expected):
    assert unasked(compose(*settings), ["sft", "reward_model", "policy"]) == expected


def test_without_sft_revisions_come_first():
    assert unasked(compose("revisions.rounds=1"), ["policy"]) == ["revisions", "revised_sft", "policy"]


def test_the_plan_says_who_labels_and_how_much(plan):
    made = plan(*JUDGE, "reward_model.pairs=rollouts", "ai_labels.samples_per_prompt=3", "ai_labels.prompts=10")
    labels, model = made.stage("labels"), made.stage("reward_model")
    assert (labels.reads, labels.rows, labels.writes) == ("prompts", 10, "labels")
    assert (model.reads, model.rows) == ("pairs", 30)
    assert labels.memory is not None
    assert labels.memory.training == 0 < labels.memory.rollout
    assert made.config.reward_model.loss == "pairwise"


def test_relabelling_by_a_judge_that_needs_no_model_takes_no_memory_here(plan):
    assert plan(*JUDGE, "reward_model.pairs=relabel").stage("labels").memory is None


def test_labels_may_be_made_without_anything_that_learns_from_them(plan):
    made = plan(*JUDGE, "reward_model.pairs=relabel", "stages=[labels]")
    assert [stage.name for stage in made.stages] == ["labels"]


def test_what_is_learned_from_a_judge_that_may_answer_otherwise_is_not_cached(plan):
    sure = {s.name: s for s in plan(*JUDGE, "reward_model.pairs=relabel").stages}
    unsure = {s.name: s for s in plan(*JUDGE, "judge.deterministic=false", "reward_model.pairs=relabel").stages}
    assert all(stage.repeatable for stage in sure.values())
    assert [name for name, stage in unsure.items() if not stage.repeatable] == ["labels", "reward_model", "policy"]


@pytest.mark.parametrize(
    "change",
    few(["judge.first=0.5", "ai_labels.orders=once", "ai_labels.keep_dataset=0.1", "ai_labels.hard=true", "reward_model.rows=9",
         "reward_model.pairs=rollouts"], 3),
)  # fmt: skip
def test_other_labels_make_another_reward_model(plan, change):
    keys = [
        {stage.name: stage.key for stage in plan(*JUDGE, "reward_model.pairs=relabel", *more).stages}
        for more in ((), (change,))
    ]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"labels", "reward_model", "policy"}


REFUSED = [
    (("reward_model.pairs=relabel",), "judge=null", "judge=NAME"),
    (("revisions.rounds=1", "revisions.by=judge"), "judge=null", "judge=NAME"),
    ((*JUDGE, "reward_model.pairs=relabel", "stages=[sft,reward_model,policy]"), "stages=", "add labels"),
    ((*JUDGE, "reward_model.pairs=relabel", "reward=length"), "reward_model.pairs=relabel", "reward=learned"),
    ((*JUDGE, "reward_model.pairs=relabel", "optimizer=dpo"), "reward_model.pairs=relabel", "ppo"),
    (("stages=[labels]",), "reward_model.pairs=dataset", "relabel"),
    ((*JUDGE, "reward_model.pairs=relabel", "reward_model.loss=kwise"), "reward_model.pairs=relabel", "pairwise"),
    ((*JUDGE, "reward_model.pairs=rollouts", "reward_model.rows=5"), "reward_model.rows=5", "ai_labels.prompts"),
    (("stages=[sft,revisions]",), "revisions.rounds=0", "revisions.rounds=4"),
    (("revisions.rounds=2", "stages=[sft,policy]", "reward=length"), "stages=", "add revisions"),
    (("revisions.rounds=2", "stages=[sft,revised_sft]"), "stages=", "add revisions"),
    (("reward_model.pairs=relable",), "reward_model.pairs", "relabel"),
    (("ai_labels.orders=twice",), "ai_labels.orders", "both"),
    (("ai_labels.tie_within=0.5",), "ai_labels.tie_within", "0.5"),
    (("ai_labels.keep_dataset=1.5",), "ai_labels.keep_dataset", "0 to 1"),
    (("ai_labels.samples_per_prompt=1",), "ai_labels.samples_per_prompt", "at least 2"),
    (("revisions.rounds=-1",), "revisions.rounds", "at least 0"),
    (("revisions.by=me",), "revisions.by", "self"),
    (("revisions.rounds=1", "revisions.constitution=[]"), "revisions.constitution", "sentence"),
    (("revisions.rounds=1", "revisions.constitution=nowhere.yaml"), "nowhere.yaml", "JSON or YAML"),
    (("revisions.rounds=1", "revisions.measure=[helpdesk_ham]"), "revisions.measure", "helpdesk_harm"),
    (("revisions.rounds=1", "revisions.where={kind: unsafe}"), "revisions.where={kind: unsafe}", "none"),
]


@pytest.mark.parametrize(("overrides", "where", "fix"), few(REFUSED, 8))
def test_what_cannot_work_is_refused_in_words(plan, overrides, where, fix):
    with pytest.raises((ConfigError, DataError)) as refused:
        plan(*overrides)
    assert where in refused.value.where
    assert fix in refused.value.fix


def test_a_run_knows_what_its_judge_goes_by_and_not_only_where_it_lies(tmp_path):
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("The politer one is better.")
    few_rows = ("dataset.pairs=200", "dataset.demonstrations=80", "dataset.prompts=240")
    asking = ("reward=ai_feedback", "judge=openai_api", "judge.model=any", f"judge.rubric={rubric}", *few_rows)
    before = make_plan(compose(*asking)).inputs
    rubric.write_text("The shorter one is better.")
    after = make_plan(compose(*asking)).inputs
    assert {name for name in before if before[name] != after[name]} == {"the plugin judge=openai_api: rubric"}


@pytest.mark.parametrize(
    "more",
    [
        ("judge=scripted", "reward_model.pairs=relabel"),
        ("judge=scripted", "rounds=2", "refresh.by=judge"),
        ("optimizer.value_init=reward", "optimizer.value=adapter"),
        ("dataset@reward_model.dataset=orders",),
    ],
)
def test_a_run_can_be_judged_by_a_reward_that_does_without_its_reward_model(tiny_base, tmp_path, more):
    """`evaluate RUN reward=length`: what was checked is how the run was trained, and that is over."""
    again = compose(*overrides(tiny_base, tmp_path / "run", *more, "reward=length"))
    assert make_plan(again, trains=False).config.reward.name == "length"
    with pytest.raises(ConfigError):
        make_plan(again)
