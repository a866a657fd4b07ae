"""`optimizer=kto`: Kahneman-Tversky optimisation, off-policy, on answers called good or bad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from rlhf_lora import answer_sets
from rlhf_lora.contracts import FitContext, LearnsFrom
from rlhf_lora.records import Label
from rlhf_lora.registry import optimizer

from .off_policy import OffPolicySettings, check_beta

LABELS = ("auto", "dataset", "pairs", "relabel", "rollouts")


@optimizer("kto")
class KTO(OffPolicySettings):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024): good answers gain over the reference, bad ones lose, each
    judged against z₀, an estimate of KL(π ‖ ρ). It needs no pairs, and forgives labels of unequal number.

    Attributes:
        beta: KL strength, as in every optimizer here: smaller moves further from ρ.
        labels: `dataset`, its labels; `pairs`, its chosen answers good and its rejected ones bad; or made by the reward:
            `relabel` scores the dataset's answers, `rollouts` the policy's own. `auto` = relabel; where the reward would be
            learned from the data's labels, those as they are, or pairs where there are none.
        threshold: scores above it are good, below it bad: `median` or `mean` of the prompt's scores, or a number.
        desirable_weight: weight of the loss on good answers.
        undesirable_weight: of that on bad ones; null = so that both kinds weigh the same in all.
        batch_size: rows per step; `micro_batch` of them estimate z₀ together, so 2 at least, and more is better.
    """

    learns_from: ClassVar[LearnsFrom] = "labels"
    rows_setting: ClassVar[str] = "labels"
    learning_rates: ClassVar[dict[str, float]] = {"adamw": 1e-5}  # at width 2048, for `derive`

    beta: float = 0.2
    labels: str = "auto"
    threshold: Any = "median"
    desirable_weight: float = 1.0
    undesirable_weight: float | None = None

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if self.labels not in LABELS:
            raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {self.labels!r}")
        answer_sets.check_threshold(self.threshold)
        for name in ("desirable_weight", "undesirable_weight"):
            weight = getattr(self, name)
            if weight is not None and not 0 < weight < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {weight!r}")
        super().__post_init__()
        if self.settings().rows_at_a_time < 2:
            raise ValueError(
                "micro_batch must be at least 2 for KTO: the KL of an answer is told from other prompts' answers "
                "beside it (hardware.micro_batch, or a batch_size that it divides)"
            )

    def rows_of(self, sets: Sequence[answer_sets.AnswerSet], seed: int) -> answer_sets.Made:
        """Labels by score."""
        return answer_sets.labels(sets, self.threshold)

    def fit(self, model: Any, data: Sequence[Label], ctx: FitContext) -> dict[str, float]:
        """Train on labels in a model of its own, publish the adapter at `ctx.out`, and return final metrics."""
        from rlhf_lora import kto_trainer

        weights = (self.desirable_weight, self.undesirable_weight)
        return kto_trainer.fit(model, data, self.settings(), self.beta, weights, ctx)
