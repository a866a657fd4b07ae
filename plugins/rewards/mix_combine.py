"""How a mix makes one number of several: functions of floats, no model, no configuration.

Llama 2's gate (Touvron et al. 2023, section 3.4.1), in this order and no other:

    sigmoid   both reward models' values as probabilities R_s, R_h
    gate      R_c = R_s if the prompt is one about safety or R_s < threshold, else R_h
    logit     back to the scale of a reward
    whiten    to mean 0 and deviation 1 over the batch, of what came through the gate
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MOST_CERTAIN = 1e-6
"""A probability enters the logit no nearer to 0 or 1 than this: the logit of either is infinite. ±13.8 then."""


def weighted_sum(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Σ w·x over the parts that have a value; where some have none, stretched by Σ|w| of all over Σ|w| of these.

    Raises:
        ValueError: the parts that have a value weigh nothing, so they cannot stand for all.
    """
    total = sum(weights[name] * value for name, value in values.items())
    if len(values) == len(weights):
        return total
    present = sum(abs(weights[name]) for name in values)
    if present == 0:
        raise ValueError("the parts that have a value weigh nothing")
    return total * sum(map(abs, weights.values())) / present


def uncertain(values: Mapping[str, float], weights: Mapping[str, float], disagreement: float) -> float:
    """Mean − λ · variance over the parts, both weighed by w / Σw: an ensemble that trusts itself less where its members
    disagree (Coste et al. 2024, "UWO"; λ = `disagreement`; the variance is the population's). λ = 0 is the mean alone."""
    total = sum(weights[name] for name in values)
    mean = sum(weights[name] * value for name, value in values.items()) / total
    return mean - disagreement * sum(weights[name] * (value - mean) ** 2 for name, value in values.items()) / total


def product(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Π x^w of parts in [0, 1]: near 0 as soon as one of them is, whatever the others say.

    Raises:
        ValueError: a part is outside [0, 1]; the message names it.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"part '{name}' is {value:g}, and a product takes parts in [0, 1]")
    return math.prod(value ** weights[name] for name, value in values.items())


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x), without overflow at either end."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(p: float) -> float:
    """log p / (1 − p), of a probability held within `MOST_CERTAIN` of 0 and 1."""
    held = min(max(p, MOST_CERTAIN), 1 - MOST_CERTAIN)
    return math.log(held) - math.log1p(-held)


def safety_decides(safety: float, is_safety: bool, threshold: float) -> bool:
    """Whether the gate lets the safety model's value through; `safety` is a probability."""
    return is_safety or safety < threshold


def whitened(values: Sequence[float]) -> list[float]:
    """To mean 0 and deviation 1 (population variance, ε 1e-8, as `objectives.advantages.whiten`)."""
    if not values:
        return []
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(variance + 1e-8) for value in values]
