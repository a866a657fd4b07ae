"""Plain values: what may go into JSON and YAML files. A number that is not finite never does."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from rlhf_lora.errors import Stopped


def finite_number(value: Any) -> int | float | None:
    """`value` as a plain number (numpy and torch scalars included); None when it is none or not finite."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def json_value(text: str) -> Any:
    """What JSON text says; Python's reader also takes what no JSON is.

    Raises:
        ValueError: it is no JSON, or has NaN, Infinity or a number that no float holds (`1e400`).
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no finite float")
    return number


def plain(value: Any, digits: int | None = None, keep_none: bool = False, where: str = "") -> Any:
    """`value` as mappings, lists, text, numbers and booleans.

    Args:
        digits: significant digits that floats are rounded to; None keeps them as they are.
        keep_none: keep keys whose value is None; otherwise they are left out (what does not apply is absent).

    Raises:
        Stopped: a number is not finite, or a value has no plain form; the message names its key.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        items = {str(k): plain(v, digits, keep_none, f"{where}.{k}" if where else str(k)) for k, v in value.items()}
        return items if keep_none else {k: v for k, v in items.items() if v is not None}
    if hasattr(value, "__iter__") and not isinstance(value, bytes | set) and getattr(value, "ndim", 1) != 0:
        return [plain(v, digits, keep_none, f"{where}[{i}]") for i, v in enumerate(value)]
    number = finite_number(value)
    if number is None:
        raise Stopped(f"'{where}' is {value!r}: neither a finite number nor a plain value")
    return float(f"{number:.{digits}g}") if digits and isinstance(number, float) else number
