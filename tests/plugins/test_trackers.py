"""Trackers: the local one adds nothing; W&B writes offline, asks nobody, and records no command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lora.contracts import Context, Tracker
from rlhf_lora.errors import ConfigError
from rlhf_lora.registry import build, to_config


def test_both_are_registered_and_rebuilt_from_their_configuration() -> None:
    for name in ("local", "wandb"):
        made = build("tracker", {"name": name})
        assert build("tracker", to_config(made)) == made
        assert isinstance(made, Tracker)


def test_the_local_tracker_writes_nothing(tmp_path: Path) -> None:
    tracker = build("tracker", {"name": "local"})
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_mode_is_refused_before_wandb_is_loaded() -> None:
    with pytest.raises(ConfigError, match="sometimes") as error:
        build("tracker", {"name": "wandb", "mode": "sometimes"})
    assert "offline" in str(error.value)


CODE = """
import os, sys
from pathlib import Path
from rlhf_lora.contracts import Context
from rlhf_lora.registry import build
made = build("tracker", {"name": "wandb", "tags": ["a"]})
assert "wandb" not in sys.modules
run = made.open(Context(run_dir=Path(sys.argv[1])))
for step in (1, 2, 1):
    run.log(step, {"objective/kl": float(step)})
run.close()
run.close()
"""


def run_offline(run_dir: Path, home: Path) -> subprocess.CompletedProcess[str]:
    hidden = {"WANDB_MODE", "WANDB_DIR", "WANDB_API_KEY"}
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", CODE, str(run_dir), "reward.key=hush-hush"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=env,
    )  # fmt: skip


@pytest.mark.slow
def test_wandb_runs_offline_without_asking_and_without_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run_dir, home = tmp_path / "run", tmp_path / "home"
    run_dir.mkdir()
    home.mkdir()
    (run_dir / "config.yaml").write_text("optimizer: {beta: 0.05}\n")
    done = run_offline(run_dir, home)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (record,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    written = b"".join(path.read_bytes() for path in run_dir.rglob("*") if path.is_file())
    assert b"objective/kl" in record.read_bytes()
    assert b"0.05" in record.read_bytes(), "the configuration"
    assert b"hush-hush" not in written


def test_a_resumed_run_folder_goes_on_in_the_same_wandb_run(tmp_path: Path) -> None:
    from rlhf_lora.plugins.trackers.wandb_run import _run_id

    assert _run_id(tmp_path / "a") == _run_id(tmp_path / "x" / ".." / "a") != _run_id(tmp_path / "b")


def test_a_closed_tracker_takes_no_more_and_does_not_fail(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = build("tracker", {"name": "wandb", "mode": "disabled"}).open(Context(run_dir=tmp_path))
    run.close()
    run.log(1, {"loss": 1.0})
    run.close()
