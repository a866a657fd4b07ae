"""What other people call our columns, and which names tell that a row compares replies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .formats import NOT_TEXT
from .parts import Columns, kind_of

ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("instruction", "question", "query"),
    "completion": ("output", "response", "answer"),
    "chosen": ("chosen_response",),
    "rejected": ("rejected_response",),
    "messages": ("conversations", "conversation"),
    "completions": ("responses", "outputs"),
    "scores": ("ratings",),
    "ranks": ("ranking", "rank"),
    "rating": ("score",),
    "best": ("best_index",),
    "reply_1": ("output_1", "response 1", "response_1"),
    "reply_2": ("output_2", "response 2", "response_2"),
    "reply_a": ("response_a", "answer_a", "output_a"),
    "reply_b": ("response_b", "answer_b", "output_b"),
    "winner": ("preference",),
} | {f"prediction_{n}": (f"prediction {n}",) for n in (1, 2, 3, 4)}
"""Our column → what others call it. Names that say nothing of which reply is better in which numbers stay out."""


def aliases_of(row: Columns, columns: Mapping[str, str]) -> dict[str, list[str]]:
    """Our columns that the row has under other names → those names, the usual one first.

    `answer` is a reply beside `question`, and mostly a solution to check against beside `prompt`: not taken there.
    """
    found: dict[str, list[str]] = {}
    for ours, theirs in ALIASES.items():
        if ours in row or ours in columns:
            continue
        there = [name for name in theirs if name in row and name not in columns.values() and _may_be(ours, row[name])]
        if ours == "completion" and "prompt" in row and "prompt" not in columns:
            there = [name for name in there if name != "answer"]
        if there:
            found[ours] = there
    return found


def _may_be(ours: str, value: Any) -> bool:
    """Whether a value could stand in our column at all: an `output` that is an object is no reply."""
    if ours in NOT_TEXT:
        return kind_of(value) in ("list", "number", "messages", "text", "null")
    return kind_of(value) in ("text", "messages") or ours == "messages"


_A_REPLY = re.compile(
    r"(response|reply|answer|output|completion|prediction|generation|candidate|conversation)s?"
    r"[ _-]?([a-d]|[1-9]|one|two|first|second|left|right)|responses?",
    re.IGNORECASE,
)
_A_VERDICT = re.compile(r"(overall[ _-]?)?preference|preferred|winner([ _-].*)?|verdict", re.IGNORECASE)


def compared(row: Columns) -> tuple[list[str], list[str]]:
    """Columns that by their names hold one of several replies, and a verdict on them: ({response_a, …}, {winner, …}).

    `answer` alone is none: beside prompts it is what rewards check against.
    """
    replies = [name for name in row if _A_REPLY.fullmatch(name)]
    verdicts = [name for name in row if _A_VERDICT.fullmatch(name) or (replies and name == "label")]
    return replies, verdicts
