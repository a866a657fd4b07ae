"""A run that was killed, at any point, and started again is bit for bit the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.run_folder import RunFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SETTINGS = (
    "reward=orders_gold",
    "optimizer.kl_target=2.0",
    "optimizer.kl_horizon=500.0",
    "optimizer.prompts_per_update=6",
    "optimizer.minibatch_size=3",
    "optimizer.epochs=1",
    "rollout.max_new_tokens=5",
    "evaluation.prompts=3",
)


def command(base: Path, run: Path, *more: str) -> list[str]:
    return ["train", *overrides(base, run, *SETTINGS, *more)]


def in_child(arguments: list[str], prepare: Callable[[], None], log: Path) -> int:
    """Run the command line in a forked process; returns its exit code, negative when a signal killed it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            with open(log, "w") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                sys.stdout = sys.stderr = out
                prepare()
                code = cli.run(arguments)
        except BaseException as error:
            log.with_suffix(".error").write_text(repr(error))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def send(number: int, owner: Any, name: str, call: int, after: bool = False) -> None:
    """Send this process a signal at the n-th call of a function, before or after it."""
    original, calls = getattr(owner, name), iter(range(1, 10**6))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        due = next(calls) == call
        if due and not after:
            os.kill(os.getpid(), number)
        result = original(*args, **kwargs)
        if due and after:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, wrapped)


def figures(run: Path) -> dict[str, Any]:
    """Everything a run computed."""
    folder = RunFolder(run)
    summary = {k: v for k, v in folder.summary.items() if k not in ("seconds", "peak_memory_gib", "reused")}
    return {
        "adapters": {p.parent.name: p.read_bytes() for p in sorted(run.glob("adapters/*/adapter_model.safetensors"))},
        "metrics": [{k: v for k, v in row.items() if k != "time_s"} for row in folder.metrics()],
        "samples": {p.name: folder.read_samples(*name(p)) for p in sorted(run.glob("samples/*.parquet"))},
        "summary": summary,
        "checkpoint": max(run.glob("checkpoints/update-*/state.safetensors")).read_bytes(),
    }


def name(path: Path) -> tuple[str, int | None]:
    stage, _, step = path.stem.partition("-")
    return stage, int(step) if step else None


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in one:
        assert one[key] == other[key], f"{key} differ"


