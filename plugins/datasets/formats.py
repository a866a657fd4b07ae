"""The shapes a row can have, and how each becomes a record.

The first row of a file decides; the most telling format that fits is taken. The prompt of a comparison is never guessed
by looking for the longest beginning that two answers share: that cuts inside the reply wherever both replies begin with
the same characters. It is given, or it ends at the last `Assistant:` (transcripts), or before the last message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora.records import Demonstration, Label, Message, Pair, Prompt

Record = Demonstration | Label | Pair | Prompt
Columns = Mapping[str, Any]

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class NotUsable(Exception):
    """A row that is well formed and cannot be used. The message is the reason, the same for all rows of its kind."""


# --- formats ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """One shape of rows.

    Attributes:
        columns: the columns it needs, by our names.
        kinds: what its text columns may hold: "text", "messages". All of a row hold the same.
        gives: what a row becomes, for messages.
        read: columns and further columns of a row → record; raises `NotUsable`.
        not_with: columns that show the row to be something else.
        example: a row, as a user would write it.
    """

    name: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    gives: str
    read: Callable[[Columns, Columns], Record]
    example: str
    not_with: tuple[str, ...] = ()

    def shape(self, row: Columns) -> str | None:
        """What the row's text columns hold when it has the columns of this format, else None."""
        kinds = {kind_of(row.get(name)) for name in self.columns if name != "label"}
        labelled = "label" not in self.columns or kind_of(row.get("label")) == "true or false"
        return kinds.pop() if labelled and len(kinds) == 1 and kinds <= set(self.kinds) else None

    def described(self) -> str:
        """Name, columns and what they give, in one line."""
        texts = ", ".join(name for name in self.columns if name != "label")
        label = ", label (true or false)" if "label" in self.columns else ""
        return f"{self.name}: {texts} ({' or '.join(self.kinds)}){label} → {self.gives}"

    def hides(self, row: Columns) -> bool:
        """Whether the row says more than this format would read: answers with a verdict beside them are not all there
        to be imitated, and a prompt with answers is no bare prompt."""
        judged = self.gives == "demonstrations" and kind_of(row.get("label")) in ("true or false", "number")
        return judged or any(name in row for name in self.not_with)


def kind_of(value: Any) -> str:
    """A JSON value's kind, in the words of messages to users."""
    if isinstance(value, list):
        return "messages" if value and all(_is_message(item) for item in value) else "list"
    names = {str: "text", bool: "true or false", int: "number", float: "number", dict: "object", type(None): "null"}
    return names[type(value)]


def is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:")


def recognise(row: Columns) -> tuple[Format, str] | None:
    """The format of a row and whether it holds text or messages; None when no format fits."""
    for format in FORMATS:
        shape = format.shape(row)
        if (
            shape
            and not format.hides(row)
            and (format.name != "hh" or (is_transcript(row["chosen"]) and is_transcript(row["rejected"])))
        ):
            return format, shape
    return None


# --- readers ----------------------------------------------------------------------------------------------------------


def _preference(row: Columns, extra: Columns) -> Pair:
    return _pair(_prompt(row["prompt"], extra), _reply(row["chosen"]), _reply(row["rejected"]))


def _hh(row: Columns, extra: Columns) -> Pair:
    """The prompt keeps its last `Assistant:` and the reply its leading space: joined they are the file's text."""
    (before, chosen), (also_before, rejected) = (_split_transcript(row[name]) for name in ("chosen", "rejected"))
    if before != also_before:
        raise NotUsable("chosen and rejected have different prompts")
    return _pair(_prompt(before, extra), chosen, rejected)


def _preference_implicit(row: Columns, extra: Columns) -> Pair:
    (before, chosen), (also_before, rejected) = (_split_conversation(row[name]) for name in ("chosen", "rejected"))
    if before != also_before:
        raise NotUsable("chosen and rejected have different prompts")
    if not before and isinstance(extra.get("prompt"), str):
        before = [{"role": "user", "content": extra["prompt"]}]
    return _pair(_prompt(before, extra), chosen, rejected)


def _unpaired(row: Columns, extra: Columns) -> Label:
    answer = _prompt_completion(row, extra)
    return Label(answer.prompt, answer.completion, row["label"])


def _prompt_completion(row: Columns, extra: Columns) -> Demonstration:
    return _demonstration(_prompt(row["prompt"], extra), _reply(row["completion"]))


def _unpaired_conversation(row: Columns, extra: Columns) -> Label:
    answer = _conversation(row, extra)
    return Label(answer.prompt, answer.completion, row["label"])


