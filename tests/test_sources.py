"""One dataset per stage: who reads which file, and that no prompt is learned from and judged on, whatever the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import few, jsonl, overrides

from rlhf_lora import data_view
from rlhf_lora.config import compose, recompose
from rlhf_lora.errors import ConfigError, DataError, PluginError
from rlhf_lora.evaluation import evaluation_pairs
from rlhf_lora.plan import make_plan
from rlhf_lora.records import Prompt


def text(i: int) -> str:
    return f"tea number {i}"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Pairs of 0-399, demonstrations of 200-599, prompts of 300-699: they overlap."""
    rows: dict[str, list[dict[str, Any]]] = {
        "pairs": [{"prompt": text(i), "chosen": "yes", "rejected": "no"} for i in range(400)],
        "demos": [{"prompt": text(i), "completion": "sure"} for i in range(200, 600)],
        "prompts": [{"prompt": text(i), "answer": str(i)} for i in range(300, 700)],
        "test": [{"prompt": text(i), "answer": str(i)} for i in range(220, 260)],
    }
    return {name: jsonl(tmp_path / f"{name}.jsonl", content) for name, content in rows.items()}


def own(stage: str, file: Path) -> list[str]:
    return [f"{stage}.dataset=jsonl", f"{stage}.dataset.path={file}"]


def numbers(rows: Any) -> set[int]:
    return {int((row if isinstance(row, Prompt) else row.prompt).text.rpartition(" ")[2]) for row in rows}


def test_each_stage_reads_its_own_file_and_the_others_share_the_first(plan, files):
    made = plan(
        "dataset=jsonl", f"dataset.path={files['pairs']}", *own("sft", files["demos"]), *own("policy", files["prompts"])
    )
    splits = made.splits
    assert numbers(splits.demonstrations) <= set(range(200, 600))
    assert {row.completion for row in splits.demonstrations} == {"sure"}
    assert numbers(splits.pairs) <= set(range(400))
    assert numbers(splits.prompts) | numbers(splits.final_prompts) <= set(range(300, 700))
    assert all("answer" in p.columns for p in splits.final_prompts), "judged on the policy's own prompts"
    # Each has all of its file but tuning and final (5 + 5 per cent), not a stage's share of it.
    assert all(len(rows) > 0.8 * 400 for rows in (splits.demonstrations, splits.pairs, splits.prompts))
    assert [stage.rows for stage in made.stages] == [
        len(rows) for rows in (splits.demonstrations, splits.pairs, splits.prompts)
    ]


def test_no_prompt_that_is_judged_on_is_trained_on_by_any_stage(plan, files):
    """Also with a test file, whose prompts lie in any bucket."""
    for test in ([], [f"policy.dataset.test_path={files['test']}"]):
        own_files = [*own("sft", files["demos"]), *own("policy", files["prompts"])]
        made = plan("dataset=jsonl", f"dataset.path={files['pairs']}", *own_files, *test)
        splits = made.splits
        trained = numbers([*splits.demonstrations, *splits.pairs, *splits.prompts])
        judged = numbers([*splits.tuning_prompts, *splits.tuning_pairs, *splits.final_prompts, *splits.final_pairs])
        assert judged
        assert not trained & judged
    assert set(range(220, 260)) == numbers(splits.final_prompts)
    gone = [row for row in splits.unused if "held out for judging in another dataset" in row.reason]
    assert len(gone) >= 2 * 20, "each is counted: pairs and demonstrations both hold 220-259"


@pytest.mark.slow
def test_both_spellings_mean_the_same(files):
    short = compose(*own("sft", files["demos"]))
    long = compose("dataset@sft.dataset=jsonl", f"sft.dataset.path={files['demos']}")
    assert short == long
    assert compose("sft.dataset=null") == compose()


@pytest.mark.slow
def test_the_dataset_names_a_stage_by_content_not_by_place(plan, files, tmp_path):
    def keys(*more: str) -> dict[str, str]:
        made = plan("dataset=jsonl", f"dataset.path={files['pairs']}", *more)
        return {stage.name: stage.key for stage in made.stages} | {f"in {k}": v for k, v in made.inputs.items()}

    one = keys(*own("sft", files["demos"]))
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(files["demos"].read_bytes())
    assert keys(*own("sft", moved)) == one
    lines = files["demos"].read_text().splitlines()
    changed = jsonl(tmp_path / "changed.jsonl", [])
    changed.write_text("\n".join([line.replace("sure", "gladly") for line in lines]))
    other = keys(*own("sft", changed))
    assert {name for name in one if one[name] != other[name]} >= {"sft", "in the data", "in the data of sft"}


def test_dpo_learns_from_the_pairs_of_its_own_file(plan, files):
    made = plan("optimizer=dpo", *own("sft", files["demos"]), *own("policy", files["pairs"]))
    policy = made.stage("policy")
    assert policy.reads == "pairs"
    assert policy.rows == len(made.rows(policy)) > 300
    assert not numbers(made.rows(policy)) & numbers(made.splits.final_prompts)
    assert [source.setting for source in made.sources.every] == ["sft.dataset", "policy.dataset"], "no other is read"
    assert made.data.gold is None, "the truth of dataset=orders says nothing of these prompts"


@pytest.mark.slow
def test_the_reward_that_dpo_implies_is_judged_on_held_out_pairs_of_what_dpo_learns_from(plan, files):
    made = plan("optimizer=dpo", *own("sft", files["demos"]), *own("policy", files["pairs"]))
    judged = numbers(evaluation_pairs(made))
    assert judged
    assert judged <= set(range(400))
    assert not judged & numbers(made.rows(made.stage("policy")))
    assert not judged & numbers(made.splits.demonstrations)  # 200-399 are in both files
    assert evaluation_pairs(plan(*own("sft", files["demos"]))) == []  # PPO


