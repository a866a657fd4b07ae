"""The table of instruction ids, and what a row says about one of them: kept, broken, or not to be judged.

A function here takes the answer and the row's settings, and says whether the instruction is kept. It is written from
the meaning of the instruction. What cannot be said is `NotUnderstood`, never "broken".
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Check = Callable[..., bool]
C = TypeVar("C", bound=Check)

CONSTRAINTS: dict[str, Check] = {}
"""Instruction id → `(text, **settings) -> bool`. A parameter without default must be given by the row."""


class NotUnderstood(Exception):
    """This instruction cannot be judged: an id, or a setting, that nothing here knows."""


def constraint(name: str) -> Callable[[C], C]:
    """Enter a function under an instruction id."""

    def enter(function: C) -> C:
        if name in CONSTRAINTS:
            raise ValueError(f"two functions for the instruction '{name}'")
        CONSTRAINTS[name] = function
        return function

    return enter


def kept(name: str, text: str, given: Mapping[str, Any]) -> bool:
    """Whether `text` keeps the instruction. An empty answer keeps none.

    Args:
        given: the row's settings; None means "not given".

    Raises:
        NotUnderstood: the id is not known, a setting is missing, not known, or of a wrong kind.
    """
    if name not in CONSTRAINTS:
        raise NotUnderstood(f"unknown instruction id {name}")
    settings = read_settings(name, {key: value for key, value in given.items() if value is not None})
    # run it even on an empty answer: a setting that makes no sense is not understood, whatever was answered
    verdict = CONSTRAINTS[name](text, **settings)
    return verdict and bool(text.strip())


def read_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as the function wants them: `2.0` is a whole number where one is asked for."""
    function = CONSTRAINTS[name]
    parameters = list(inspect.signature(function).parameters.values())[1:]
    strange = given.keys() - {p.name for p in parameters}
    if strange:
        raise NotUnderstood(f"{name} with the unknown setting {', '.join(sorted(map(str, strange)))}")
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        raise NotUnderstood(f"{name} without {', '.join(missing)}")
    hints = typing.get_type_hints(function)
    return {key: _as(hints[key], value, f"{name} with {key}=") for key, value in given.items()}


def _as(kind: Any, value: Any, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not abs(value) <= sys.float_info.max:  # NaN as well
        raise NotUnderstood(f"{where} a number that is not finite, or too large")
    if kind is int and number and float(value).is_integer():
        return int(value)
    if kind is float and number:
        return float(value)
    if kind is str and isinstance(value, str) and value.strip():
        return value
    if kind == list[str] and isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
        return value
    raise NotUnderstood(f"{where}{value!r}")


def compared(found: int, relation: str, wanted: int) -> bool:
    """`at least` or `less than`, the two relations of IFEval."""
    if relation == "at least":
        return found >= wanted
    if relation == "less than":
        return found < wanted
    raise NotUnderstood(f"the relation {relation!r}")
