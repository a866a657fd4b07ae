"""What is wrong with key, model or address is told before anything long, within 10 s, with what to do."""

from __future__ import annotations

import socket
import time

import pytest
from asking import ask, endpoint, questions, settings
from openai_server import PREFLIGHT, Server

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.endpoint import preflight
from rlhf_lora.judging.endpoint.listener import Endpoint
from rlhf_lora.judging.questions import Question


def told(server: Server, **changed) -> ConfigError:
    """What a user reads; no question was asked."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        ask(server, **changed)
    assert time.monotonic() - began < preflight.WITHIN_S
    assert refused.value.exit_code == 2
    assert refused.value.where
    assert refused.value.fix
    assert set(server.asked) <= {PREFLIGHT}
    return refused.value


@pytest.fixture
def quick(monkeypatch):
    """A fifth of a second in place of five."""
    monkeypatch.setattr(preflight, "PATIENCE_S", 0.2)
    monkeypatch.setattr(preflight, "AGAIN_S", 0.05)


def test_a_server_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = told(Server(port=free.getsockname()[1]))
    assert "cannot be reached: no connection" in error.what
    assert "ollama serve" in error.fix


def test_a_name_that_nobody_knows(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = told(Server(port=80), base_url="https://nowhere.example/v1")
    assert "Name or service not known" in error.what
    assert "at the network" in error.fix  # nobody can start that server here


def test_another_machine_without_tls():
    error = told(Server(port=80), base_url="http://10.255.255.1/v1")
    assert "can be read on the way" in error.what
    assert "judge.allow_insecure=true" in error.fix


def test_a_key_that_is_wanted_and_one_that_is_wrong(tmp_path, monkeypatch):
    with Server(key="right") as server:
        assert "wants a key" in told(server).what
        (tmp_path / "hosts.yaml").write_text("MY_KEY: 127.0.0.1")
        monkeypatch.setenv("RLHF_LORA_KEY_HOSTS", str(tmp_path / "hosts.yaml"))
        monkeypatch.setenv("MY_KEY", "wrong")
        error = told(server, api_key_env="MY_KEY")
    assert "refuses the key" in error.what
    assert "is MY_KEY current" in error.fix


def test_a_model_that_is_not_there_is_told_with_those_that_are():
    with Server(models=tuple(f"model-{i}" for i in range(14))) as server:
        error = told(server, model="modle")
    assert "has no model 'modle'" in error.what
    assert error.where == "judge.model"
    assert "model-0, model-1" in error.fix
    assert "and 2 more" in error.fix


def test_an_address_without_v1():
    with Server(models=()) as server:
        error = told(server, base_url=f"http://127.0.0.1:{server.port}")
    assert f"judge.base_url=http://127.0.0.1:{server.port}/v1?" in error.fix


@pytest.mark.parametrize(
    ("fault", "what", "where"),
    [
        ("429", "lets nothing through", "judge.requests_per_minute"),
        ("503", "fails (HTTP 503: no)", "judge.base_url"),
        ("redirect", "redirects to 127.0.0.1", "judge.base_url"),
        ("garbage", "does not speak chat/completions", "judge.base_url"),
        ("no_choices", "does not speak chat/completions", "judge.base_url"),
        ("huge", "longer than 1 MiB", "judge.base_url"),
        ("gzip", "compressed", "judge.base_url"),
        ("hang", "gave no answer", "judge.deadline"),
        ("drop", "the connection broke", "judge.base_url"),
        ("400:Unsupported parameter: 'max_tokens', use 'max_completion_tokens' instead", "does not take", "judge.body"),
        ("400:Unsupported value: 'temperature' does not support 0", "does not take", "judge.body"),
    ],
)
def test_a_server_that_answers_otherwise(quick, fault, what, where):
    with Server(early=True, fault=lambda _: fault) as server:
        error = told(server, deadline=0.3)
    assert what in error.what
    assert error.where == where
    if fault.startswith("400"):
        assert ("max_completion_tokens: 2000" if "max_tokens" in fault else "temperature: null") in error.fix


def test_a_hiccup_at_the_start_is_no_error(monkeypatch):
    monkeypatch.setattr(preflight, "AGAIN_S", 0.02)
    with Server(early=True, fault=lambda request: "503" if request.nth < 4 else None) as server:
        assert ask(server)[0].kind == "text"


def test_a_server_that_takes_its_time_is_waited_for_and_the_user_is_told(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "WITHIN_S", 0.03)
    monkeypatch.delenv("RLHF_LORA_QUIET", raising=False)
    with Server(latency=lambda request: 0.1) as server:
        assert ask(server)[0].kind == "text"
    assert "has not answered yet (loading the model?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "ended", "told"), [("", "length", True), ("<think>\nWell", "length", True), ("A", "stop", False)]
)
def test_a_model_that_thinks_before_it_answers_is_named_with_what_turns_that_off(
    said, ended, told, monkeypatch, capsys
):
    monkeypatch.delenv("RLHF_LORA_QUIET", raising=False)
    with Server(answer=lambda _: said, choice=lambda _: {"finish_reason": ended}) as server:
        opened = endpoint(server)
        opened.ask([Question("w", ({"role": "user", "content": "id: w"},), ("A", "B"))], lambda q, a: True)
        opened.close()
    assert ("judge.body={reasoning_effort:none} (Ollama)" in capsys.readouterr().err) == told


def without(top: int):
    return lambda request: "400:logprobs" if request.body.get("top_logprobs", 0) > top else None


@pytest.mark.parametrize(("most", "asked"), [(20, 20), (5, 5), (0, None)])
def test_probabilities_are_asked_for_as_far_as_the_server_gives_them(most, asked):
    with Server(early=True, fault=without(most), answer=lambda _: "A") as server:
        opened = endpoint(server)
        opened.ask(
            [Question("w", ({"role": "user", "content": "id: w"},), ("A", "B")), *questions(1)], lambda q, a: True
        )
        opened.close()
    by_id = {request.id: request.body for request in server.requests}
    assert by_id["w"].get("top_logprobs") == asked
    assert "logprobs" not in by_id["q0"]  # it has no choices


def test_the_preflight_is_one_cheap_question():
    with Server() as server:
        endpoint(server).close()
    assert len(server.requests) == 1
    assert server.requests[0].body["max_tokens"] <= 16


@pytest.mark.parametrize(("changed", "asked"), [({}, 1), ({"model": "other"}, 2)])
def test_it_is_asked_once_in_a_start_of_a_run_however_often_the_judge_is_opened(changed, asked, tmp_path):
    start = Context(run_dir=tmp_path)
    with Server(early=True, fault=without(5), models=("tiny", "other")) as server:
        for more in ({}, changed):
            opened = Endpoint.of(settings(server, **more), start)
            opened.ask([Question("w", ({"role": "user", "content": "id: w"},), ("A", "B"))], lambda q, a: True)
            opened.close()
        bodies = [request.body for request in server.requests]
        assert [body.get("top_logprobs") for body in bodies if "top_logprobs" in body][-1] == 5  # what it learned then
        assert server.paid[PREFLIGHT] == asked
    with pytest.raises(ConfigError, match="cannot be reached"):  # the next start finds out for itself
        Endpoint.of(settings(server), Context(run_dir=tmp_path))
