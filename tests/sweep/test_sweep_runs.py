"""A real sweep: child processes that train a tiny model, killed in the middle and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import overrides

from rlhf_lora.sweep.jobs import launch
from rlhf_lora.sweep.table import read_sweep

QUICK = ("optimizer.updates=2", "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1",
         "rollout.max_new_tokens=5", "evaluation.prompts=4", "reward=length", "hardware.threads=1")  # fmt: skip


def command(base: Path, folder: Path) -> list[str]:
    grid = ("optimizer.beta=0.05,0.1", "reward.target=3,6", "seed=0,1")
    return [sys.executable, "-m", "rlhf_lora", "train", "-m", *overrides(base, folder, *QUICK, *grid)]


def test_a_child_has_its_output_in_the_log_and_its_code_is_told(tmp_path):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    assert launch([sys.executable, "-c", code], tmp_path / "0.log", SimpleNamespace(number=0)) == 7
    assert sorted((tmp_path / "0.log").read_text().split()) == ["err", "out"]


@pytest.mark.slow
def test_a_signal_is_handed_on_once_and_the_child_may_save(tmp_path):
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n    print('saved', flush=True)\n    time.sleep(1)\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\ntime.sleep(60)"
    )
    asked = SimpleNamespace(number=0)
    original = subprocess.Popen.wait

    def ask(self, timeout=None):
        if time.monotonic() > began + 1.0:
            asked.number = signal.SIGTERM
        return original(self, timeout)

    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", ask)
        assert launch([sys.executable, "-c", code], tmp_path / "0.log", asked) == 143
    assert (tmp_path / "0.log").read_text() == "saved\n"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_eight_jobs_killed_in_the_middle_and_run_again(tiny_base, tmp_path):
    folder = tmp_path / "sweep"
    environment = os.environ | {"RLHF_LORA_CACHE": str(tmp_path / "cache")}
    first = subprocess.Popen(
        command(tiny_base, folder), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (folder / "3" / "config.yaml").exists():  # three are done, the fourth has begun
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=300)
    assert first.returncode == 143, err
    assert out.splitlines()[-1] == str(folder)
    before = {row["job"]: row["status"] for row in read_sweep(folder)}
    assert [before[n] for n in (0, 1, 2)] == ["finished"] * 3
    assert [before[n] for n in (4, 5, 6, 7)] == ["waiting"] * 4
    finished = [n for n in before if before[n] == "finished"]

    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for n in finished for p in (folder / str(n)).rglob("*") if p.is_file()}

    untouched = times()
    again = subprocess.run(command(tiny_base, folder), env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert times() == untouched
    rows = read_sweep(folder)
    assert [row["status"] for row in rows] == ["finished"] * 8
    assert len({tuple(row["changes"].items()) for row in rows}) == 8
    table = again.stdout.splitlines()
    assert len(table) == 1 + 8 + 1
    assert table[-1] == str(folder)
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    # SFT is trained once for each seed, whose data differ
    assert sum(row["reused"] == [] for row in rows) == 2

    third = subprocess.run(command(tiny_base, folder), env=environment, capture_output=True, text=True)
    assert third.returncode == 0
    assert third.stdout == again.stdout
    assert "8 finished before" in third.stderr


@pytest.mark.slow
def test_all_controls_in_one_sweep(tiny_base, tmp_path):
    # the line of docs/controls.md: one SFT for all, each job told as the control that it is
    grid = "control=random_reward,flipped_reward,shuffled_labels,no_learning"
    quick = [word for word in QUICK if not word.startswith("reward=")]
    asked = [sys.executable, "-m", "rlhf_lora", "train", "-m", *overrides(tiny_base, tmp_path / "sweep", *quick, grid)]
    done = subprocess.run(
        asked, env=os.environ | {"RLHF_LORA_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((tmp_path / "sweep" / str(n) / "summary.json").read_text()) for n in range(4)]
    assert [summary["control"] for summary in summaries] == grid.partition("=")[2].split(",")
    assert ["sft" in summary["reused"] for summary in summaries] == [False, True, True, True]
    assert summaries[3]["policy"]["kl_to_reference"] == 0
