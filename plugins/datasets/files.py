"""From a path to rows, whatever kind of file it is. Told apart by content; CSV, which has no mark, by its name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf_lora.errors import DataError

from . import json_rows, tabular

CSV_NAMES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def is_csv(path: str, content: bytes) -> bool:
    """Whether the file's name says CSV and its content is neither JSON nor Parquet."""
    named = Path(path).name.lower().endswith(CSV_NAMES)
    return named and content.lstrip()[:1] not in (b"{", b"[") and not content.startswith(tabular.PARQUET)


def numbered_rows(
    content: bytes, path: str, setting: str, limit: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands (`train.jsonl.gz, line 17`) and the row.

    Args:
        content: of the file, as `json_rows.read` gives it.
        setting: the override that gave the path, for messages.
        limit: stop after this many rows.

    Raises:
        DataError: an empty file, damaged content, a row that cannot be read.
    """
    name = Path(path).name
    rows: Iterator[tuple[str, dict[str, Any]]]
    if content.startswith(tabular.PARQUET):
        rows = tabular.parquet_rows(content, name)
    elif is_csv(path, content):
        rows = tabular.csv_rows(content, name)
    else:
        rows = json_rows.rows_of(content, name)
    empty = True
    for where, row in islice(rows, limit):
        empty = False
        yield where, row
    if empty:
        raise DataError(f"{name} holds no rows", where=f"{setting}={path}", fix="give a file with one row or more")
