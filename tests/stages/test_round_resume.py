"""Runs whose rows a reward makes, and runs of several rounds: killed at any point and started again, bit for bit the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_resume import in_child, name, same, send
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

SHORT = ("evaluation.prompts=3", "rollout.max_new_tokens=5", "cache=false", "sft.batch_size=32")
ROWS = ("optimizer.batch_size=8", "optimizer.prompts=10", "optimizer.samples_per_prompt=3")
RUNS: dict[str, tuple[str, ...]] = {
    "kto": ("optimizer=kto", "optimizer.labels=rollouts", "reward=length", *ROWS),
    "relabel": ("optimizer=dpo", "optimizer.pairs=relabel", "reward=orders_gold", "optimizer.batch_size=16"),
    "rejection": ("optimizer=rejection_sampling", "optimizer.pool=true", "rounds=2", "reward=orders_gold", *ROWS),
    "dpo": ("optimizer=dpo", "optimizer.pairs=rollouts", "rounds=3", "reward=learned", "refresh.by=orders_gold",
            "refresh.pairs=12", "refresh.tau=0.5", *ROWS),
    "ppo": ("rounds=2", "reward=learned", "refresh.by=orders_gold", "refresh.pairs=12", "optimizer.updates=2",
            "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1"),
}  # fmt: skip


def points(run: str) -> dict[str, tuple[Any, str, int, bool]]:
    """Where a run can be killed: what is called there, the how-manieth time, before or after the call."""
    from rlhf_lora import dpo_trainer, evaluation, kto_trainer, rounds, sft_trainer
    from rlhf_lora.adapter_stages import StageRecords
    from rlhf_lora.row_file import RowFile
    from rlhf_lora.stages import answers, labelling, reward_model
    from rlhf_lora.stages.on_policy import OnPolicy

    found = {
        "kto": {
            "after a chunk of answers": (RowFile, "append", 2, True),
            "while a chunk of scores is written": (RowFile, "append", 6, False),
            "before the answers are published": (answers, "save", 1, False),
            "in the middle of training": (kto_trainer.Trainer, "training_step", 2, True),
        },
        "relabel": {"after a chunk of scores": (RowFile, "append", 2, True)},
        "rejection": {
            "in the second round's answers": (RowFile, "append", 10, True),
            "in the middle of the second round": (sft_trainer.Trainer, "training_step", 9, True),
            "while the first round is judged": (evaluation, "sequence_kl", 1, False),
            "before the last policy is published": (rounds, "publish", 2, False),
        },
        "dpo": {
            "while new pairs are compared": (labelling.People, "rows", 2, True),
            "before the comparisons are recorded": (StageRecords, "keep", 6, False),
            "while the reward model is refreshed": (reward_model.Trainer, "training_step", 12, True),
            "before the refreshed model is recorded": (StageRecords, "keep", 7, False),
            "in the second round": (dpo_trainer.Trainer, "training_step", 4, True),
        },
        "ppo": {
            "after the last update of the first round": (OnPolicy, "step", 2, True),
            "while the first round is judged": (evaluation, "sequence_kl", 1, True),
            "in the second round": (OnPolicy, "_look_back", 4, False),
            "while the last round is judged": (evaluation, "sequence_kl", 2, False),
        },
    }
    return found[run]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_lora.stages import answers, labelling

    monkeypatch.setattr(answers, "AT_ONCE", 6)
    monkeypatch.setattr(labelling, "AT_ONCE", 5)


def command(base: Path, folder: Path, run: str) -> list[str]:
    return ["train", *overrides(base, folder, *SHORT, *RUNS[run])]


def figures(run: Path) -> dict[str, Any]:
    """Everything a run computed."""
    folder = RunFolder(run)
    return {
        "adapters": {p.parent.name: p.read_bytes() for p in sorted(run.glob("adapters/*/adapter_model.safetensors"))},
        "metrics": [{k: v for k, v in row.items() if k != "time_s"} for row in folder.metrics()],
        "samples": {p.name: folder.read_samples(*name(p)) for p in sorted(run.glob("samples/*.parquet"))},
        "lines": {str(p.relative_to(run)): p.read_text() for p in sorted(run.glob("*_[0-9]/*.jsonl"))},
        "summary": {k: v for k, v in folder.summary.items() if k not in ("seconds", "peak_memory_gib", "reused")},
    }


whole: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize(("run", "point"), [(run, point) for run in RUNS for point in points(run)])
def test_killed_and_started_again_is_bit_equal(
    run: str, point: str, tiny_base: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    if run not in whole:
        never_stopped = tmp_path_factory.mktemp("whole") / "run"
        assert cli.run(command(tiny_base, never_stopped, run)) == 0
        whole[run] = figures(never_stopped)
    prepare: Callable[[], None] = partial(send, signal.SIGKILL, *points(run)[point])
    arguments = command(tiny_base, tmp_path / "run", run)
    assert in_child(arguments, prepare, tmp_path / "log") == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert RunFolder(tmp_path / "run").summary.get("status") != "finished"
    assert cli.run(arguments) == 0
    same(figures(tmp_path / "run"), whole[run])


def test_a_signal_between_chunks_keeps_what_was_scored_and_leaves_with_its_code(tiny_base: Path, tmp_path: Path):
    from rlhf_lora.row_file import RowFile

    arguments = command(tiny_base, tmp_path / "run", "kto")
    prepare = partial(send, signal.SIGTERM, RowFile, "append", 7, True)
    assert in_child(arguments, prepare, tmp_path / "log") == 143
    (work,) = (tmp_path / "run" / "checkpoints").glob("answers-*")
    assert len(RowFile(work / "scores.jsonl").rows()) == 2 * 6
    assert cli.run(arguments) == 0
    assert not work.exists()
    assert RunFolder(tmp_path / "run").summary["status"] == "finished"
