"""`optimizer=dpo`: direct preference optimisation, off-policy, on pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rlhf_lora import answer_sets
from rlhf_lora.contracts import FitContext, LearnsFrom
from rlhf_lora.records import Pair
from rlhf_lora.registry import optimizer

from .off_policy import OffPolicySettings, check_beta

SMOOTHED = ("sigmoid", "robust", "exo_pair")
LOSSES = (*SMOOTHED, "hinge", "ipo", "apo_zero", "apo_down", "discopop", "sigmoid_norm")
PAIRS = ("auto", "dataset", "relabel", "rollouts")


@optimizer("dpo")
class DPO(OffPolicySettings):
    """Direct preference optimisation (Rafailov et al. 2023): L = −log σ(β[(log π_w − log ρ_w) − (log π_l − log ρ_l)]).

    ρ is the SFT adapter that training starts from. It needs ρ to have seen such answers: without SFT on the chosen
    ones both log-probs may fall together.

    Attributes:
        beta: KL strength, as in every optimizer here: smaller moves further from ρ.
        loss: `sigmoid` is DPO, with `label_smoothing` cDPO; the others are TRL's by the same name. TRL's `ipo`
            divides log-probs by length.
        label_smoothing: share of labels taken to be wrong, in [0, 0.5).
        pairs: `dataset`, or made by a reward: `relabel` orders the dataset's answers, `rollouts` the policy's own. `auto` =
            dataset where the reward would be learned from its labels, as they are; relabel for any other reward.
        pairs_from: of made pairs, which of a prompt's answers: `best_worst`, `best_rest` (the best with each other), `all`.
        min_margin: no pair is made of scores that are closer than this, in the reward's unit; equal ones never are.
        soft_labels: made pairs have P(chosen is better) = σ(score difference) as their label instead of 1.
    """

    learns_from: ClassVar[LearnsFrom] = "pairs"
    rows_setting: ClassVar[str] = "pairs"
    learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 1e-5}  # at width 2048, for `derive`

    beta: float = 0.2
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    pairs: str = "auto"
    pairs_from: str = "best_worst"
    min_margin: float = 0.0
    soft_labels: bool = False

    def __post_init__(self) -> None:
        check_beta(self.beta)
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
        if self.pairs_from not in answer_sets.PAIRS_FROM:
            raise ValueError(f"pairs_from must be one of {', '.join(answer_sets.PAIRS_FROM)}, got {self.pairs_from!r}")
        if not 0 <= self.min_margin < math.inf:
            raise ValueError(f"min_margin must be finite and ≥ 0, got {self.min_margin!r}")
        if self.soft_labels and self.loss != "sigmoid":
            raise ValueError(f"loss={self.loss} knows no soft labels; sigmoid does")
        super().__post_init__()

    def rows_of(self, sets: Sequence[answer_sets.AnswerSet], seed: int) -> answer_sets.Made:
        """Pairs by score."""
        return answer_sets.pairs(sets, self.pairs_from, self.min_margin, self.soft_labels, seed)

    def fit(self, model: Any, data: Sequence[Pair], ctx: FitContext) -> dict[str, float]:
        """Train on pairs in a model of its own, publish the adapter at `ctx.out`, and return final metrics."""
        from rlhf_lora import dpo_trainer

        return dpo_trainer.fit(model, data, self.settings(), self.beta, self.loss, self.label_smoothing, ctx)
