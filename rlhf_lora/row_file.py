"""Rows that are expensive to make (a judge's answers, samples, revisions), each on disk as soon as it is there.

One JSON object a line, appended and flushed to the disk before the next is asked for. A kill may cut the last line; that
line is taken off when the file is read again, and what it held is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora import progress
from rlhf_lora.errors import DataError, Interrupted


class RowFile:
    """A JSONL file that one process appends to."""

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, in order; none while there is no file.

        Raises:
            DataError: a line that is not the last one cannot be read.
        """
        if not self.path.is_file():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return [self._row(line, number) for number, line in enumerate(whole.splitlines(), 1)]

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows at the end; they are on the disk when this returns."""
        if not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with open(self.path, "ab") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())

    def keep(self, count: int) -> list[dict[str, Any]]:
        """The first `count` rows; those behind them leave the file."""
        rows = self.rows()
        if len(rows) > count:
            lines = self.path.read_bytes().splitlines(keepends=True)
            os.truncate(self.path, sum(map(len, lines[:count])))
        return rows[:count]

    def fill(
        self, count: int, at_once: int, make: Callable[[range], Sequence[dict[str, Any]]], what: str,
        interrupted: Callable[[], int | None] = lambda: None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The first `count` rows, those that are not there made `at_once` at a time. A portion that a kill cut is made anew as
        a whole: what depends on its place among the others is then the same as if nothing had happened.

        Args:
            make: places of rows → these rows. what: they are, in the plural.

        Raises:
            Interrupted: a signal came. Finished portions are in the file.
        """
        there = len(self.rows())
        rows = self.keep(there if there >= count else there - there % at_once)
        with progress.Progress(what, count, start=len(rows)) as bar:
            for start in range(len(rows), count, at_once):
                leave_if(interrupted, f"the {what} so far are kept")
                made = make(range(start, min(start + at_once, count)))
                self.append(made)
                rows += made
                bar.update(len(made))
        return rows[:count]

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            if isinstance(row, dict):
                return row
        except ValueError:
            pass
        raise DataError(
            "a row cannot be read",
            where=f"{self.path}, line {number}",
            fix="delete it and all lines behind it: what they held is made again",
        )


def leave_if(interrupted: Callable[[], int | None], kept: str) -> None:
    """Raises Interrupted where a signal asked the run to stop. `kept`: what is not lost, as a sentence."""
    if (number := interrupted()) is not None:
        raise Interrupted(number, f"interrupted; {kept}")
