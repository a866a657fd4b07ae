"""A judge behind any server that speaks OpenAI's `chat/completions`: Ollama, vLLM, LM Studio, llama.cpp, a cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lora.errors import ContractError
from rlhf_lora.judging.asked import Asked
from rlhf_lora.judging.endpoint.settings import EndpointSettings
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.records import Prompt, Verdict
from rlhf_lora.registry import judge

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context


@judge("openai_api")
class OpenAIAPI(JudgingSettings, EndpointSettings):
    """Asks a server that speaks OpenAI's chat/completions (docs/judge_servers.md)."""

    deterministic = False
    latency_s = 60.0

    def open(self, ctx: Context) -> Asked:
        """Raises ConfigError: the server does not answer a first question."""
        from rlhf_lora.judging.endpoint.listener import Endpoint

        return Asked(Endpoint.of(self, ctx), self)

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        raise ContractError("the judge 'openai_api' is opened before it is asked")
