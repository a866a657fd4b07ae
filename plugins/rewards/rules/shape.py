"""Rules on the shape of an answer: that there is one, that it ended, how long it is, how often it says the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlhf_lora.records import Sample
from rlhf_lora.registry import reward

from .rule import Kept, Rule, rule

SENTENCE_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++(?=[\s\"'”’)\]]|$)|[。！？]++|\n\s*\n")
"""Where a sentence ends. An abbreviation before a space ends one too: this counts, it does not parse."""


@rule("not_empty")
class NotEmpty(Rule):
    """The answer has at least one character that is no white space."""

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        return Kept(1.0) if sample.text.strip() else Kept(0.0, "empty")


@rule("ended")
@reward("ended")
class Ended(Rule):
    """The answer ended by itself; the length limit did not cut it."""

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        return Kept(1.0) if sample.finished else Kept(0.0, "cut off at the length limit")


@rule("length")
class LengthBand(Rule):
    """The length lies between two bounds. Outside it is graded: `count / least` below, `most / count` above.

    Attributes:
        least: smallest length that is kept.
        most: greatest length that is kept; null = no bound.
        unit: `words` (between white space), `characters` or `sentences`.
    """

    least: int = 1
    most: int | None = None
    unit: str = "words"

    def __post_init__(self) -> None:
        one_of("unit", self.unit, ("words", "characters", "sentences"))
        if self.least < 0:
            raise ValueError(f"least must be at least 0, got {self.least}")
        if self.most is not None and self.most < max(1, self.least):
            raise ValueError(f"most must be at least 1 and not below least={self.least}, got {self.most}")

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        count = self._count(sample.text.strip())
        if count < self.least:
            return Kept(count / self.least, f"{self.unit}: {count}, wanted {self._band}")
        if self.most is not None and count > self.most:
            return Kept(self.most / count, f"{self.unit}: {count}, wanted {self._band}")
        return Kept(1.0)

    @property
    def _band(self) -> str:
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"

    def _count(self, text: str) -> int:
        if self.unit == "sentences":
            return sum(1 for piece in SENTENCE_END.split(text) if piece.strip(" \t\n\"'”’)]"))
        return len(text) if self.unit == "characters" else len(text.split())


@rule("repetition")
@reward("repetition")
class Repetition(Rule):
    """The share of n-grams that stood before is at most `most`; from there the value falls in a line to 0 at share 1.

    Case does not count. A text of fewer than `n` words repeats nothing.

    Attributes:
        n: length of the n-grams.
        most: greatest share of repeated n-grams that is kept, in [0, 1).
        unit: n-grams of `words` or of `characters` (for languages without spaces).
    """

    n: int = 3
    most: float = 0.2
    unit: str = "words"

    def __post_init__(self) -> None:
        one_of("unit", self.unit, ("words", "characters"))
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if not 0 <= self.most < 1:
            raise ValueError(f"most is a share of at least 0 and below 1, got {self.most}")

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        text = sample.text.lower()
        pieces = text.split() if self.unit == "words" else list("".join(text.split()))
        grams = [tuple(pieces[i : i + self.n]) for i in range(len(pieces) - self.n + 1)]
        share = 1 - len(set(grams)) / len(grams) if grams else 0.0
        if share <= self.most:
            return Kept(1.0)
        return Kept((1 - share) / (1 - self.most), f"{share:.0%} of the {self.n}-grams repeat, wanted {self.most:.0%}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ValueError, with the known words, when `value` is none of them."""
    if value not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}; got '{value}'")
