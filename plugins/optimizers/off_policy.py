"""What off-policy optimizers share: how they train, and how many answers a reward is shown for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_lora.adamw import AdamW
from rlhf_lora.train_settings import TrainSettings, micro_batch_within


@dataclass(frozen=True, kw_only=True)
class OffPolicySettings:
    """Settings of an optimizer that learns from rows, in a model of its own.

    Attributes:
        samples_per_prompt: where rows are made of rollouts: answers to each prompt; the reward scores all of them.
        prompts: where rows are made of rollouts: so many prompts are answered, in each round others; null = all.
        micro_batch: rows in memory at a time; null = hardware.micro_batch.
    """

    samples_per_prompt: int = 4
    prompts: int | None = None
    epochs: float = 1.0
    batch_size: int = 64
    micro_batch: int | None = None
    max_length: int = 1024
    schedule: str = "linear"
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    adamw: AdamW = AdamW(lr=None)  # noqa: RUF009 frozen

    def __post_init__(self) -> None:
        object.__setattr__(self, "adamw", AdamW.of(self.adamw))
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt must be at least 2, got {self.samples_per_prompt}: of one there is no choice"
            )
        if self.prompts is not None and self.prompts < 1:
            raise ValueError(f"prompts must be at least 1, got {self.prompts}; null = all")
        self.settings()  # checks the rest

    def settings(self) -> TrainSettings:
        """The part that every off-policy stage has."""
        shared: Mapping[str, Any] = {
            name: getattr(self, name)
            for name in ("epochs", "batch_size", "max_length", "schedule", "warmup", "max_grad_norm")
        }
        rows = micro_batch_within(self.batch_size, self.micro_batch or self.batch_size)
        return TrainSettings.of(self.adamw, **shared, micro_batch=self.micro_batch or rows)


def check_beta(beta: float) -> None:
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be > 0 and finite, got {beta!r}")
