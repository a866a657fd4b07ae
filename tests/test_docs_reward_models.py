"""docs/reward_models.md says what benchmarks/results/reward_models.json says."""

from __future__ import annotations

import re
import statistics
from typing import Any

import measured
import pytest
import reward_models


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return measured.read(reward_models.RESULT)


def test_the_tables_are_those_of_the_measurement(rows):
    written = reward_models.PAGE.read_text("utf-8")
    assert reward_models.page(written, rows) == written, "run python benchmarks/reward_models.py --page"


def test_every_arm_was_measured_as_it_is_written_on_the_same_three_seeds(rows):
    seeds = {row["seed"] for row in rows}
    assert len(seeds) >= 3
    assert {(row["seed"], row["arm"]) for row in rows} == {(seed, arm) for seed in seeds for arm in reward_models.ARMS}
    for row in rows:
        assert row["overrides"] == [
            f"seed={row['seed']}",
            *reward_models.COMMON,
            *reward_models.ARMS[row["arm"]].overrides,
        ]
        # so that the CPU seconds are those of training the reward model
        assert "sft" in row["summary"]["reused"]
        assert "reward_model" not in row["summary"]["reused"]
        assert row["trained"]["epochs"] == pytest.approx(4, abs=0.1)  # the log's last line may be some steps early


def test_arms_of_an_experiment_were_judged_on_the_same_replies(rows):
    for row in rows:
        arm = reward_models.ARMS[row["arm"]]
        tau = [override for override in arm.overrides if override.startswith("dataset.tau")]
        of_same = [
            other["summary"]["reward_model"]["gold_pairs"] for other in rows
            if other["seed"] == row["seed"] and set(tau) <= set(other["overrides"])
            and reward_models.ARMS[other["arm"]].experiment == arm.experiment
        ]  # fmt: skip
        assert set(of_same) == {row["summary"]["reward_model"]["gold_pairs"]}


def test_the_figures_in_words_are_means_of_the_measurement(rows):
    told = reward_models.PAGE.read_text("utf-8").partition("## What it says")[2].partition("How to read")[0]
    known = set()
    for arm in reward_models.ARMS:
        of = [row for row in rows if row["arm"] == arm]
        figures = [row["summary"]["reward_model"] for row in of]
        gaps = [row["trained"]["accuracy"] - each["accuracy"] for row, each in zip(of, figures, strict=True)]
        for values in (
            [each["gold_accuracy"] for each in figures], [each["calibration_error"] for each in figures], gaps
        ):  # fmt: skip
            known.add(f"{statistics.mean(values):.3f}")
    said = re.findall(r"0\.\d{3}", told)
    assert len(said) >= 20
    assert set(said) <= known
