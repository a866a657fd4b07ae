"""Requests that wait their turn and are counted: one server's pace and one run's budget around the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf_lora.judging.endpoint import completions
from rlhf_lora.judging.endpoint.budget import Budget
from rlhf_lora.judging.endpoint.outages import Outages
from rlhf_lora.judging.endpoint.pace import Pace, Slot
from rlhf_lora.judging.endpoint.preflight import QUESTION
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.endpoint.wire import Failure, Wire
from rlhf_lora.judging.questions import Question


def _nothing() -> None:
    """Nobody wants to know."""


class Metered:
    """A wire that lets through what pace and budget allow.

    Attributes:
        sent: requests since it was made.
    """

    def __init__(self, settings: EndpointSettings, wire: Wire, budget: Budget):
        self._settings, self._wire, self._budget = settings, wire, budget
        self.pace = Pace(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute)
        self.sent = 0

    async def post(
        self,
        body: dict[str, Any],
        question: Question,
        outages: Outages | None = None,
        sends: Callable[[], None] = _nothing,
    ) -> dict[str, Any]:
        """One request in its turn, within the budget.

        Args:
            outages: whether the server is there is looked at when the turn has come: the many who wait for theirs would else all
                find out for themselves. None: ask in any case.
            sends: called when the request goes out: from then on it may be paid.

        Raises:
            Failure: it gave no JSON object. Stopped: the budget is spent.
        """
        most = completions.estimate(question, body)
        while True:
            if outages is not None:
                await outages.over()
            async with self.pace.slot(most.tokens) as slot:
                if outages is None or outages.are_over:
                    return await self._post(body, most, slot, sends)
                slot.unused()  # whoever asks whether the server is back needs a turn

    async def _post(
        self, body: dict[str, Any], most: completions.Usage, slot: Slot, sends: Callable[[], None]
    ) -> dict[str, Any]:
        async with self._budget.aside(most) as spent:
            self.sent += 1
            sends()
            try:
                reply = await self._wire.post("/chat/completions", body)
            except Failure as failure:
                if not failure.paid:
                    spent.was(None)
                if failure.status == 429:
                    slot.too_many()
                raise
            usage = completions.usage(reply) or most
            spent.was(usage)
            slot.went_well(usage.tokens)
            return reply

    async def ask_first(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body of the preflight's question."""
        return await self.post(body, QUESTION)

    async def probe(self) -> Failure | None:
        """Whether the server answers something cheap: None where it does."""
        try:
            await self.ask_first(completions.request_body(QUESTION, self._settings, 0))
        except Failure as failure:
            return failure
        return None
