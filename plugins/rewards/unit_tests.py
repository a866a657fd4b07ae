"""`reward=unit_tests`: runs the program in an answer against the tests of its row, in a sandbox (`docs/sandbox.md`)."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlhf_lora import sandbox
from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward

OPENS = re.compile(
    r"^[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?P<fence>`{3,}|~{3,})[ \t]*(?P<mark>[\w+-]*)(?P<more>[^\n]*)$"
)
"""A line that opens a block of code, within a list or not: three or more backticks or tildes, then the language."""


@reward("unit_tests")
class UnitTests:
    """Tests passed by the program in the answer, by the column `tests`, and `entry` where the row has one.

    Attributes:
        run_code: programs written by a model are run only when this is said to be true.
        sandbox: `namespace` = no network, no files, no way out; `none` = limits of time and memory alone.
        code: `fenced` = the last fenced Python block of the answer; `whole` = the answer.
        count: `share` = tests passed of all; `all` = 1 when every test passes, else 0.
        time_s: for all tests of one answer together.
        memory_mb: of each process.
        workers: answers tested at the same time.
    """

    run_code: bool = False
    sandbox: str = "namespace"
    code: str = "fenced"
    count: str = "share"
    time_s: float = 10.0
    memory_mb: int = 512
    workers: int = 2

    def __post_init__(self) -> None:
        choices = {"sandbox": ("namespace", "none"), "code": ("fenced", "whole"), "count": ("share", "all")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        for name, low in (("time_s", 0.1), ("memory_mb", 64), ("workers", 1)):
            if not low <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least {low:g}, got {getattr(self, name)!r}")
        self._check_allowed()

    def _check_allowed(self) -> None:
        """Refuse while a plan is made, not when the first answer comes."""
        if not self.run_code:
            raise ConfigError(
                "reward=unit_tests runs programs that a model wrote, which is off by default",
                where="reward.run_code=false", fix="read docs/sandbox.md, then add reward.run_code=true",
            )  # fmt: skip
        if sandbox.why_not():
            raise ConfigError(sandbox.why_not(), where="reward=unit_tests", fix="use a Linux machine, or a container")
        if self.sandbox == "namespace" and sandbox.why_no_namespace():
            raise ConfigError(
                f"there is no sandbox to be had here: {sandbox.why_no_namespace()}", where="reward.sandbox=namespace",
                fix="allow user namespaces (docs/sandbox.md), or inside a container that you can spare "
                "reward.sandbox=none: then a program can read, change and send what your user can",
            )  # fmt: skip

    def score(self, samples: Sequence[Sample], *, tests: Sequence[Any]) -> list[Score]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._one, samples, tests))

    def call_seconds(self, count: int) -> float:
        """When every program is endless: `workers` at a time, each with its time, and what two processes take to start."""
        return math.ceil(count / self.workers) * (sandbox.START_S + self.time_s + 1.0)

    def _one(self, sample: Sample, tests: Any) -> Score:
        entry = sample.columns.get("entry")
        entry = "" if entry is None else entry
        try:
            scripts = sandbox.split_tests(tests, entry)
        except sandbox.NoTests as error:
            return Score.none(str(error), kind="unreadable")
        program = program_in(sample.text) if self.code == "fenced" else sample.text
        if program is None or not program.strip():
            return Score(
                0.0,
                parts={"passed": 0, "total": sum(script.count for script in scripts)},
                reason="no program in the answer",
            )
        limits = sandbox.Limits(time_s=self.time_s, memory_mb=self.memory_mb)
        try:
            outcome = sandbox.run(program, scripts, entry, limits, jail=self.sandbox == "namespace")
        except sandbox.SandboxError as error:
            return Score.none(f"the sandbox could not start: {error}", kind="error")
        passed, total = sum(outcome.passed), len(outcome.passed)
        value = passed / total if self.count == "share" else float(passed == total)
        first = next((f"; test {i}: {why}" for i, why in enumerate(outcome.why) if why), "")
        return Score(value, parts={"passed": passed, "total": total}, reason=f"{passed} of {total} passed{first}")


def program_in(text: str) -> str | None:
    """The last fenced block marked as Python, or where none is, the last one without a mark."""
    blocks = list(_blocks(text))
    marked = [body for mark, body in blocks if mark in ("python", "py", "python3")]
    plain = [body for mark, body in blocks if not mark]
    found = marked or plain
    return found[-1] if found else None


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks, as Markdown has them: the language, and the lines less the indentation of the fence.

    A block ends with a line of the same character, at least as often; one that does not end is none.
    """
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        if opened is None:
            opened, lines = OPENS.match(line), []
            if opened and opened["fence"][0] == "`" and "`" in opened["more"]:
                opened = None  # code within a line
            continue
        fence, bare = opened["fence"], line.strip(" \t\r")
        if len(bare) >= len(fence) and not bare.strip(fence[0]):
            yield opened["mark"].lower(), _without_indent(lines, opened.start("fence"))
            opened = None
        else:
            lines.append(line)


def _without_indent(lines: Sequence[str], width: int) -> str:
    """The lines less `width` blanks, and less what is in common where the first still stands in from the margin."""
    bare = [line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines]
    first = next((line for line in bare if line.strip()), "")
    text = "".join(f"{line}\n" for line in bare)
    return textwrap.dedent(text) if first[:1] in (" ", "\t") else text
