"""A mix in a run: what the plan knows of its parts, what the command line refuses, and what training with one leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from tiny import few, jsonl, overrides

from rlhf_lora import cli
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.evaluation import evaluate
from rlhf_lora.report.curves import section
from rlhf_lora.run_folder import RunFolder

LENGTH = ("reward=mix", "reward.parts.short=length", "reward.parts.short.target=4")
PLUGIN = "from rlhf_lora import reward\n@reward({name!r})\ndef f(samples, *, size=1.0{column}):\n    return [size] * len(samples)\n"


def plugin(folder: Path, name: str, column: str = "") -> str:
    (folder / f"{name}.py").write_text(PLUGIN.format(name=name, column=column and f", {column}"))
    return f"plugins=[{folder / f'{name}.py'}]"


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_learned_part_has_the_reward_model_trained(plan):
    assert [s.name for s in plan(*LENGTH).stages] == ["sft", "policy"]
    for more in ((), ("reward.shadow=[judge]",)):  # a shadow has to be scored too
        made = plan(*LENGTH, "reward.parts.judge=learned", *more)
        assert [s.name for s in made.stages] == ["sft", "reward_model", "policy"]
    made = plan("reward=mix", "reward.parts.m=mix", "reward.parts.m.parts.judge=learned")
    assert made.stage("reward_model") is not None


def test_a_missing_stage_is_told_with_the_part_that_needs_it(plan):
    with pytest.raises(ConfigError, match="reward=mix needs the stage reward_model") as refused:
        plan(*LENGTH, "reward.parts.judge=learned", "stages=[sft,policy]")
    assert "reward.parts.judge.path=RUN" in refused.value.fix


def test_the_source_of_a_parts_plugin_is_an_input_of_the_run(plan, tmp_path):
    loaded = plugin(tmp_path, "mine_in_a_mix")
    made = plan(*LENGTH, loaded, "reward.parts.m=mix", "reward.parts.m.parts.own=mine_in_a_mix")
    assert len(made.inputs["the plugin reward=mine_in_a_mix"]) == 64
    assert not any("length" in name for name in made.inputs)  # of the kit: its version says as much


@pytest.mark.slow
def test_the_policys_key_follows_every_setting_of_every_part(plan):
    keys = {
        plan(*LENGTH, *more).stage("policy").key
        for more in ((), ("reward.parts.short.target=5",), ("reward.weights.short=2",), ("reward.clip.short=[-1,0]",))
    }
    assert len(keys) == 4


def test_a_column_that_a_part_wants_is_told_with_the_part(plan, tmp_path):
    loaded = plugin(tmp_path, "wants_a_column", "ratio")
    with pytest.raises(DataError, match="the column 'ratio'") as refused:
        plan(*LENGTH, loaded, "reward.parts.m=mix", "reward.parts.m.parts.own=wants_a_column", "reward.shadow=[m]")
    assert refused.value.where == "reward.parts.m.parts.own"
    gate = ("reward=mix", "reward.parts.a=length", "reward.parts.b=random", "reward.combine=gate",
            "reward.gate.safety=b", "reward.gate.helpful=a", "reward.gate.column=is_safety")  # fmt: skip
    with pytest.raises(DataError, match="the column 'is_safety'"):
        plan(*gate)


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory) -> Path:
    """A reward adapter in the layout of a run folder, its weights drawn."""
    from tiny import spec, stir

    from rlhf_lora.backbone import Backbone
    from rlhf_lora.model_spec import base_hash

    folder = tmp_path_factory.mktemp("trained") / "adapters" / "reward"
    made = Backbone(spec(tiny_base))
    made.add_role("reward", head=True)
    stir(made, "reward")
    folder.mkdir(parents=True)
    made.save_adapter("reward", folder)
    (folder / "reward.json").write_text(
        json.dumps({"gain": 1.0, "bias": 0.0, "base_hash": base_hash(str(tiny_base), None)})
    )
    return folder


@pytest.mark.slow
def test_a_part_that_was_trained_before_counts_by_its_weights(plan, adapter):
    given = (*LENGTH, "reward.parts.judge=learned", f"reward.parts.judge.path={adapter}")
    made = plan(*given)
    assert len(made.inputs["reward.parts.judge.path"]) > 8
    assert made.stage("reward_model") is None
    assert made.reward.folder == adapter  # what a value role starts from
    assert plan(*given, "optimizer.value=adapter", "optimizer.value_init=reward").stage("policy") is not None
    with pytest.raises(ConfigError, match="there is none"):
        plan(*LENGTH, "optimizer.value=adapter", "optimizer.value_init=reward")


def test_two_reward_models_can_be_parts_at_once(plan, adapter):
    given = (*LENGTH, "reward.parts.old=learned", f"reward.parts.old.path={adapter}", "reward.parts.new=learned")
    assert plan(*given).stage("reward_model") is not None


BAD = {
    "unknown part's weight": ([*LENGTH, "reward.weights.shrot=1"], "did you mean 'short'"),
    "weight that is no number": ([*LENGTH, "reward.weights.short=x"], "could not be converted"),
    "nan": ([*LENGTH, "reward.weights.short=nan"], "nan"),
    "no parts": (["reward=mix"], "no parts"),
    "no mix": (["reward.parts.short=length"], "add reward=mix"),
    "unknown reward": ([*LENGTH, "reward.parts.b=lenght"], "did you mean 'length'"),
    "unknown reward, Hydra's form": (["reward=mix", "+reward@reward.parts.b=lenght"], "did you mean 'length'"),
    "unknown setting": ([*LENGTH, "reward.parts.short.tagret=1"], "did you mean 'target'"),
    "setting of another type": ([*LENGTH, "reward.parts.short.target=x"], "reward.parts.short.target"),
    "setting out of range": ([*LENGTH, "reward.parts.short.target=0"], "at least 1"),
    "no such part": ([*LENGTH, "reward.parts.b.target=3"], "reward.parts.b"),
    "unknown setting of the mix": ([*LENGTH, "reward.combin=sum"], "reward.combine"),
    "unknown combination": ([*LENGTH, "reward.combine=max"], "sum, mean, min, product, gate"),
    "gate setting": ([*LENGTH, "reward.gate.treshold=0.1"], "reward.gate.threshold"),
    "shadow": ([*LENGTH, "reward.shadow=[x]"], "no part 'x'"),
    "braces": (["reward=mix", "reward.parts={a: {name: length, targt: 3}}"], "did you mean 'target'"),
    "path": ([*LENGTH, "reward.parts.j=learned", "reward.parts.j.path=/nowhere"], "reward.parts.j.path=/nowhere"),
}


@pytest.mark.parametrize("case", few(BAD, 4))
def test_a_bad_mix_ends_with_2_and_one_message(case, tiny_base, tmp_path, capsys):
    given, told = BAD[case]
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run"), *given]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_plan_says_in_words_what_is_mixed(tiny_base, tmp_path, capsys):
    given = (*LENGTH, "reward.weights.short=0.5", "reward.parts.luck=random", "reward.shadow=[luck]")
    assert cli.run(["plan", *overrides(tiny_base, tmp_path / "run"), *given]) == 0
    assert "reward  0.5 · short (length), shadow luck (random)" in capsys.readouterr().out


def test_the_report_draws_a_figure_for_each_part_and_shadows_dashed():
    names = ("rewards/a/mean", "rewards/a/weighted/mean", "rewards/shadow/s/mean", "rewards/margins")
    drawn = section("policy", [{"step": i, "objective/kl": 0.1 * i} | dict.fromkeys(names, float(i)) for i in range(3)])
    assert drawn.count("a: part of the score") == 1
    assert drawn.count("s: shadow, not trained on") == 1
    assert drawn.count('class="line shadow"') == 1
    assert "weighted: part" not in drawn


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_two_parts_and_a_shadow_is_told_apart_part_by_part(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    given = (
        *LENGTH,
        "reward.weights.short=0.5",
        "reward.parts.judge=learned",
        "reward.parts.luck=random",
        "reward.shadow=[luck]",
    )
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run"), *given]) == 0
    folder = RunFolder(tmp_path / "run")
    rows = list(folder.metrics("policy"))
    assert len(rows) == 3
    for row in rows:
        short, judge = row["rewards/short/mean"], row["rewards/judge/mean"]
        assert row["objective/scores"] == pytest.approx(0.5 * short + judge, abs=1e-5)
        assert row["rewards/short/weighted/mean"] == pytest.approx(0.5 * short)
        assert abs(row["rewards/shadow/luck/mean"]) < 3
    (first, *_) = parquet.read_table(folder.path / "samples" / "policy-000001.parquet").to_pylist()
    parts = dict(first["parts"])
    assert first["score"] == pytest.approx(0.5 * parts["short"] + parts["judge"])
    report = (folder.path / "report.html").read_text()
    assert "short: part of the score" in report
    assert "luck: shadow, not trained on" in report
    assert 'class="line shadow"' in report
    again = evaluate(str(folder.path))  # the parts are rebuilt from config.yaml, the reward model from the run
    assert again["policy"]["score_mean"] == pytest.approx(folder.summary["policy"]["score_mean"], abs=1e-4)


@pytest.mark.slow
def test_a_gate_trains_on_whitened_scores_and_is_judged_by_raw_ones(tiny_base, tmp_path):
    rows = [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}", "is_safety": i % 2 == 0}
            for i in range(120)]  # fmt: skip
    data = jsonl(tmp_path / "rows.jsonl", rows)
    given = ("reward=mix", "reward.combine=gate", "reward.parts.short=length", "reward.parts.luck=random",
             "reward.gate.safety=luck", "reward.gate.helpful=short", "reward.gate.column=is_safety",
             "dataset=jsonl", f"dataset.path={data}", "optimizer.scale_scores=none")  # fmt: skip
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run", *given)]) == 0
    folder = RunFolder(tmp_path / "run")
    for row in folder.metrics("policy"):
        assert (row["objective/scores"], row["objective/scores_std"]) == pytest.approx((0, 1), abs=1e-3)
        assert row["rewards/gate/safety/mean"] >= 0.2
    assert abs(folder.summary["policy"]["score_mean"]) > 1e-3
