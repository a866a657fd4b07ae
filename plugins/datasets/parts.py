"""The parts of a row: prompt, reply, conversation, transcript; and the reason when a part cannot be used.

The prompt of a comparison is never guessed by looking for the longest beginning that two answers share: that cuts
inside the reply wherever both replies begin with the same characters. It is given, or it ends at the last `Assistant:`
(transcripts), or before the last message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lora.records import ASSISTANT, HUMAN, Demonstration, Message, Pair, Prompt, transcript

Columns = Mapping[str, Any]

TIE = "a tie"
SCORES_BESIDE = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
"""Further columns that say how good the two replies of a pair were found, as binarised files of ratings call them."""
NUMBERS_BESIDE = frozenset(("margin", *(name for names in SCORES_BESIDE for name in names)))
"""Further columns of a pair that are read as numbers."""

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
"""Who speaks, in ShareGPT's words. Other words stay as they are; only system, user and assistant are used."""


class NotUsable(Exception):
    """A row that is well formed and cannot be used. The message is the reason, the same for all rows of its kind."""


def kind_of(value: Any) -> str:
    """A JSON value's kind, in the words of messages to users."""
    if isinstance(value, list):
        return "messages" if value and all(is_message(item) for item in value) else "list"
    names = {str: "text", bool: "true or false", int: "number", float: "number", dict: "object", type(None): "null"}
    return names[type(value)]


def is_score(value: Any) -> bool:
    """Whether a value is a number to compare with. NaN and infinity (also 1e999, which JSON reads as one) are none."""
    return kind_of(value) == "number" and (isinstance(value, int) or math.isfinite(value))


def is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:")


def as_messages(value: Any) -> Any:
    """ShareGPT's `{"from", "value"}` turns, and a single message, as a list of messages; any other value unchanged."""
    if isinstance(value, dict):
        turn = _as_message(value)
        return [turn] if is_message(turn) else value
    return [_as_message(item) for item in value] if isinstance(value, list) else value


def _as_message(item: Any) -> Any:
    if isinstance(item, dict) and isinstance(item.get("from"), str) and "role" not in item:
        return {"role": _SHAREGPT.get(item["from"], item["from"]), "content": item.get("value")}
    return item


def prompt_of(value: str | Sequence[Any], columns: Columns) -> Prompt:
    """A prompt from text, from a transcript that ends with `Assistant:`, or from messages that end with the user's.

    Prompts of one conversation's beginning belong together: their first user turn is their group.
    """
    if isinstance(value, str):
        if not value.strip():
            raise NotUsable("the prompt is empty")
        if not (is_transcript(value) and value.endswith(ASSISTANT)):
            return Prompt(value, columns=columns)
        text, messages = value, _turns(value.removesuffix(ASSISTANT))
    else:
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in messages_of(value)]
        text = transcript(messages)
    if not messages or messages[-1]["role"] != "user":
        raise NotUsable("no user turn right before the reply")
    if not messages[-1]["content"].strip():
        raise NotUsable("the prompt is empty")
    first = next(turn["content"] for turn in messages if turn["role"] == "user")
    return Prompt(text, tuple(messages), columns, group=first.strip())


def reply_of(value: str | Sequence[Any]) -> str:
    if isinstance(value, str):
        return value
    messages = messages_of(value)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise NotUsable("the reply is not one message of the assistant")
    return messages[0]["content"]


def pair_of(prompt: Prompt, chosen: str, rejected: str) -> Pair:
    if not chosen.strip() or not rejected.strip():
        raise NotUsable(f"the {'rejected' if chosen.strip() else 'chosen'} reply is empty")
    if chosen.strip() == rejected.strip():
        raise NotUsable("chosen and rejected are the same")
    if _scored_equal(prompt.columns):
        raise NotUsable(TIE)
    margin = prompt.columns.get("margin")
    if margin is not None and not is_score(margin):
        raise NotUsable("a margin that is no number")
    return Pair(prompt, chosen, rejected, None if margin is None else float(margin))


def _scored_equal(columns: Columns) -> bool:
    """Whether the scores beside a pair are the same: then a coin named the chosen one.

    Nothing else is made of them. Their difference is a margin on somebody's own scale, so it waits until the user
    writes it into `margin`; and they may be costs, or another rater's, so a lower chosen one is no contradiction.
    """
    return any(
        is_score(columns.get(chosen)) and is_score(columns.get(rejected)) and columns[chosen] == columns[rejected]
        for chosen, rejected in SCORES_BESIDE
    )


def demonstration_of(prompt: Prompt, completion: str) -> Demonstration:
    if not completion.strip():
        raise NotUsable("the completion is empty")
    return Demonstration(prompt, completion)


def split_transcript(text: str) -> tuple[str, str]:
    if not is_transcript(text) or ASSISTANT not in text:
        raise NotUsable("no transcript of Human and Assistant turns")
    before, mark, reply = text.rpartition(ASSISTANT)
    if HUMAN in reply:
        raise NotUsable("the transcript does not end with an Assistant turn")
    return before + mark, reply


def split_conversation(value: Sequence[Any]) -> tuple[list[Message], str]:
    messages = messages_of(value)
    if not messages or messages[-1]["role"] != "assistant":
        raise NotUsable("the conversation does not end with an assistant's message")
    return list(messages[:-1]), messages[-1]["content"]


def _turns(text: str) -> list[Message]:
    """The turns of a transcript. Two in a row of one speaker become one: chat templates want speakers to alternate."""
    _, *parts = _TURN.split(text)
    turns: list[Message] = []
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        role, content = _ROLES[speaker], content.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{content}".strip()}
        else:
            turns.append({"role": role, "content": content})
    return turns


def messages_of(value: Sequence[Any]) -> Sequence[Message]:
    if not all(is_message(item) for item in value):
        raise NotUsable("a message without role and content as text")
    if any(item["role"] not in ("system", "user", "assistant") for item in value):
        raise NotUsable("a message whose role is not system, user or assistant")
    return value


def is_message(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)
