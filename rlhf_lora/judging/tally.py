"""What a judge did with what it was asked, as metrics of an update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlhf_lora.judging.orders import Compared
from rlhf_lora.records import Score
from rlhf_lora.scores import kind_of

NAMES = {"abstain": "refusals", "unreadable": "unreadable", "error": "errors"}
"""Kind of a missing verdict → metric."""


class Tally:
    """Counts until they are taken."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def compared(self, given: Sequence[Compared]) -> None:
        for one in given:
            self._counts["asked"] += 1
            if one.verdict.choice is None:
                self._counts[kind_of(one.verdict.reason)] += 1
            self._counts["ties"] += one.verdict.choice == "tie"
            self._counts["both"] += one.flipped is not None
            self._counts["flipped"] += bool(one.flipped)

    def rated(self, scores: Sequence[Score]) -> None:
        for score in scores:
            self._counts["asked"] += 1
            self._counts[score.kind] += 1

    def take(self) -> dict[str, float]:
        """Shares of what was asked since the last time: refusals, unreadable, errors, ties; and of what both orders could be
        read for, how much flipped with the order."""
        counts, self._counts = self._counts, Counter()
        if not (asked := counts["asked"]):
            return {}
        found = {"judge/asked": float(asked), "judge/ties": counts["ties"] / asked}
        found |= {f"judge/{name}": counts[kind] / asked for kind, name in NAMES.items()}
        if both := counts["both"]:
            found["judge/flip_rate"] = counts["flipped"] / both
        return found
