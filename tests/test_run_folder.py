"""The run folder survives what happens to runs: kills at any moment, damaged files, numbers that are none."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_lora.atomic import damage, publish, settle, staging, write_manifest, write_text
from rlhf_lora.errors import RlhfLoraError, Stopped, UserError
from rlhf_lora.run_folder import RunFolder, find_run
from rlhf_lora.software import versions

CONFIG = {"optimizer": {"name": "ppo", "beta": 0.05, "lr": 1e-05}, "seed": 0, "run_dir": None, "stages": ["sft"]}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {"python": "3"})


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 2), value), "stream": torch.tensor([1, 2, 255], dtype=torch.uint8)}


# --- the folder -------------------------------------------------------------------------------------------------------


def test_the_saved_configuration_is_the_one_given(folder: RunFolder) -> None:
    assert folder.config == CONFIG
    assert RunFolder.open(folder.path).versions == {"python": "3"}


def test_a_run_is_not_created_over_another_or_over_peoples_files(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a run folder already"):
        RunFolder.create(folder.path, CONFIG, {})
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds other files: thesis\.tex"):
        RunFolder.create(tmp_path / "home", CONFIG, {})


def test_a_launchers_log_in_a_new_run_dir_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "job.log").touch()
    assert RunFolder.create(tmp_path, CONFIG, {}).config["seed"] == 0


def test_a_creation_that_was_killed_is_no_run_yet_and_can_be_repeated(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", CONFIG, {})
    (tmp_path / "run" / "config.yaml").unlink()  # config.yaml is written last
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path / "run")
    assert RunFolder.create(tmp_path / "run", CONFIG, {}).config == CONFIG


def test_find_run_understands_a_run_a_place_inside_it_and_its_only_parent(folder: RunFolder, tmp_path: Path) -> None:
    for given in (folder.path, folder.adapters, folder.path / "config.yaml", tmp_path):
        assert find_run(given).path.resolve() == folder.path.resolve()


def test_find_run_does_not_guess_between_two(folder: RunFolder, tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "other", CONFIG, {})
    with pytest.raises(UserError, match="holds 2 runs"):
        find_run(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find_run(tmp_path / "nowhere")


def test_one_run_folder_has_one_writer(folder: RunFolder) -> None:
    folder.claim()
    with pytest.raises(UserError, match="another process is writing"):
        RunFolder.open(folder.path).claim()
    folder.release()
    RunFolder.open(folder.path).claim().release()


def test_versions_name_the_kit_without_loading_torch() -> None:
    code = "import sys; from rlhf_lora.software import versions; print(versions()['torch'], 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split()[1] == "False"
    assert versions()["rlhf_lora"]


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_flat_rows_of_plain_numbers(folder: RunFolder) -> None:
    folder.log("sft", 1, {"loss": torch.tensor(0.5), "tokens": np.int64(7), "done": True})
    (row,) = folder.metrics()
    assert list(row) == ["stage", "step", "time_s", "loss", "tokens", "done"]
    assert (row["loss"], row["tokens"], row["done"]) == (0.5, 7, 1)
    assert folder.metrics("policy") == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan), None, "0.5"])
def test_a_metric_that_is_no_number_is_refused_by_name_and_nothing_is_written(folder: RunFolder, bad: object) -> None:
    folder.log("policy", 1, {"loss": 1.0})
    with pytest.raises(Stopped, match="'objective/kl' of policy, step 2"):
        folder.log("policy", 2, {"loss": 1.0, "objective/kl": bad})  # type: ignore[dict-item]
    assert len(folder.metrics()) == 1
    assert "NaN" not in (folder.path / "metrics.jsonl").read_text()


def test_a_line_cut_by_a_kill_is_left_out_and_the_next_row_stands_on_its_own_line(folder: RunFolder) -> None:
    folder.log("policy", 1, {"loss": 1.0})
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "policy", "step": 2, "ti')
    again = RunFolder.open(folder.path)
    assert [row["step"] for row in again.metrics()] == [1]
    again.log("policy", 2, {"loss": 0.5})
    assert [row["step"] for row in again.metrics()] == [1, 2]


def test_a_line_broken_in_the_middle_is_told_with_its_number(folder: RunFolder) -> None:
    (folder.path / "metrics.jsonl").write_text('{"stage": "a", "step": 1, "time_s": 0}\n{oops}\n')
    with pytest.raises(UserError) as error:
        folder.metrics()
    assert "line 2" in str(error.value)


def test_resuming_forgets_the_rows_and_samples_after_the_checkpoint_and_the_clock_goes_on(folder: RunFolder) -> None:
    folder.log("sft", 9, {"loss": 1.0})
    for step in (1, 2, 3):
        folder.log("policy", step, {"loss": 1.0})
        folder.save_samples("policy", step, [{"text": "a"}])
    with open(folder.path / "metrics.jsonl", "a") as file:
        file.write('{"torn')
    again = RunFolder.open(folder.path)
    again.rewind("policy", 2)
    assert [(row["stage"], row["step"]) for row in again.metrics()] == [("sft", 9), ("policy", 1), ("policy", 2)]
    assert again.sample_steps("policy") == [1, 2]
    again.log("policy", 3, {"loss": 1.0})
    times = [row["time_s"] for row in again.metrics()]
    assert times == sorted(times)


# --- samples and summary ----------------------------------------------------------------------------------------------


def test_samples_come_back_as_they_were_written(folder: RunFolder) -> None:
    rows = [
        {"prompt": "p", "tokens": [1, 2], "logprobs": [-0.5, -1.0], "score": 1.0, "parts": {"a": 1.0}, "reason": ""},
        {"prompt": "q", "tokens": [], "logprobs": [], "score": None, "parts": {}, "reason": "timeout"},
    ]
    assert folder.save_samples("policy", 12, rows).name == "policy-000012.parquet"
    assert folder.read_samples("policy", 12) == rows
    assert folder.read_samples("policy", 13) == []


def test_samples_hold_columns_that_only_some_rows_have_and_text_that_no_file_can_hold(folder: RunFolder) -> None:
    folder.save_samples("evaluation", None, [{"text": "lone \ud800 half"}, {"text": "b", "gold": 1}, {"gold": 0.5}])
    assert folder.read_samples("evaluation") == [
        {"text": "lone ? half", "gold": None},
        {"text": "b", "gold": 1.0},
        {"text": None, "gold": 0.5},
    ]


@pytest.mark.parametrize("bad", [{"score": math.nan}, {"score": [0.0, math.inf]}, {"score": {"a": math.nan}}])
def test_samples_with_a_number_that_is_none_are_refused(folder: RunFolder, bad: dict[str, object]) -> None:
    with pytest.raises(Stopped, match=r"'score'|'a'"):
        folder.save_samples("policy", 1, [bad, {"score": None}])
    assert folder.sample_steps("policy") == []


def test_the_summary_leaves_out_what_does_not_apply_and_refuses_nan_by_key(folder: RunFolder) -> None:
    folder.write_summary({"status": "finished", "gold": None, "policy": {"win": 0.123456789, "n": 1234567}})
    assert folder.summary == {"status": "finished", "policy": {"win": 0.123457, "n": 1234567}}
    with pytest.raises(Stopped, match=r"policy\.ci\[1\]"):
        folder.write_summary({"policy": {"ci": [0.1, math.nan]}})
    assert folder.summary["status"] == "finished"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(folder: RunFolder) -> None:
    odd = torch.tensor([math.nan, -0.0, 1e-45, math.inf])
    folder.save_checkpoint(12, tensors(0.1) | {"odd": odd, "tied": odd}, {"rng": [1, 2], "beta": 0.1})
    found = folder.latest_checkpoint()
    assert found is not None
    assert (found.step, found.state) == (12, {"rng": [1, 2], "beta": 0.1})
    assert found.tensors["odd"].view(torch.int32).tolist() == odd.view(torch.int32).tolist()
    assert found.tensors["stream"].dtype == torch.uint8


def test_the_two_newest_checkpoints_are_kept(folder: RunFolder) -> None:
    assert folder.latest_checkpoint() is None
    for step in (1, 2, 3):
        folder.save_checkpoint(step, tensors(step), {"step": step})
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["update-000002", "update-000003"]


def test_a_run_that_went_on_from_an_earlier_update_drops_the_future_that_was_not(folder: RunFolder) -> None:
    for step in (4, 6):
        folder.save_checkpoint(step, tensors(step), {})
    folder.save_checkpoint(5, tensors(5), {})
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["update-000004", "update-000005"]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "a flipped bit in the tensors": lambda p: flip_a_bit(p / "state.safetensors"),
    "a flipped bit in the state": lambda p: flip_a_bit(p / "state.json"),
    "a cut file": lambda p: os.truncate(p / "state.safetensors", 40),
    "a missing file": lambda p: (p / "state.json").unlink(),
    "a missing manifest": lambda p: (p / "manifest.json").unlink(),
    "an empty manifest": lambda p: (p / "manifest.json").write_text(""),
    "a manifest of another shape": lambda p: (p / "manifest.json").write_text('{"files": {"state.json": {}}}'),
    "a file too many": lambda p: (p / "more.bin").touch(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    folder: RunFolder, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        folder.save_checkpoint(step, tensors(step), {"step": step})
    DAMAGES[kind](folder.checkpoints / "update-000002")
    found = folder.latest_checkpoint()
    assert found is not None
    assert (found.step, found.state["step"], found.tensors["weight"][0, 0].item()) == (1, 1, 1.0)
    assert "update-000002" in capsys.readouterr().err
    assert len(found.skipped) == 1


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_over_by_itself(folder: RunFolder) -> None:
    folder.save_checkpoint(1, tensors(1), {})
    flip_a_bit(folder.checkpoints / "update-000001" / "state.safetensors")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        folder.latest_checkpoint()


def test_a_state_that_is_no_json_is_refused_before_anything_is_written(folder: RunFolder) -> None:
    with pytest.raises(RlhfLoraError, match="not plain JSON"):
        folder.save_checkpoint(1, tensors(1), {"kl": math.nan})
    assert list(folder.checkpoints.iterdir()) == []


SAVE_AND_DIE = """
import os, shutil, signal, sys, torch
from rlhf_lora.run_folder import RunFolder

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

