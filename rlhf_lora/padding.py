"""Sequences on their way through the model: padding, positions, and what a rollout keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padded:
    """Prompts padded on the left, responses on the right, so that all responses start in one column.

    Attributes:
        ids_BS, attention_BS, positions_BS: model inputs; S = P + T.
        response_mask_BT: True on response tokens.
        prompt_width: P. The state that predicts response token t stands in column P − 1 + t.
    """

    ids_BS: Tensor
    attention_BS: Tensor
    positions_BS: Tensor
    response_mask_BT: Tensor
    prompt_width: int

    @property
    def responses_BT(self) -> Tensor:
        return self.ids_BS[:, self.prompt_width :]


def pad(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], fill_id: int, device: str = "cpu"
) -> Padded:
    """Pad to the longest prompt and the longest response given. Masks come from lengths, never from ids."""
    prompt_width = max(len(p) for p in prompts)
    response_width = max((len(r) for r in responses), default=0)
    ids, attention, mask = [], [], []
    for prompt, response in zip(prompts, responses, strict=True):
        left, right = prompt_width - len(prompt), response_width - len(response)
        ids.append([fill_id] * left + list(prompt) + list(response) + [fill_id] * right)
        attention.append([0] * left + [1] * (len(prompt) + len(response)) + [0] * right)
        mask.append([True] * len(response) + [False] * right)
    attention_BS = torch.tensor(attention, device=device)
    return Padded(
        ids_BS=torch.tensor(ids, device=device),
        attention_BS=attention_BS,
        positions_BS=positions(attention_BS),
        response_mask_BT=torch.tensor(mask, dtype=torch.bool, device=device).reshape(len(ids), response_width),
        prompt_width=prompt_width,
    )


def positions(attention_BS: Tensor) -> Tensor:
    """Position of each token among the real ones: 0 for the first, whatever stands left of it."""
    return (attention_BS.cumsum(1) - 1).clamp(min=0)
