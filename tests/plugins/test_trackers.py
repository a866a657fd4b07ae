"""Trackers: the local one adds nothing; W&B writes offline, asks nobody, and records no command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb_file

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


def run_offline(
    run_dir: Path, home: Path, code: str = CODE, word: str = "reward.key=hush-hush"
) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "XDG_"))}
    env |= {"HOME": str(home), "MY_JUDGE_KEY": "key-in-the-environment"}
    return subprocess.run(
        [sys.executable, "-c", code, str(run_dir), word],
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


SAMPLES = """
import sys
from pathlib import Path
from rlhf_lora.contracts import Context
from rlhf_lora.registry import build
run = build("tracker", {"name": "wandb", "table_rows": 2}).open(Context(run_dir=Path(sys.argv[1])))
for step in (1, 10):
    run.log(step, {"objective/kl": 0.5 * step})
    run.samples(step, [
        {"prompt": f"tea {step}", "text": "one", "score": 1.0, "reason": "", "tokens": [1]},
        {"prompt": f"tea {step}", "text": "two", "score": None, "reason": "timed out"},
        {"prompt": f"tea {step}", "text": "three", "score": 3.0, "reason": ""},
    ])
if sys.argv[2].startswith("fail"):
    raise SystemExit("left without close")
run.close()
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an offline run, made in a process of its own with secrets all around it."""
    pytest.importorskip("wandb")
    top = tmp_path_factory.mktemp("offline")
    run_dir = top / "run"
    run_dir.mkdir()
    (top / "home").mkdir()
    (run_dir / "config.yaml").write_text("optimizer: {name: ppo, beta: 0.0625}\n")
    done = run_offline(run_dir, top / "home", SAMPLES)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return run_dir


def record_of(run_dir: Path) -> Path:
    (record,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    return record


@pytest.mark.slow
def test_the_offline_file_holds_every_metric_under_its_name(offline: Path) -> None:
    rows = wandb_file.history(record_of(offline))
    assert [(row["step"], row["objective/kl"]) for row in rows if "objective/kl" in row] == [(1, 0.5), (10, 5.0)]
    kinds = {record.WhichOneof("record_type") for record in wandb_file.records(record_of(offline))}
    assert {"run", "exit"} <= kinds, "the run was finished, not just left"
    (run,) = [r.run for r in wandb_file.records(record_of(offline)) if r.WhichOneof("record_type") == "run"][:1]
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["optimizer"] == {"name": "ppo", "beta": 0.0625}
    assert run.project == "rlhf_lora"


@pytest.mark.slow
def test_the_table_of_samples_grows_and_scores_have_a_histogram(offline: Path) -> None:
    rows = [row for row in wandb_file.history(record_of(offline)) if "samples" in row]
    assert [row["step"] for row in rows] == [1, 10]
    written: list[list[object]] = []
    for row in rows:
        table = json.loads((record_of(offline).parent / "files" / row["samples"]["path"]).read_text())
        assert table["columns"] == ["step", "prompt", "answer", "score", "reason"]
        written += table["data"]
        assert sum(row["objective/scores_histogram"]["values"]) == 2  # of all completions that have a score
    assert written == [
        [1, "tea 1", "one", 1.0, ""], [1, "tea 1", "two", None, "timed out"],
        [10, "tea 10", "one", 1.0, ""], [10, "tea 10", "two", None, "timed out"],
    ]  # fmt: skip


@pytest.mark.slow
def test_no_secret_and_no_command_line_is_in_any_file_and_none_is_left_elsewhere(offline: Path) -> None:
    files = {path: path.read_bytes() for path in offline.rglob("*") if path.is_file()}
    for secret in (b"hush-hush", b"key-in-the-environment"):
        assert not [str(path) for path, data in files.items() if secret in data]
    for payload in wandb_file.records(record_of(offline)):
        if payload.WhichOneof("record_type") == "run":
            assert (payload.run.host, payload.run.git.commit) == ("", "")
    assert not list((offline.parent / "home").rglob("*.json"))


@pytest.mark.slow
def test_a_run_that_was_left_without_close_is_finished_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for folder in ("run", "home"):
        (tmp_path / folder).mkdir()
    assert run_offline(tmp_path / "run", tmp_path / "home", SAMPLES, "fail").returncode == 1
    kinds = {record.WhichOneof("record_type") for record in wandb_file.records(record_of(tmp_path / "run"))}
    assert "exit" in kinds


def test_a_table_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="table_rows"):
        build("tracker", {"name": "wandb", "table_rows": -1})


def test_a_resumed_run_folder_goes_on_in_the_same_wandb_run(tmp_path: Path) -> None:
    from rlhf_lora.plugins.trackers.wandb_run import _run_id

    assert _run_id(tmp_path / "a") == _run_id(tmp_path / "x" / ".." / "a") != _run_id(tmp_path / "b")


def test_a_closed_tracker_takes_no_more_and_does_not_fail(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = build("tracker", {"name": "wandb", "mode": "disabled"}).open(Context(run_dir=tmp_path))
    run.close()
    run.log(1, {"loss": 1.0})
    run.close()
