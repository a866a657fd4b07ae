"""The folder of a sweep and its jobs: which job is which, what became of each, and a child process for one.

sweep.json     the jobs by number: key (configuration and inputs), overrides, exit code, last words
0/ 1/ …        their run folders, and 0.log, 1.log, … what they said
summary.json   the figures of all jobs; sweep.html shows them

A job is known by its configuration, never by its number: the same sweep again finds its jobs, a changed one adds to them.
A child process each, because what a job leaves behind in a process (CUDA memory, a W&B run) must not reach the next.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lora import progress
from rlhf_lora.atomic import write_text
from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.interrupts import Interrupts
from rlhf_lora.plain import plain
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.taking_up import NOT_COMPARED

LEDGER = "sweep.json"
OURS = re.compile(r"\d+|\d+\.log|sweep\.(json|html)|summary\.json|optuna\.journal.*|\..*")
GRACE_S = 20.0
"""After a second Ctrl-C: how long a child may take to leave."""


@dataclass
class Job:
    """One run of a sweep.

    Attributes:
        key: names its configuration and inputs.
        overrides: all of them but run_dir. changes: those that the sweep varies.
        exit_code: of its last process; None while it has not ended.
        error: its last words, when it failed.
    """

    number: int
    key: str
    overrides: list[str]
    changes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    error: str = ""
    seconds: float = 0.0


def key_of(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The name of a configuration with what it points at: equal for the plan and for the run folder it made."""
    compared = {k: v for k, v in plain(config, keep_none=True).items() if k not in NOT_COMPARED}
    return hashlib.sha256(json.dumps([compared, dict(inputs)], sort_keys=True).encode()).hexdigest()[:20]


class SweepFolder:
    """A sweep on disk. Making one writes nothing; `claim` does.

    Raises:
        ConfigError: the folder holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.jobs: dict[str, Job] = {}
        self._lock: Any = None
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file", where=f"run_dir={path}", fix="give a folder that is new or empty")
        if (path / "config.yaml").exists():
            raise ConfigError(f"{path} is a single run", where=f"run_dir={path}", fix="give a sweep another run_dir")
        foreign = sorted(p.name for p in path.glob("*") if not OURS.fullmatch(p.name))
        if foreign and not (path / LEDGER).exists():
            raise ConfigError(
                f"{path} holds other files: {', '.join(foreign[:3])}",
                where=f"run_dir={path}",
                fix="give a folder that is new or empty",
            )
        self._read()

    def _read(self) -> None:
        if (self.path / LEDGER).is_file():
            try:
                found = json.loads((self.path / LEDGER).read_text("utf-8"))["jobs"]
                self.jobs = {job["key"]: Job(**job) for job in found}
            except (ValueError, LookupError, TypeError) as error:
                raise ConfigError(
                    f"{LEDGER} cannot be read: {error}",
                    where=str(self.path / LEDGER),
                    fix="delete it: jobs are found by their folders",
                ) from error
        known = {job.number for job in self.jobs.values()}
        for number in sorted(self._numbers() - known):
            folder = RunFolder(self.path / str(number))
            if (folder.path / "config.yaml").is_file():
                key = key_of(folder.config, folder.versions.get("inputs", {}))
                self.jobs.setdefault(key, Job(number, key, []))

    def _numbers(self) -> set[int]:
        """Numbers in use, by a folder or a log."""
        return {int(p.stem) for p in self.path.glob("*") if p.stem.isdigit() and p.suffix in ("", ".log")}

    def claim(self) -> None:
        """Be the one sweep that works here.

        Raises:
            ConfigError: another one does.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"another sweep works in {self.path}",
                where=f"run_dir={self.path}",
                fix="wait for it to end, or give another run_dir",
            ) from None
        self._read()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def job(self, key: str, overrides: Sequence[str], changes: Mapping[str, str]) -> Job:
        """The job of a configuration: the one that is there, or a new one with the next number."""
        if key not in self.jobs:
            used = self._numbers() | {job.number for job in self.jobs.values()}
            self.jobs[key] = Job(max(used, default=-1) + 1, key, list(overrides))
        job = self.jobs[key]
        job.overrides, job.changes = list(overrides), dict(changes)
        return job

    def save(self) -> None:
        jobs = sorted(self.jobs.values(), key=lambda job: job.number)
        write_text(self.path / LEDGER, json.dumps({"jobs": [asdict(job) for job in jobs]}, indent=1) + "\n")

    # --- what became of a job -----------------------------------------------------------------------------------------

    def run_dir(self, job: Job) -> Path:
        return self.path / str(job.number)

    def log(self, job: Job) -> Path:
        return self.path / f"{job.number}.log"

    def summary(self, job: Job) -> dict[str, Any]:
        return RunFolder(self.run_dir(job)).summary

    def is_finished(self, job: Job) -> bool:
        return self.summary(job).get("status") == "finished"

    def status(self, job: Job) -> str:
        """`finished`, `out of memory`, `failed`, `interrupted` or `waiting`. The run folder has the first word."""
        if self.is_finished(job):
            return "finished"
        if job.exit_code is None:
            return "interrupted" if (self.run_dir(job) / "config.yaml").exists() else "waiting"
        if job.exit_code in (130, 143):
            return "interrupted"
        return "out of memory" if "out of memory" in job.error.lower() else "failed"


