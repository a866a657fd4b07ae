"""What somebody said of answers, as one row of a labels file (format `labels/1`, docs/labels.md).

    comparison   two answers: A, B or tie; by how much                 ↔ Pair
    ranking      K answers in order, equal places are ties             ↔ Ranking
    choice       the best of N                                         ↔ Ranking
    rating       one answer and a number on a scale that is told       ↔ Rating
    verdict      one answer: good or bad                               ↔ Label

A row is one opinion of one rater, a person or a judge: several of them on the same thing are several rows
(`votes` counts them). Here is what a row may say; `files` reads and writes files of them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from rlhf_lora.errors import DataError, did_you_mean
from rlhf_lora.records import Message, Prompt, transcript

FORMAT = "labels/1"
Kind = Literal["comparison", "ranking", "choice", "rating", "verdict"]
KINDS: tuple[str, ...] = get_args(Kind)
OVERALL = "overall"
STRENGTHS = ("negligibly", "slightly", "better", "significantly")
"""How much better, in words, the least first (Llama 2's four levels: Touvron et al. 2023, §3.2.1)."""
SOURCES = ("", "human", "ai", "program")
ORDERS = ("", "AB", "BA", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One label by one rater.

    Attributes:
        answers: two of a comparison, two or more of a ranking or choice, one of a rating or verdict.
        label: `"A"`, `"B"`, `"tie"`; a rank for each answer, 1 the best; the index of the best, from 0; a number within
            `scale`; `"good"`, `"bad"`. None where the rater skipped it.
        strength: of a comparison, by how much the better answer is better: a word of `STRENGTHS`, or a number.
        scale: lowest and highest value of a rating.
        p: of a comparison, P(A is better) where the rater gives one; the label says the same side.
        rater: who said it, a person or a judge; labels of one rater on the same thing: the last counts.
        criterion: what it is judged by.
        source: `human`, `ai` or `program`; "" where nobody says.
        id: names the row for whoever wrote it. time: ISO 8601. seconds: how long it took.
        skipped: the rater gave no label: True, or why.
        order: the order in which the two were read: `AB`, `BA`, or `both` where the label is of both orders together.
        p_orders: then P(A is better) as read in the order AB, and in the order BA.
        principle, rationale: what a judge was asked to go by, and what it said.
        more: whatever else the writer wants to keep, as JSON holds it.

    Raises:
        ValueError: the row says something that is not on the menu. The message is the reason.
    """

    kind: Kind
    prompt: Prompt
    answers: tuple[str, ...]
    label: Any = None
    strength: str | float | None = None
    scale: tuple[float, float] | None = None
    p: float | None = None
    rater: str = ""
    criterion: str = OVERALL
    source: str = ""
    id: str = ""
    time: str = ""
    seconds: float | None = None
    skipped: bool | str = False
    order: str = ""
    p_orders: tuple[float, float] | None = None
    principle: str = ""
    rationale: str = ""
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    _item: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        least, most = {"comparison": (2, 2), "rating": (1, 1), "verdict": (1, 1)}.get(self.kind, (2, math.inf))
        if not least <= len(self.answers) <= most:
            wanted = "two answers" if most == 2 else "one answer" if most == 1 else "two answers or more"
            raise ValueError(f"a {self.kind} of {len(self.answers)} answers; it is of {wanted}")
        if self.skipped:
            if self.label is not None:
                raise ValueError("a label and skipped at once")
        elif reason := CHECKS[self.kind](self):
            raise ValueError(reason)
        for check in (_strength_wrong, _probability_wrong, _rest_wrong):
            if reason := check(self):
                raise ValueError(reason)

    @property
    def item(self) -> str:
        """16 hex digits that name what was judged: the same for every rater, in whatever order the answers stand."""
        if not self._item:
            said = [self.kind, self.criterion, self.prompt.text, sorted(self.answers)]
            object.__setattr__(self, "_item", hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16])
        return self._item


def as_json(row: LabelRow) -> dict[str, Any]:
    """The row as it stands in a file; what was left open is left out. `from_json` gives the same row back.

    The group of a prompt goes along: it decides the split, and a prompt that is judged on must be known again.
    """
    prompt = row.prompt
    out: dict[str, Any] = {"kind": row.kind, "prompt": prompt.text}
    if prompt.messages is not None:
        out["messages"] = [dict(message) for message in prompt.messages]
        if prompt.text == transcript(prompt.messages):
            del out["prompt"]
    if prompt.group or prompt.messages is not None:
        out["group"] = prompt.group
    if prompt.columns:
        out["columns"] = dict(prompt.columns)
    for name, default in PLAIN.items():
        value = getattr(row, name)
        if value != default:
            out[name] = list(value) if isinstance(value, tuple) else value
    return out


def from_json(row: Mapping[str, Any]) -> LabelRow:
    """The row that a JSON object says.

    Raises:
        DataError: it is no row of this format: an unknown kind, or a field that there is not.
        ValueError: it is one, and what it says cannot be used; the message is the reason.
    """
    known = ("format", "kind", *PROMPT, *PLAIN)
    for name in row:
        if name not in known:
            raise DataError(
                f"there is no field '{name}'{did_you_mean(name, known)}",
                fix=f'fields: {", ".join(known)}; what else you want to keep goes into "more": {{…}}',
            )
    kind = row.get("kind")
    if kind not in KINDS:
        what = "the row does not say its kind" if kind is None else f"there is no kind {json.dumps(kind)}"
        raise DataError(what + did_you_mean(str(kind), KINDS), fix=f"one of: {', '.join(KINDS)}")
    values = {name: _typed(name, row[name]) for name in PLAIN if row.get(name) is not None}
    if "answers" not in values:
        raise ValueError("no answers")
    return LabelRow(kind=kind, prompt=_prompt(row), **values)


def _prompt(row: Mapping[str, Any]) -> Prompt:
    """As `as_json` wrote it. Without a group, prompts with one first user turn belong together, as in every dataset."""
    text, said, columns = row.get("prompt"), row.get("messages"), row.get("columns") or {}
    group = None if row.get("group") is None else _text("group", row["group"])
    if not isinstance(columns, dict):
        raise ValueError("columns that are no object")
    if said is None:
        if not isinstance(text, str):
            raise ValueError(
                "no prompt" if text is None else "a prompt that is no text; a conversation goes into messages"
            )
        return Prompt(text, columns=columns, group=group or "")
    messages = _messages(said)
    first = next((turn["content"] for turn in messages if turn["role"] == "user"), "").strip()
    text = transcript(messages) if text is None else _text("prompt", text)
    return Prompt(text, messages, columns, first if group is None else group)


def _messages(said: Any) -> tuple[Message, ...]:
    if not isinstance(said, list) or not said:
        raise ValueError("messages that are no list of turns")
    for turn in said:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"} or not isinstance(turn["content"], str):
            raise ValueError("a message that is not role and content as text")
        if turn["role"] not in ("system", "user", "assistant"):
            raise ValueError("a message whose role is not system, user or assistant")
    if said[-1]["role"] != "user":
        raise ValueError("messages that do not end with the user's turn")
    return tuple(said)


# --- what may stand in a field ----------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """A finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _typed(name: str, value: Any) -> Any:
    """A field's value, lists as tuples.

    Raises:
        ValueError: it is of another type.
    """
    if name == "answers":
        if not isinstance(value, list) or not all(isinstance(answer, str) for answer in value):
            raise ValueError("answers that are not a list of texts")
        return tuple(value)
    if name in ("scale", "p_orders"):
        if not isinstance(value, list) or len(value) != 2 or not all(map(is_number, value)):
            raise ValueError(f"{name} that is not two numbers")
        return tuple(value)
    if name == "label":
        return tuple(value) if isinstance(value, list) else value
    if name == "skipped":
        if not isinstance(value, bool | str):
            raise ValueError("skipped that is neither true nor the reason as text")
        return value
    if name == "more":
        if not isinstance(value, dict):
            raise ValueError("more that is no object")
        return value
    if name in ("p", "seconds"):
        if not is_number(value):
            raise ValueError(f"{name} that is no number")
        return value
    return value if name == "strength" else _text(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} that is no text")
    return value


def _comparison_wrong(row: LabelRow) -> str:
    return "" if row.label in ("A", "B", "tie") else f"the label {_shown(row.label)}; it is A, B or tie"


def _ranking_wrong(row: LabelRow) -> str:
    ranks = row.label
    if not isinstance(ranks, tuple) or len(ranks) != len(row.answers) or not all(map(is_number, ranks)):
        return f"the label {_shown(ranks)}; it is a rank for each of {len(row.answers)} answers, 1 the best"
    return ""


def _choice_wrong(row: LabelRow) -> str:
    whole = isinstance(row.label, int) and not isinstance(row.label, bool)
    if not whole or row.label not in range(len(row.answers)):
        return f"the label {_shown(row.label)}; it is the index of the best answer, 0 to {len(row.answers) - 1}"
    return ""


def _rating_wrong(row: LabelRow) -> str:
    if row.scale is None:
        return 'a rating without its scale, such as "scale": [1, 7]'
    low, high = row.scale
    if not low < high:
        return f"the scale {_shown(row.scale)}; it is the lowest and the highest value"
    within = is_number(row.label) and low <= row.label <= high
    return "" if within else f"the label {_shown(row.label)}; it is a number from {low:g} to {high:g}"


def _verdict_wrong(row: LabelRow) -> str:
    return "" if row.label in ("good", "bad") else f"the label {_shown(row.label)}; it is good or bad"


CHECKS: Mapping[str, Callable[[LabelRow], str]] = {
    "comparison": _comparison_wrong,
    "ranking": _ranking_wrong,
    "choice": _choice_wrong,
    "rating": _rating_wrong,
    "verdict": _verdict_wrong,
}
"""Kind → why its label is off the menu, in words; "" where it is on it."""


def _strength_wrong(row: LabelRow) -> str:
    if row.strength is None:
        return ""
    if row.kind != "comparison" or row.label not in ("A", "B"):
        return f"a strength beside {'a tie' if row.label == 'tie' else 'no comparison that one answer wins'}"
    known = row.strength in STRENGTHS if isinstance(row.strength, str) else is_number(row.strength)
    return "" if known else f"the strength {_shown(row.strength)}; it is one of {', '.join(STRENGTHS)}, or a number"


def _probability_wrong(row: LabelRow) -> str:
    given = [*(() if row.p is None else (row.p,)), *(row.p_orders or ())]
    if given and row.kind != "comparison":
        return "a probability beside no comparison"
    if not all(is_number(p) and 0 <= p <= 1 for p in given):
        return "a probability that is not between 0 and 1"
    if row.p is not None and ((row.label == "A" and row.p < 0.5) or (row.label == "B" and row.p > 0.5)):
        return f"the label {row.label}, and p = {row.p:g} that A is better"
    return ""


def _rest_wrong(row: LabelRow) -> str:
    if row.seconds is not None and row.seconds < 0:
        return f"{row.seconds:g} seconds"
    for name, menu in (("source", SOURCES), ("order", ORDERS)):
        if getattr(row, name) not in menu:
            return f"the {name} {_shown(getattr(row, name))}; it is one of {', '.join(menu[1:])}"
    if not row.criterion.strip():
        return "an empty criterion; leave it out for 'overall'"
    if row.time:
        try:
            datetime.datetime.fromisoformat(row.time)
        except ValueError:
            return f"the time {_shown(row.time)}; it is written like 2026-11-22T04:00:00Z"
    texts = (row.prompt.text, *row.answers, row.rater, row.criterion)
    if any("\0" in text for text in texts):
        return "text with a NUL character"
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return "text that is no Unicode (half of a surrogate pair)"
    return ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _default(f: Any) -> Any:
    return f.default_factory() if callable(f.default_factory) else f.default


PROMPT = ("prompt", "messages", "group", "columns")
PLAIN: Mapping[str, Any] = {f.name: _default(f) for f in fields(LabelRow) if f.name not in ("kind", "prompt", "_item")}
"""Field → what it is when it is left out, in the order in which a row is written."""


def distinct(rows: Sequence[LabelRow], name: str) -> list[str]:
    """The values of a text field, each once, sorted."""
    return sorted({getattr(row, name) for row in rows})
