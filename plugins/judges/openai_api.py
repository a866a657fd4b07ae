"""A judge behind any server that speaks OpenAI's `chat/completions`: Ollama, vLLM, LM Studio, llama.cpp, a cloud."""

from __future__ import annotations

from typing import Any

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ContractError
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.questions import Answer, Question
from rlhf_lora.records import Prompt, Verdict
from rlhf_lora.registry import judge


@judge("openai_api")
class OpenAIAPI(EndpointSettings):
    """Asks a server that speaks OpenAI's chat/completions (docs/judge_servers.md)."""

    deterministic = False
    latency_s = 60.0

    def open(self, ctx: Context) -> Opened:
        """Raises ConfigError: the server does not answer a first question."""
        from rlhf_lora.judging.endpoint.listener import Endpoint

        return Opened(Endpoint.of(self, ctx))

    def preflight(self, ctx: Context) -> None:
        """Raises ConfigError: likewise."""
        self.open(ctx).close()

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        raise ContractError("the judge 'openai_api' is opened before it is asked")


class Opened:
    """At work."""

    def __init__(self, listener: Any):
        self.listener = listener

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        text = f"Question:\n{prompt.text}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\nWhich is better? Say A or B alone."
        question = Question("one", ({"role": "user", "content": text},), ("A", "B"), 16)
        (answer,) = self.listener.ask([question], _readable)
        if answer.kind != "text":
            return Verdict(None, reason=f"{answer.kind}: {answer.reason}")
        return Verdict(answer.text.strip(), (answer.probabilities or {}).get("A"))

    def close(self) -> None:
        self.listener.close()


def _readable(question: Question, answer: Answer) -> bool:
    return answer.text.strip() in question.choices