for path, module, name in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    if os.fork() == 0:
        setattr({"os": os, "shutil": shutil}[module], name, die)
        RunFolder.open(path).claim().save_checkpoint(3, {"weight": torch.ones(2)}, {"step": 3})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL, name
"""


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_saved_leaves_a_whole_one(tmp_path: Path) -> None:
    """SIGKILL in real processes: before anything is flushed, before the rename, before the oldest is dropped."""
    moments = {"fsync": ("os", 2), "rename": ("os", 2), "rmtree": ("shutil", 3)}
    arguments = []
    for moment, (module, _) in moments.items():
        folder = RunFolder.create(tmp_path / moment, CONFIG, {})
        for step in (1, 2):
            folder.save_checkpoint(step, tensors(step), {"step": step})
        arguments += [str(folder.path), module, moment]
    subprocess.run([sys.executable, "-W", "ignore", "-c", SAVE_AND_DIE, *arguments], check=True)
    for moment, (_, expected) in moments.items():
        left = RunFolder.open(tmp_path / moment).claim()
        found = left.latest_checkpoint()
        assert found is not None
        assert (found.step, found.state["step"]) == (expected, expected), moment
        assert not list(left.checkpoints.glob(".*")), moment
        left.release()


# --- folders that are there whole or not at all -----------------------------------------------------------------------


def test_a_folder_that_fails_halfway_leaves_the_old_one(tmp_path: Path) -> None:
    with staging(tmp_path / "adapter") as temp:
        (temp / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), staging(tmp_path / "adapter") as temp:  # noqa: PT012
        (temp / "a").write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "adapter" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_kill_between_the_two_renames_of_a_replacement_is_undone(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with staging(tmp_path / "adapter") as temp:
            (temp / "a").write_text(text)
    os.rename(tmp_path / "adapter", tmp_path / ".adapter.replaced")  # as the kill would leave it
    (tmp_path / ".adapter.staging-0123abcd").mkdir()
    assert settle(tmp_path) == ["adapter", "adapter"]
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    assert (tmp_path / "adapter" / "a").read_text() == "new"


def test_settling_leaves_other_peoples_hidden_files_alone(tmp_path: Path) -> None:
    for name in (".git", ".lock", ".a.staging", ".replaced", ".a.staging-xyz"):
        (tmp_path / name).mkdir()
    assert settle(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 5


def test_when_publishing_fails_the_old_folder_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("final", "temp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    rename = os.rename

    def fail_on_temp(source: Path, target: Path) -> None:
        if Path(source).name == "temp":
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_on_temp)
    with pytest.raises(OSError, match="disk gone"):
        publish(tmp_path / "temp", tmp_path / "final")
    assert (tmp_path / "final" / "a").read_text() == "final"


def test_a_manifest_covers_files_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_text(tmp_path / "deep" / "a.json", "{}")
    write_manifest(tmp_path)
    assert damage(tmp_path) is None
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["deep/a.json"]
    write_text(tmp_path / "deep" / "a.json", "[]")
    assert damage(tmp_path) == "deep/a.json has changed since it was written"
