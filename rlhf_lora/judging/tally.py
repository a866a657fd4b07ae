"""What a judge did with what it was asked about an update's samples, as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rlhf_lora.judging.orders import Compared
from rlhf_lora.records import Score
from rlhf_lora.scores import kind_of

NAMES = {"abstain": "refusals", "unreadable": "unreadable", "error": "errors"}
"""Kind of a missing verdict → metric."""
Key = tuple[str, ...]
"""A question: the prompt and the answers in it, as texts."""


class Tally:
    """Keeps what came of questions until an update is over.

    It is told which questions were the update's: what an evaluation asked in between is not counted, so that a resumed run
    counts the same.
    """

    def __init__(self) -> None:
        self._given: dict[Key, Compared | Score] = {}

    def keep(self, keys: Iterable[Key], given: Sequence[Compared | Score]) -> None:
        self._given |= zip(keys, given, strict=True)

    def take(self, keys: Iterable[Key]) -> dict[str, float]:
        """Of these questions, those that were asked: `judge/asked`, and the shares of refusals, unreadable, errors and ties;
        `judge/flip_rate` of those that could be read in both orders. Forgets all of them."""
        found = [self._given[key] for key in keys if key in self._given]
        self._given = {}
        if not found:
            return {}
        counts: Counter[str] = Counter()
        for one in found:
            _count(counts, one)
        metrics = {"judge/asked": float(len(found))}
        metrics |= {f"judge/{name}": counts[kind] / len(found) for kind, name in NAMES.items()}
        if any(isinstance(one, Compared) for one in found):
            metrics["judge/ties"] = counts["ties"] / len(found)
        if both := counts["both"]:
            metrics["judge/flip_rate"] = counts["flipped"] / both
        return metrics


def _count(counts: Counter[str], one: Compared | Score) -> None:
    if isinstance(one, Score):
        counts[one.kind] += 1
        return
    if one.verdict.choice is None:
        counts[kind_of(one.verdict.reason)] += 1
    counts["ties"] += one.verdict.choice == "tie"
    counts["both"] += one.flipped is not None
    counts["flipped"] += bool(one.flipped)
