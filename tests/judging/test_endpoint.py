"""Asking a server: every clause of what is retried, what is not, and what a failure becomes."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.request

import pytest
from asking import ask, endpoint, questions, readable, settings
from openai_server import PREFLIGHT, Server
from tiny import few

from rlhf_lora.errors import ConfigError, ContractError, Stopped
from rlhf_lora.judging.endpoint import listener, wire
from rlhf_lora.judging.questions import Question


def first(fault: str):
    """A fault at the first request of each question."""
    return lambda request: fault if request.nth == 1 else None


def always(fault: str):
    return lambda request: fault


# --- results carry their id -------------------------------------------------------------------------------------------


def test_every_answer_is_its_questions_own_however_late_it_comes():
    with Server(latency=lambda request: 0.02 * (int(request.id[1:]) % 3) if request.id != PREFLIGHT else 0) as server:
        answers = ask(server, 30)
    assert [(answer.id, answer.text) for answer in answers] == [(f"q{i}", f"re: q{i}") for i in range(30)]


def test_two_questions_with_one_id_are_refused():
    with Server() as server:
        opened = endpoint(server)
        with pytest.raises(ContractError, match="same id"):
            opened.ask(questions(1) * 2, readable)
        opened.close()


def test_several_threads_may_ask_at_once():
    found = {}
    with Server(latency=lambda _: 0.01) as server:
        opened = endpoint(server, concurrency=3)

        def work(name: str) -> None:
            found[name] = opened.ask([Question(name, ({"role": "user", "content": f"id: {name}"},))], readable)[0].text

        threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        opened.close()
        assert server.most <= 3
    assert found == {f"t{i}": f"re: t{i}" for i in range(8)}


# --- what is asked again, and what is not -----------------------------------------------------------------------------


PASSING = "408 409 429 429:0.01 500 503 drop early garbage deep list no_choices gzip huge".split()


@pytest.mark.parametrize("fault", few(PASSING, 8))
def test_what_may_pass_is_asked_again(fault):
    with Server(fault=first(fault)) as server:
        answers = ask(server, 2)
    assert [answer.text for answer in answers] == ["re: q0", "re: q1"]
    assert server.asked["q0"] == server.asked["q1"] == 2


def test_a_400_is_not_asked_again_and_is_that_questions_own_error():
    with Server(fault=lambda request: "400:prompt too long" if request.id == "q1" else None) as server:
        answers = ask(server, 3)
    assert [answer.kind for answer in answers] == ["text", "error", "text"]
    assert "HTTP 400: prompt too long" in answers[1].reason
    assert server.asked["q1"] == 1


@pytest.mark.parametrize("fault", ["401", "403", "404", "redirect"])
def test_what_is_the_same_for_every_question_stops_the_run_at_once(fault):
    with (
        Server(fault=lambda request: fault if request.id == "q1" else None, latency=lambda _: 0.01) as server,
        pytest.raises(Stopped, match="refuses what is asked") as stopped,
    ):
        ask(server, 2)
    assert stopped.value.exit_code == 3
    assert server.asked["q1"] == 1


def test_attempts_are_bounded_and_a_question_that_used_them_up_has_one_more_round():
    with Server(fault=lambda request: "500:sorry" if request.id == "q1" else None) as server:
        answers = ask(server, 3, attempts=4)
    assert [answer.kind for answer in answers] == ["text", "error", "text"]
    assert answers[1].reason == "HTTP 500: sorry"
    assert server.asked["q1"] == 2 * 4


def test_retry_after_is_honoured_up_to_a_minute(monkeypatch):
    with Server(fault=first("429:0.2")) as server:
        began = time.monotonic()
        assert ask(server)[0].kind == "text"
    assert 0.2 <= time.monotonic() - began < 3
    headers = wire.httpx2.Headers({"retry-after": "3600"})
    assert wire._retry_after(headers) == 60
    assert wire._retry_after(wire.httpx2.Headers({"retry-after-ms": "250"})) == 0.25
    assert wire._retry_after(wire.httpx2.Headers({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0
    assert wire._retry_after(wire.httpx2.Headers({"retry-after": "soon"})) is None


def test_waits_between_attempts_are_drawn_below_a_bound_that_doubles():
    from rlhf_lora.judging.endpoint.outages import full_jitter

    drawn = {attempt: [full_jitter(attempt, 0.5, 20.0) for _ in range(500)] for attempt in range(2, 12)}
    for attempt, waits in drawn.items():
        bound = min(20.0, 0.5 * 2 ** (attempt - 2))
        assert min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound


def test_what_cannot_be_read_is_asked_for_three_times_and_is_unreadable():
    with Server(answer=lambda request: "A" if request.id == PREFLIGHT else "well, it depends") as server:
        (answer,) = ask(server)
    assert (answer.kind, answer.id) == ("unreadable", "q0")
    assert "well, it depends" in answer.reason
    assert server.asked["q0"] == 1 + listener.UNREADABLE_AGAIN


def test_what_can_be_read_at_the_second_time_is_read():
    with Server(answer=lambda request: f"re: {request.id}" if request.nth == 2 else "hm") as server:
        assert ask(server)[0].kind == "text"


def test_an_unreadable_answer_at_the_last_attempt_of_a_bad_day_is_not_the_last_word():
    """Four failures and then one answer that cannot be read: the round that comes when the others are done finds one that can."""
    with Server(
        fault=lambda request: "500" if request.id == "q0" and request.nth < 5 else None,
        answer=lambda request: "hm" if request.nth == 5 else f"re: {request.id}",
    ) as server:
        assert ask(server, 3)[0].text == "re: q0"


# --- kinds of answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": None, "refusal": "I cannot judge this"}},
        {"finish_reason": "content_filter"},
    ],
)
def test_a_refusal_is_a_refusal_and_is_not_asked_again(choice):
    with Server(choice=lambda request: choice) as server:
        (answer,) = ask(server)
    assert answer.kind == "refusal"
    assert server.asked["q0"] == 1


def test_a_filter_that_does_not_let_the_question_through_is_a_refusal():
    with Server(fault=always("400:triggering Azure OpenAI's content management policy")) as server:
        assert ask(server)[0].kind == "refusal"


def test_a_text_that_was_cut_is_unreadable_but_one_word_of_two_is_not():
    with Server(choice=lambda request: {"finish_reason": "length"}) as server:
        opened = endpoint(server)
        (cut,) = opened.ask(questions(1, max_tokens=9), readable)
        (word,) = opened.ask([Question("w", ({"role": "user", "content": "id: w"},), ("A", "B"), 1)], readable)
        opened.close()
    assert (cut.kind, word.kind) == ("unreadable", "text")
    assert "in the middle" in cut.reason


def test_a_question_that_is_longer_than_the_context_is_not_sent():
    with Server() as server:
        opened = endpoint(server, context=1000)
        long, short = opened.ask([*questions(1, "x" * 9000), questions(2)[1]], readable)
        opened.close()
    assert (long.kind, short.kind) == ("error", "text")
    assert "longer than the judge's context of 1000 tokens" in long.reason
    assert server.asked["q0"] == 0


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_slow_drip_ends_at_the_deadline_though_a_byte_comes_now_and_then():
    with Server(fault=always("drip:0.02")) as server:
        began = time.monotonic()
        (answer,) = ask(server, attempts=1, deadline=0.4, idle=0.2)
        assert time.monotonic() - began < 4
    assert answer.kind == "error"
    assert "no whole answer within 0.4 s" in answer.reason


def test_a_server_that_says_nothing_is_left_after_the_idle_time():
    with Server(fault=first("hang")) as server:
        began = time.monotonic()
        (answer,) = ask(server, idle=0.3)
        assert time.monotonic() - began < 3
    assert answer.kind == "text"


def test_a_huge_body_is_broken_off_at_a_mebibyte():
    with Server(fault=always("huge")) as server:
        (answer,) = ask(server, attempts=1)
    assert "longer than 1 MiB" in answer.reason


def test_never_more_under_way_than_the_bound():
    with Server(latency=lambda request: 0.02) as server:
        ask(server, 60, concurrency=5)
        assert server.most == 5


def test_the_request_says_what_was_asked_and_what_the_body_setting_adds_or_leaves_out():
    with Server() as server:
        opened = endpoint(server, body={"max_tokens": None, "max_completion_tokens": 99, "seed": 7})
        opened.ask(questions(1, temperature=0.7), readable)
        opened.close()
    assert server.requests[-1].body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "judge"}, {"role": "user", "content": "which is better? id: q0"}],
        "temperature": 0.7,
        "max_completion_tokens": 99,
        "seed": 7,
    }
    assert server.requests[-1].headers["accept-encoding"] == "identity"
    assert "authorization" not in server.requests[-1].headers


def test_proxies_are_ignored_unless_asked_for(monkeypatch):
    seen = []
    with Server() as server, Server() as other:
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": other.url})
        monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{other.port}")
        assert ask(server)[0].kind == "text"
        assert not other.requests
        ask(server, proxy=True)
        seen = [request.path for request in other.requests]
    assert seen[-1].startswith(f"http://127.0.0.1:{server.port}/v1/chat")


# --- outages ----------------------------------------------------------------------------------------------------------


def test_a_server_that_dies_stops_the_run_and_everything_paid_is_kept(tmp_path):
    with Server() as server:
        opened = endpoint(server, tmp_path)
        opened.ask(questions(20), readable)
        server.stop()
        with pytest.raises(Stopped, match="gives no answers any more") as stopped:
            opened.ask(questions(40), readable)
        opened.close()
        assert stopped.value.exit_code == 3
        assert "same command again" in str(stopped.value)
        server.start()
        assert len(ask(server, 40, tmp_path)) == 40
        assert set(server.paid.values()) - {server.paid[PREFLIGHT]} == {1}


def test_a_server_that_is_gone_is_not_asked_by_everybody():
    """After sixteen failures in a row, and what was under way by then, one asks. Else there were 1,000 requests."""
    with Server(fault=always("503")) as server:
        opened = endpoint(server)
        server.early = True  # the question that finds out whether it is back is not answered either
        with pytest.raises(Stopped, match="HTTP 503"):
            opened.ask(questions(200), readable)
        opened.close()
    assert sum(number for id, number in server.asked.items() if id != PREFLIGHT) <= 60


def test_a_server_that_comes_back_in_time_is_waited_for():
    with Server() as server:
        opened = endpoint(server, wait_for_server=20.0, backoff=(0.05, 0.1))
        server.stop()
        threading.Timer(0.3, server.start).start()
        answers = opened.ask(questions(40), readable)
        opened.close()
    assert [answer.kind for answer in answers] == ["text"] * 40


def test_when_the_run_stops_what_is_under_way_is_let_finish_and_kept(tmp_path):
    """One question in eight is refused with 401 at once; the others are answered later, and are paid."""
    with Server(
        fault=lambda request: "401" if request.id == "q3" else None,
        latency=lambda request: 0.05 if request.id == "q3" else 0.2 if request.id != PREFLIGHT else 0.0,
    ) as server:
        with pytest.raises(Stopped):
            ask(server, 8, tmp_path)
        paid = dict(server.paid)
        server.fault = lambda request: None
        assert [answer.kind for answer in ask(server, 8, tmp_path)] == ["text"] * 8
    assert len(paid) == 8  # the preflight, and all but q3
    assert all(server.paid[id] == 1 for id in paid if id != PREFLIGHT)


def test_when_the_run_stops_nothing_more_is_sent():
    with Server(fault=always("401")) as server:
        with pytest.raises(Stopped):
            ask(server, 100, concurrency=4)
        assert len(server.requests) <= 1 + 2 * 4


def test_closing_breaks_off_what_is_under_way_and_leaves_no_thread():
    before = set(threading.enumerate())  # another test's may still be on its way out
    with Server(fault=always("hang")) as server:
        opened = endpoint(server)
        ended = []

        def work() -> None:
            with pytest.raises(Stopped, match="closed"):
                opened.ask(questions(3), readable)
            ended.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.2)
        opened.close()
        thread.join(5)
        opened.close()
    assert ended
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "judge"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no such timer")
def test_ctrl_c_ends_the_wait_and_the_next_question_is_answered(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Server(fault=first("hang")) as server:
            opened = endpoint(server, idle=0.4, concurrency=1, max_calls=4)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                opened.ask(questions(2), readable)
            assert [answer.kind for answer in opened.ask(questions(1), readable)] == ["text"]
            opened.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base_url": "localhost:8000"}, "no address of a server"),
        ({"base_url": "ftp://localhost/v1"}, "no address of a server"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "no address of a server"),
        ({"base_url": "https://user:secret@host/v1"}, "no user, password or query"),
        ({"base_url": "https://host/v1?key=secret"}, "no user, password or query"),
        ({"base_url": "https://host/v1/chat/completions"}, "ends in /chat/completions"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"max_calls": 0}, "max_calls is 0"),
        ({"max_usd": 1.0}, "needs the prices"),
        ({"api_key_env": "sk-proj-abcdefghijklmnop1234"}, "not the name of an environment variable"),
        ({"api_key_env": "hf_abcdefghijklmnopqrstuvwxyz"}, "not the name of an environment variable"),
        ({"body": {"api_key": "x"}}, "looks like a key"),
        ({"body": {"extra": ["sk-proj-abcdefghijklmnop1234"]}}, "looks like a key"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_and_no_secret_is_repeated(changed, message):
    server = Server(port=1)
    with pytest.raises(ConfigError, match=message) as refused:
        settings(server, **changed)
    assert "secret" not in str(refused.value)
    assert "abcdefgh" not in str(refused.value)


def test_the_judge_composes_and_its_saved_settings_hold_no_secret():
    from rlhf_lora import compose, registry

    config = compose("judge=openai_api", "judge.model=tiny", "judge.api_key_env=OPENAI_API_KEY", "judge.body={seed: 1}")
    made = registry.build("judge", config.judge)
    assert registry.build("judge", json.loads(json.dumps(registry.to_config(made)))) == made
    with pytest.raises(ConfigError, match=r"judge\.model"):
        registry.build("judge", {"name": "openai_api", "model": "???"})