def run(folder: SweepFolder, job: Job, asked: Interrupts, more: Sequence[str] = ()) -> None:
    """Run a job to its end in a process of its own, and note what became of it."""
    run_dir = folder.run_dir(job)
    _wait_until_free(run_dir, asked)
    if asked.number or folder.is_finished(job):
        return
    command = [sys.executable, "-m", "rlhf_lora", "train", *more, *job.overrides, f"run_dir={quoted(str(run_dir))}"]
    job.exit_code, job.error, started = None, "", time.monotonic()
    folder.save()
    start = folder.log(job).stat().st_size if folder.log(job).exists() else 0
    code = launch(command, folder.log(job), asked)
    job.seconds += round(time.monotonic() - started, 3)
    job.exit_code = 128 - code if code < 0 else code
    if asked.number and job.exit_code in (130, 143):
        job.exit_code = None  # it left because we asked it to
    elif job.exit_code == 0 and not folder.is_finished(job):
        job.exit_code, job.error = 1, "it ended without a summary"
    elif job.exit_code:
        job.error = _last_words(folder.log(job), start, code)
    folder.save()


def launch(command: Sequence[str], log: Path, asked: Interrupts) -> int:
    """Run a command with its output in `log`; hand a signal that we were sent on to it, once.

    Returns:
        Its exit code; minus the number of the signal that killed it.
    """
    with log.open("ab") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **apart())
        try:
            told = False
            while True:
                try:
                    return child.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    pass
                if asked.number and not told:
                    child.send_signal(request_to_leave(asked.number))
                    told = True
        except BaseException:  # asked twice: not one process may outlive us
            child.terminate()
            try:
                child.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise


def apart() -> dict[str, Any]:
    """A session of its own: Ctrl-C in a terminal reaches every process of ours, and a second signal means "at once"."""
    if sys.platform == "win32":
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP")}  # noqa: B009 - not on other systems
    return {"start_new_session": True}


def request_to_leave(number: int) -> int:
    """What a child is sent: on Windows Ctrl-Break, for there every other signal ends a process at once."""
    return int(getattr(signal, "CTRL_BREAK_EVENT", number)) if sys.platform == "win32" else number


def _wait_until_free(run_dir: Path, asked: Interrupts) -> None:
    """The sweep was killed and its job was not: let that one end."""
    told = False
    while (run_dir / "config.yaml").is_file() and not asked.number:
        folder = RunFolder(run_dir)
        try:
            folder.claim()
        except UserError:
            if not told:
                progress.stage(f"waiting for {run_dir}", "an earlier sweep's process still works on it")
            told = True
            time.sleep(1.0)
            continue
        folder.release()
        return


def _last_words(log: Path, start: int, code: int) -> str:
    """Why a job failed, from what it said: our own message, else the last line."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 20_000, 0))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"killed by {name}" + (": out of memory, if nobody sent it" if -code == 9 else "")
    ours = [line.removeprefix("rlhf-lora: ") for line in lines if line.startswith("rlhf-lora: ")]
    memory = [line for line in lines if "out of memory" in line.lower()]
    return ([*memory[-1:], *ours[-1:], *lines[-1:]] or ["it said nothing"])[0][:300]


def quoted(value: str) -> str:
    """A value in Hydra's syntax, in quotes when it needs them."""
    if re.fullmatch(r"[\w./:\\+@%-]+", value):
        return value
    return "'" + value.replace("'", "\\'") + "'"
