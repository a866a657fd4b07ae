"""What a mix does with the scores of its parts beside combining them: asking, reading, reporting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlhf_lora import registry
from rlhf_lora.errors import ContractError
from rlhf_lora.records import Sample, Score
from rlhf_lora.reward_calls import Failed, ask
from rlhf_lora.scores import columns_of, values_of

from .mix_combine import sigmoid, whitened


class PartScorer:
    """A part asked outside of a run: the contract held, nothing more."""

    def __init__(self, reward: Any, source: Any):
        self.source, self.name = source, registry.to_config(reward)["name"]

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        columns = values_of(columns_of(self.source), samples, self.name)
        try:
            return ask(self.source, samples, columns, self.name)
        except Failed as failure:
            raise ContractError(f"the reward '{self.name}' {failure}") from failure

    def close(self) -> None:
        if callable(close := getattr(self.source, "close", None)):
            close()


def with_columns(samples: Sequence[Sample], columns: Mapping[str, Sequence[Any]]) -> list[Sample]:
    """Samples that carry the columns which were handed over beside them."""
    if not columns:
        return list(samples)
    return [replace(s, columns={**s.columns, **{n: v[i] for n, v in columns.items()}}) for i, s in enumerate(samples)]


def reported(given: Mapping[str, Score], shadow: Sequence[str]) -> dict[str, float]:
    """The parts that have a value, as they gave it, and what they have for parts themselves."""
    found: dict[str, float] = {}
    for name, score in given.items():
        place = f"shadow/{name}" if name in shadow else name
        found |= {f"{place}/{inner}": value for inner, value in score.parts.items()}
        if score.value is not None:
            found[place] = score.value
    return found


def notes_of(given: Mapping[str, Score], shadow: Sequence[str]) -> str:
    """What the parts say of themselves, and which of them have no value."""
    lines = []
    for name, score in given.items():
        no_value = "" if score.value is not None else f"no value ({score.kind})"
        said = ", ".join(filter(None, [no_value, score.reason]))
        if said:
            lines.append(f"{'shadow' if name in shadow else 'part'} '{name}': {said}")
    return "; ".join(lines)


def whiten_scores(scores: Sequence[Score]) -> list[Score]:
    """Over the scores that have a value; the others stay as they are."""
    having = [i for i, score in enumerate(scores) if score.value is not None]
    found = list(scores)
    for i, value in zip(having, whitened([float(scores[i].value or 0.0) for i in having]), strict=True):
        found[i] = replace(scores[i], value=value)
    return found


def clipped(value: float, clip: tuple[float, float] | None) -> float:
    return value if clip is None else min(max(value, clip[0]), clip[1])


def probability_of(name: str, value: float, values: str) -> float:
    if values == "logits":
        return sigmoid(value)
    if not 0 <= value <= 1:
        raise ValueError(f"part '{name}' is {value:g}, and the gate was told that it gives probabilities")
    return value


def is_marked(value: Any, column: str, wanted: str | None) -> bool:
    """Whether the column holds the value that is wanted; without one, whether it is true.

    Raises:
        ValueError: no value is wanted and this is neither true nor false: a guess would decide which model is asked.
    """
    if wanted is not None:
        return str(value) == wanted
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"the column '{column}' is {value!r}, neither true nor false (reward.gate.value=… names a value)")
