"""Rows to Parquet and back, for samples. What is missing is null; what is not finite is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.atomic import write_bytes
from rlhf_lora.errors import Stopped
from rlhf_lora.plain import finite_number, plain


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows in one step. Columns are the union of their keys; a key that a row lacks is null.

    Mappings of numbers become a Parquet map, other mappings JSON text.

    Raises:
        Stopped: a number is not finite; the message names file and column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    for name in names:
        if not _finite(table.column(name)):
            raise Stopped(f"the column '{name}' of {path.name} holds a number that is not finite")
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    write_bytes(path, out.getvalue())


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; maps come back as dicts."""
    import pyarrow.parquet as pq

    # ParquetFile, not read_table: that one takes "run-000012" style folder names for partitions.
    with pq.ParquetFile(path) as file:
        return list(file.read().to_pylist(maps_as_pydicts="strict"))


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    present = [v for v in values if v is not None]
    if present and all(isinstance(v, Mapping) for v in present):
        if all(finite_number(number) is not None for v in present for number in v.values()):
            maps = [None if v is None else {str(k): float(n) for k, n in v.items()} for v in values]
            return pa.array(maps, pa.map_(pa.string(), pa.float64()))
        values = [None if v is None else json.dumps(plain(v, keep_none=True), ensure_ascii=False) for v in values]
        present = [v for v in values if v is not None]
    if present and all(isinstance(v, str) for v in present):
        # Lone surrogates are legal in JSON and Python and in no file.
        return pa.array([None if v is None else v.encode("utf-8", "replace").decode() for v in values], pa.string())
    if present and any(isinstance(v, float) for v in present) and all(finite_number(v) is not None for v in present):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([v.tolist() if hasattr(v, "tolist") else v for v in values])


def _finite(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    if not pa.types.is_floating(column.type):
        return True
    return bool(pc.all(pc.is_finite(column), min_count=0, skip_nulls=True).as_py())
