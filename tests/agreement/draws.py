"""Random rollouts: what both sides are given. One number makes one draw, the same on every machine with this torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PAD, END = 0, 1  # two ids: where one stands for both, see test_trl_differences.py


@dataclass
class Draw:
    """One rollout of B answers in T places, in float64, with rubbish behind the ends.

    Attributes:
        logprobs_BT, ref_logprobs_BT, new_logprobs_BT: when sampled, of the reference, and now.
        values_BT, new_values_BT: when sampled, and now.
        tokens_BT: ids from 2 on; PAD behind the end.
        scores_BT: any numbers per token: advantages, or what returns lie above values.
        finished_B: END is the last token that counts.
    """

    tokens_BT: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    ref_logprobs_BT: Tensor
    new_logprobs_BT: Tensor
    values_BT: Tensor
    new_values_BT: Tensor
    scores_B: Tensor
    scores_BT: Tensor
    finished_B: Tensor
    beta: float
    gamma: float
    lam: float
    clip: float

    @property
    def lengths_B(self) -> Tensor:
        return self.mask_BT.sum(1)


def draws(count: int, *, full: bool = False, vocabulary: int = 11) -> Iterator[Draw]:
    """`count` rollouts of other shapes, lengths, scales and settings.

    Args:
        full: every answer fills all T places.
    """
    for seed in range(count):
        yield draw(seed, full=full, vocabulary=vocabulary)


def draw(seed: int, *, full: bool = False, vocabulary: int = 11) -> Draw:
    stream = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    def number(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=stream, dtype=torch.float64))

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=stream)

    B, T = int(integers(1, 9)), int(integers(2, 24))
    lengths_B = torch.full((B,), T) if full else integers(1, T, B)
    lengths_B[0] = lengths_B[0].clamp(min=2)  # one token alone has no deviation
    mask_BT = torch.arange(T) < lengths_B[:, None]
    finished_B = integers(0, 1, B).bool() | (lengths_B < T)  # whoever stopped early said so
    tokens_BT = integers(2, vocabulary - 1, B, T)
    tokens_BT[torch.arange(B)[finished_B], lengths_B[finished_B] - 1] = END
    logprobs_BT = -normal(B, T).abs() * number(0.1, 3.0)
    values_BT = normal(B, T) * number(0.1, 3.0)
    return Draw(
        tokens_BT=tokens_BT.where(mask_BT, PAD),
        mask_BT=mask_BT,
        logprobs_BT=logprobs_BT,
        ref_logprobs_BT=logprobs_BT + normal(B, T) * number(0.0, 0.5),
        new_logprobs_BT=logprobs_BT + normal(B, T) * number(0.0, 0.3),
        values_BT=values_BT,
        new_values_BT=values_BT + normal(B, T) * number(0.0, 0.5),
        scores_B=normal(B) * number(0.1, 5.0),
        scores_BT=normal(B, T),
        finished_B=finished_B,
        beta=number(0.0, 0.3),
        gamma=number(0.9, 1.0),
        lam=number(0.0, 1.0),
        clip=number(0.05, 0.3),
    )
