"""Run a program that nobody has read against tests, so that it can neither do harm nor pass by a trick.

Two processes: one runs the program (`answer.py`), the other the tests (`tests.py`), each in namespaces
of its own with limits and a jail (`jail.py`). Only plain values pass between them, and only the process of the
tests has the pipe on which results come. What this prevents and what it does not: `docs/sandbox.md`. Linux only.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from rlhf_lora.sandbox.script import NoTests, Script, split_tests

__all__ = [
    "Limits",
    "NoTests",
    "Outcome",
    "SandboxError",
    "Script",
    "run",
    "split_tests",
    "why_no_namespace",
    "why_not",
]

START_S = 30.0
"""How long two interpreters may take to start on a busy machine. The program's own time counts from then on."""
MAX_RESULT_BYTES = 1 << 20
INSIDE = Path(__file__).with_name("inside.py")
USERS = range(0x70000000, 0x78000000)
"""User numbers that nobody has. Run by root, each process takes one of them at random: what the kernel counts or keeps per
user (processes, keys) is then its own."""


class SandboxError(Exception):
    """The sandbox itself failed; nothing can be said of the program."""


@dataclass(frozen=True)
class Limits:
    """What a program may use. `time_s` is wall-clock time for all tests of one program together."""

    time_s: float = 10.0
    memory_mb: int = 512
    file_mb: int = 1
    scratch_mb: int = 16
    open_files: int = 32
    processes: int = 8

    def rlimits(self) -> dict[str, int]:
        megabyte = 1 << 20
        return {
            "CPU": math.ceil(self.time_s) + 1, "AS": self.memory_mb * megabyte, "FSIZE": self.file_mb * megabyte,
            "NOFILE": self.open_files, "NPROC": self.processes, "CORE": 0,
        }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Which tests passed, and why the others did not."""

    passed: Sequence[bool]
    why: Sequence[str] = field(default=())


# --- is there a sandbox -----------------------------------------------------------------------------------------------


def why_not() -> str:
    """Why programs cannot be run here at all; empty when they can."""
    return "" if sys.platform == "linux" else f"running programs needs Linux, this is {sys.platform}"


@cache
def why_no_namespace() -> str:
    """Why there are no namespaces to be had here; empty when there are. Tries it once, about 0.3 s."""
    if why_not():
        return why_not()
    if shutil.which("unshare") is None:
        return "the command `unshare` (util-linux) is not installed"
    try:
        outcome = run("def one(): return 1", ["assert one() == 1"], jail=True)
    except SandboxError as error:
        return str(error)
    return "" if list(outcome.passed) == [True] else f"a program that is right did not pass: {outcome.why}"


def _wrapped(jail: bool) -> list[str]:
    """The command that starts an interpreter, inside new namespaces when asked for.

    Root of the whole machine needs no user namespace, and becomes a user that nobody is. Anyone else gets one.
    """
    python = [sys.executable, "-I", "-S", str(INSIDE)]
    if not jail:
        return python
    everybody = Path("/proc/self/uid_map").read_text("ascii").split() == ["0", "0", "4294967295"]
    user = [] if os.geteuid() == 0 and everybody else ["--user", "--map-root-user"]
    unshare = shutil.which("unshare") or "unshare"
    return [unshare, *user, "--net", "--ipc", "--uts", "--mount", "--pid", "--fork", "--kill-child", *python]


# --- running ----------------------------------------------------------------------------------------------------------


def run(
    code: str, tests: Sequence[str | Script], entry: str = "", limits: Limits | None = None, *, jail: bool = True
) -> Outcome:
    """Run a program against tests that `split_tests` gave; a text is a script that is one test.

    Args:
        jail: with namespaces and a jail. Without, a program can read and change what its user can.

    Raises:
        SandboxError: it could not be started; says nothing of the program.
    """
    limits = limits or Limits()
    common = {
        "jail": jail, "limits": limits.rlimits(), "scratch_mb": limits.scratch_mb, "python_lib": _library(),
        "backstop_s": START_S + limits.time_s + 5,
    }  # fmt: skip
    scripts = [Script(test) if isinstance(test, str) else test for test in tests]
    count = sum(script.count for script in scripts)
    lines: list[dict[str, Any]] = []
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            answer, _ = stack.enter_context(_process("answer", {**common, "code": code}, theirs, jail))
            job = {**common, "tests": [asdict(script) for script in scripts], "entry": entry}
            grader, said = stack.enter_context(_process("tests", job, ours, jail))
        lines += _read(grader, START_S, 1)
        if not lines or not lines[0].get("ready"):
            raise SandboxError(_why_not_started(lines, answer, grader, said))
        lines += _read(grader, limits.time_s, count)
    return _outcome(lines[1:], count, limits)


def _outcome(lines: Sequence[dict[str, Any]], count: int, limits: Limits) -> Outcome:
    broken = next((line["broken"] for line in lines if "broken" in line), "")
    results = {line["test"]: line for line in lines if "test" in line}
    late = broken or f"not reached within {limits.time_s:g} s"
    passed = [bool(results.get(i, {}).get("ok")) for i in range(count)]
    why = ["" if ok else results.get(i, {}).get("why", late) for i, ok in enumerate(passed)]
    return Outcome(passed, why)


@contextmanager
def _process(
    role: str, job: Any, connection: socket.socket, jail: bool
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start one of the two; at the end it and all that it started are killed.

    Yields:
        the process, and a file with what it wrote to stderr before the program or the tests were loaded.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr, tempfile.TemporaryDirectory() as folder:
        stdin.write(json.dumps({**job, "user": secrets.choice(USERS)}).encode())
        stdin.seek(0)
        number = connection.fileno()
        try:
            process = subprocess.Popen(
                [*_wrapped(jail), role, str(number)], stdin=stdin, stderr=stderr, env={}, cwd=folder,
                stdout=subprocess.PIPE if role == "tests" else subprocess.DEVNULL,
                start_new_session=True, pass_fds=[number], close_fds=True,
            )  # fmt: skip
        except OSError as error:
            raise SandboxError(f"cannot start: {error}") from error
        try:
            yield process, stderr
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group; with namespaces, the death of the first process inside takes along whoever left the group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read(process: subprocess.Popen[bytes], seconds: float, count: int) -> list[dict[str, Any]]:
    """Up to `count` lines of results, as long as they come within the time."""
    assert process.stdout is not None
    deadline, data, number = time.monotonic() + seconds, b"", process.stdout.fileno()
    while data.count(b"\n") < count and len(data) < MAX_RESULT_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([number], [], [], left)[0]:
            break
        # the first line alone, so that the next call finds all the others
        more = os.read(number, 1 if count == 1 else 65536)
        if not more:
            break
        data += more
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def _why_not_started(lines: Sequence[dict[str, Any]], answer: Any, grader: Any, said: IO[bytes]) -> str:
    said.seek(0)
    last = said.read(20_000).decode("utf-8", "replace").strip().splitlines()[-1:]
    told = [line["failed"] for line in lines if "failed" in line]
    return "; ".join(last or told or [f"no sign of life within {START_S:g} s"])


def _library() -> str:
    """The folder above the standard library, where the interpreter's own shared libraries lie as well."""
    return str(Path(sysconfig.get_path("stdlib")).resolve().parent)
