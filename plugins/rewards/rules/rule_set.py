"""`reward=rules`: several rules together, each with a name and a weight."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward

from .rule import RULES, CannotJudge, Rule, make_rule, rows_of
from .shape import one_of

DEFAULT_RULES: Mapping[str, Mapping[str, Any]] = {
    "not_empty": {},
    "ended": {},
    "repetition": {"n": 3, "most": 0.2},
    "length": {"least": 3, "most": 200},
}


@dataclass(frozen=True)
class Named:
    """One rule of the set."""

    name: str
    weight: float
    rule: Rule


@reward("rules")
class RuleSet:
    """Rules, each from 0 (broken) to 1 (kept), together from 0 to 1: Σ w·v / Σ w.

    Without settings: the answer is not empty, it ended by itself, at most 20 % of its 3-grams repeat, and it has 3 to
    200 words, all of weight 1. `Score.parts` has each rule's value; the reason says which were broken, and how.

    `combine=product` is the geometric mean (Π vᵢ^wᵢ)^(1 / Σ w): one broken rule makes it 0, as in the re-ranking of
    Sparrow (Glaese et al. 2022), whose reward in training is the mean.

    Attributes:
        rules: name → {rule: KIND, weight: 1, and the settings of that kind}. Without `rule` the name is the kind.
        combine: `mean` or `product`.
    """

    rules: dict[str, Any] = field(default_factory=dict)
    combine: str = "mean"

    def __post_init__(self) -> None:
        one_of("combine", self.combine, ("mean", "product"))
        made = tuple(_named(name, given) for name, given in (self.rules or DEFAULT_RULES).items())
        total = sum(named.weight for named in made)
        if not total:
            raise ValueError("every rule has weight 0")
        if math.isinf(total):
            raise ValueError("the weights add up to more than a number can be")
        object.__setattr__(self, "_made", made)

    @property
    def made(self) -> tuple[Named, ...]:
        """The rules, built."""
        made: tuple[Named, ...] = vars(self)["_made"]
        return made

    @property
    def columns(self) -> tuple[str, ...]:
        """Dataset columns that any of the rules reads."""
        return tuple(dict.fromkeys(column for named in self.made for column in named.rule.columns))

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Score]:
        return [self._score(sample, row) for sample, row in zip(samples, rows_of(columns, len(samples)), strict=True)]

    def _score(self, sample: Sample, row: Mapping[str, Any]) -> Score:
        parts: dict[str, float] = {}
        broken = []
        for named in self.made:
            try:
                kept = named.rule.kept(sample, row)
            except CannotJudge as error:  # a mean over the others would be another reward
                return Score.none(f"{named.name}: {error}", kind=error.kind)
            parts[named.name] = kept.value
            if kept.value < 1:
                broken.append(f"{named.name} ({kept.why})")
        return Score(self._combined(list(parts.values())), parts, f"broken: {'; '.join(broken)}" if broken else "")

    def _combined(self, values: Sequence[float]) -> float:
        weighted = [(named.weight, value) for named, value in zip(self.made, values, strict=True) if named.weight]
        total = math.fsum(weight for weight, _ in weighted)
        if self.combine == "mean":
            return math.fsum(weight * value for weight, value in weighted) / total
        if min(value for _, value in weighted) == 0:
            return 0.0
        return math.exp(math.fsum(weight * math.log(value) for weight, value in weighted) / total)


def _named(name: str, given: Any) -> Named:
    """One entry of `rules`, built.

    Raises:
        ConfigError: it is no mapping, or its rule, weight or settings are refused.
    """
    where = f"reward.rules.{name}"
    settings = {} if given is None else given
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"the rule '{name}' is {given!r}, not settings", where=where, fix=f"{{{name}: {{rule: KIND}}}}"
        )
    settings = dict(settings)
    kind = settings.pop("rule", name)
    weight = settings.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= sys.float_info.max:
        raise ConfigError(f"a weight is a number from 0 on, got {weight!r}", where=f"{where}.weight", fix="weight: 1")
    if kind == name and name not in RULES:
        raise ConfigError(
            f"'{name}' does not say which rule it is", where=where,
            fix=f"{{{name}: {{rule: KIND}}}}; rules: {', '.join(RULES)}",
        )  # fmt: skip
    return Named(name, float(weight), make_rule(str(kind), settings, where))
