"""Our own decoding loop: a KV cache, one sample per row, the log-prob captured as the token is drawn.

Why not `generate()`: it never compiles a 4-bit model, and keeping its scores costs batch × time × vocabulary. Here the
log-prob of the sampled token over the *full* vocabulary is taken at each step, so no second pass is needed and the
first-minibatch ratio is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.progress import track
from rlhf_lora.records import Prompt, Sample
from rlhf_lora.registry import rollout

from .stops import RowsThatStopped, StopRule, check_stops


@rollout("native")
class Native:
    """Sample with a KV cache and capture log-probs on the way.

    Attributes:
        max_new_tokens: where a completion is cut; null = what the dataset suggests, else 128.
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
        self, backbone: Any, prompts: Sequence[Prompt], n: int, seed: int, role: str = "policy", each: Any = None
    ) -> list[Sample]:
        import torch

        generator = torch.Generator(device=backbone.device).manual_seed(seed)
        repeated = [prompt for prompt in prompts for _ in range(n)]
        ids = [backbone.chat.prompt_ids(prompt) for prompt in repeated]
        # Alike in length, so that little is padding; the longest first, so that what does not fit fails at once.
        order = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), i))
        samples: list[Any] = [None] * len(ids)
        with torch.no_grad(), backbone.role(role):
            for start in track(range(0, len(order), backbone.rollout_batch), "rollout", inner=True):
                rows = order[start : start + backbone.rollout_batch]
                for i, drawn in zip(rows, self._decode(backbone, [ids[i] for i in rows], generator), strict=True):
                    samples[i] = as_sample(backbone.chat, repeated[i], *drawn, self.stop_rule)
                if each is not None:
                    each(rows, [samples[i] for i in rows])
        return samples

    def _decode(
        self, backbone: Any, prompt_ids: list[list[int]], generator: Any
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Tokens and their log-probs, row by row. Rows that have ended leave the batch in groups."""
        import torch
        from transformers import DynamicCache

        from rlhf_lora.padding import pad

        assert self.max_new_tokens is not None
        padded = pad(prompt_ids, [[] for _ in prompt_ids], backbone.chat.fill_id, backbone.device)
        stop_N = torch.tensor(sorted(backbone.chat.stop_ids), device=backbone.device)
        input_ids, attention_BS, position_ids = padded.ids_BS, padded.attention_BS, padded.positions_BS
        rows_B = torch.arange(len(prompt_ids), device=backbone.device)  # which of the prompts each row answers
        alive_B = torch.ones_like(rows_B, dtype=torch.bool)
        tokens_BT = torch.zeros(len(rows_B), self.max_new_tokens, dtype=torch.long, device=backbone.device)
        logprobs_BT, lengths_B = torch.zeros(tokens_BT.shape, device=backbone.device), torch.zeros_like(rows_B)
        stopping = RowsThatStopped(backbone.chat, self.stop_rule, len(prompt_ids)) if self.stop else None
        cache = DynamicCache()
        for t in range(self.max_new_tokens):
            out = backbone.trunk(
                input_ids=input_ids, attention_mask=attention_BS, position_ids=position_ids, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
            last_BD = out.last_hidden_state[:, -1].to(backbone.head_weight_VD.dtype)
            logprobs_BV = torch.log_softmax((last_BD @ backbone.head_weight_VD.T).float() / self.temperature, dim=1)
            token_B1 = torch.multinomial(logprobs_BV.exp(), 1, generator=generator)
            tokens_BT[rows_B, t] = token_B1[:, 0]
            logprobs_BT[rows_B, t] = logprobs_BV.gather(1, token_B1)[:, 0]
            lengths_B[rows_B[alive_B]] = t + 1
            alive_B = alive_B & ~torch.isin(token_B1[:, 0], stop_N)
            if stopping is not None:
                stopped = stopping.add(rows_B.tolist(), token_B1[:, 0].tolist())
                alive_B = alive_B & ~torch.tensor(stopped, device=backbone.device)
            going_on = int(alive_B.sum())
            if not going_on:
                break
            input_ids, position_ids = token_B1, position_ids[:, -1:] + 1
            attention_BS = torch.cat([attention_BS, torch.ones_like(token_B1)], dim=1)
            if going_on <= 0.8 * len(alive_B):  # leaving costs about what one more step does
                cache.batch_select_indices(alive_B.nonzero()[:, 0])
                input_ids, position_ids, attention_BS, rows_B, alive_B = (
                    x[alive_B] for x in (input_ids, position_ids, attention_BS, rows_B, alive_B)
                )
        for tokens_T, logprobs_T, length in zip(
            tokens_BT.tolist(), logprobs_BT.tolist(), lengths_B.tolist(), strict=True
        ):
            yield tokens_T[:length], logprobs_T[:length]


def as_sample(
    chat: Any, prompt: Prompt, tokens: list[int], logprobs: list[float], rule: StopRule
) -> Sample:  # fmt: skip
    """A completion as the rest of the kit sees it."""
    before = rule.text_before(chat, tokens)
    return Sample(
        prompt.text,
        chat.decode(tokens) if before is None else before,
        messages=prompt.messages,
        columns=prompt.columns,
        tokens=tokens,
        logprobs=logprobs,
        finished=before is not None or (bool(tokens) and tokens[-1] in chat.stop_ids),
    )


def check_sampling(max_new_tokens: int | None, temperature: float) -> None:
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}", where="rollout.max_new_tokens", fix="at least 1")
    if not 0 < temperature < math.inf:
        raise ConfigError(
            f"temperature is {temperature}",
            where="rollout.temperature",
            fix="above 0 and finite: log-probs are taken at it",
        )
