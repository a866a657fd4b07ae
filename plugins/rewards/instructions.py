"""`reward=instructions`: does the answer keep the instructions that its row lists, in the format of IFEval and IFBench?

An instruction that cannot be judged is unknown and never counts as broken. What is checked, and how each is read:
`docs/instructions.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward

from .constraints.registry import NotUnderstood, kept


@reward("instructions")
class Instructions:
    """Instructions kept, by the columns `instruction_id_list` and `kwargs` (one mapping per id; null = not given).

    Attributes:
        strict: `all` = 1 when every instruction is kept, else 0; `share` = the share that is kept.
        unknown: what a row with an instruction that cannot be judged is worth: `none` = no score at all, for half a
            judgement is none; `skip` = the score of the others. Where none can be judged there is no score either way.
    """

    strict: str = "all"
    unknown: str = "none"

    def __post_init__(self) -> None:
        for field, allowed in (("strict", ("all", "share")), ("unknown", ("skip", "none"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be {' or '.join(allowed)}, got {getattr(self, field)!r}")

    def score(
        self, samples: Sequence[Sample], *, instruction_id_list: Sequence[Any], kwargs: Sequence[Any]
    ) -> list[Score]:
        return [
            self._one(s.text, ids, given) for s, ids, given in zip(samples, instruction_id_list, kwargs, strict=True)
        ]

    def _one(self, text: str, ids: Any, given: Any) -> Score:
        problem = _misshapen(ids, given)
        if problem:
            return Score.none(problem, kind="unreadable")
        parts: dict[str, float] = {}
        broken, unknown = [], []
        for name, settings in zip(ids, given, strict=True):
            try:
                keeps = kept(name, text, settings or {})
            except NotUnderstood as why:
                unknown.append(str(why))
                continue
            parts[_free(name, parts)] = float(keeps)
            if not keeps:
                broken.append(name)
        if unknown and (self.unknown == "none" or not parts):
            return Score.none("; ".join(unknown), kind="unreadable")
        value = float(not broken) if self.strict == "all" else sum(parts.values()) / len(parts)
        said = ["broken: " + ", ".join(broken)] if broken else ["all kept"]
        return Score(value, parts=parts, reason="; ".join(said + [f"not judged: {why}" for why in unknown]))


def _misshapen(ids: Any, given: Any) -> str:
    """Why the two columns of a row cannot be read; empty when they can."""
    if not isinstance(ids, Sequence) or isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
        return "instruction_id_list is no list of ids"
    if not ids:
        return "the row has no instruction"
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != len(ids):
        return f"kwargs is no list of {len(ids)} mappings, one per instruction"
    if not all(settings is None or isinstance(settings, Mapping) for settings in given):
        return "kwargs holds something else than mappings"
    return ""


def _free(name: str, parts: Mapping[str, float]) -> str:
    """The id, or with a number behind it where a row has the same one twice."""
    taken, number = name, 2
    while taken in parts:
        taken, number = f"{name} ({number})", number + 1
    return taken
