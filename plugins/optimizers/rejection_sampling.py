"""`optimizer=rejection_sampling`: the policy answers, the reward picks the best answer to each prompt, the policy imitates it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rlhf_lora import answer_sets
from rlhf_lora.contracts import FitContext, LearnsFrom
from rlhf_lora.records import Demonstration
from rlhf_lora.registry import optimizer

from .off_policy import OffPolicySettings


@optimizer("rejection_sampling")
class RejectionSampling(OffPolicySettings):
    """Rejection sampling fine-tuning (Touvron et al. 2023, Llama 2, §3.2.3): best of K by the reward, then SFT on the best.

    There is no KL term: what keeps the policy near the reference is that it imitates its own answers, a few at a time.

    Attributes:
        samples_per_prompt: K. The best of more is better, and a narrower choice of words.
        pool: from the second round on, learn from the best of all earlier rounds too: Llama 2 lost skills without.
        adamw: lr null = a quarter of SFT's.
    """

    learns_from: ClassVar[LearnsFrom] = "demonstrations"
    rows_from: ClassVar[str] = "rollouts"
    learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 5e-5}  # at width 2048, for `derive`

    samples_per_prompt: int = 8
    pool: bool = False

    def rows_of(self, sets: Sequence[answer_sets.AnswerSet], seed: int) -> answer_sets.Made:
        """The best answer of each set."""
        return answer_sets.best(sets, seed)

    def fit(self, model: Any, data: Sequence[Demonstration], ctx: FitContext) -> dict[str, float]:
        """Imitate in a model of its own, publish the adapter at `ctx.out`, and return final metrics."""
        from rlhf_lora import sft_trainer

        return sft_trainer.fit(model, data, self.settings(), ctx)
