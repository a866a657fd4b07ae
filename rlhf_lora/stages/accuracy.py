"""How often a reward model prefers the chosen answer, beside what length alone would get.

Reward models on "helpful" data learn length: the longer answer wins 75 %, and bag-of-words gets no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlhf_lora.records import Pair


def accuracy(scores_chosen: Sequence[float], scores_rejected: Sequence[float], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Accuracy on held-out pairs, with Wilson intervals. Ties count one half. Length is in characters.

    Returns:
        `pairs`, `accuracy`, `length_baseline` (the longer answer wins), `accuracy_where_shorter_chosen` and
        `pairs_where_shorter_chosen` (where length is wrong), `accuracy_where_longer_chosen`, each share with its
        `_ci95`; `margin_mean` is the mean score difference. A share over no pairs is absent.
    """
    deltas = [c - r for c, r in zip(scores_chosen, scores_rejected, strict=True)]
    longer = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    if len(longer) != len(deltas):
        raise ValueError(f"{len(deltas)} scores for {len(longer)} pairs")
    wins = [_win(delta) for delta in deltas]
    shorter_chosen = [win for win, by in zip(wins, longer, strict=True) if by < 0]
    longer_chosen = [win for win, by in zip(wins, longer, strict=True) if by > 0]
    result: dict[str, Any] = {"pairs": len(pairs), "pairs_where_shorter_chosen": len(shorter_chosen)}
    result |= _share("accuracy", wins) | _share("length_baseline", [_win(by) for by in longer])
    result |= _share("accuracy_where_shorter_chosen", shorter_chosen)
    result |= _share("accuracy_where_longer_chosen", longer_chosen)
    if deltas:
        result["margin_mean"] = sum(deltas) / len(deltas)
    return result


def wilson(wins: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share: within [0, 1], and honest for few trials and shares near 0 or 1."""
    share, z2 = wins / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Exactly at the ends, where rounding would leave 3e-17.
    return 0.0 if wins == 0 else max(0.0, centre - half), 1.0 if wins == n else min(1.0, centre + half)


def _win(by: float) -> float:
    return 0.5 if by == 0 else float(by > 0)


def _share(name: str, wins: Sequence[float]) -> dict[str, Any]:
    if not wins:
        return {}
    return {name: sum(wins) / len(wins), f"{name}_ci95": list(wilson(sum(wins), len(wins)))}
