"""Parquet and CSV to rows. What is wrong ends in one `DataError` that names the row."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_lora.errors import DataError

from .json_rows import decoded, shortened
from .parts import as_messages, kind_of

PARQUET = b"PAR1"
CELL_LIMIT = 2**31 - 1
"""The csv module's own limit is 128 KiB to a cell, which a long conversation passes."""
NO_NUMBER = ("nan", "inf", "infinity")
"""How programs write into a cell that there is no number. No score: NaN is not below 5, nor above it."""


def parquet_rows(content: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`train.parquet, row 17` and the row, its values as JSON would hold them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        count = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                count += 1
                where = f"{name}, row {count}"
                yield where, {column: plain(value, column, where) for column, value in row.items()}
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{name} is a Parquet file that is cut off or damaged",
            where=f"{name}: {shortened(str(error), 120)}",
            fix="fetch or write the file again",
        ) from None


def plain(value: Any, column: str, where: str) -> Any:
    """A value as JSON holds it: times as ISO text, numbers that are none as null.

    Raises:
        DataError: bytes (images, sound), which no column of ours can be.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner, column, where) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, column, where) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise DataError(
        f"the column '{column}' holds {type(value).__name__}, which is no text, number or list",
        where=where,
        fix="take the column out, or write it as text",
    )


def csv_rows(content: bytes, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """`train.csv, row 17 (line 40)` and the row: every cell text, an empty cell an empty text.

    A tab that the header has and a comma that it lacks make it tab-separated.
    """
    text = decoded(content, name)
    head = text.partition("\n")[0]
    delimiter = "\t" if "\t" in head and "," not in head else ";" if ";" in head and "," not in head else ","
    was = csv.field_size_limit(CELL_LIMIT)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(
            f"malformed CSV: {error}",
            where=f"{name}, line {reader.line_num}",
            fix='put cells with commas, quotes or line ends into double quotes; write a quote inside as ""',
        ) from None
    finally:
        csv.field_size_limit(was)
    if not rows:
        return
    header = [cell.strip() for cell in rows[0][1]]
    _checked(header, name)
    for number, (line, cells) in enumerate(rows[1:], 1):
        where = f"{name}, row {number} (ends on line {line})"
        if len(cells) != len(header):
            raise DataError(
                f"{len(cells)} cells, and the header names {len(header)} columns",
                where=f"{where}: {shortened(delimiter.join(cells))}",
                fix="put cells that hold the separator into double quotes",
            )
        yield where, dict(zip(header, cells, strict=True))


def cell(text: str, not_text: bool) -> Any:
    """What a CSV cell means: in columns of labels, scores and lists JSON, else text, or messages written as JSON."""
    bare = text.strip()
    if not (not_text or bare.startswith(("[{", "{"))):
        return text
    if not bare or bare.lower().lstrip("+-") in NO_NUMBER:
        return None
    try:
        value = json.loads(bare.lower() if bare.lower() in ("true", "false") else bare, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return text
    return value if not_text or kind_of(as_messages(value)) == "messages" else text


def _checked(header: list[str], name: str) -> None:
    """Raises:
    DataError: a column without a name, or two of one name.
    """
    twice = [column for column, count in Counter(header).items() if count > 1]
    if "" in header or twice:
        what = f"two columns are called '{twice[0]}'" if twice and twice[0] else "a column has no name"
        raise DataError(
            what,
            where=f"{name}, line 1: {shortened(', '.join(header))}",
            fix="begin the file with one line that names each column once",
        )
