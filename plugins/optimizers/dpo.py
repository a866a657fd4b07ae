"""`optimizer=dpo`: direct preference optimisation, off-policy, on pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rlhf_lora.adamw import AdamW
from rlhf_lora.contracts import FitContext, LearnsFrom
from rlhf_lora.records import Pair
from rlhf_lora.registry import optimizer
from rlhf_lora.train_settings import TrainSettings, micro_batch_within

SMOOTHED = ("sigmoid", "robust", "exo_pair")
LOSSES = (*SMOOTHED, "hinge", "ipo", "apo_zero", "apo_down", "discopop", "sigmoid_norm")
PAIRS = ("dataset", "relabel", "rollouts")


@optimizer("dpo")
class DPO:
    """Direct preference optimisation (Rafailov et al. 2023): L = −log σ(β[(log π_w − log ρ_w) − (log π_l − log ρ_l)]).

    ρ is the SFT adapter that training starts from. It needs ρ to have seen such answers: without SFT on the chosen
    ones both log-probs may fall together.

    Attributes:
        beta: KL strength, as in every optimizer here: smaller moves further from ρ.
        loss: `sigmoid` is DPO, with `label_smoothing` cDPO; the others are TRL's by the same name. TRL's `ipo`
            divides log-probs by length.
        label_smoothing: share of labels taken to be wrong, in [0, 0.5).
        pairs: `dataset`, or made by a reward: `relabel` orders the dataset's answers, `rollouts` the policy's own.
        micro_batch: pairs in memory at a time; smaller = less memory, slower; null = hardware.micro_batch.
    """

    learns_from: ClassVar[LearnsFrom] = "pairs"
    learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 1e-5}  # at width 2048, for `derive`

    beta: float = 0.2
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    pairs: str = "dataset"
    epochs: float = 1.0
    batch_size: int = 64
    micro_batch: int | None = None
    max_length: int = 1024
    schedule: str = "linear"
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    adamw: AdamW = AdamW(lr=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adamw", AdamW.of(self.adamw))
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be > 0 and finite, got {self.beta!r}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.pairs not in PAIRS:
            raise ValueError(f"pairs must be one of {', '.join(PAIRS)}, got {self.pairs!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(f"loss={self.loss} knows no label_smoothing; {', '.join(SMOOTHED)} do")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss=exo_pair needs label_smoothing > 0, such as 0.001")
        self.settings()  # checks the rest

    def settings(self) -> TrainSettings:
        """The part that every off-policy stage has."""
        shared: Mapping[str, Any] = {
            name: getattr(self, name)
            for name in ("epochs", "batch_size", "micro_batch", "max_length", "schedule", "warmup", "max_grad_norm")
        }
        rows = micro_batch_within(self.batch_size, self.micro_batch or self.batch_size)
        return TrainSettings.of(self.adamw, **{**shared, "micro_batch": self.micro_batch or rows})

    def fit(self, model: Any, data: Sequence[Pair], ctx: FitContext) -> dict[str, float]:
        """Train on pairs in a model of its own, publish the adapter at `ctx.out`, and return final metrics."""
        from rlhf_lora import dpo_trainer

        return dpo_trainer.fit(model, data, self.settings(), self.beta, self.loss, self.label_smoothing, ctx)
