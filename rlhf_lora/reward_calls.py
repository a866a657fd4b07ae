"""Calling a reward so that whatever it does ends in scores or in one sentence.

call              one call, here and now
WithDeadline      the same in a thread, given up after a time: what hangs cannot be killed, so it is not asked again
Worker            the same in a process of its own, killed after a time and begun again: a plugin of a file may hang, exit
                  or crash, and the run goes on
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from rlhf_lora import doors, registry
from rlhf_lora.errors import ContractError, Stopped, raised_at
from rlhf_lora.records import Sample, Score
from rlhf_lora.scores import check_scores, given_by, score_of_plain

T = TypeVar("T")
Columns = Mapping[str, Sequence[Any]]
SHOWN_LINES = 200
"""Lines of a worker's own output that are passed on; more is left out, and said so once."""
START = 60.0
"""Seconds that a worker has to import its plugin."""


class Failed(Exception):
    """A call that gave no scores, in words.

    Attributes:
        hangs: it did not come back: asking again about parts of the batch would only take as long again.
        usable: the source can be asked again.
    """

    def __init__(self, what: str, *, hangs: bool = False, usable: bool = True):
        super().__init__(what)
        self.hangs, self.usable = hangs, usable


def ask(source: Any, samples: Sequence[Sample], columns: Columns, name: str) -> list[Score]:
    """Scores of copies of the samples, whether `score` is a plain or an async method.

    Raises:
        Failed: it raised, or asked Python to exit. ContractError: what it gave is no list of scores. Stopped: it says that
            nothing more can be had of it.
    """
    copies = [
        replace(sample, columns=copy.deepcopy(dict(sample.columns)), messages=copy.deepcopy(sample.messages))
        for sample in samples
    ]
    try:
        given = given_by(source, copies, copy.deepcopy(dict(columns)))
    except (ContractError, Failed, Stopped):
        raise
    except (Exception, SystemExit) as error:
        raise Failed(f"raised {type(error).__name__}: {error}{raised_at(error)}") from error
    return check_scores(given, len(samples), name)


def within(deadline: float, ask_it: Callable[[], T], name: str) -> T:
    """What `ask_it` gives or raises, in a thread that is given up after `deadline` seconds.

    Raises:
        Failed: it did not come back. It hangs on in its thread, so it is not asked again.
    """
    came: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            came.put((ask_it(), None))
        except BaseException as error:
            came.put((None, error))

    threading.Thread(target=work, daemon=True, name=f"reward {name}").start()
    try:
        given, error = came.get(timeout=deadline)
    except queue.Empty:
        raise Failed(_too_long(deadline), hangs=True, usable=False) from None
    if error is not None:
        raise error
    return cast(T, given)


def call_seconds(source: Any, count: int) -> float:
    """What a source says that a call with `count` samples may take at most by its own limits; 0 when it says nothing.

    A source that ends each of its parts by itself (one program, one formula) is not hanging while it works through a
    batch of them: its deadline is the longer of this and `scoring.deadline`.
    """
    told = getattr(source, "call_seconds", None)
    return float(told(count)) if callable(told) else 0.0


class Direct:
    """A source that is called in the main thread, without a deadline: it computes on the backbone's device."""

    def __init__(self, source: Any, name: str):
        self.source, self.name = source, name

    def __call__(self, samples: Sequence[Sample], columns: Columns) -> list[Score]:
        return ask(self.source, samples, columns, self.name)

    def close(self) -> None:
        close = getattr(self.source, "close", None)
        if callable(close):
            close()


class WithDeadline(Direct):
    """The same in a thread."""

    def __init__(self, source: Any, name: str, deadline: float):
        super().__init__(source, name)
        self.deadline = deadline

    def __call__(self, samples: Sequence[Sample], columns: Columns) -> list[Score]:
        seconds = max(self.deadline, call_seconds(self.source, len(samples)))
        return within(seconds, lambda: ask(self.source, samples, columns, self.name), self.name)


