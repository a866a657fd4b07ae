"""A reward for short answers. Importing this module registers it; the entry point in pyproject.toml has it imported."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lora import Sample, Score, reward


@reward("brevity_words")
class BrevityWords:
    """Prefer answers of at most `target` words; an empty answer gets no score.

    Attributes:
        target: words that cost nothing.
        per_word: what each further word costs.
    """

    target: int = 12
    per_word: float = 0.1

    def __post_init__(self) -> None:
        if self.target < 1 or self.per_word <= 0:
            raise ValueError(f"target must be at least 1 and per_word above 0, got {self.target} and {self.per_word}")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._one(sample.text) for sample in samples]

    def _one(self, text: str) -> Score:
        words = len(text.split())
        if words == 0:
            return Score.none("the answer is empty")
        over = max(0, words - self.target)
        value = -self.per_word * over
        return Score(
            value, parts={"words": float(words), "over": float(over)}, reason=f"{over} words over {self.target}"
        )
