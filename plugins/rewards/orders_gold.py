"""`reward=orders_gold`: the known truth of the miniature task, as a reward and as the yardstick of its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lora.mini import orders
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward


@reward("orders_gold")
class OrdersGold:
    """The gold score of the orders task, at most 5.0, with its parts. A prompt that is no order gets no score."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [_score(sample) for sample in samples]


def _score(sample: Sample) -> Score:
    try:
        value, parts = orders.gold(sample.prompt, sample.text, sample.finished)
    except ValueError as error:
        return Score.none(str(error), kind="abstain")
    return Score(value, parts=parts)
