"""Rules in a whole run: scored, counted, and with their parts in the samples."""

from __future__ import annotations

import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.run_folder import RunFolder


@pytest.mark.slow
def test_a_run_trains_on_rules(tiny_base, tmp_path):
    small = (
        "optimizer.updates=2", "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1",
        "rollout.max_new_tokens=5", "evaluation.prompts=4",
    )  # fmt: skip
    rules = "reward.rules={brief: {rule: length, least: 1, most: 3}, ended: {weight: 0.5}}"
    asked = overrides(tiny_base, tmp_path / "run", *small, "stages=[policy]", "reward=rules", rules)
    assert cli.run(["train", *asked]) == 0
    summary = RunFolder(tmp_path / "run").summary
    assert summary["reward"] == "rules"
    assert 0 <= summary["policy"]["score_mean"] <= 1
    assert (summary["abstained"], summary["errors"]) == (0, 0)