def test_dpo_does_not_learn_what_a_reward_model_of_another_file_is_judged_on(plan, files, tmp_path):
    test = jsonl(
        tmp_path / "judged.jsonl", [{"prompt": text(i), "chosen": "a", "rejected": "b"} for i in range(150, 250)]
    )
    rm = [*own("reward_model", files["pairs"]), f"reward_model.dataset.test_path={test}"]
    stages = ["optimizer=dpo", "stages=[sft,reward_model,policy]"]
    made = plan("dataset=jsonl", f"dataset.path={files['pairs']}", *rm, *stages)
    assert numbers(made.splits.final_pairs) == set(range(150, 250))
    assert not numbers(made.rows(made.stage("policy"))) & set(range(150, 250))
    assert not numbers(made.splits.pairs) & set(range(150, 250))


@pytest.mark.parametrize(
    ("row", "left"),
    [({"answer": "tea", "good": True}, "answer, good"), ({"completion": "tea", "label": "maybe"}, "label")],
)
def test_columns_that_kto_would_have_wanted_are_told_by_the_names_they_have(plan, tmp_path, row, left):
    file = jsonl(tmp_path / "rated.jsonl", [{"prompt": text(i), **row} for i in range(40)])
    with pytest.raises(DataError, match="needs labels") as caught:
        plan("optimizer=kto", "dataset=jsonl", f"dataset.path={file}")
    assert f"dataset.columns={{OURS: YOURS}} (not read: {left})" in caught.value.fix


def test_a_saved_configuration_gives_the_same_plan(plan, files, tiny_base):
    from omegaconf import OmegaConf

    made = plan("dataset=jsonl", f"dataset.path={files['pairs']}", *own("sft", files["demos"]))
    again = make_plan(recompose(OmegaConf.to_container(made.config)))
    assert [stage.key for stage in again.stages] == [stage.key for stage in made.stages]


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    few([
        (["sft.dataset=jsonl", "sft.dataset.path={prompts}"], DataError, "sft needs demonstrations, and sft.dataset has none"),
        (["reward_model.dataset=jsonl", "reward_model.dataset.path={demos}"], DataError, "it holds 400 demonstrations"),
        (["policy.dataset=jsonl", "policy.dataset.path={demos}", "optimizer=dpo"], DataError, "policy needs pairs"),
        (["sft.dataset=jsonl", "sft.dataset.path=nowhere.jsonl"], DataError, "sft.dataset.path=nowhere.jsonl"),
        (["sft.dataset=jsonl", "sft.dataset.path={demos}", "sft.dataset.format=nope"], ConfigError, "sft.dataset.format"),
        (["sft.dataset=jsonl"], ConfigError, "sft.dataset.path is not given"),
        (["sft.dataset=jsnl"], PluginError, "did you mean 'jsonl'"),
        (["sft.dataset.path={demos}"], ConfigError, "no dataset of its own is chosen for the stage sft"),
        (["sft.dataset=jsonl", "sft.dataset.pth={demos}"], ConfigError, "did you mean 'sft.dataset.path'"),
        (["reward=length", "reward_model.dataset=jsonl", "reward_model.dataset.path={pairs}"], ConfigError, "does not run"),
        (["model.path=null", "sft.dataset=jsonl", "sft.dataset.path={demos}"], ConfigError, "embedded base knows only"),
    ], 6),
)  # fmt: skip
def test_a_dataset_that_a_stage_cannot_use_is_one_message(given, kind, says, plan, files):
    main = [] if "model.path=null" in given else ["dataset=jsonl", f"dataset.path={files['pairs']}"]
    with pytest.raises(kind) as caught:
        plan(*main, *[word.format(**files) if "{" in word else word for word in given])
    assert says in str(caught.value)
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["ppo", pytest.param("dpo", marks=pytest.mark.slow)])
def test_a_run_of_three_files_goes_on_only_while_they_are_the_same(optimizer, tiny_qwen2, files, tmp_path, monkeypatch):
    from rlhf_lora import train

    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    policy = files["prompts"] if optimizer == "ppo" else files["pairs"]
    given = [*own("sft", files["demos"]), *own("policy", policy), "sft.dataset.limit=60", "policy.dataset.limit=100"]
    small = ["optimizer.updates=1", "optimizer.prompts_per_update=8"] if optimizer == "ppo" else ["optimizer.epochs=1"]
    main = ["dataset=jsonl", f"dataset.path={files['pairs']}", f"optimizer={optimizer}"]
    main += ["reward=length"] if optimizer == "ppo" else ["optimizer.pairs=dataset"]
    words = overrides(tiny_qwen2, tmp_path / "run", *main, *given, *small)
    run = train(compose(*words))
    assert run.summary["status"] == "finished"
    assert "policy" in run.summary
    files["demos"].write_text(files["demos"].read_text().replace("sure", "gladly"))
    with pytest.raises(ConfigError, match="the data of sft"):
        train(compose(*words))


def test_labels_that_nothing_learns_from_are_demonstrations_and_none_lie_unread(plan, tmp_path):
    """The reward model's share of them, half of the file, was read by nobody."""
    rows = [{"prompt": text(i), "completion": "sure", "label": True} for i in range(400)]
    made = plan("dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'labels.jsonl', rows)}", "reward=length")
    assert list(made.splits.labels) == []
    assert len(made.splits.demonstrations) > 0.55 * 400
    (view,) = data_view.view(made)
    assert "in shares that no stage of this run reads" not in view.goes_to
