"""`reward=ai_feedback judge=NAME`: a judge's opinion of the policy's answers as their reward (docs/judges.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward

CHOICES = {
    "mode": ("pairwise", "pointwise"),
    "against": ("reference", "group"),
    "orders": ("both", "once"),
    "on_alarm": ("warn", "stop"),
}


@reward("ai_feedback")
class AiFeedback:
    """What the run's judge says of an answer: the probability that it beats another one, or its rating (Lee et al. 2023).

    Attributes:
        mode: `pairwise` = the probability, in [0, 1], that the answer is better than another; `pointwise` = the judge's own
            rating of the answer alone (d-RLAIF), on the judge's scale.
        against: whom a pair is made with: `reference` = one answer of the reference policy to the same prompt; `group` = each of
            the policy's other answers to it, the mean over them.
        orders: `both` = each pair is read in both orders and the mean counts; `once` = half the questions, and the judge's
            liking for a place stays in.
        tie_within: a tie where the probability is no further than this from one half.
        canaries_every: every so many updates the judge is asked about answers that say nothing, which have to score low; 0 = never.
        on_alarm: when one of them scores above the median of the rollout: `warn`, or `stop` the run.
    """

    mode: str = "pairwise"
    against: str = "reference"
    orders: str = "both"
    tie_within: float = 0.0
    canaries_every: int = 10
    on_alarm: str = "warn"

    needs_judge = True

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if (given := getattr(self, name)) not in allowed:
                raise ConfigError(f"reward.{name} is '{given}'", where=f"reward.{name}", fix=" or ".join(allowed))
        if not 0 <= self.tie_within < 0.5:
            raise ConfigError(
                f"reward.tie_within is {self.tie_within}", where="reward.tie_within",
                fix="from 0 up to 0.5: how far from one half a probability still is a tie",
            )  # fmt: skip
        if self.canaries_every < 0:
            raise ConfigError(
                f"reward.canaries_every is {self.canaries_every}",
                where="reward.canaries_every",
                fix="0 for never, or more",
            )
        if self.mode == "pointwise" and (self.against, self.orders, self.tie_within) != ("reference", "both", 0.0):
            raise ConfigError(
                "a rating is of one answer alone: there is nothing to compare it with, and no order",
                where="reward.mode=pointwise", fix="leave reward.against, reward.orders and reward.tie_within out",
            )  # fmt: skip

    def in_words(self) -> str:
        """For a plan: what a score is."""
        if self.mode == "pointwise":
            return "the judge's rating of each answer"
        other = "the reference's answer" if self.against == "reference" else "each other answer to the prompt"
        orders = "both orders" if self.orders == "both" else "one order"
        return f"probability that the judge prefers it to {other}, asked in {orders}"

    def open(self, ctx: Context) -> Any:
        """The judge opened, and what asks it."""
        from .ai_feedback_open import opened

        if ctx.judge is None:
            raise ConfigError(
                "reward=ai_feedback asks a judge, and there is none", where="judge=null",
                fix="judge=NAME: `rlhf-lora plugins judge` lists them",
            )  # fmt: skip
        return opened(self, ctx)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Only once it is opened with a judge."""
        scores: list[Score] = self.open(Context()).score(samples)
        return scores
