"""Questions in, answers out: what `judge=openai_api` asks through.

A question is answered from what is kept on disk, else by at most `attempts` requests; what was paid is on disk before anybody
sees it. A question that used its attempts up is asked once more when the others are done. What fails for every question (a
key that was withdrawn, a server that is gone, a budget that is spent) ends the run with `Stopped`: requests under way are let
finish first, so that nothing paid is lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from rlhf_lora import progress
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ContractError, Stopped
from rlhf_lora.judging.endpoint import answers, budget, completions, keys
from rlhf_lora.judging.endpoint.loop_thread import LoopThread
from rlhf_lora.judging.endpoint.metered import Metered
from rlhf_lora.judging.endpoint.outages import IN_A_ROW, Outages, full_jitter
from rlhf_lora.judging.endpoint.preflight import preflight
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.endpoint.wire import LONGEST_RETRY_AFTER_S, Failure, Wire
from rlhf_lora.judging.questions import Answer, Question, Readable

BACKOFF_S = (0.5, 20.0)
"""The first and the longest bound of the waits between attempts."""
UNREADABLE_AGAIN = 2
"""How often an answer that came and could not be read is asked for again: each one is paid."""
NEVER_AGAIN = {401, 403, 404}
"""States that will be the same for every question."""
FILTERED = ("content_filter", "content management policy")
"""What a 400 says when a filter did not let the question through."""


@dataclass
class Counts:
    """What became of questions since the endpoint was opened.

    Attributes:
        answered: by a text, of which `kept` from disk. failed, refused, unreadable: those that ended so.
    """

    kept: int = 0
    answered: int = 0
    refused: int = 0
    unreadable: int = 0
    failed: int = 0

    @property
    def words(self) -> str:
        """`120 answered (80 from disk), 2 refused`."""
        others = [f"{count} {name}" for name in ("refused", "unreadable", "failed") if (count := getattr(self, name))]
        return ", ".join([f"{self.answered} answered ({self.kept} from disk)", *others])


class Endpoint:
    """A `Listener` that asks a server.

    Args:
        cache_dir: where answers are kept, for every run; None: in memory.
        run_dir: where what was spent is kept; None: in memory.
        backoff: seconds, the first and the longest bound of the waits between attempts.
        known: where the answer to the first question is kept: asked again with these settings, it is not asked again.

    Raises:
        ConfigError: the server does not answer a first question, or the key may not be sent to it; within 10 s, unless the
            server takes longer to think. Stopped: the run's budget is spent already.
    """

    def __init__(
        self, settings: EndpointSettings, cache_dir: Path | None = None, run_dir: Path | None = None,
        backoff: tuple[float, float] = BACKOFF_S, known: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.settings, self.counts, self._backoff = settings, Counts(), backoff
        key = keys.key_for(settings.api_key_env, settings.url)
        self._redact = keys.Redactor([key])
        self._redact.attach()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._under_way: set[asyncio.Task[Answer]] = set()
        self._sent: set[asyncio.Task[Any] | None] = set()
        self._top_logprobs = 0
        self._known = {} if known is None else known
        self._thread = LoopThread("judge")
        try:
            self._thread.run(self._open(key, cache_dir if settings.cache else None, run_dir))
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, settings: EndpointSettings, ctx: Context) -> Endpoint:
        """Opened for a run: answers in its cache, what it spends in its folder; its first question is asked once a start."""
        return cls(settings, ctx.cache_dir, ctx.run_dir, known=ctx.known)

    async def _open(self, key: str | None, cache_dir: Path | None, run_dir: Path | None) -> None:
        settings = self.settings
        self._wire = Wire(settings, key, self._redact)
        self._kept = answers.Answers(cache_dir and cache_dir / answers.NAME)
        self._budget = budget.Budget(settings, run_dir and run_dir / budget.NAME)
        self._metered = Metered(settings, self._wire, self._budget)
        in_a_row = max(IN_A_ROW, 2 * settings.concurrency)
        self._outages = Outages(
            self._metered.probe, settings.wait_for_server, settings.base_url, in_a_row, *self._backoff
        )
        met = f"the server of {settings}"
        if met not in self._known:
            self._known[met] = await preflight(settings, self._wire, self._metered.ask_first)
        self._top_logprobs = self._known[met]

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question], readable: Readable) -> list[Answer]:
        """One answer for each question, in order, with its id.

        Raises:
            Stopped: the budget is spent, the server is gone, or it refuses whatever is asked. ContractError: two questions
                have the same id.
        """
        if len({question.id for question in questions}) < len(questions):
            raise ContractError("two questions that are asked together have the same id")
        return self._thread.run(self._ask(questions, readable))

    def call_seconds(self, count: int) -> float:
        """The most seconds that so many questions can take by the limits set here."""
        each = self.settings.attempts * (self.settings.deadline + max(self._backoff[1], LONGEST_RETRY_AFTER_S))
        return 2 * math.ceil(count / self.settings.concurrency) * each + self.settings.wait_for_server

    @property
    def spent(self) -> budget.Spent:
        """Of the whole run, resumes included."""
        return self._thread.run(self._spent())

    def close(self) -> None:
        """Break off what is under way, and let everything go. A second call does nothing."""
        self._redact.detach()
        if self._thread.is_open:
            self._thread.run(self._close())
            self._thread.close()

    async def _spent(self) -> budget.Spent:
        return self._budget.spent

    async def _close(self) -> None:
        await _ended(self._under_way, cancel=True)
        if self.counts != Counts():
            progress.stage("judge", f"{self.counts.words}; the run has spent {self._budget.spent.words}")
        for part in ("_kept", "_budget"):
            if hasattr(self, part):
                getattr(self, part).close()
        if hasattr(self, "_wire"):
            await self._wire.close()

    async def _ask(self, questions: Sequence[Question], readable: Readable) -> list[Answer]:
        found = await self._all(questions, readable)
        if late := [question for question in questions if isinstance(found[question.id], Failure)]:
            await self._outages.wait()
            found |= await self._all(late, readable)
        answered = [_as_answer(question, found[question.id]) for question in questions]
        for answer in answered:
            self._count(answer)
        return answered

    async def _all(self, questions: Sequence[Question], readable: Readable) -> dict[str, Answer | Failure]:
        """Question id → its answer, or the last failure where every attempt failed in a way that may pass."""
        tasks = {question.id: asyncio.create_task(self._one(question, readable)) for question in questions}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
            broken = next((error for task in tasks.values() if (error := _error_of(task)) is not None), None)
            if broken is not None:
                await _ended(tasks.values(), cancel=True)
                await _ended(self._under_way, cancel=False)  # they may be paid: their answers are kept
                raise broken
            return {id: task.result() for id, task in tasks.items()}
        finally:
            await _ended(tasks.values(), cancel=True)

    async def _one(self, question: Question, readable: Readable) -> Answer | Failure:
        if completions.too_long(question, self.settings.context):
            return Answer(
                question.id, "error", reason=f"longer than the judge's context of {self.settings.context} tokens"
            )
        body = completions.request_body(question, self.settings, self._top_logprobs)
        key = completions.key_of(body, question, self.settings.host)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:  # the same question twice at once is asked once
            kept = self._from_disk(key, question, readable)
            return kept or await self._attempts(key, body, question, readable)

    async def _attempts(
        self, key: str, body: dict[str, Any], question: Question, readable: Readable
    ) -> Answer | Failure:
        unread = 0
        found: Answer | Failure | None = None
        failure: Failure | None = None
        for attempt in range(1, self.settings.attempts + 1):
            if attempt > 1:
                asked = found.wait if isinstance(found, Failure) else None
                await asyncio.sleep(full_jitter(attempt, *self._backoff) if asked is None else asked)
            found = await self._attempt(key, body, question, readable)
            if isinstance(found, Failure):
                failure = found
                continue
            unread += found.kind == "unreadable"
            if found.kind != "unreadable" or unread > UNREADABLE_AGAIN:
                return found
        last = failure or found
        assert last is not None
        return last  # with a failure among them, it was not asked for as often as it may be

    async def _attempt(
        self, key: str, body: dict[str, Any], question: Question, readable: Readable
    ) -> Answer | Failure:
        """An answer, also one that says that there will be none; or a failure that may pass.

        Raises:
            Stopped: it failed in a way that is the same for every question.
        """
        try:
            return await self._to_its_end(self._exchange(key, body, question, readable))
        except Failure as failure:
            if failure.again:
                await self._outages.failed()
                return failure
            if failure.status in NEVER_AGAIN or failure.cause in ("redirect", "address"):
                raise Stopped(
                    f"the judge's server at {self.settings.base_url} refuses what is asked of it: {failure.what}\n"
                    "  to do: look at key, model and address (judge.api_key_env, judge.model, judge.base_url)"
                ) from None
            filtered = any(words in failure.body for words in FILTERED)
            return Answer(question.id, "refusal" if filtered else "error", reason=failure.what)

    # --- one request --------------------------------------------------------------------------------------------------

    async def _to_its_end(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run in a task of its own: when whoever waits is called off, a request that may be paid is not."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._off)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task not in self._sent:
                task.cancel()
            raise

    def _off(self, task: asyncio.Task[Answer]) -> None:
        self._under_way.discard(task)
        self._sent.discard(task)
        _error_of(task)  # asyncio complains of one that nobody looks at

    def _note_sent(self) -> None:
        self._sent.add(asyncio.current_task())

    async def _exchange(self, key: str, body: dict[str, Any], question: Question, readable: Readable) -> Answer:
        reply = completions.read(await self._metered.post(body, question, self._outages, self._note_sent), question)
        self._outages.answered()
        if reply.kind == "broken":
            raise Failure(reply.reason, "body", again=True, paid=True)
        answer = self._clean(Answer(question.id, reply.kind, reply.text, reply.probabilities, reply.reason))
        if answer.kind == "text":
            if not readable(question, answer):
                return Answer(question.id, "unreadable", reason=f"not as it was asked for: {answer.text[:200]!r}")
            self._kept.put(key, {"text": answer.text, "probabilities": answer.probabilities})
        return answer

    # --- answers ------------------------------------------------------------------------------------------------------

    def _from_disk(self, key: str, question: Question, readable: Readable) -> Answer | None:
        if (kept := self._kept.get(key)) is None:
            return None
        answer = Answer(question.id, "text", str(kept.get("text")), kept.get("probabilities"))
        if not readable(question, answer):
            self._kept.forget(key)
            return None
        self.counts.kept += 1
        return answer

    def _clean(self, answer: Answer) -> Answer:
        return replace(answer, text=self._redact(answer.text), reason=self._redact(answer.reason))

    def _count(self, answer: Answer) -> None:
        name = {"text": "answered", "refusal": "refused", "unreadable": "unreadable", "error": "failed"}[answer.kind]
        setattr(self.counts, name, getattr(self.counts, name) + 1)


def _as_answer(question: Question, found: Answer | Failure) -> Answer:
    return found if isinstance(found, Answer) else Answer(question.id, "error", reason=found.what)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


async def _ended(tasks: Any, *, cancel: bool) -> None:
    """Wait until all have ended, whatever came of them."""
    tasks = list(tasks)
    for task in tasks:
        if cancel:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
