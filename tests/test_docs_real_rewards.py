"""docs/real_rewards.md says what benchmarks/results/real_rewards.json says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import real_base
import real_rewards


@pytest.fixture(scope="module")
def measurement() -> dict[str, Any]:
    return json.loads(real_rewards.RESULT.read_text("utf-8"))


def test_the_tables_are_those_of_the_measurement(measurement):
    written = real_rewards.PAGE.read_text("utf-8")
    filled = real_rewards.page(written, measurement["runs"], measurement["base"])
    assert filled == written, "run python benchmarks/real_rewards.py --page"
    assert "Not measured yet" not in written


def test_every_arm_was_measured_as_it_is_written_on_the_same_seeds(measurement):
    runs = measurement["runs"]
    seeds = {run["seed"] for run in runs}
    assert len(seeds) >= 2
    assert {(run["seed"], run["arm"]) for run in runs} == {(seed, arm) for seed in seeds for arm in real_rewards.ARMS}
    assert measurement["base"]["settings"] == real_base.SETTINGS
    for run in runs:
        assert run["overrides"] == real_rewards.overrides_of(run["arm"], run["seed"])
        assert run["summary"]["reused"] == [], "so that the CPU seconds are those of training"


def test_arms_of_a_data_set_were_judged_on_the_same_pairs(measurement):
    judged: dict[str, set[tuple[int, float]]] = {}
    for run in measurement["runs"]:
        model = run["summary"]["reward_model"]
        files = real_rewards.ARMS[run["arm"]].files
        judged.setdefault(files, set()).add((model["pairs"], model["length_baseline"]))
    assert {files: len(found) for files, found in judged.items()} == dict.fromkeys(judged, 1)


def test_the_control_came_out_at_one_half(measurement):
    """In the mean over seeds, within three standard errors of one seed's pairs: seeds are judged on the same ones."""
    models = [run["summary"]["reward_model"] for run in measurement["runs"] if run["arm"] == real_rewards.CONTROL]
    mean = sum(model["accuracy"] for model in models) / len(models)
    assert abs(mean - 0.5) < 3 * 0.5 / models[0]["pairs"] ** 0.5


def test_the_figures_in_words_are_of_the_measurement(measurement):
    told = real_rewards.PAGE.read_text("utf-8").partition("## What it says")[2].partition("## Accuracy")[0]
    names = ("accuracy", "length_baseline", "accuracy_where_shorter_chosen", "accuracy_where_longer_chosen")
    values = [run["summary"]["reward_model"][name] for run in measurement["runs"] for name in names]
    values += [1 - run["summary"]["reward_model"]["length_baseline"] for run in measurement["runs"]]
    said = re.findall(r"0\.\d{2,3}", told)
    assert len(said) >= 10
    assert set(said) <= {f"{value:.{digits}f}" for value in values for digits in (2, 3)}
