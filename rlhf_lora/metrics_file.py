"""`metrics.jsonl`: one flat row a step, of finite numbers, that outlives a kill in the middle of a line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.atomic import write_text
from rlhf_lora.errors import Stopped, UserError
from rlhf_lora.plain import finite_number

_RESERVED = ("stage", "step", "time_s")


class MetricsFile:
    """Rows of stage, step, time_s (seconds at work, over all processes that wrote here), then names."""

    def __init__(self, path: Path):
        self.path = path
        self._started: float | None = None

    def append(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row. It survives the kill of this process.

        Raises:
            Stopped: a value is not a finite number; nothing is written.
        """
        if self._started is None:
            self._start_clock(self._read(cut_torn=True))
        elapsed_s = time.monotonic() - (self._started or 0.0)
        row: dict[str, Any] = {"stage": stage, "step": int(step), "time_s": round(elapsed_s, 3)}
        for key, value in metrics.items():
            if key in _RESERVED:
                raise Stopped(f"a metric may not be called '{key}': that is a column of metrics.jsonl")
            number = finite_number(value)
            if number is None:
                raise Stopped(f"the metric '{key}' of {stage}, step {step}, is {value!r}, not a finite number")
            row[key] = number
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def rows(self, stage: str | None = None) -> list[dict[str, Any]]:
        """The rows in the order they were written, of one stage or of all; a last line cut by a kill is left out.

        Raises:
            UserError: a line in the middle cannot be read.
        """
        return [row for row in self._read() if stage in (None, row["stage"])]

    def drop_after(self, stage: str, step: int) -> int:
        """Forget the rows of `stage` after `step`, so that a resumed run writes no row twice.

        Returns:
            How many rows went.
        """
        rows = self._read()
        kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
        self._start_clock(kept)
        return len(rows) - len(kept)

    def _start_clock(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """`time_s` goes on where the rows end: the time between a kill and the resumption does not count."""
        self._started = time.monotonic() - (float(rows[-1]["time_s"]) if rows else 0.0)

    def _read(self, cut_torn: bool = False) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if cut_torn and len(whole) < len(data):
            os.truncate(self.path, len(whole))
        rows = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                row["stage"], row["step"], row["time_s"]
            except (ValueError, LookupError, TypeError):
                raise UserError(
                    "a line of metrics.jsonl cannot be read",
                    where=f"{self.path}, line {number}",
                    fix="delete the line, or restore the file",
                ) from None
            rows.append(row)
        return rows
