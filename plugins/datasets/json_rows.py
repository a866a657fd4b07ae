"""From a file's content to rows: JSONL or one JSON array; and the content, unpacked when it is gzip.

Whatever is wrong with a file ends in one `DataError` that names the file, the line and what to do.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from rlhf_lora.errors import DataError, did_you_mean

GZIP = b"\x1f\x8b"
OTHER_FILES = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstandard file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
"""First bytes → what it is, for files that people hand over by mistake."""


def rows_of(content: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands (`train.jsonl.gz, line 17`) and the row. Blank lines are no rows.

    Raises:
        DataError: not UTF-8, malformed JSON, a row that is not an object.
    """
    found = _array(content, name) if content.lstrip()[:1] == b"[" else None
    for where, row in found if found is not None else _lines(content, name):
        if not isinstance(row, dict):
            raise DataError(
                "a row is not a JSON object",
                where=f"{where}: {shortened(json.dumps(row))}",
                fix='write one object per line: {"prompt": "…", "chosen": "…", "rejected": "…"}',
            )
        yield where, row


def read(path: str, setting: str) -> bytes:
    """The file's content, unpacked."""
    file = Path(path).expanduser()
    where = f"{setting}={path}"
    try:
        content = file.read_bytes()
    except OSError as error:
        _cannot_read(file, where, error)
    for start, what in OTHER_FILES.items():
        if content.startswith(start):
            raise DataError(
                f"{file.name} is {what}",
                where=where,
                fix="save it as UTF-8"
                if "text" in what
                else "give JSONL (one JSON object per line), a JSON array, CSV or Parquet; plain or gzip",
            )
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            cut = isinstance(error, EOFError)
            raise DataError(
                f"{file.name} is {'a gzip file that is cut off' if cut else f'a damaged gzip file ({error})'}",
                where=where,
                fix="fetch or pack the file again",
            ) from None
    return content.removeprefix(b"\xef\xbb\xbf")  # the mark some editors put before UTF-8


def _cannot_read(file: Path, where: str, error: OSError) -> NoReturn:
    if file.is_dir():
        inside = sorted(p.name for p in file.iterdir() if p.is_file())[:8]
        raise DataError(
            f"{file} is a folder", where=where, fix=f"give a file; in it: {', '.join(inside) or 'none'}"
        ) from None
    if file.exists():
        raise DataError(f"{file} cannot be read: {error.strerror}", where=where, fix="check who may read it") from None
    if not file.parent.is_dir():
        raise DataError(
            f"no file {file}: there is no folder {file.parent}", where=where, fix="correct the path"
        ) from None
    beside = sorted(p.name for p in file.parent.iterdir() if p.is_file())
    raise DataError(
        f"no file {file}{did_you_mean(file.name, beside)}",
        where=f"{where}, looked for from {Path.cwd()}",
        fix=f"correct the path; beside it: {', '.join(beside[:8]) or 'no files'}",
    ) from None


def _lines(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    """Lines end at a line feed alone: a JSON string may hold the other characters that Python takes for line ends."""
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, _parsed(decoded(line, where), where)


def _array(content: bytes, name: str) -> list[tuple[str, Any]] | None:
    """The rows of a file that is one JSON array; None when it is lines that happen to begin with a bracket."""
    text = decoded(content, name)
    try:
        rows = json.loads(text, parse_constant=_no_json)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        _malformed(error, text, f"{name}, line {error.lineno}")
    except (ValueError, RecursionError) as error:
        raise DataError(f"malformed JSON: {error}", where=name, fix="correct the file") from None
    return [(f"{name}, row {number}", row) for number, row in enumerate(rows, 1)]


def decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        if b"\n" in before:
            where = f"{where}, line {before.count(10) + 1}"
        raise DataError(
            f"not UTF-8: byte 0x{raw[error.start]:02x}",
            where=f"{where}, byte {error.start - before.rfind(10)}, after {shortened(before.decode('utf-8')[-30:])}",
            fix="save the file as UTF-8",
        ) from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_json)
    except json.JSONDecodeError as error:
        _malformed(error, text, where)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"malformed JSON: {error}", where=f"{where}: {shortened(text)}", fix="correct the line"
        ) from None


def _malformed(error: json.JSONDecodeError, text: str, where: str) -> NoReturn:
    near = text[max(0, error.pos - 30) : error.pos + 30].replace("\n", "⏎")
    raise DataError(
        f"malformed JSON: {error.msg} at character {error.colno}",
        where=f"{where}, near: {near}",
        fix="correct the line; every row is one whole JSON object on a line of its own",
    ) from None


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value; write null")


def shortened(text: str, width: int = 60) -> str:
    """One line of at most `width` characters, to show in a message."""
    line = re.sub(r"\s+", " ", text)
    return line if len(line) <= width else line[: width - 1] + "…"
