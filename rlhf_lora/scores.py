"""A reward held to its contract: the columns that it asks for, and the scores that it gives."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from rlhf_lora.errors import ContractError
from rlhf_lora.records import Score


def columns_of(source: Any) -> tuple[str, ...]:
    """The dataset columns a reward asks for: keyword-only parameters of `score` without a default."""
    declared = getattr(source, "columns", None)
    if declared is not None:
        return tuple(declared)
    parameters = inspect.signature(source.score).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


def check_scores(scores: Sequence[Any], count: int, source: str) -> list[Any]:
    """Hold a reward to its contract: `count` scores, each a finite number, a Score, or None.

    Returns:
        `Score` objects. A value that is not finite becomes `Score.none(kind="error")`: it is counted, never trained on.

    Raises:
        ContractError: a wrong count, or something that is no score at all.
    """
    if isinstance(scores, str | bytes) or not hasattr(scores, "__len__"):
        raise ContractError(f"reward '{source}' returned {type(scores).__name__}, not a list of {count} scores")
    if len(scores) != count:
        raise ContractError(f"reward '{source}' returned {len(scores)} scores for {count} samples")
    result = []
    for i, value in enumerate(scores):
        if isinstance(value, Score):
            result.append(value)
        elif value is None:
            result.append(Score.none("the reward gave no value"))
        elif isinstance(value, bool | int | float) or hasattr(value, "__float__"):
            number = float(value)
            finite = number == number and abs(number) != float("inf")
            result.append(Score(number) if finite else Score.none(f"the reward gave {number}", kind="error"))
        else:
            raise ContractError(
                f"reward '{source}' returned {value!r} for sample {i}; wanted a number, None or a Score"
            )
    return result
