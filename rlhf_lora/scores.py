"""A reward held to its contract: the columns that it asks for, the scores that it gives, and what they say of a pair."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lora.errors import ContractError, DataError
from rlhf_lora.records import Missing, Sample, Score, Verdict


def columns_of(source: Any) -> tuple[str, ...]:
    """The dataset columns a reward asks for: keyword-only parameters of `score` without a default."""
    declared = getattr(source, "columns", None)
    if declared is not None:
        return tuple(declared)
    if not callable(getattr(source, "score", None)):  # it compares
        return ()
    parameters = inspect.signature(source.score).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


def values_of(names: Sequence[str], samples: Sequence[Sample], source: str) -> dict[str, list[Any]]:
    """Column → its value for each sample.

    Raises:
        DataError: a sample does not have it.
    """
    for name in names:
        for sample in samples:
            if name not in sample.columns:
                have = ", ".join(sorted(sample.columns)) or "none"
                raise DataError(
                    f"the reward '{source}' wants the column '{name}', which the data does not have",
                    where=f"reward={source}",
                    fix=f"columns of this data: {have}",
                )
    return {name: [sample.columns[name] for sample in samples] for name in names}


def given_by(source: Any, samples: Sequence[Sample], columns: Mapping[str, Sequence[Any]]) -> Any:
    """What `score` returns, whatever it is; of a coroutine, what it returns when it has run."""
    return awaited(source.score(samples, **columns))


def awaited(given: Any) -> Any:
    """What a plain or an async method returned: of a coroutine, what it returns when it has run."""
    if not inspect.isawaitable(given):
        return given
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def run() -> Any:
        return await given

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
        return thread.submit(asyncio.run, run()).result()


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


def preference(a: Score, b: Score) -> Verdict:
    """What two scores of answers to one prompt say of them, by Bradley-Terry: P(A is better) = σ(a − b).

    No verdict where one of them has no value: what is not known is no tie.
    """
    if a.value is None or b.value is None:
        missing = a if a.value is None else b
        return Verdict(None, reason=f"{missing.kind}: {missing.reason}")
    delta = a.value - b.value
    probability = 1 / (1 + math.exp(-delta)) if delta >= 0 else 1 - 1 / (1 + math.exp(delta))
    return Verdict("tie" if delta == 0 else "A" if delta > 0 else "B", probability)


KINDS: Mapping[str, Missing] = {"refusal": "abstain", "abstain": "abstain", "error": "error"}
"""First word of a missing verdict's reason → kind of the missing score."""


def kind_of(reason: str) -> Missing:
    """Of a missing verdict: a judge that declined (`refusal: …`), a way there that failed (`error: …`), else `unreadable`.

    A policy can learn to cause refusals, so they are not counted together with the rest.
    """
    return KINDS.get(reason.partition(":")[0].strip().lower(), "unreadable")


def win_probability(verdict: Verdict) -> Score:
    """What a comparison with a reference answer is worth as a score, in [0, 1]: P(the answer is better), ½ for a tie.

    Args:
        verdict: of the answer as A against the reference answer as B.
    """
    if verdict.choice is None:
        return Score.none(verdict.reason or "the comparison could not be read", kind=kind_of(verdict.reason))
    if verdict.probability_a is not None:
        return Score(float(verdict.probability_a), reason=verdict.reason)
    return Score({"A": 1.0, "tie": 0.5, "B": 0.0}[verdict.choice], reason=verdict.reason)


# --- as plain values, for a process of its own ------------------------------------------------------------------------


def score_as_plain(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "parts": {str(name): float(part) for name, part in score.parts.items()},
        "reason": score.reason,
        "kind": score.kind,
        "steps": [[int(place), float(earned)] for place, earned in score.steps],
    }


def score_of_plain(plain: Mapping[str, Any]) -> Score:
    return Score(**{**plain, "steps": tuple((place, earned) for place, earned in plain["steps"])})
