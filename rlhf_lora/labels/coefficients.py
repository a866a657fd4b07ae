"""How far raters agree, beyond what chance would give. Pure functions of plain lists; a rater may be a judge.

    percent            share of pairs of raters that say the same
    cohen_kappa        two raters, each with habits of their own          (Cohen 1960; weighted: Cohen 1968)
    krippendorff_alpha any number of raters, labels missing               (Krippendorff 2011, "Computing alpha")
    gwet_ac            any number, labels missing; AC1, or AC2 on a scale (Gwet 2014, ch. 4 and 5)
    interval           of any of them, by drawing the things that were rated anew

Kappa and alpha fall towards 0 where nearly all labels are the same, however well raters agree; AC does not, which is why
Llama 2 (Touvron et al. 2023, A.4) reports AC2. A statistic that is not defined is None: nothing was rated twice, or there was
only one thing to say.

`items`: for each thing that was rated, what its raters said, in any order (of `cohen_kappa`: the first rater, then the
second); or how many things there are of which the same was said, `{("A", "B"): 3}`. Fewer than two labels of a thing say
nothing of agreement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

Items = Sequence[Sequence[Any]] | Mapping[tuple[Any, ...], float]
Scale = Literal["nominal", "ordinal", "interval"]
DRAWS = 1000
"""Bootstrap samples of an interval."""


def percent(items: Items) -> float | None:
    """The mean over things of the share of pairs of raters that say the same, 0 to 1 (Fleiss 1971, P̄)."""
    paired = _paired(items)
    total = sum(paired.values())
    if not total:
        return None
    agreed = sum(
        weight * sum(n * (n - 1) for n in Counter(said).values()) / (len(said) * (len(said) - 1))
        for said, weight in paired.items()
    )
    return agreed / total


def cohen_kappa(items: Items, scale: Scale = "nominal") -> float | None:
    """κ = 1 − observed / expected disagreement of two raters, each thing rated by both: (the first's, the second's).

    `ordinal` counts a disagreement by how many places apart, `interval` by the square of the difference.

    Raises:
        ValueError: a thing without two labels.
    """
    paired = _counted(items)
    if not all(len(said) == 2 for said in paired):
        raise ValueError(
            "cohen_kappa is of two raters, and a thing has not two labels; krippendorff_alpha takes any number"
        )
    total = sum(paired.values())
    ones, others = _marginal({said[:1]: 0.0 for said in paired}), _marginal({said[1:]: 0.0 for said in paired})
    for (one, other), weight in paired.items():
        ones[one] += weight
        others[other] += weight
    apart = _distance(scale, {**ones, **others}, places=True)
    expected = sum(n * m * apart(a, b) for a, n in ones.items() for b, m in others.items())
    observed = sum(weight * apart(*said) for said, weight in paired.items())
    return 1 - observed * total / expected if expected else None


def krippendorff_alpha(items: Items, scale: Scale = "nominal") -> float | None:
    """α = 1 − D_o / D_e; labels that can be paired with another one of the same thing count."""
    paired = _paired(items)
    marginal = _marginal(paired)
    apart = _distance(scale, marginal)
    observed = sum(
        weight * n * m * apart(a, b) / (len(said) - 1)
        for said, weight in paired.items()
        for counts in (Counter(said),)
        for a, n in counts.items()
        for b, m in counts.items()
    )
    expected = sum(n * m * apart(a, b) for a, n in marginal.items() for b, m in marginal.items())
    return 1 - observed * (sum(marginal.values()) - 1) / expected if expected else None


def gwet_ac(items: Items, scale: Scale = "nominal", categories: Sequence[Hashable] | None = None) -> float | None:
    """AC1 on a nominal scale, AC2 on others: (p_a − p_e) / (1 − p_e), p_e = T_w / (q(q−1)) Σ π_k (1 − π_k).

    Args:
        scale: `ordinal` weights a pair of q categories by 1 − C(d+1, 2) / C(q, 2) where they are d places apart,
            `interval` by 1 − (difference / range)².
        categories: all that could be said, in order; None = what was said, sorted.
    """
    paired, every = _paired(items), _counted(items)
    known = list(categories) if categories is not None else sorted({v for said in every for v in said})
    q, pairs, total = len(known), sum(paired.values()), sum(every.values())
    if q < 2 or not pairs:
        return None
    weigh = _weight(scale, known)
    share = dict.fromkeys(known, 0.0)
    for said, weight in every.items():
        for value in said:
            share[value] += weight / len(said) / total
    agreed = 0.0
    for said, weight in paired.items():
        counts = Counter(said)
        near = sum(n * (sum(weigh(a, b) * m for b, m in counts.items()) - 1) for a, n in counts.items())
        agreed += weight * near / (len(said) * (len(said) - 1)) / pairs
    weights = sum(weigh(a, b) for a in known for b in known)
    chance = weights / (q * (q - 1)) * sum(p * (1 - p) for p in share.values())
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def interval(
    items: Items,
    statistic: Callable[[Items], float | None],
    seed: int = 0,
    draws: int = DRAWS,
    together: Sequence[Hashable] | None = None,
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic, from things drawn anew with replacement; None where it is mostly undefined.

    The things are drawn and not the raters: it says how it might have come out on other things with these raters.

    Args:
        statistic: one of those here, or a function around one: it is given a mapping.
        together: for each item what it belongs to; what belongs together (the pairs of one ranking) is drawn together.
    """
    import numpy as np

    said, drawn_CP, count_C = _drawable(items, together)
    total = int(count_C.sum())
    if not total:
        return None
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        weight_P = rng.multinomial(total, count_C / total) @ drawn_CP
        value = statistic({one: int(weight) for one, weight in zip(said, weight_P, strict=True) if weight})
        if value is not None:
            found.append(value)
    if len(found) < draws / 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _drawable(items: Items, together: Sequence[Hashable] | None) -> tuple[list[tuple[Any, ...]], Any, Any]:
    """What was said (P different things), how often in each of C things that are drawn, and how many there are of each."""
    import numpy as np

    if together is None or isinstance(items, Mapping):
        every = _counted(items)
        return list(every), np.eye(len(every), dtype=np.int64), np.array(list(every.values()), dtype=np.int64)
    place = {one: at for at, one in enumerate(dict.fromkeys(map(tuple, items)))}
    whole = {one: at for at, one in enumerate(dict.fromkeys(together))}
    drawn_CP = np.zeros((len(whole), len(place)), dtype=np.int64)
    for said, of in zip(items, together, strict=True):
        drawn_CP[whole[of], place[tuple(said)]] += 1
    return list(place), drawn_CP, np.ones(len(whole), dtype=np.int64)


