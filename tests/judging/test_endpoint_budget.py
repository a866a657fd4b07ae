"""Budgets: never exceeded, warned of, kept in the run folder; and how much a minute."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

import pytest
from asking import ask, endpoint, questions, readable, settings
from openai_server import PREFLIGHT, Server

from rlhf_lora.errors import Stopped
from rlhf_lora.judging.endpoint import pace
from rlhf_lora.judging.endpoint.budget import Budget, Spent, spent_in
from rlhf_lora.judging.endpoint.completions import Usage
from rlhf_lora.judging.endpoint.pace import Bucket, Pace

PRICES = {"usd_per_million_in": 1000.0, "usd_per_million_out": 2000.0}
"""10 tokens read and 5 written, as the server says: 0.02 dollars."""


@pytest.mark.parametrize(
    ("limit", "answered"),
    [({"max_calls": 6}, 5), ({"max_tokens": 15 * 6 + 60}, 5), ({"max_usd": 0.02 * 6 + 0.11, **PRICES}, 5)],
    ids=["calls", "tokens", "usd"],
)
def test_at_the_limit_the_run_stops_and_what_was_paid_is_kept(tmp_path, limit, answered):
    """The preflight costs one call. Where the limit is in tokens or money, room for one question's most is left."""
    name = next(iter(limit))
    with Server(latency=lambda request: 0.005) as server:
        opened = endpoint(server, tmp_path, **limit)
        with pytest.raises(Stopped, match=rf"budget is spent: .* of judge\.{name}=") as stopped:
            opened.ask(questions(30, max_tokens=20), readable)
        spent = opened.spent
        opened.close()
        assert stopped.value.exit_code == 3
        assert f"a larger judge.{name}" in str(stopped.value)
        done = sum(server.paid.values()) - server.paid[PREFLIGHT]
        assert answered <= done <= answered + 4
        assert getattr(spent, name.removeprefix("max_")) <= limit[name]
        assert spent == Spent(done + 1, 15 * (done + 1), pytest.approx(0.02 * (done + 1) if "usd" in name else 0))


def test_what_was_paid_before_the_limit_is_not_paid_again(tmp_path):
    with Server() as server:
        with pytest.raises(Stopped):
            ask(server, 12, tmp_path, max_calls=6)
        answers = ask(server, 12, tmp_path, max_calls=60)
        assert len(answers) == 12
        assert {count for id, count in server.paid.items() if id != PREFLIGHT} == {1}


def test_a_resumed_run_goes_on_counting(tmp_path):
    with Server() as server:
        ask(server, 3, tmp_path)
        opened = endpoint(server, tmp_path)
        assert opened.spent.calls == 1 + 3 + 1
        opened.ask(questions(3), readable)  # from disk
        assert opened.spent.calls == 5
        opened.close()
        with pytest.raises(Stopped, match=r"budget is spent: 5 calls of judge\.max_calls=5"):
            endpoint(server, tmp_path, max_calls=5)


def test_what_the_server_refused_is_no_call_and_what_it_may_have_worked_for_is(tmp_path):
    with Server(fault=lambda request: {"q0": "500", "q1": "hang"}[request.id] if request.nth == 1 else None) as server:
        opened = endpoint(server, tmp_path, idle=0.2)
        opened.ask(questions(2, max_tokens=100), readable)
        assert opened.spent.calls == 1 + 2 + 1
        assert opened.spent.tokens > 15 * 3 + 100  # all that the one that hung may have cost
        opened.close()


def test_a_server_that_does_not_tell_is_counted_at_the_most_it_may_have_cost(tmp_path):
    with Server(usage=None) as server:
        opened = endpoint(server, tmp_path)
        before = opened.spent.tokens
        opened.ask(questions(1, max_tokens=100), readable)
        assert 100 < opened.spent.tokens - before < 200
        opened.close()


