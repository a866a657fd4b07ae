"""What a rule is: it reads one sample and says how well it is kept, from 0 (broken) to 1 (kept).

A rule is a frozen dataclass, so its settings are typed and checked when it is built. `@rule("regex")` names it for
`reward=rules`; with `@reward("regex")` below that it is a reward of its own as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

from rlhf_lora.errors import ConfigError, UserError, did_you_mean
from rlhf_lora.records import Missing, Sample, Score

RULES: dict[str, type[Rule]] = {}
"""Name → rule, in the order of the documentation."""

C = TypeVar("C", bound="type[Rule]")


@dataclass(frozen=True, slots=True)
class Kept:
    """How well a rule is kept, in [0, 1], and what was found where it is less than 1."""

    value: float
    why: str = ""


class CannotJudge(Exception):
    """This sample cannot be judged: its row cannot be read, or judging takes too long. It gets no score."""

    def __init__(self, reason: str, kind: Missing):
        self.kind: Missing = kind
        super().__init__(reason)


class Rule:
    """One rule. Subclasses are final: they have settings as fields, and `kept`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Dataset columns that the rule reads."""
        return ()

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        """How well `sample` keeps the rule; `row` has the sample's value of each of `columns`.

        Raises:
            CannotJudge: there is no saying.
        """
        raise NotImplementedError

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Score]:
        """The rule as a reward of its own: one value in [0, 1] per sample, or none with a reason."""
        return [self._score(sample, row) for sample, row in zip(samples, rows_of(columns, len(samples)), strict=True)]

    def _score(self, sample: Sample, row: Mapping[str, Any]) -> Score:
        try:
            kept = self.kept(sample, row)
        except CannotJudge as error:
            return Score.none(str(error), kind=error.kind)
        return Score(kept.value, reason=kept.why)


def rows_of(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """Columns as one mapping per sample."""
    return [{name: values[i] for name, values in columns.items()} for i in range(count)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def rule(name: str) -> Callable[[C], C]:
    """Enter a class as the rule `name`. What `@reward` made a dataclass already stays as it is."""

    def enter(cls: C) -> C:
        if "__dataclass_fields__" not in vars(cls):
            cls = dataclass(frozen=True, kw_only=True)(cls)  # type: ignore[assignment]
        RULES[name] = cls
        return cls

    return enter


def make_rule(name: str, settings: Mapping[str, Any], where: str) -> Rule:
    """The rule `name` with these settings, typed as Hydra would have typed them.

    Args:
        where: the override that the settings stand in, for messages.

    Raises:
        ConfigError: there is no such rule or setting, or a value that the rule refuses.
    """
    if name not in RULES:
        raise ConfigError(
            f"there is no rule '{name}'{did_you_mean(name, RULES)}", where=where, fix=f"rules: {', '.join(RULES)}"
        )
    cls = RULES[name]
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"the rule '{name}' has no setting '{key}'{did_you_mean(str(key), known)}",
                where=f"{where}.{key}",
                fix=f"settings: {', '.join(known) or 'none'}; and rule, weight",
            )
    try:
        return cls(**_typed(cls, settings))
    except UserError as error:
        raise ConfigError(error.what, where=error.where or where, fix=error.fix) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"rule '{name}': {error}", where=where, fix=f"settings: {', '.join(known)}") from error


def _typed(cls: type[Rule], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in a mapping have no types of their own: OmegaConf holds them to the fields of the rule.

    Raises:
        ValueError: a value of another type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, False)  # it is frozen
    typed: dict[str, Any] = {}
    for key, value in settings.items():
        try:
            OmegaConf.update(node, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise ValueError(f"{key}={value!r}: {str(error).splitlines()[0]}") from None
        typed[key] = OmegaConf.to_container(node)[key]  # type: ignore[index, call-overload]
    return typed
