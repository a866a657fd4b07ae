"""`reward=math_answer`: is the final answer the one that the dataset gives?"""

from __future__ import annotations

import importlib.util
import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward

from . import math_compare
from .math_text import LONGEST, clean, final_answer, plain_number, reference_answer

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context

LEFT_BEHIND_SECONDS = 5.0
"""How much longer than a comparison may take the process lives where nobody is left who would stop it."""
START_SECONDS = 60.0
"""How long the process that compares may take to start: it imports SymPy."""
RESTART_SECONDS = 3.0
"""How long that takes as a rule."""


@reward("math_answer")
class MathAnswer:
    """1 if the completion's final answer equals the one of the dataset, 0 if not or if it gives none.

    Both sides may write GSM8K's `#### 72`, `\\boxed{72}`, `<answer>72</answer>`, "the answer is 72", or end with a number;
    thousands commas, currency and units are read over, 50% is 0.5 (and 50), fractions and LaTeX are compared as
    mathematics (through math-verify: `pip install 'rlhf-lora[math]'`); "5 million" is 5000000. A row whose own answer
    cannot be read or is a guess (`2 hours 30 minutes`), or a comparison that takes too long, gives no score.

    Attributes:
        column: the dataset column that has the answer.
        seconds: how long one comparison of expressions may take. Plain numbers are compared at once.
    """

    column: str = "answer"
    seconds: float = 3.0

    def __post_init__(self) -> None:
        if not self.column.strip():
            raise ValueError("column is empty")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be above 0, got {self.seconds}")
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError(
                "reward=math_answer needs the package math-verify", where="reward=math_answer",
                fix="pip install 'rlhf-lora[math]'",
            )  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def open(self, ctx: Context | None = None) -> OpenMathAnswer:
        return OpenMathAnswer(self)

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Score]:
        opened = self.open()
        try:
            return opened.score(samples, **columns)
        finally:
            opened.close()


class OpenMathAnswer:
    """The reward at work: plain numbers are compared here, expressions in a process that can be stopped."""

    def __init__(self, settings: MathAnswer):
        self.settings, self.columns = settings, settings.columns
        self._process = ComparingProcess(settings.seconds)

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Score]:
        return [self._score(s.text, given) for s, given in zip(samples, columns[self.settings.column], strict=True)]

    def close(self) -> None:
        self._process.close()

    def call_seconds(self, count: int) -> float:
        """When every comparison is endless: each ends the process, which starts again for the next one."""
        return START_SECONDS + count * (self.settings.seconds + RESTART_SECONDS)

    def _score(self, text: str, given: Any) -> Score:
        reference = reference_answer(given)
        unreadable = Score.none(
            f"{self.settings.column}={str(given)[-80:]!r} has no one answer in it", kind="unreadable"
        )
        if reference is None or len(reference) > LONGEST:
            return unreadable
        answer = final_answer(text)
        if answer is not None and len(answer) > LONGEST:
            return Score(0.0, reason=f"the final answer has {len(answer)} characters; {LONGEST} are read")
        try:
            found = self._compare(reference, answer)
        except (TimeoutError, ComparisonFailed) as error:
            return Score.none(f"comparing {answer!r} with {reference!r}: {error}", kind="error")
        if found == "no_reference":
            return unreadable
        if answer is None:
            return Score(0.0, reason="no answer")
        if found == "no_answer":
            return Score(0.0, reason=f"{answer!r} is no mathematics")
        return Score(1.0) if found == "same" else Score(0.0, reason=f"{answer!r}, wanted {reference!r}")

    def _compare(self, reference: str, answer: str | None) -> str:
        """What `math_compare.compare` says. Plain numbers need no process: they are short and there is nothing to
        simplify, while `9^9^9^9` would never end."""
        wanted = plain_number(reference)
        found = None if answer is None else plain_number(answer)
        if wanted is not None and (answer is None or found is not None):
            return math_compare.compare(wanted, found)
        if wanted is not None and not re.search(r"[\d\\]", answer or ""):
            return "no_answer"  # words beside a number
        return self._process.compare(
            clean(reference) if wanted is None else wanted, None if answer is None else found or clean(answer)
        )


class ComparisonFailed(Exception):
    """Two expressions that SymPy could not compare. That says nothing about the answer."""


class ComparingProcess:
    """`math_compare` as a program, started when it is first needed and again after it had to be stopped."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def compare(self, reference: str, answer: str | None) -> str:
        """What `math_compare.compare` says.

        Raises:
            TimeoutError: it took too long, or the process is gone; it is stopped. ComparisonFailed: SymPy raised.
        """
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([reference, answer]) + "\n")
            self._process.stdin.flush()
        except OSError:
            self.close()
            raise TimeoutError("the process that compares ended") from None
        found = self._next(self.seconds)
        if found.startswith("failed: "):
            raise ComparisonFailed(found.removeprefix("failed: "))
        return found

    def close(self) -> None:
        """Stop the process, whatever it is at."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        pass

    def _start(self) -> None:
        # -P: beside the program lie modules called `random` and `length`, which must not be taken for Python's own
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(math_compare.__file__)), str(self.seconds + LEFT_BEHIND_SECONDS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the run, which ends at a checkpoint with every score of its update
        )  # fmt: skip
        self._lines = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True).start()
        self._next(START_SECONDS)

    def _next(self, seconds: float) -> str:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise TimeoutError(f"not done after {seconds:g} s") from None
        if not line:
            self.close()
            raise TimeoutError("the process that compares ended")
        answer: str = json.loads(line)
        return answer


def _read(pipe: Any, lines: queue.SimpleQueue[str]) -> None:
    """Lines of the process into a queue, which has a time limit on every platform; an empty one at the end."""
    try:
        for line in pipe:
            lines.put(line)
    except (OSError, ValueError):
        pass  # closed while it was read
    lines.put("")