def test_four_fifths_are_warned_of_once(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RLHF_LORA_QUIET", raising=False)
    with Server() as server:
        opened = endpoint(server, tmp_path, max_calls=10, concurrency=1)
        opened.ask(questions(6), readable)
        assert "are spent" not in capsys.readouterr().err
        opened.ask(questions(9)[6:], readable)
        opened.close()
    assert capsys.readouterr().err.count("of judge.max_calls=10 are spent") == 1


def test_what_was_spent_is_told_at_the_end(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RLHF_LORA_QUIET", raising=False)
    with Server(fault=lambda request: "400" if request.id == "q2" else None) as server:
        ask(server, 2, tmp_path)
        capsys.readouterr()
        ask(server, 3, tmp_path, **PRICES)
        endpoint(server, tmp_path).close()  # nothing asked, nothing told
    told = [line for line in capsys.readouterr().err.splitlines() if "spent" in line]
    assert told == [
        "── judge · 2 answered (2 from disk), 1 failed; the run has spent 4 calls, 60 tokens, 0.0200 US dollars"
    ]


def test_what_is_set_aside_is_counted_when_the_run_is_killed(tmp_path):
    file = tmp_path / "spent.sqlite"

    async def killed() -> None:
        with closing(Budget(settings(Server(port=80)), file)) as budget:
            aside = budget.aside(Usage(70, 30))
            await aside.__aenter__()  # and never left

    asyncio.run(killed())
    with closing(Budget(settings(Server(port=80)), file)) as budget:
        assert budget.spent == Spent(1, 100, 0.0)


def test_one_that_waits_for_room_gets_what_another_did_not_use(tmp_path):
    async def one(budget: Budget) -> None:
        async with budget.aside(Usage(50, 50)) as spent:
            await asyncio.sleep(0.01)
            spent.was(Usage(5, 5))

    async def work() -> Spent:
        with closing(Budget(settings(Server(port=80), max_tokens=150), None)) as budget:
            await asyncio.gather(*(one(budget) for _ in range(6)))
            return budget.spent

    assert asyncio.run(work()) == Spent(6, 60, 0.0)


# --- pace -------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("per_minute", [1, 3, 20, 60, 600])
@pytest.mark.parametrize("size", [1, 7])
def test_never_more_in_any_minute_than_the_limit(monkeypatch, per_minute, size):
    """Whatever is larger than the bucket waits until it is paid for, and goes through."""
    clock, taken = Clock(monkeypatch), []
    monkeypatch.setattr(pace.asyncio, "sleep", clock.sleep)

    async def work() -> None:
        bucket = Bucket(per_minute)
        for _ in range(3 * per_minute // size + 3):
            await bucket.take(size)
            taken.append(clock.now)

    asyncio.run(work())
    for begin in taken:
        within = sum(size for at in taken if begin <= at < begin + 60)
        assert within <= max(per_minute, size) + size
    assert clock.now <= 60 * 2 * (len(taken) * size / per_minute + 1)


def test_tokens_that_were_not_used_are_given_back(monkeypatch):
    clock = Clock(monkeypatch)
    bucket = Bucket(600)
    asyncio.run(bucket.take(100))
    bucket.give_back(90)
    asyncio.run(bucket.take(90))
    assert clock.now == 0


def test_requests_keep_to_the_limit_of_a_minute():
    with Server() as server:
        began = time.monotonic()
        ask(server, 103, requests_per_minute=600)  # 100 at once, the preflight among them, then 500 a minute
        assert 0.4 <= time.monotonic() - began < 5


def test_429_halves_the_bound_once_for_all_that_were_under_way_and_answers_let_it_grow_back():
    async def work() -> list[int]:
        pace, bounds = Pace(16), []
        slots = [pace.slot(1) for _ in range(16)]
        entered = [await slot.__aenter__() for slot in slots]
        for slot in entered:
            slot.too_many()
        bounds.append(pace.bound)
        for slot in slots:
            await slot.__aexit__(None, None, None)
        for _ in range(200):
            async with pace.slot(1) as slot:
                slot.went_well(1)
            bounds.append(pace.bound)
        return bounds

    bounds = asyncio.run(work())
    assert bounds[0] == 8
    assert bounds == sorted(bounds)
    assert bounds[9] >= 9
    assert bounds[-1] == 16


def test_a_server_that_lets_few_through_is_asked_less_at_a_time():
    """It answers 429 whenever more than 4 are under way."""
    with Server(latency=lambda request: 0.01) as server:
        server.fault = lambda request: "429" if server.under_way > 4 else None
        assert all(answer.kind == "text" for answer in ask(server, 60, concurrency=16))
        assert server.faults["429"] < 30


def test_whoever_is_called_off_while_waiting_takes_nobody_elses_turn():
    async def work() -> int:
        pace = Pace(1)

        async def one(seconds: float) -> None:
            async with pace.slot(1):
                await asyncio.sleep(seconds)

        first, second, third = (asyncio.create_task(one(0.01)) for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait_for(third, 1)
        await first
        return pace.most

    assert asyncio.run(work()) == 1


def test_what_a_run_spent_is_read_from_its_folder_and_a_run_that_asked_nobody_has_none(tmp_path):
    assert spent_in(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with Server() as server:
        opened = endpoint(server, tmp_path, **PRICES)
        opened.ask(questions(3), readable)
        spent = opened.spent
        opened.close()
    assert spent_in(tmp_path) == spent
    assert spent.calls == sum(server.paid.values())
    assert spent.usd > 0
