"""The plan: what follows from the rest, which stages run, and what names a stage by content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import few, jsonl, overrides

from rlhf_lora import derive, stage_cache
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.plan import Plan, make_plan


def test_the_stages_are_those_that_reward_and_optimizer_need(plan):
    def names(*more: str) -> list[str]:
        return [stage.name for stage in plan(*more).stages]

    assert names() == ["sft", "reward_model", "policy"]
    assert names("reward=length") == ["sft", "policy"]
    assert names("optimizer=dpo") == ["sft", "policy"]
    assert names("stages=[policy,sft]", "reward=length") == ["sft", "policy"]  # in their order
    assert names("stages=[reward_model]") == ["reward_model"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [("stages=[]", "empty"), ("stages=[sft,sft]", "2 times"), ("stages=[sft,policy]", "reward_model")],
)
def test_wrong_stages_are_refused_before_the_data_are_read(asked, told, tiny_base, tmp_path):
    with pytest.raises(ConfigError, match=told):
        make_plan(compose(*overrides(tiny_base, tmp_path, asked)), load=lambda dataset: pytest.fail("it was read"))


def test_what_is_null_is_derived_and_what_is_given_stays(plan):
    config = plan("hardware.micro_batch=null").config
    assert config.optimizer.adamw.lr == pytest.approx(9.6e-4)  # 3e-5 · 2048 / 64
    assert config.sft.adamw.lr == pytest.approx(2e-3, rel=0.05)  # 2e-4 · 32^⅔
    assert config.hardware.threads == 1
    assert config.hardware.micro_batch >= 1
    assert plan("optimizer.adamw.lr=5e-5").config.optimizer.adamw.lr == 5e-5
    assert plan("optimizer.adamw.lr=0").config.optimizer.adamw.lr == 0


def test_updates_follow_from_the_prompts_when_they_are_not_given(plan):
    made = plan("optimizer.updates=null", "reward=length")
    assert made.config.optimizer.updates == min(derive.MOST_UPDATES, -(-derive.PASSES * len(made.splits.prompts) // 12))
    assert made.optimizer.updates == made.config.optimizer.updates


def test_lengths_stay_within_the_models_positions(plan):
    config = plan("rollout.max_new_tokens=20").config
    assert config.max_prompt_tokens == 64 - 20
    assert config.sft.max_length == 64


def keys(made: Plan) -> dict[str, str]:
    return {stage.name: stage.key for stage in made.stages}


@pytest.fixture(scope="module")
def unchanged(tiny_base) -> dict[str, str]:
    return keys(make_plan(compose(*overrides(tiny_base, Path("run")))))


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ("optimizer.beta=0.2", {"policy"}),
        pytest.param("rollout.temperature=0.7", {"policy"}, marks=pytest.mark.slow),
        ("sft.epochs=2", {"sft", "reward_model", "policy"}),
        pytest.param("reward_model.epochs=2", {"reward_model", "policy"}, marks=pytest.mark.slow),
        ("seed=1", {"sft", "reward_model", "policy"}),
        ("adapter.r=8", {"sft", "reward_model", "policy"}),
        pytest.param("model.load_in_4bit=false", {"sft", "reward_model", "policy"}, marks=pytest.mark.slow),
        pytest.param("model.template=plain", {"sft", "reward_model", "policy"}, marks=pytest.mark.slow),
        pytest.param("model.dtype=bfloat16", {"sft", "reward_model", "policy"}, marks=pytest.mark.slow),
        ("dataset.seed=1", {"sft", "reward_model", "policy"}),
        ("dataset.tau=2.0", {"reward_model", "policy"}),
        pytest.param("evaluation.show=3", set(), marks=pytest.mark.slow),
        pytest.param("checkpoint_every=2", set(), marks=pytest.mark.slow),
        ("cache=false", set()),
        ("run_dir=elsewhere", set()),
    ],
)
def test_a_stages_key_changes_with_whatever_decides_its_result_and_with_nothing_else(change, changes, plan, unchanged):
    one, other = unchanged, keys(plan(change))
    assert {name for name in one if one[name] != other[name]} == changes


@pytest.mark.parametrize(
    ("more", "setting"),
    few([("", "sft.max_length"), ("", "reward_model.max_length"), ("optimizer=dpo", "optimizer.max_length")], 1),
)
def test_memory_of_a_stage_follows_its_longest_row(plan, more, setting):
    def gib(length: int) -> float:
        name = "policy" if setting.startswith("optimizer") else setting.partition(".")[0]
        memory = plan(*more.split(), f"{setting}={length}").stage(name).memory
        return memory.total

    assert gib(16) < gib(60)


def test_a_stage_of_other_code_is_not_taken_from_the_cache(plan, unchanged, monkeypatch):
    monkeypatch.setattr(stage_cache, "code", lambda: "another hash")
    assert not set(keys(plan()).values()) & set(unchanged.values())


@pytest.mark.slow
def test_keys_are_the_same_in_every_process_and_follow_the_weights(plan, tiny_base, tmp_path):
    import shutil

    shutil.copytree(tiny_base, tmp_path / "copy")
    assert keys(plan(f"model.path={tmp_path / 'copy'}")) == keys(plan())  # content, not place
    file = tmp_path / "copy" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert keys(plan(f"model.path={tmp_path / 'copy'}"))["sft"] != keys(plan())["sft"]


def test_a_plugin_file_that_was_edited_makes_another_policy(plan, tmp_path):
    file = tmp_path / "planned.py"
    text = "from rlhf_lora import reward\n@reward('planned')\ndef f(samples):\n    return [{}]\n"
    file.write_text(text.format(1.0))
    one = keys(plan(f"plugins=[{file}]", "reward=planned"))
    file.write_text(text.format(2.0))
    other = keys(plan(f"plugins=[{file}]", "reward=planned"))
    assert one["sft"] == other["sft"]
    assert one["policy"] != other["policy"]


def test_rows_of_every_stage_are_counted_and_none_is_in_two(plan):
    made = plan()
    for stage in made.stages:
        assert stage.rows == len(getattr(made.splits, stage.reads)) > 0
    parts = [
        {d.prompt.split_key for d in made.splits.demonstrations}, {p.prompt.split_key for p in made.splits.pairs},
        {p.split_key for p in made.splits.prompts}, {p.split_key for p in made.splits.final_prompts},
    ]  # fmt: skip
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_data_without_what_a_stage_needs_is_refused(plan, tmp_path):
    file = jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"tea {i}"} for i in range(60)])
    with pytest.raises(DataError, match="reward_model needs pairs"):
        plan("dataset=jsonl", f"dataset.path={file}")
    assert [s.name for s in plan("dataset=jsonl", f"dataset.path={file}", "reward=length").stages] == ["policy"]


@pytest.mark.slow
def test_scores_measured_against_demonstrations_need_some(plan, tmp_path):
    lines = [{"prompt": f"Order tea number {i}, please."} for i in range(400)]
    without = ["dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'prompts.jsonl', lines)}", "reward=length"]
    with pytest.raises(DataError, match="measured against demonstrations, and there are none") as caught:
        plan(*without, "optimizer.scale_scores=demonstrations")
    assert "scale_scores=reference" in caught.value.fix
    assert plan(*without, "optimizer.scale_scores=reference")
    assert plan("reward=length", "optimizer.scale_scores=demonstrations")


@pytest.mark.slow
def test_a_rewards_columns_are_wanted_of_demonstrations_that_it_is_to_score(plan, tmp_path):
    lines = [{"prompt": f"Order tea number {i}, please.", "answer": "tea"} for i in range(400)]
    shown = [{"prompt": f"Order soup number {i}, please.", "completion": "soup"} for i in range(40)]
    (tmp_path / "mine.py").write_text(
        "from rlhf_lora import reward\n@reward('wants_an_answer')\ndef f(samples, *, answer):\n    return [0.0] * len(samples)\n"
    )
    given = ["dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'prompts.jsonl', lines)}", "reward=wants_an_answer",
             "sft.dataset=jsonl", f"sft.dataset.path={jsonl(tmp_path / 'shown.jsonl', shown)}",
             f"plugins=[{tmp_path / 'mine.py'}]"]  # fmt: skip
    assert plan(*given)
    with pytest.raises(DataError, match="wants the column 'answer'"):
        plan(*given, "optimizer.scale_scores=demonstrations")


@pytest.mark.parametrize(("stop", "after", "why"), [("[]", 3, "there are none"), ("['.']", 8, "answers have 8 tokens")])
def test_stop_strings_that_never_count_are_refused(plan, stop, after, why):
    with pytest.raises(ConfigError, match=why) as caught:
        plan("reward=length", f"rollout.stop={stop}", f"rollout.stop_after={after}")  # max_new_tokens=8
    assert caught.value.where == f"rollout.stop_after={after}"
    assert plan("reward=length", "rollout.stop=['.']", "rollout.stop_after=7")


def test_few_held_out_prompts_are_said_with_their_interval(plan):
    assert any("held-out prompts: a win rate will be ±" in note for note in plan().notes)


def test_a_run_folder_of_its_own_is_named_by_date_optimizer_and_reward(tiny_base):
    config = compose(*[o for o in overrides(tiny_base, Path("x"), "reward=length") if not o.startswith("run_dir")])
    assert str(make_plan(config).run_dir).startswith("runs/")
    assert make_plan(config).run_dir.name.endswith("-ppo-length")


@pytest.mark.slow
def test_the_model_memory_verdict_names_what_does_not_fit():
    made = make_plan(
        compose(
            "model=llama3_1_8b_instruct", "hardware=gpu_8gb", "reward=length", "dataset.pairs=0", "dataset.prompts=200"
        )
    )
    assert any("too much for 8" in note for note in made.notes)


def test_planning_leaves_the_given_configuration_alone(tiny_base, tmp_path):
    config = compose(*overrides(tiny_base, tmp_path))
    make_plan(config)
    assert config.optimizer.adamw.lr is None


def test_pairs_that_a_reward_makes_need_the_reward_and_a_stage_of_their_own(plan):
    assert [stage.name for stage in plan("optimizer=dpo", "optimizer.pairs=rollouts").stages] == [
        "sft", "reward_model", "answers", "policy"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_plan_loads_nothing_heavy(tiny_base, tmp_path):
    code = (
        "import sys; from rlhf_lora.config import compose; from rlhf_lora.plan import make_plan; "
        "make_plan(compose(*sys.argv[1:])); "
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'} & sys.modules.keys(); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *overrides(tiny_base, tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
