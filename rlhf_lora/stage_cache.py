"""Finished stages by content: a sweep over PPO settings trains its reward model once.

stages/reward_model-3f2a…/   adapter/   record.json (metrics, figures)   manifest.json (hashes)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_lora import progress
from rlhf_lora.atomic import damage, staging, write_manifest, write_text
from rlhf_lora.errors import Interrupted


@cache
def code() -> str:
    """The kit's own code, by content: whoever changes it, or installs another version, gets stages trained by what they have."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:20]


@contextmanager
def locked(cache_dir: Path, name: str, key: str, interrupted: Callable[[], int | None]) -> Iterator[Path]:
    """The cache folder of a stage, held by this process alone: of two that want the same stage one trains, one waits.

    Raises:
        Interrupted: a signal came while waiting; `interrupted` says which.
    """
    from filelock import FileLock, Timeout

    folder = cache_dir / "stages" / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, told = FileLock(f"{folder}.lock"), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            if not told:
                progress.stage(name, "waiting for another run that trains the same")
            told = True
            if (number := interrupted()) is not None:
                raise Interrupted(number, f"interrupted while waiting for {name}") from None
    try:
        yield folder
    finally:
        lock.release()


def has(folder: Path) -> bool:
    """Whether a finished stage is there; whether it is whole, `take` sees."""
    return (folder / "record.json").is_file()


def take(folder: Path, adapter: Path) -> dict[str, Any] | None:
    """Link or copy a cached adapter to `adapter` and return its record; None when it is not there or damaged."""
    if not folder.is_dir() or damage(folder) is not None:
        return None
    with staging(adapter) as temp:
        for file in (folder / "adapter").iterdir():
            _link(file, temp / file.name)
    record: dict[str, Any] = json.loads((folder / "record.json").read_text("utf-8"))
    return record


def put(folder: Path, adapter: Path, record: Mapping[str, Any]) -> None:
    """Keep a finished stage."""
    with staging(folder) as temp:
        shutil.copytree(adapter, temp / "adapter", dirs_exist_ok=True)
        write_text(temp / "record.json", json.dumps(dict(record), allow_nan=False, indent=1) + "\n")
        write_manifest(temp)


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them; JSON is copied, since people edit it and the kit appends to JSONL."""
    try:
        if source.suffix in (".json", ".jsonl"):
            raise OSError
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
