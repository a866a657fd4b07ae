"""Rules on length: the smallest reward there is, and what one checks first when a policy grows wordy."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lora.records import Sample
from rlhf_lora.registry import reward


@reward("length")
class Length:
    """Prefer answers of about `target` words: 0 at the target, −1 at none or twice as many.

    Attributes:
        target: words, at least 1.
    """

    target: int = 50

    def __post_init__(self) -> None:
        if self.target < 1:
            raise ValueError(f"target must be at least 1 word, got {self.target}")

    def score(self, samples: Sequence[Sample]) -> list[float]:
        return [-abs(len(sample.text.split()) - self.target) / self.target for sample in samples]
