"""Several replies to one order, ranked by the annotator of `rlhf_lora.mini.orders`: what a K-wise reward model learns from.

Apart from `orders`, which decides the embedded base: whoever changes how rankings are made gets no other base.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from rlhf_lora.mini import orders


def several(rng: random.Random, triple: orders.Triple, items: int, count: int) -> list[str]:
    """`count` different replies to one order: as for `orders.compared`, each by a writer of its own, or (half the time) one of
    those before it with one thing changed."""
    found = [orders.draft(rng, triple, items, rng.choice(orders.WRITERS)).text]
    while len(found) < count:
        if rng.random() < 0.5:
            reply = orders.draft(rng, triple, items, rng.choice(orders.WRITERS)).text
        else:
            reply = orders.edited(rng, triple, items, rng.choice(found))
        if reply not in found:
            found.append(reply)
    rng.shuffle(found)
    return found


def ranked(rng: random.Random, golds: Sequence[float], tau: float) -> list[int]:
    """Ranks from 1 (best) that a noisy annotator gives to replies of these golds: Plackett-Luce with scores gold / tau.

    The first place goes to reply i with P = exp(gold_i / tau) / Σ_j exp(gold_j / tau), the next likewise among the rest
    (Luce 1959; Plackett 1975). So any two of them stand in the order that `orders.prefers` would give them, with
    P = sigmoid(difference / tau): a ranking's pairs are no more and no less noisy than pairs that were compared alone.
    """
    # Gold plus Gumbel noise of scale tau, sorted, is a draw from it (Yellott 1977).
    noisy = [gold - tau * math.log(-math.log(rng.random() or 0.5)) for gold in golds]
    order = sorted(range(len(golds)), key=lambda i: -noisy[i])
    return [order.index(i) + 1 for i in range(len(golds))]