@pytest.fixture(scope="module")
def whole(tiny_base, tmp_path_factory) -> dict[str, Any]:
    """The run that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert cli.run(command(tiny_base, run)) == 0
    found = figures(run)
    assert len([row for row in found["metrics"] if row["stage"] == "policy"]) == 3
    assert found["adapters"].keys() == {"sft", "policy"}
    return found


BEST = ("evaluation.every=1", "evaluation.keep=best", "evaluation.metric=gold.score_mean", "checkpoint_every=2")


@pytest.fixture(scope="module")
def judged(tiny_base, tmp_path_factory) -> dict[str, Any]:
    """The run that was never stopped, judged midway, its best update kept."""
    run = tmp_path_factory.mktemp("judged") / "run"
    assert cli.run(command(tiny_base, run, *BEST)) == 0
    found = figures(run)
    assert [row["step"] for row in found["metrics"] if row["stage"] == "evaluation"] == [1, 2, 3]
    assert found["summary"]["best_update"] in (1, 2, 3)
    return found


def kills(run: str) -> dict[str, Callable[..., None]]:
    """Points of a run at which it can be killed: what is called there, the how-manieth time, before or after the call."""
    from rlhf_lora import checkpoints, evaluation, midway
    from rlhf_lora.backbone import Backbone
    from rlhf_lora.run_folder import RunFolder
    from rlhf_lora.stages.best import Best
    from rlhf_lora.stages.on_policy import OnPolicy
    from rlhf_lora.stages.update import Updater

    points: dict[str, dict[str, tuple[Any, str, int, bool]]] = {
        "whole": {
            "before the first rollout": (OnPolicy, "_measure_scales", 1, True),
            "after a rollout": (OnPolicy, "_look_back", 2, False),
            "in the middle of an update": (Updater, "_train_on", 3, True),
            "after a row of metrics": (RunFolder, "log", 4, True),
            "while samples are written": (RunFolder, "save_samples", 2, True),
            "while a checkpoint is written": (checkpoints, "write_manifest", 2, False),
            "after a checkpoint": (checkpoints, "save", 2, True),
            "while the adapter is written": (Backbone, "save_adapter", 1, True),
            "in the evaluation": (evaluation, "sequence_kl", 1, False),
        },
        "judged": {
            "in the first evaluation": (evaluation, "sequence_kl", 1, False),
            "when a best was found that no checkpoint knows": (Best, "offer", 1, True),
            "in the last evaluation": (midway, "evaluate_policy", 3, True),
            "after the checkpoint that knows the best": (checkpoints, "save", 1, True),
            "while the best adapter is written": (Backbone, "save_adapter", 1, True),
            "while the best is judged at the end": (evaluation, "sequence_kl", 4, False),
        },
    }
    return {name: partial(send, signal.SIGKILL, *point) for name, point in points[run].items()}


@pytest.mark.slow
@pytest.mark.parametrize(("run", "point"), [(run, point) for run in ("whole", "judged") for point in kills(run)])
def test_killed_and_started_again_is_bit_equal(run, point, request, tiny_base, tmp_path):
    arguments = command(tiny_base, tmp_path / "run", *(BEST if run == "judged" else ()))
    assert in_child(arguments, lambda: kills(run)[point](), tmp_path / "log") == -signal.SIGKILL
    assert RunFolder(tmp_path / "run").summary.get("status") != "finished"
    assert cli.run(arguments) == 0
    same(figures(tmp_path / "run"), request.getfixturevalue(run))


@pytest.mark.slow
def test_a_signal_while_the_best_is_judged_keeps_the_checkpoint_of_the_training(judged, tiny_base, tmp_path):
    from rlhf_lora import evaluation

    arguments = command(tiny_base, tmp_path / "run", *BEST)
    prepare = partial(send, signal.SIGTERM, evaluation, "evaluate_policy", 1)  # midway has it by another name
    assert in_child(arguments, prepare, tmp_path / "log") == 143
    assert RunFolder(tmp_path / "run").summary["status"] == "interrupted"
    assert cli.run(arguments) == 0
    same(figures(tmp_path / "run"), judged)


# --- stages before the policy -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "every_s",
    [pytest.param(300.0, id="from its start", marks=pytest.mark.slow), pytest.param(0.0, id="from its checkpoint")],
)
def test_killed_in_the_middle_of_sft_and_started_again_is_bit_equal(every_s, tiny_base, tmp_path):
    from rlhf_lora import trainer_checkpoints
    from rlhf_lora.stages import sft

    def prepare() -> None:
        trainer_checkpoints.EVERY_S = every_s
        send(signal.SIGKILL, sft.Trainer, "training_step", 3)

    more = ("cache=false", "sft.batch_size=4", "optimizer.updates=1")
    arguments = command(tiny_base, tmp_path / "run", *more)
    assert in_child(arguments, prepare, tmp_path / "log") == -signal.SIGKILL
    found = list((tmp_path / "run" / "checkpoints" / "sft").glob("checkpoint-*"))
    assert [p.name for p in found] == (["checkpoint-2"] if every_s == 0 else [])
    assert cli.run(arguments) == 0
    assert cli.run(command(tiny_base, tmp_path / "again", *more)) == 0
    same(figures(tmp_path / "run"), figures(tmp_path / "again"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_finishes_the_step_saves_and_leaves_with_its_code(number, code, whole, tiny_base, tmp_path):
    from rlhf_lora.stages.on_policy import OnPolicy

    arguments = command(tiny_base, tmp_path / "run", "checkpoint_every=100")
    assert in_child(arguments, lambda: send(number, OnPolicy, "_look_back", 2), tmp_path / "log") == code
    folder = RunFolder(tmp_path / "run")
    assert folder.summary["status"] == "interrupted"
    assert folder.latest_checkpoint().step == 2
    said = (tmp_path / "log").read_text()
    assert f"go on with: rlhf-lora train … run_dir={tmp_path / 'run'}" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "report.html").is_file()
    assert cli.run(arguments) == 0
    same(figures(tmp_path / "run"), whole)


@pytest.mark.slow
def test_a_signal_in_the_evaluation_leaves_it_to_the_next_start(whole, tiny_base, tmp_path):
    from rlhf_lora import evaluation

    arguments = command(tiny_base, tmp_path / "run")
    prepare = partial(send, signal.SIGTERM, evaluation, "evaluate_policy", 1)
    assert in_child(arguments, prepare, tmp_path / "log") == 143
    assert RunFolder(tmp_path / "run").summary["status"] == "interrupted"
    assert cli.run(arguments) == 0
    same(figures(tmp_path / "run"), whole)


@pytest.mark.slow
def test_a_signal_in_sft_saves_its_state_and_the_run_goes_on_from_there(tiny_base, tmp_path):
    from rlhf_lora.stages import sft

    more = ("cache=false", "sft.batch_size=4", "optimizer.updates=1")
    arguments = command(tiny_base, tmp_path / "run", *more)
    assert in_child(arguments, lambda: send(signal.SIGTERM, sft.Trainer, "training_step", 3), tmp_path / "log") == 143
    assert [p.name for p in (tmp_path / "run" / "checkpoints" / "sft").glob("checkpoint-*")] == ["checkpoint-3"]
    assert cli.run(arguments) == 0
    assert cli.run(command(tiny_base, tmp_path / "again", *more)) == 0
    one, other = (tmp_path / name / "adapters" / "sft" / "adapter_model.safetensors" for name in ("run", "again"))
    assert one.read_bytes() == other.read_bytes()
    rows = [
        [{k: v for k, v in r.items() if k != "time_s"} for r in RunFolder(tmp_path / n).metrics("sft")]
        for n in ("run", "again")
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "gone"))])
def test_with_its_newest_checkpoint_damaged_a_run_goes_on_from_the_one_before(
    damage, whole, tiny_base, tmp_path, capsys
):
    from rlhf_lora import checkpoints

    arguments = command(tiny_base, tmp_path / "run")
    in_child(arguments, lambda: send(signal.SIGKILL, checkpoints, "save", 2, True), tmp_path / "log")
    file = tmp_path / "run" / "checkpoints" / "update-000002" / "state.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[:-10])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    assert cli.run(arguments) == 0
    assert "update-000002" in capsys.readouterr().err  # it is told
    same(figures(tmp_path / "run"), whole)


@pytest.mark.slow
def test_with_every_checkpoint_damaged_a_run_does_not_start_over(tiny_base, tmp_path, capsys):
    from rlhf_lora import checkpoints

    arguments = command(tiny_base, tmp_path / "run")
    in_child(arguments, lambda: send(signal.SIGKILL, checkpoints, "save", 2, True), tmp_path / "log")
    for file in (tmp_path / "run" / "checkpoints").glob("update-*/state.safetensors"):
        file.write_bytes(b"")
    assert cli.run(arguments) == 2
    assert "every checkpoint is damaged" in capsys.readouterr().err
    assert len(list((tmp_path / "run" / "checkpoints").glob("update-*"))) == 2  # nothing was thrown away
    assert (tmp_path / "run" / "adapters" / "sft").is_dir()


# --- a folder that holds a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert cli.run(command(tiny_base, run, "optimizer.updates=1")) == 0
    return run


def state_of(run: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(run)): (p.stat().st_mtime_ns, p.read_bytes()) for p in run.rglob("*") if p.is_file()}


def test_a_finished_run_again_prints_its_path_and_writes_nothing(finished, tiny_base, capsys):
    before = state_of(finished)
    assert cli.run(command(tiny_base, finished, "optimizer.updates=1")) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(finished)
    assert "finished before" in captured.err
    assert state_of(finished) == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["optimizer.beta=0.07"], "optimizer.beta 0.05 → 0.07"),
        (["seed=3"], "seed 0 → 3"),
        (["resume=never"], "is a run already"),
        (["reward=length"], "reward.name orders_gold → length"),
        (["optimizer.updates=2"], "optimizer.updates 1 → 2"),
    ],
)
def test_another_configuration_on_a_run_folder_is_refused_with_the_difference(more, told, finished, tiny_base, capsys):
    before = state_of(finished)
    assert cli.run(command(tiny_base, finished, "optimizer.updates=1", *more)) == 2
    assert told in capsys.readouterr().err
    assert state_of(finished) == before


@pytest.mark.parametrize("more", ["cache=false", "resume=auto"])
def test_settings_that_change_no_result_do_not_make_another_run(more, finished, tiny_base):
    assert cli.run(command(tiny_base, finished, "optimizer.updates=1", more)) == 0


@pytest.mark.slow
def test_what_the_settings_point_at_may_not_change_under_a_run(tiny_base, tmp_path, capsys):
    plugin, data = tmp_path / "mine.py", tmp_path / "data.jsonl"
    text = "from rlhf_lora import reward\n@reward('mine')\ndef mine(samples):\n    return [{} for _ in samples]\n"
    rows = [json.dumps({"prompt": f"please bring tea {i}", "completion": "tea"}) for i in range(80)]
    plugin.write_text(text.format(1.0))
    data.write_text("\n".join(rows))
    arguments = [
        "train", "dataset=jsonl", f"dataset.path={data}", f"model.path={tiny_base}", f"plugins=[{plugin}]", "reward=mine",
        "optimizer.updates=1", "optimizer.prompts_per_update=4", "optimizer.minibatch_size=4", "rollout.max_new_tokens=4",
        f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    plugin.write_text(text.format(2.0))
    assert cli.run(arguments) == 2
    assert "the plugin reward=mine changed since" in capsys.readouterr().err
    plugin.write_text(text.format(1.0))
    data.write_text("\n".join(rows[:-1]))
    assert cli.run(arguments) == 2
    assert "the data changed since" in capsys.readouterr().err
    data.write_text("\n".join(rows))
    assert cli.run(arguments) == 0


@pytest.mark.slow
def test_an_interrupted_run_survives_a_start_that_is_refused(tiny_base, tmp_path, monkeypatch, capsys):
    # No record yet, but an SFT checkpoint: what a run made is never thrown away because the machine is not right.
    from rlhf_lora import pipeline, trainer_checkpoints
    from rlhf_lora.errors import ConfigError
    from rlhf_lora.stages import sft

    def prepare() -> None:
        trainer_checkpoints.EVERY_S = 0.0
        send(signal.SIGKILL, sft.Trainer, "training_step", 3)

    arguments = command(tiny_base, tmp_path / "run", "cache=false", "sft.batch_size=4")
    assert in_child(arguments, prepare, tmp_path / "log") == -signal.SIGKILL

    def no_card(self: Any) -> None:
        raise ConfigError("torch finds no CUDA card", where="hardware.device=cuda", fix="…")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.Run, "_prepare", no_card)
        assert cli.run(arguments) == 2
    assert [p.name for p in (tmp_path / "run" / "checkpoints" / "sft").glob("checkpoint-*")] == ["checkpoint-2"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_two_processes_do_not_write_to_one_run(finished, tiny_base, tmp_path, capsys):
    from rlhf_lora.stages.on_policy import OnPolicy

    arguments = command(tiny_base, tmp_path / "run")
    in_child(arguments, lambda: send(signal.SIGKILL, OnPolicy, "_look_back", 1), tmp_path / "log")
    holder = RunFolder(tmp_path / "run").claim()
    try:
        assert cli.run(arguments) == 2
        assert "another process is writing" in capsys.readouterr().err
    finally:
        holder.release()
    assert cli.run(arguments) == 0


@pytest.mark.slow
def test_killed_from_outside_and_started_in_a_new_process_is_bit_equal(whole, tiny_base, tmp_path):
    # Fresh processes: nothing that an interpreter brings along (hash seeds, import order) has a say.
    arguments = [sys.executable, "-m", "rlhf_lora", *command(tiny_base, tmp_path / "run")]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        file = tmp_path / "run" / "metrics.jsonl"
        if file.is_file() and '"step": 1, ' in file.read_text().partition('"policy"')[2]:
            process.kill()
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "run")
    same(figures(tmp_path / "run"), whole)
