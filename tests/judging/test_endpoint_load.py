"""The endpoint against 19 % faults, against a kill, and against a real server of somebody else's."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import load
import pytest

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.endpoint.listener import Endpoint
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.questions import Question

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_of_ten_thousand_questions_and_a_kill_in_the_middle_none_is_lost_mistaken_or_paid_twice(tmp_path):
    found = load.run(10_000, tmp_path, kill_at=4000)
    assert sum(found.faults.values()) > 0.17 * found.requests
    assert (found.lost, found.wrong, found.twice, found.repeated) == (0, 0, 0, 0), found
    assert found.factor <= 1.3, found
    assert found.most <= load.CONCURRENCY
    assert found.on_their_way <= load.CONCURRENCY  # sent whole in the moment of the kill
    assert found.kept >= 4000 - load.CONCURRENCY


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers_serve(tiny_base: Path) -> Iterator[str]:
    """`transformers serve` with a model of 64 channels that speaks no language. It has a chat template of two lines."""
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")):
        pytest.skip("needs pip install transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny_base), "--device", "cpu"]
    template = tiny_base / "chat_template.jinja"
    if not template.exists():
        template.write_text(
            "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}assistant:"
        )
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], env={**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not _is_up(port):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < until
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_real_server_answers_and_is_not_asked_twice(transformers_serve, tiny_base, tmp_path):
    settings = EndpointSettings(base_url=transformers_serve, model=str(tiny_base), concurrency=2)
    asked = [
        Question(f"q{i}", ({"role": "user", "content": f"Which is better, {i} or {i + 1}?"},), max_tokens=8)
        for i in range(6)
    ]
    endpoint = Endpoint(settings, tmp_path, tmp_path)
    answers = endpoint.ask(asked, lambda question, answer: True)
    spent = endpoint.spent
    endpoint.close()
    # a model that speaks no language mostly runs to its limit, and what is cut is no answer
    assert {answer.kind for answer in answers} <= {"text", "unreadable"}
    assert all("cut off" in answer.reason for answer in answers if answer.kind == "unreadable")
    assert spent.calls >= 7
    assert spent.tokens > 0
    word = [Question("w", asked[0].messages, ("A", "B"), max_tokens=4)]
    endpoint = Endpoint(settings, tmp_path, tmp_path)
    before = endpoint._metered.sent
    first = endpoint.ask(word, lambda question, answer: True)
    again = endpoint.ask(word, lambda question, answer: True)
    assert first == again
    assert first[0].probabilities is None  # it takes `logprobs` and gives none
    assert endpoint._metered.sent == before + 1
    endpoint.close()


def test_a_real_servers_refusal_of_a_model_is_told(transformers_serve):
    with pytest.raises(ConfigError) as refused:
        Endpoint(EndpointSettings(base_url=transformers_serve, model="nobody/has-this"))
    assert "nobody/has-this" in str(refused.value)
