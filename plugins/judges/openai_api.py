"""`judge=openai_api`: a judge behind any server that speaks OpenAI's `chat/completions` (docs/judge_servers.md)."""

from __future__ import annotations

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ContractError
from rlhf_lora.judging.asked import Asked
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.records import Prompt, Verdict
from rlhf_lora.registry import judge


@judge("openai_api")
class OpenAIAPI(JudgingSettings, EndpointSettings):
    """A model behind an OpenAI-compatible server: Ollama, vLLM, LM Studio, llama.cpp or a cloud.

    Settings of the server are `EndpointSettings`, of what it is asked `JudgingSettings`.
    """

    deterministic = False  # a server promises nothing
    keeps_answers = True
    latency_s = 60.0

    def open(self, ctx: Context) -> AskedServer:
        """Raises ConfigError: the server does not answer a first question, or not as it should."""
        from rlhf_lora.judging.endpoint.listener import Endpoint

        return AskedServer(Endpoint.of(self, ctx), self)

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        raise ContractError("the judge 'openai_api' is opened before it is asked")


class AskedServer(Asked):
    """At work: how long it may take is known by the endpoint's own limits."""

    def call_seconds(self, count: int) -> float:
        """The most seconds that so many comparisons or ratings can take."""
        how = self.settings
        each = how.principles_per_item * (2 if how.reasoning == "steps" else 1)
        return float(self.listener.call_seconds(count * each))  # type: ignore[attr-defined]
