"""What the tests of the endpoint ask, and how they open it: with short waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openai_server import Server

from rlhf_lora.judging.endpoint.listener import Endpoint
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.questions import Answer, Question

SHORT = (0.001, 0.01)


def settings(server: Server, **changed: Any) -> EndpointSettings:
    return EndpointSettings(**{"base_url": server.url, "model": "tiny", "wait_for_server": 0.3, **changed})


def endpoint(
    server: Server, folder: Path | None = None, backoff: tuple[float, float] = SHORT, **changed: Any
) -> Endpoint:
    """Answers and what was spent stand in `folder`."""
    return Endpoint(settings(server, **changed), folder, folder, backoff)


def questions(count: int, text: str = "which is better?", **rest: Any) -> list[Question]:
    return [
        Question(
            f"q{i}", ({"role": "system", "content": "judge"}, {"role": "user", "content": f"{text} id: q{i}"}), **rest
        )
        for i in range(count)
    ]


def readable(question: Question, answer: Answer) -> bool:
    return answer.text == f"re: {question.id}" or bool(question.choices)


def ask(server: Server, count: int = 1, folder: Path | None = None, **changed: Any) -> list[Answer]:
    opened = endpoint(server, folder, **changed)
    try:
        return opened.ask(questions(count), readable)
    finally:
        opened.close()