def items_of(*raters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Items from a list for each rater, all of the same things in the same order; None where a rater said nothing."""
    return [tuple(said for said in row if said is not None) for row in zip(*raters, strict=True)]


# --- counting ---------------------------------------------------------------------------------------------------------


def _counted(items: Items) -> dict[tuple[Any, ...], float]:
    """What was said of a thing → how many things. There are few different ones, so 10,000 things take no longer than 10."""
    return dict(items) if isinstance(items, Mapping) else dict(Counter(tuple(said) for said in items if said))


def _paired(items: Items) -> dict[tuple[Any, ...], float]:
    """Those with two labels or more."""
    return {said: weight for said, weight in _counted(items).items() if len(said) > 1}


def _marginal(counted: Mapping[tuple[Any, ...], float]) -> dict[Any, float]:
    """How often each label was given."""
    found: dict[Any, float] = {}
    for said, weight in counted.items():
        for value in said:
            found[value] = found.get(value, 0.0) + weight
    return found


def _distance(scale: Scale, marginal: Mapping[Any, float], places: bool = False) -> Callable[[Any, Any], float]:
    """How far two labels are apart. On an ordinal scale by how many labels lie between them (Krippendorff), or places."""
    if scale == "nominal":
        return lambda a, b: float(a != b)
    if scale == "interval":
        return lambda a, b: float((a - b) ** 2)
    order = sorted(marginal)
    if places:
        place = {value: float(at) for at, value in enumerate(order)}
        return lambda a, b: abs(place[a] - place[b])
    below, at = {}, 0.0
    for value in order:
        below[value] = at + marginal[value] / 2
        at += marginal[value]
    return lambda a, b: (below[a] - below[b]) ** 2


def _weight(scale: Scale, known: Sequence[Any]) -> Callable[[Any, Any], float]:
    if scale == "nominal":
        return lambda a, b: float(a == b)
    place, q = {value: at for at, value in enumerate(known)}, len(known)
    if scale == "interval":
        wide = known[-1] - known[0]
        return lambda a, b: 1 - ((a - b) / wide) ** 2

    def ordinal(a: Any, b: Any) -> float:
        d = abs(place[a] - place[b])
        return 1 - d * (d + 1) / (q * (q - 1))

    return ordinal
