"""Rows that are expensive to make (a judge's answers, samples, revisions), each on disk as soon as it is there.

One JSON object a line, appended and flushed to the disk before the next is asked for. A kill may cut the last line; that
line is taken off when the file is read again, and what it held is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.errors import DataError


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
            fix="delete the line: what it held is made again",
        )
