"""Files and folders that are there whole or not at all, and manifests that tell when one was damaged.

A kill may come at any instruction. What is being written stands beside its final place under a name that starts with
a dot; a rename puts it there. `settle` clears what a killed process left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"
_LEFT = re.compile(r"^\.(?P<name>.+)\.(?P<what>staging-[0-9a-f]{8}|replaced)$")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step: readers see the old file or the new one."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _beside(path)
    try:
        temp.write_bytes(data)
        _fsync(temp)
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """A temporary folder beside `final`, published there when the block succeeds and removed when it raises."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temp = _beside(final)
    temp.mkdir()
    try:
        yield temp
        publish(temp, final)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise


def publish(temp: Path, final: Path) -> None:
    """Put the finished folder `temp` at `final` (same file system), replacing what is there.

    A folder cannot be renamed over another one that has content, so the old one steps aside first. A kill between the
    two renames leaves it as `.NAME.replaced`, which `settle` puts back.
    """
    temp, final = Path(temp), Path(final)
    for path in [*temp.rglob("*"), temp]:
        _fsync(path)
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        _remove(replaced)
        os.rename(final, replaced)
    try:
        os.rename(temp, final)
    except OSError:
        if replaced.exists():
            os.rename(replaced, final)
        raise
    _fsync(final.parent)
    _remove(replaced)


def settle(folder: Path) -> list[str]:
    """Clear what a killed process left in `folder`: half-written things go, replaced ones with no successor come back.

    Only for a folder nobody else is writing to.

    Returns:
        The names of what was half-written or put back.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFT.match(path.name)
        if match is None:
            continue
        final = folder / match["name"]
        if match["what"] == "replaced" and not final.exists():
            os.rename(path, final)
        else:
            _remove(path)
        found.append(match["name"])
    return found


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file in `folder`; call it last, before publishing."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_text(folder / MANIFEST, json.dumps({"format": 1, "files": files}, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest, in words; None when every file is as it was written."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except OSError:
        return f"{MANIFEST} is missing"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST}
    for name in sorted(expected.keys() | found):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not in the manifest"
        size, digest = expected[name]
        if (folder / name).stat().st_size != size:
            return f"{name} has {(folder / name).stat().st_size} bytes instead of {size}"
        if file_hash(folder / name) != digest:
            return f"{name} has changed since it was written"
    return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.staging-{secrets.token_hex(4)}")


def _fsync(path: Path) -> None:
    """To the disk. Windows flushes only files that may be written to, and opens no folder."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
