"""benchmarks/reward_models.py: arms that are planned as they say, figures from the log, tables, and one arm run in small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import measured
import pytest
import reward_models
from tiny import few

from rlhf_lora import registry
from rlhf_lora.config import compose
from rlhf_lora.plan import make_plan
from rlhf_lora.records import Sample

TOY = ("dataset.demonstrations=100", "dataset.prompts=100", "sft.epochs=1", "reward_model.epochs=1")


@pytest.mark.parametrize("arm", few(reward_models.ARMS, 2))
def test_every_arm_is_planned_as_it_says(arm, tiny_base, tmp_path):
    """In small: a tenth of the rows."""
    experiment, overrides, answers = reward_models.ARMS[arm]
    few = [re.sub(r"(reward_model.rows|dataset.pairs)=(\d+)0$", r"\1=\2", override) for override in overrides]
    plan = make_plan(
        compose(*reward_models.COMMON, *few, *TOY, f"model.path={tiny_base}", f"run_dir={tmp_path / 'run'}")
    )
    stage = plan.stage("reward_model")
    rows = plan.rows(stage)
    read = sum(len(row.completions) if stage.reads == "rankings" else 2 for row in rows)
    assert read == pytest.approx(answers / 10, rel=0.25 if experiment == "rankings" else 0)
    assert [s.name for s in plan.stages] == ["sft", "reward_model"]
    held_out = {pair.prompt.split_key for pair in plan.splits.final_pairs}
    assert held_out
    assert not held_out & {row.prompt.split_key for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["16,000 labels", "hard labels of three times the pairs, tau 0.5"])
def test_the_data_holds_as_many_rows_as_the_largest_arms_learn_from(arm, tiny_base, tmp_path):
    """A plan is refused where there are fewer."""
    for seed in reward_models.SEEDS:
        overrides = (*reward_models.COMMON, *reward_models.ARMS[arm].overrides, f"seed={seed}")
        plan = make_plan(compose(*overrides, f"model.path={tiny_base}", f"run_dir={tmp_path / 'run'}"))
        assert len(plan.splits.final_pairs) > 4000


def test_grouped_and_shuffled_arms_take_as_many_steps_of_as_many_comparisons():
    arms = reward_models.ARMS
    batch = {
        name: dict(o.split("=", 1) for o in arm.overrides).get("reward_model.batch_size", 32)
        for name, arm in arms.items()
    }
    assert int(batch["their pairs, shuffled"]) == int(batch["rankings, grouped"]) * 6


def test_training_accuracy_is_that_of_the_last_epoch(tmp_path):
    lines: list[dict[str, Any]] = [
        {"stage": "sft", "step": 9, "epoch": 3.0, "loss": 1.0},
        {"stage": "reward_model", "step": 5, "epoch": 0.5, "accuracy": 0.1},
        {"stage": "reward_model", "step": 10, "epoch": 1.0, "accuracy": 0.2},
        {"stage": "reward_model", "step": 15, "epoch": 1.5, "accuracy": 0.6},
        {"stage": "reward_model", "step": 20, "epoch": 2.0, "accuracy": 0.8},
        {"stage": "reward_model", "step": 20, "accuracy": 0.3},  # held out
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reward_models.last_epoch(tmp_path) == {"accuracy": pytest.approx(0.7), "epochs": 2.0, "steps": 20}


def finished(folder: Path, *given: str) -> dict[str, Any]:
    """A run folder and summary as `truth` reads them, without a run."""
    from omegaconf import OmegaConf

    config = compose("dataset.seed=3", "dataset.pairs=3000", "dataset.demonstrations=1", *reward_models.COMMON, *given)
    OmegaConf.save(config, folder / "config.yaml")
    from rlhf_lora.splits import Shares, split

    data = registry.build("dataset", config.dataset).load()
    return {"reward_model": {"pairs": len(split(data, Shares(**config.splits)).final_pairs)}}


@pytest.mark.slow
def test_the_ceiling_is_what_the_true_scores_get(tmp_path):
    summary = finished(tmp_path, "dataset.tau=0.01")
    sure = reward_models.truth(tmp_path, summary)
    assert 0.93 < sure["accuracy"] < 1.0  # all but ties of the truth, which count one half
    noisy = reward_models.truth(tmp_path, finished(tmp_path, "dataset.tau=1.0"))
    assert 0.70 < noisy["accuracy"] < 0.85 < sure["accuracy"]
    assert noisy["calibration_error"] < 0.06  # gold / tau is the annotator's own logit
    with pytest.raises(RuntimeError, match="held-out pairs"):
        reward_models.truth(tmp_path, {"reward_model": {"pairs": 1}})


def row(seed: int, arm: str) -> dict[str, Any]:
    share = {"accuracy": 0.7, "accuracy_ci95": [0.6, 0.8], "calibration_error": 0.03}
    model = {**share, "gold_accuracy": 0.75, "gold_accuracy_ci95": [0.7, 0.8], "gold_pairs": 90, "pairs": 100}
    truth = {**share, "accuracy": 0.78, "calibration_error": 0.01}
    return {"seed": seed, "arm": arm, "cpu_seconds": 12.0, "summary": {"reward_model": model},
            "trained": {"accuracy": 0.9, "epochs": 4.0, "steps": 8}, "truth": truth}  # fmt: skip


def test_the_page_has_a_place_for_each_experiment_and_every_arm_a_line():
    rows = [row(seed, arm) for arm in reward_models.ARMS for seed in (1, 2)]
    filled = reward_models.page(reward_models.PAGE.read_text("utf-8"), rows)
    for arm in reward_models.ARMS:
        assert filled.count(f"| {arm} | **0.700**: 0.700 [0.600, 0.800], 0.700 [0.600, 0.800] | 0.780, 0.780 |") == 1
    assert "0.030, 0.030 (0.010, 0.010) | 0.900, 0.900 | **+0.200**: +0.200, +0.200 | 100, 100 | 12, 12 |" in filled
    assert reward_models.page(filled, rows) == filled


def test_help_says_what_it_takes(capsys):
    with pytest.raises(SystemExit):
        reward_models.BENCHMARK.main(["--help"])
    assert re.search(r"CPU minutes, about: \d+ for all arms and three seeds; a seed: size \d+", capsys.readouterr().out)


@pytest.mark.slow
def test_one_arm_goes_from_the_script_to_the_table(tiny_base, tmp_path, capsys):
    to = tmp_path / "figures.json"
    given = [
        "--seeds",
        "0",
        "--arms",
        "rankings, grouped",
        "--to",
        str(to),
        *TOY,
        "dataset.pairs=200",
        f"model.path={tiny_base}",
    ]
    reward_models.BENCHMARK.main(given)
    (measurement,) = measured.read(to)
    assert measurement["summary"]["reused"] == ["sft"]
    assert measurement["summary"]["reward_model"]["pairs"] == 6 * (measurement["summary"]["reward_model"]["pairs"] // 6)
    assert 0 <= measurement["trained"]["accuracy"] <= 1
    assert measurement["truth"]["accuracy"] > 0.6
    reward_models.BENCHMARK.main(given)  # it is there already
    assert len(measured.read(to)) == 1
    assert "| rankings, grouped | **0." in capsys.readouterr().out


@pytest.mark.slow
def test_gold_of_the_rankings_is_known():
    """`truth` asks the reward that the data names."""
    data = registry.build("dataset", {"name": "orders", "pairs": 3, "answers": 4}).load()
    reward = registry.build("reward", {"name": data.gold})
    assert all(s.value is not None for s in reward.score([Sample(data.rankings[0].prompt.text, "tea")]))


def test_a_page_without_a_place_for_a_table_is_refused():
    assert measured.filled("<!-- a -->\nold\n<!-- end -->", {"a": "| new |"}) == "<!-- a -->\n| new |\n<!-- end -->"
    with pytest.raises(ValueError, match="0 places for 'b'"):
        measured.filled("<!-- a -->\nold\n<!-- end -->", {"b": "| new |"})
