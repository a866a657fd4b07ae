"""How much at once, and how much a minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

GROWTH = 2.0
"""Requests that the bound grows by for each bound's worth of answers; a 429 halves it (additive increase, multiplicative
decrease, as TCP does)."""


class Bucket:
    """At most so many a minute, whichever minute is looked at. Whoever comes is told when it is their turn.

    A sixth of a minute's worth may go at once; the rest comes evenly.
    """

    def __init__(self, per_minute: float):
        self._room = max(1.0, per_minute / 6)
        self._per_second = max(per_minute - self._room, per_minute / 2) / 60
        self._level, self._at = self._room, time.monotonic()

    async def take(self, amount: float) -> None:
        self._refill()
        self._level -= amount
        if self._level < 0:
            await asyncio.sleep(-self._level / self._per_second)

    def give_back(self, amount: float) -> None:
        """What was taken and not used; less than 0: what was used beyond it."""
        self._refill()
        self._level = min(self._level + amount, self._room)

    def _refill(self) -> None:
        now = time.monotonic()
        self._level = min(self._level + (now - self._at) * self._per_second, self._room)
        self._at = now


class Pace:
    """Lets requests through, in the order they came, never more than `bound` at a time.

    Attributes:
        most: the most that were under way at one time.
    """

    def __init__(self, bound: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None):
        self._bound, self._now = bound, float(bound)
        self._requests = Bucket(requests_per_minute) if requests_per_minute else None
        self._tokens = Bucket(tokens_per_minute) if tokens_per_minute else None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._under_way = self.most = 0
        self._halved_at = 0.0

    @property
    def bound(self) -> int:
        """How many may be under way now."""
        return max(1, int(self._now))

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """One request's turn.

        Args:
            tokens: what it may cost; `Slot.used` tells what it did.
        """
        await self._enter()
        try:
            if self._requests:
                await self._requests.take(1)
            if self._tokens:
                await self._tokens.take(tokens)
            yield Slot(self, tokens)
        finally:
            self._under_way -= 1
            self._admit()

    async def _enter(self) -> None:
        if not self._waiting and self._under_way < self.bound:
            self._count()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                self._under_way -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._under_way < self.bound:
            turn = self._waiting.popleft()
            if not turn.done():
                self._count()
                turn.set_result(None)

    def _count(self) -> None:
        self._under_way += 1
        self.most = max(self.most, self._under_way)


class Slot:
    """One request's turn, and what came of it."""

    def __init__(self, pace: Pace, tokens: int):
        self._pace, self._tokens, self._began = pace, tokens, time.monotonic()

    def went_well(self, tokens: int) -> None:
        """Answered, for so many tokens."""
        pace = self._pace
        if pace._tokens:
            pace._tokens.give_back(self._tokens - tokens)
        pace._now = min(pace._now + GROWTH / pace._now, float(pace._bound))
        pace._admit()

    def unused(self) -> None:
        """Nothing was sent."""
        if self._pace._tokens:
            self._pace._tokens.give_back(self._tokens)
        if self._pace._requests:
            self._pace._requests.give_back(1)

    def too_many(self) -> None:
        """The server said 429. Of those that were under way together, the first alone halves the bound."""
        pace = self._pace
        if pace._tokens:
            pace._tokens.give_back(self._tokens)
        if self._began >= pace._halved_at:
            pace._now, pace._halved_at = max(1.0, pace._now / 2), time.monotonic()
