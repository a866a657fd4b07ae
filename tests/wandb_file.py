"""Reads an offline `.wandb` file: LevelDB's log format (blocks of 32 KiB) around protocol-buffer records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, RECORD = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(path: Path) -> Iterator[bytes]:
    """The records' bytes. The file begins with `:W&B`, a magic number and a version; a record may span blocks."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", "not a W&B file"
    at, parts = HEADER, b""
    while at + RECORD <= len(data):
        left = BLOCK - at % BLOCK
        if left < RECORD:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + RECORD])
        if kind == 0:
            at += left
            continue
        parts += data[at + RECORD : at + RECORD + length]
        at += RECORD + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""


def records(path: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    return [wandb_internal_pb2.Record.FromString(payload) for payload in payloads(path)]


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, row by row, without W&B's own columns."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                name, *inside = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                row[name] = row.get(name, {}) | {inside[0]: value} if inside else value
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return rows
