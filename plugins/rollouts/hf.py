"""Transformers' `generate()`, for architectures whose cache our own loop does not know, and as a cross-check of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

from rlhf_lora.progress import track
from rlhf_lora.records import Prompt, Sample
from rlhf_lora.registry import rollout

from .native import as_sample, check_sampling
from .stops import RowsThatStopped, StopRule, check_stops


@rollout("hf")
class HfGenerate:
    """Sample with Transformers' `generate()`; log-probs come from a second forward pass.

    Attributes:
        stop: a completion ends when its text contains one of these; what is read and scored ends before it.
        stop_after: a stop string counts only when the token that completes it is this one or a later one, counted from 0
            (16 in Ziegler et al. 2019); the end token always counts.
    """

    max_new_tokens: int | None = None
    temperature: float = 1.0
    stop: list[str] = field(default_factory=list)
    stop_after: int = 0

    def __post_init__(self) -> None:
        check_sampling(self.max_new_tokens, self.temperature)
        check_stops(self.stop, self.stop_after)

    @property
    def stop_rule(self) -> StopRule:
        return StopRule(self.stop, self.stop_after)

    def generate(
        self, backbone: Any, prompts: Sequence[Prompt], n: int, seed: int, role: str = "policy"
    ) -> list[Sample]:
        import torch

        repeated = [prompt for prompt in prompts for _ in range(n)]
        ids = [backbone.chat.prompt_ids(prompt) for prompt in repeated]
        responses: list[list[int]] = []
        # generate() draws from the global stream: put it back as it was, so that the caller's stays the caller's.
        with (
            torch.random.fork_rng(devices=[] if backbone.device == "cpu" else None),
            torch.no_grad(),
            backbone.role(role),
        ):
            torch.manual_seed(seed)
            for start in track(range(0, len(ids), backbone.rollout_batch), "rollout", inner=True):
                responses.extend(self._decode(backbone, ids[start : start + backbone.rollout_batch]))
        logprobs = backbone.sequence_logprobs(role, ids, responses, self.temperature)
        rows = zip(repeated, responses, logprobs, strict=True)
        return [as_sample(backbone.chat, *row, self.stop_rule) for row in rows]

    def _decode(self, backbone: Any, prompt_ids: list[list[int]]) -> list[list[int]]:
        from transformers import GenerationConfig

        from rlhf_lora.padding import pad

        padded = pad(prompt_ids, [[] for _ in prompt_ids], backbone.chat.fill_id, backbone.device)
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens, do_sample=True, temperature=self.temperature, top_k=0, top_p=1.0,
            eos_token_id=sorted(backbone.chat.stop_ids), pad_token_id=backbone.chat.fill_id,
        )  # fmt: skip
        out_BS = backbone.base.generate(
            padded.ids_BS, attention_mask=padded.attention_BS, generation_config=config,
            stopping_criteria=self._criteria(backbone.chat, len(prompt_ids)),
        )  # fmt: skip
        ended = [_until_stop(row, backbone.chat.stop_ids) for row in out_BS[:, padded.prompt_width :].tolist()]
        return [self.stop_rule.until_end(backbone.chat, tokens) for tokens in ended]

    def _criteria(self, chat: Any, rows: int) -> Any:
        """Our own rule for stop strings, so that both engines end a completion at the same token."""
        if not self.stop:
            return None
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        stopping = RowsThatStopped(chat, self.stop_rule, rows)

        class Stops(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                stopped = stopping.add(range(rows), input_ids[:, -1].tolist())
                return torch.tensor(stopped, device=input_ids.device)

        return StoppingCriteriaList([Stops()])


def _until_stop(tokens: list[int], stop_ids: frozenset[int]) -> list[int]:
    end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[:end]
