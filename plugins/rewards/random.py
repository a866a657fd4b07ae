"""`reward=random`: a reward that knows nothing. What is learned from it is what any reward would seem to teach."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from rlhf_lora.records import Sample
from rlhf_lora.registry import reward

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context


@reward("random")
class Random:
    """Standard normal by a hash of prompt and answer: the same text always has the same score, and no other text tells
    anything about it. The prompt is in the hash, or a policy could learn which answers are lucky everywhere.

    Attributes:
        seed: of the hash; null = the run's seed (0 outside a run).
    """

    seed: int | None = None

    def open(self, ctx: Context) -> Random:
        return self if self.seed is not None else replace(self, seed=ctx.seed)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        return [_normal(f"{self.seed or 0}/{len(sample.prompt)}/{sample.prompt}{sample.text}") for sample in samples]


def _normal(text: str) -> float:
    """A draw of N(0, 1) that the text decides: 52 bits of its hash as a share strictly between 0 and 1, and its quantile."""
    bits = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 12
    return NormalDist().inv_cdf((bits + 0.5) / 2**52)
