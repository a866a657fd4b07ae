"""Calls, tokens and money of a run. They stand in the run folder, so a resumed run goes on counting where it was.

What a request may cost is written down before it is sent and put right when its answer came: a run that is killed in between
has counted too much, never too little.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from rlhf_lora import progress
from rlhf_lora.errors import Stopped
from rlhf_lora.judging.endpoint.answers import connected
from rlhf_lora.judging.endpoint.completions import Usage
from rlhf_lora.judging.endpoint.settings import EndpointSettings

NAME = "judge_spent.sqlite"
TABLE = (
    "CREATE TABLE IF NOT EXISTS spent (id INTEGER PRIMARY KEY CHECK (id = 1), calls INTEGER, tokens INTEGER, usd REAL)"
)
WARN_AT = 0.8


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests that were sent, what they cost in tokens, and in US dollars."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    @property
    def words(self) -> str:
        usd = f", {self.usd:.4f} US dollars" if self.usd else ""
        return f"{self.calls:,} calls, {self.tokens:,} tokens{usd}"

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def __neg__(self) -> Spent:
        return Spent(-self.calls, -self.tokens, -self.usd)


def spent_in(run_dir: Path) -> Spent | None:
    """What a run's judge has spent so far, in all its starts; None of a run that asked no server."""
    if not (file := run_dir / NAME).is_file():
        return None
    with closing(connected(file, TABLE)) as base:
        row = base.execute("SELECT calls, tokens, usd FROM spent").fetchone()
    return None if row is None else Spent(*row)


class Budget:
    """What may be spent, and what was. Use it from one event loop; several processes may share the file.

    Args:
        path: where it is kept; None keeps it in memory.
    """

    def __init__(self, settings: EndpointSettings, path: Path | None):
        self._settings, self._path = settings, path
        self._limits = {
            name: limit
            for name, limit in (
                ("calls", settings.max_calls),
                ("tokens", settings.max_tokens),
                ("usd", settings.max_usd),
            )
            if limit is not None
        }
        try:
            self._base = connected(path if path is not None else ":memory:", TABLE)
            self._base.execute("INSERT OR IGNORE INTO spent VALUES (1, 0, 0, 0)")
        except sqlite3.Error as error:
            raise self._unwritable(error) from error
        self._open = 0
        self._changed = asyncio.Event()
        self._warned: set[str] = set()
        self._warn()

    @property
    def spent(self) -> Spent:
        return Spent(*self._base.execute("SELECT calls, tokens, usd FROM spent").fetchone())

    def _cost(self, usage: Usage) -> Spent:
        return Spent(1, usage.tokens, self._settings.usd(usage.tokens_in, usage.tokens_out))

    @asynccontextmanager
    async def aside(self, most: Usage) -> AsyncIterator[Aside]:
        """What a request may cost is set aside for it; what it did cost is told by `Aside.was`, else it stays at that.

        Raises:
            Stopped: it is more than what is left, with nothing under way that might cost less than was set aside.
        """
        cost = self._cost(most)
        while (over := self._take(cost)) is not None:
            if not self._open:
                raise self._stopped(over)
            await self._changed.wait()
        self._open += 1
        aside = Aside(self, cost)
        try:
            yield aside
        finally:
            self._open -= 1
            self._changed.set()
            self._changed = asyncio.Event()
        self._warn()

    def close(self) -> None:
        self._base.close()

    def _take(self, cost: Spent) -> str | None:
        """Add a cost, or name the limit that it would break."""
        try:
            self._base.execute("BEGIN IMMEDIATE")  # nobody else adds between reading and writing
            try:
                after = self.spent + cost
                over = next((name for name, limit in self._limits.items() if getattr(after, name) > limit), None)
                if over is None:
                    self._add(cost)
            finally:
                self._base.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unwritable(error) from error
        return over

    def _add(self, cost: Spent) -> None:
        try:
            self._base.execute(
                "UPDATE spent SET calls = calls + ?, tokens = tokens + ?, usd = usd + ?",
                (cost.calls, cost.tokens, cost.usd),
            )
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def _warn(self) -> None:
        if not self._limits.keys() - self._warned:
            return
        spent = self.spent
        for name, limit in self._limits.items():
            if name not in self._warned and getattr(spent, name) >= WARN_AT * limit:
                self._warned.add(name)
                progress.stage("judge", f"{_shown(name, getattr(spent, name))} of judge.max_{name}={limit:g} are spent")

    def _stopped(self, name: str) -> Stopped:
        spent, limit = getattr(self.spent, name), self._limits[name]
        return Stopped(
            f"the judge's budget is spent: {_shown(name, spent)} of judge.max_{name}={limit:g}\n"
            f"  to do: give the same command with a larger judge.max_{name}; what was answered is kept and not paid again"
        )

    def _unwritable(self, error: Exception) -> Stopped:
        return Stopped(
            f"what the judge costs cannot be written down: {error}\n  where: {self._path}\n  to do: make room there"
        )


class Aside:
    """What is set aside for one request."""

    def __init__(self, budget: Budget, cost: Spent):
        self._budget, self._cost = budget, cost

    def was(self, usage: Usage | None) -> None:
        """What it did cost, tokens and all; None: nothing was done for it, and it counts as no call. Once."""
        used = Spent() if usage is None else self._budget._cost(usage)
        self._budget._add(used + -self._cost)


def _shown(name: str, amount: float) -> str:
    return f"{amount:.4f} US dollars" if name == "usd" else f"{amount:,} {name}"
