"""Files of labels: JSONL in the format `labels/1`, written row by row and read strictly.

The first row names the format: a row of its own, `{"format": "labels/1"}`, or a field of the first label. So that files may be
joined with `cat`, such a row may come again.

Written: a row is on the disk before `append` returns. A kill in the middle of one leaves half a line, which the next
`append` sets aside (`NAME.torn`) before it writes. Read: what is no row of this format is refused with its line; a row that
is one, and says what cannot be used, is listed with line and reason; half a last line is listed too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from rlhf_lora.atomic import write_bytes
from rlhf_lora.errors import DataError, did_you_mean
from rlhf_lora.labels.rows import FORMAT, LabelRow, as_json, from_json
from rlhf_lora.records import Unused

HEAD = json.dumps({"format": FORMAT}).encode() + b"\n"
BOM = b"\xef\xbb\xbf"
TORN = "half a line, as a kill leaves it; the next label that is written sets it aside"
BLOCK = 1 << 16
"""Bytes that are read at a time in search of the last line."""


@dataclass(frozen=True)
class Labelled:
    """What a file holds.

    Attributes:
        rows: where each label stands (`labels.jsonl, line 17`), and the label.
        unused: rows that say what cannot be used.
    """

    rows: Sequence[tuple[str, LabelRow]]
    unused: Sequence[Unused]

    @property
    def labels(self) -> list[LabelRow]:
        return [row for _, row in self.rows]


def read(path: str | Path) -> Labelled:
    """Read one file.

    Raises:
        DataError: it is not there, or holds something else than labels; with the line.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", where=str(path), fix="correct the path") from None
    return parse(content, Path(path).name)


def parse(content: bytes, name: str) -> Labelled:
    """The labels of a file's content; `name` is what it is called in messages.

    Raises:
        DataError: not UTF-8, a line that is no JSON object or no row of this format, an unknown version.
    """
    *lines, last = content.removeprefix(BOM).split(b"\n")
    rows: list[tuple[str, LabelRow]] = []
    unused: list[Unused] = []
    said = False
    for number, line in enumerate((*lines, last), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        if number > len(lines) and line.lstrip().startswith(b"{") and _object(line) is None:
            unused.append(Unused(where, TORN))
            continue
        row = _row(line, where)
        said = _format_named(row, where, said)
        if not set(row) <= {"format", "note", "more"}:
            _take(row, where, rows, unused)
    return Labelled(rows, unused)


def append(path: str | Path, rows: Iterable[LabelRow]) -> None:
    """Write rows at the end of a file, which is made when there is none. They are on the disk when this returns.

    Several processes may append to one file: they take turns.

    Raises:
        DataError: the file holds something else than labels. OSError: the disk refuses; then the file is as it was.
    """
    from filelock import FileLock

    path = Path(path)
    lines = b"".join(map(line_of, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")), open(path, "ab+", buffering=0) as file:
        _mend(file, path)
        before = file.seek(0, os.SEEK_END)
        left = memoryview(lines if before else HEAD + lines)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def write(path: str | Path, rows: Iterable[LabelRow]) -> None:
    """A whole file in one step, over what was there."""
    write_bytes(Path(path), HEAD + b"".join(map(line_of, rows)))


def line_of(row: LabelRow) -> bytes:
    """One line. Raises ValueError where `more` or a prompt's columns hold what JSON cannot."""
    return json.dumps(as_json(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


# --- the end of a file ------------------------------------------------------------------------------------------------


def _mend(file: FileIO, path: Path) -> None:
    """Bring the file to the end of a whole line: a whole row gets its line end, half a one is set aside.

    Raises:
        DataError: its first row is whole and names no format, or another one.
    """
    start = _last_line(file, file.seek(0, os.SEEK_END))
    file.seek(start)
    tail = file.read()
    half = bool(tail) and _object(tail.removeprefix(BOM)) is None
    file.seek(0)
    for number, line in enumerate(iter(file.readline, b""), 1):
        if line.removeprefix(BOM).strip():
            if not (half and file.tell() > start):
                where = f"{path.name}, line {number}"
                _format_named(_row(line.removeprefix(BOM), where), where, False)
            break
    if half:
        with open(path.with_name(f"{path.name}.torn"), "ab") as aside:
            aside.write(tail + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        file.truncate(start)
    elif tail:
        file.write(b"\n")


def _last_line(file: FileIO, end: int) -> int:
    """Where what stands behind the last line end begins."""
    at = end
    while at:
        start = max(0, at - BLOCK)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


# --- a line -----------------------------------------------------------------------------------------------------------


def _take(row: dict[str, Any], where: str, rows: list[tuple[str, LabelRow]], unused: list[Unused]) -> None:
    try:
        rows.append((where, from_json(row)))
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    except ValueError as reason:
        unused.append(Unused(where, str(reason)))


def _format_named(row: dict[str, Any], where: str, said: bool) -> bool:
    """True. Raises DataError where nothing has named the format yet, or this row names another one."""
    found = row.get("format")
    if found is None and not said:
        raise DataError(
            "the first row does not name the format", where=where,
            fix=f'begin the file with the line {{"format": "{FORMAT}"}}; pairs and the like are read by dataset=jsonl',
        )  # fmt: skip
    if found not in (None, FORMAT):
        raise DataError(
            f"the format {json.dumps(found)} is none that this version reads{did_you_mean(str(found), [FORMAT])}",
            where=where, fix=f"{FORMAT}; a file of a later version wants a later rlhf-lora",
        )  # fmt: skip
    return True


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a line holds; None when it holds none."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_json, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _row(line: bytes, where: str) -> dict[str, Any]:
    row = _object(line)
    return row if row is not None else _refuse(line, where)


def _refuse(line: bytes, where: str) -> NoReturn:
    """Say why a line is no JSON object."""
    fix = "correct the line, or take it out; every row is one whole JSON object on a line of its own (docs/labels.md)"
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_json, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte 0x{line[error.start]:02x}", where=where, fix="save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        near = error.doc[max(0, error.pos - 30) : error.pos + 30].strip()
        raise DataError(
            f"malformed JSON: {error.msg} at character {error.colno}", where=f"{where}, near: {near}", fix=fix
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"malformed JSON: {error}", where=where, fix=fix) from None
    raise DataError(f"a row is not a JSON object but {json.dumps(value)[:40]}", where=where, fix=fix)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which every name stands once: of two raters in one row, which one counts is a guess."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise ValueError(f"the name '{twice}' stands twice in one object")
    return found


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value; write null")