class Worker:
    """The same in a process of its own.

    Args:
        reward: the configuration that `registry.build` takes. plugins: the files to load first.
        context: seed, cache_dir and run_dir, for a plugin with `open`.
        source: the same reward in this process, asked for its `call_seconds` alone.
    """

    def __init__(
        self, reward: Mapping[str, Any], plugins: Sequence[Path], name: str, deadline: float | None,
        context: Mapping[str, Any], source: Any = None,
    ):  # fmt: skip
        self.name, self.deadline, self.source = name, deadline, source
        self.begin = {"name": name, "reward": dict(reward), "plugins": [str(file) for file in plugins], **context}
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._shown = 0

    def __call__(self, samples: Sequence[Sample], columns: Columns) -> list[Score]:
        """As `ask`.

        Raises:
            Failed: likewise, or the process hung or ended. ContractError: likewise, or a column that JSON cannot hold.
        """
        try:
            asked = json.dumps({"samples": [_plain(sample) for sample in samples], "columns": dict(columns)})
        except (TypeError, ValueError) as error:
            raise ContractError(
                f"the columns for the reward '{self.name}' cannot be handed to its process: {error}\n"
                "  to do: scoring.process=never runs it in this process"
            ) from error
        if self._process is None:
            self._start()
        deadline = self.deadline and max(self.deadline, call_seconds(self.source, len(samples)))
        answer = self._ask(asked, deadline)
        if "broken" in answer:
            raise ContractError(answer["broken"])
        if "failed" in answer:
            raise Failed(answer["failed"])
        return [score_of_plain(score) for score in answer["scores"]]

    def _start(self) -> None:
        self._answers = queue.Queue()
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_lora.reward_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip  # a session of its own: Ctrl-C is the run's to handle
        threading.Thread(target=self._read, args=(process, self._answers), daemon=True).start()
        threading.Thread(target=self._pass_on, args=(process,), daemon=True).start()
        answer = self._ask(json.dumps(self.begin), START)
        if "failed" in answer:
            self.close()
            raise ContractError(f"the reward '{self.name}' does not start: {answer['failed']}")

    def _ask(self, line: str, deadline: float | None) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):  # it ended already: the queue says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=deadline)
        except queue.Empty:
            self._kill()
            raise Failed(_too_long(deadline), hangs=True) from None
        if answer is None:
            code = self._process.wait()
            self._kill()
            how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise Failed(f"{how} in the middle of a call")
        return dict(json.loads(answer))

    @staticmethod
    def _read(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in process.stdout:
                answers.put(line)
        answers.put(None)

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        """What the plugin prints goes to stderr, as it would from this process; but not megabytes of it."""
        assert process.stderr is not None
        with contextlib.suppress(ValueError, OSError):
            while text := process.stderr.readline(2000):
                self._shown += 1
                if self._shown <= SHOWN_LINES:
                    sys.stderr.write(text if text.endswith("\n") else text + "\n")
                elif self._shown == SHOWN_LINES + 1:
                    print(f"(what the reward '{self.name}' prints from here on is not shown)", file=sys.stderr)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def close(self) -> None:
        self._kill()


def in_worker(reward: Any, name: str, deadline: float | None, context: Mapping[str, Any]) -> Worker | None:
    """A worker for a reward that stands in a plugin file, scores, and needs no backbone, so can live apart; else None."""
    file = doors.file_of(type(reward).__module__)
    if file is None or callable(getattr(reward, "open", None)) or not callable(getattr(reward, "score", None)):
        return None
    return Worker(registry.to_config(reward), [file], name, deadline, context, reward)


def _plain(sample: Sample) -> dict[str, Any]:
    plain = asdict(sample)
    for name in ("tokens", "logprobs"):
        plain[name] = None if plain[name] is None else list(plain[name])
    return plain


def _too_long(deadline: float | None) -> str:
    return f"gave no answer within {deadline:g} s (scoring.deadline)"