def _conversation(row: Columns, extra: Columns) -> Demonstration:
    before, reply = _split_conversation(row["messages"])
    return _demonstration(_prompt(before, extra), reply)


def _prompt_only(row: Columns, extra: Columns) -> Prompt:
    return _prompt(row["prompt"], extra)


_ANSWERED = ("chosen", "rejected")
FORMATS: tuple[Format, ...] = (
    Format("preference", ("prompt", "chosen", "rejected"), ("text", "messages"), "pairs", _preference,
           '{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}'),
    Format("hh", ("chosen", "rejected"), ("text",), "pairs", _hh,
           '{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello!", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: What?"}'),
    Format("preference_implicit", ("chosen", "rejected"), ("messages",), "pairs", _preference_implicit,
           '{"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], '
           '"rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "What?"}]}'),
    Format("unpaired_preference", ("prompt", "completion", "label"), ("text", "messages"), "labels", _unpaired,
           '{"prompt": "Name a colour.", "completion": "Seven.", "label": false}', not_with=_ANSWERED),
    Format("prompt_completion", ("prompt", "completion"), ("text", "messages"), "demonstrations", _prompt_completion,
           '{"prompt": "Name a colour.", "completion": "Blue."}', not_with=_ANSWERED),
    Format("unpaired_conversation", ("messages", "label"), ("messages",), "labels",
           _unpaired_conversation,
           '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], '
           '"label": true}',
           not_with=_ANSWERED),
    Format("conversation", ("messages",), ("messages",), "demonstrations", _conversation,
           '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
           not_with=_ANSWERED),
    Format("prompt_only", ("prompt",), ("text", "messages"), "prompts", _prompt_only,
           '{"prompt": "Name a colour."}', not_with=(*_ANSWERED, "completion", "messages")),
)  # fmt: skip
"""The most telling first. Where the kinds allow messages, a list of `{"role": …, "content": …}` may stand for text."""

BY_NAME = {format.name: format for format in FORMATS}
OUR_COLUMNS = ("prompt", "chosen", "rejected", "completion", "messages", "label")


# --- parts of a row ---------------------------------------------------------------------------------------------------


def _prompt(value: str | Sequence[Any], columns: Columns) -> Prompt:
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
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in _messages(value)]
        text = transcript(messages)
    if not messages or messages[-1]["role"] != "user":
        raise NotUsable("no user turn right before the reply")
    if not messages[-1]["content"].strip():
        raise NotUsable("the prompt is empty")
    first = next(turn["content"] for turn in messages if turn["role"] == "user")
    return Prompt(text, tuple(messages), columns, group=first.strip())


def _reply(value: str | Sequence[Any]) -> str:
    if isinstance(value, str):
        return value
    messages = _messages(value)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise NotUsable("the reply is not one message of the assistant")
    return messages[0]["content"]


def _pair(prompt: Prompt, chosen: str, rejected: str) -> Pair:
    if not chosen.strip() or not rejected.strip():
        raise NotUsable(f"the {'rejected' if chosen.strip() else 'chosen'} reply is empty")
    if chosen.strip() == rejected.strip():
        raise NotUsable("chosen and rejected are the same")
    return Pair(prompt, chosen, rejected)


def _demonstration(prompt: Prompt, completion: str) -> Demonstration:
    if not completion.strip():
        raise NotUsable("the completion is empty")
    return Demonstration(prompt, completion)


def _split_transcript(text: str) -> tuple[str, str]:
    if not is_transcript(text) or ASSISTANT not in text:
        raise NotUsable("no transcript of Human and Assistant turns")
    before, mark, reply = text.rpartition(ASSISTANT)
    if HUMAN in reply:
        raise NotUsable("the transcript does not end with an Assistant turn")
    return before + mark, reply


def _split_conversation(value: Sequence[Any]) -> tuple[list[Message], str]:
    messages = _messages(value)
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


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for models without a chat template: what follows is the assistant's reply."""
    heads = {"user": f"{HUMAN} ", "assistant": f"{ASSISTANT} ", "system": ""}
    system = [turn for turn in messages if turn["role"] == "system"]
    others = [turn for turn in messages if turn["role"] != "system"]
    return "".join(heads[turn["role"]] + turn["content"] for turn in (*system, *others)) + ASSISTANT


def _messages(value: Sequence[Any]) -> Sequence[Message]:
    if not all(_is_message(item) for item in value):
        raise NotUsable("a message without role and content as text")
    if any(item["role"] not in ("system", "user", "assistant") for item in value):
        raise NotUsable("a message whose role is not system, user or assistant")
    return value


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("role"), str) and isinstance(item.get("content"), str)
