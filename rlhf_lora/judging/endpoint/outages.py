"""A server that is gone: everybody waits while one asks whether it is back; in the end the run stops, with a checkpoint."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from rlhf_lora import progress
from rlhf_lora.errors import Stopped
from rlhf_lora.judging.endpoint.wire import Failure

Probe = Callable[[], Awaitable[Failure | None]]
IN_A_ROW = 10
"""Requests that fail with none in between that goes through, until the server is taken for gone: at one failure in five,
chance does it once in ten million times."""


def full_jitter(attempt: int, first: float, longest: float) -> float:
    """Seconds before attempt 2, 3, …: even between 0 and a bound that doubles from `first` to `longest`."""
    return random.uniform(0, min(longest, first * 2 ** (attempt - 2)))


class Outages:
    """Whether the server is there.

    Args:
        probe: ask it something cheap; None when it answers.
        patience: seconds to wait for it.
        where: its address, for messages.
        first, longest: of the waits between probes, in seconds.
    """

    def __init__(self, probe: Probe, patience: float, where: str, in_a_row: int, first: float, longest: float):
        self._probe, self._patience, self._where = probe, patience, where
        self._in_a_row, self._first, self._longest = in_a_row, first, longest
        self._failed = 0
        self._outage: asyncio.Future[None] | None = None

    @property
    def are_over(self) -> bool:
        return self._outage is None

    async def over(self) -> None:
        """Wait until nobody is waiting for the server.

        Raises:
            Stopped: it was waited for in vain.
        """
        if self._outage is not None:
            await asyncio.shield(self._outage)

    def answered(self) -> None:
        self._failed = 0

    async def failed(self) -> None:
        """A request failed in a way that may pass.

        Raises:
            Stopped: so did all others, and the server does not come back.
        """
        self._failed += 1
        if self._failed >= self._in_a_row:
            await self.wait()

    async def wait(self) -> None:
        """Until the server answers; at once where it does.

        Raises:
            Stopped: it does not within `patience` seconds.
        """
        if self._outage is not None:
            return await self.over()
        self._outage = outage = asyncio.get_running_loop().create_future()
        try:
            await self._asked_again()
        except Stopped as stopped:
            outage.set_exception(stopped)
            outage.exception()  # nobody may have waited with it
            raise
        finally:
            self._outage = None
            if not outage.done():
                outage.set_result(None)

    async def _asked_again(self) -> None:
        until, attempt = time.monotonic() + self._patience, 1
        while (failure := await self._probe()) is not None:
            left = until - time.monotonic()
            if left <= 0 or not failure.again:
                raise Stopped(
                    f"the judge's server at {self._where} gives no answers any more: {failure.what}\n"
                    "  to do: bring it back and give the same command again; what was answered is kept and not asked again"
                )
            if attempt == 1:
                progress.stage("judge", f"{self._where} does not answer ({failure.what}); waiting for {left:.0f} s")
            attempt += 1
            await asyncio.sleep(min(left, failure.wait or full_jitter(attempt, self._first, self._longest)))
        self._failed = 0
