"""Every answer on disk before it is used: the same question is never paid for twice, not after a kill either.

SQLite in WAL mode: several processes may read and write at once, and what was committed survives the process. A file that
is damaged is moved aside, and a new one begun.
"""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlhf_lora import progress
from rlhf_lora.errors import Stopped

NAME = "judge_answers.sqlite"
TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID"
)
BUSY_S = 30.0


class Answers:
    """Answers by what they are known by (`completions.key_of`). Use it from the thread that made it.

    Args:
        path: the file; None keeps them in memory.

    Raises:
        Stopped: the file can be neither opened nor made.
    """

    def __init__(self, path: Path | None):
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._base = self._opened()

    def get(self, key: str) -> dict[str, Any] | None:
        rows = self._run("SELECT answer FROM answers WHERE key = ?", (key,))
        try:
            answer = json.loads(rows[0][0]) if rows else None
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Committed when this returns. Whoever comes first with a key is right."""
        text = json.dumps(answer, allow_nan=False)
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, text, time.time()))

    def forget(self, key: str) -> None:
        """Of an answer that cannot be read any more."""
        self._run("DELETE FROM answers WHERE key = ?", (key,))

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM answers", ())[0][0])

    def close(self) -> None:
        self._base.close()

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._base.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise self._stopped(error) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # that one alone says: damaged
                raise
            self._base.close()
            self._base = self._opened()
            return self._base.execute(statement, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self._path is None:
            return connected(":memory:", TABLE)
        try:
            with FileLock(f"{self._path}.lock"):  # two that find it damaged do not both move it
                if self._path.is_file() and not _whole(self._path):
                    self._move_aside()
                return connected(self._path, TABLE)
        except (sqlite3.Error, OSError) as error:
            raise self._stopped(error) from error

    def _move_aside(self) -> None:
        assert self._path is not None
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        self._path.rename(aside)
        for tail in ("-wal", "-shm"):
            side = self._path.with_name(self._path.name + tail)
            if side.exists():
                side.rename(aside.with_name(aside.name + tail))
        progress.stage("judge", f"the answers kept in {self._path} are damaged; moved to {aside.name}")

    def _stopped(self, error: Exception) -> Stopped:
        return Stopped(
            f"the judge's answers cannot be kept: {error}\n  where: {self._path}\n"
            "  to do: make room or give the right to write there (RLHF_LORA_CACHE says where); what was answered is kept"
        )


def connected(path: Path | str, table: str) -> sqlite3.Connection:
    """A database in WAL mode, each statement a transaction of its own."""
    base = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=NORMAL")  # a kill loses nothing; a power cut may lose the last moments
        base.execute(table)
    except BaseException:
        base.close()
        raise
    return base


def _whole(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file. It reads all of it, at about 1 GB/s."""
    try:
        base = sqlite3.connect(path, timeout=BUSY_S)
        try:
            found = base.execute("PRAGMA quick_check(1)").fetchone()
            columns = [row[1] for row in base.execute("PRAGMA table_info(answers)")]
        finally:
            base.close()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False
    return found == ("ok",) and columns in ([], ["key", "answer", "at"])
