"""What a judge's answer says. Strict: one word of the menu, probabilities of it, JSON, or one last line with the fence's
nonce in it. Anything else is unreadable and never a guess: a digit somewhere in a text is no rating.

A verdict is read from the judge's words alone; the nonce, which what is judged cannot know, keeps quotations out of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lora.judging.questions import Answer
from rlhf_lora.records import Missing

VERSION = "judging-reading/1"
MISSING: Mapping[str, Missing] = {"refusal": "abstain", "unreadable": "unreadable", "error": "error"}
"""Kind of an answer that gave nothing → kind of the missing score."""
_REFUSAL = re.compile(
    r"\W*(?:(?:i am|i'm|im) (?:very |so |really )?sorry|sorry\b|"
    r"(?:i|we) (?:can ?not|can't|won't|will not|could not|am not able|am unable|"
    r"must decline|have to decline|refuse|do not feel comfortable|don't feel comfortable)|i'm (?:not able|unable)|as an ai\b)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?")
_WRAPPED = " \t\r\n*_`\"'.!()[]"


@dataclass(frozen=True, slots=True)
class Said:
    """What could be read.

    Attributes:
        choice: as the menu has it; of a rating, a number.
        probabilities: of the menu, where they were given.
        thoughts: what was said before.
    """

    choice: str
    probabilities: Mapping[str, float] | None = None
    thoughts: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """Nothing could be read, and why. `words` begin with the kind, by which a missing verdict is told from another."""

    kind: Literal["refusal", "unreadable", "error"]
    why: str

    @property
    def words(self) -> str:
        return f"{self.kind}: {self.why}"


@dataclass(frozen=True, slots=True)
class Menu:
    """What an answer may be.

    Attributes:
        word: what the last line begins with, and in lower case the key of JSON: "Verdict", "Rating".
        choices: words; for numbers between, see `span`.
        nonce: of the last line; empty: the answer is the choice and nothing else.
        span: lowest and highest number, where any number between is on the menu.
    """

    word: str
    choices: tuple[str, ...]
    nonce: str = ""
    span: tuple[float, float] | None = None

    def read(self, answer: Answer) -> Said | Unread:
        if answer.kind != "text":
            return Unread(answer.kind, answer.reason or "no reason was given")
        if answer.probabilities is not None and not self.nonce:
            return self._of_probabilities(answer.probabilities)
        found = self._of_text(answer.text)
        if found is not None:
            return found
        if not answer.text.strip():
            return Unread("unreadable", "an empty answer")
        kind: Literal["refusal", "unreadable"] = "refusal" if refused(answer.text) else "unreadable"
        return Unread(kind, repr(_short(answer.text)))

    def _of_probabilities(self, given: Mapping[str, Any]) -> Said | Unread:
        values = {choice: given.get(choice, 0.0) for choice in self.choices}
        sound = all(_finite(value) and -1e-6 <= value <= 1 + 1e-6 for value in values.values())
        if not sound or set(given) - set(values) or abs(math.fsum(values.values()) - 1) > 1e-3:
            return Unread(
                "error", f"these are no probabilities of {', '.join(self.choices)}: {_short(str(dict(given)))}"
            )
        likeliest = max(values, key=lambda choice: values[choice])
        return Said(likeliest, values)

    def _of_text(self, text: str) -> Said | None:
        if (found := self._of_json(text)) is not None:
            return found
        if not self.nonce:
            return self._said(text.strip(_WRAPPED))
        thoughts, _, last = text.rstrip().rpartition("\n")
        line = last.strip(_WRAPPED)
        # A model that thinks longer than it should may write the line twice; what stands last holds.
        match = re.fullmatch(rf"{self.word}\W{{1,4}}{self.nonce}\W{{1,8}}(\S+)", line, re.IGNORECASE)
        return None if match is None else self._said(match[1].strip(_WRAPPED), thoughts.strip())

    def _of_json(self, text: str) -> Said | None:
        bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
        if not bare.startswith("{"):
            return None
        try:
            found = json.loads(bare, object_pairs_hook=_once, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return None
        value = found.get(self.word.lower()) if isinstance(found, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        thoughts = found.get("reasoning", found.get("reason", ""))
        return self._said(str(value).strip(), thoughts if isinstance(thoughts, str) else "")

    def _said(self, word: str, thoughts: str = "") -> Said | None:
        if self.span is not None:
            return Said(word, None, thoughts) if _NUMBER.fullmatch(word) and self._in_span(float(word)) else None
        folded = {choice.lower(): choice for choice in self.choices}
        return Said(folded[word.lower()], None, thoughts) if word.lower() in folded else None

    def _in_span(self, number: float) -> bool:
        return self.span is not None and self.span[0] <= number <= self.span[1]


def refused(text: str) -> bool:
    """Whether an answer declines, by how it begins."""
    return _REFUSAL.match(text.replace("’", "'")) is not None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once: which of two verdicts would hold?"""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 100 else f"{flat[:99]}…"
