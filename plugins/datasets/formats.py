"""The shapes a row can have, and how each becomes a record.

The first row of a file decides; the most telling format that fits is taken. What each becomes is in `parts` (one reply,
or two) and in `several` (rows that compare more).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_lora.records import Demonstration, Label, Pair, Prompt, Ranking, Rating

from . import several
from .parts import (
    Columns,
    NotUsable,
    demonstration_of,
    is_transcript,
    kind_of,
    pair_of,
    prompt_of,
    reply_of,
    split_conversation,
    split_transcript,
)

Record = Demonstration | Label | Pair | Prompt | Ranking | Rating
Read = Callable[[Columns, Columns], "Record | several.Several | several.Rated"]

TRUTH, NUMBER, LIST = ("true or false",), ("number",), ("list",)


@dataclass(frozen=True)
class Format:
    """One shape of rows.

    Attributes:
        columns: the columns it needs, by our names.
        kinds: what its reply and prompt columns may hold: "text", "messages". All of a row hold the same.
        gives: what a row becomes, for messages.
        read: columns and further columns of a row → record; raises `NotUsable`.
        not_with: columns that show the row to be something else.
        example: rows, as a user would write them.
        others: columns that hold something else than text or messages → what.
        only: what else must be true of a first row that is to decide for this format.
        compares: how many comparisons a row asks for, where that grows with the square of what it holds.
    """

    name: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    gives: str
    read: Read
    example: str
    not_with: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: Callable[[Columns], bool] = lambda row: True
    compares: Callable[[Columns], int] = lambda row: 0

    def shape(self, row: Columns) -> str | None:
        """What the row's text columns hold when it has the columns of this format, else None."""
        kinds = {kind_of(row.get(name)) for name in self.columns if name not in self.others}
        others = all(name in row and self.holds(name, row[name]) for name in self.others)
        if not kinds and others:
            return "list"
        return kinds.pop() if others and len(kinds) == 1 and kinds <= set(self.kinds) else None

    def holds(self, name: str, value: Any) -> bool:
        """Whether one of `others` can hold a value. A verdict or score that is null is missing for its row alone, be
        it the first: what the other rows are must not hang on it."""
        kind, wanted = kind_of(value), self.others[name]
        return kind in wanted or (kind == "null" and "true or false" not in wanted)

    def described(self) -> str:
        """Name, columns and what they give, in one line."""
        texts = ", ".join(name for name in self.columns if name not in self.others)
        others = "".join(f", {name} ({wanted[0]})" for name, wanted in self.others.items())
        columns = f"{texts} ({' or '.join(self.kinds)}){others}" if texts else others.removeprefix(", ")
        return f"{self.name}: {columns} → {self.gives}"

    def hides(self, row: Columns) -> bool:
        """Whether the row says more than this format would read: answers with a verdict beside them are not all there
        to be imitated, and a prompt with answers is no bare prompt."""
        judged = self.gives == "demonstrations" and kind_of(row.get("label")) in ("true or false", "number")
        return judged or any(name in row for name in self.not_with)


def recognise(row: Columns) -> tuple[Format, str] | None:
    """The format of a row and whether it holds text or messages; None when no format fits."""
    for format in FORMATS:
        shape = format.shape(row)
        if shape and not format.hides(row) and format.only(row):
            return format, shape
    return None


# --- readers ----------------------------------------------------------------------------------------------------------


def _preference(row: Columns, extra: Columns) -> Pair:
    return pair_of(prompt_of(row["prompt"], extra), reply_of(row["chosen"]), reply_of(row["rejected"]))


def _hh(row: Columns, extra: Columns) -> Pair:
    """The prompt keeps its last `Assistant:` and the reply its leading space: joined they are the file's text."""
    (before, chosen), (also_before, rejected) = (split_transcript(row[name]) for name in ("chosen", "rejected"))
    if before != also_before:
        raise NotUsable("chosen and rejected have different prompts")
    return pair_of(prompt_of(before, extra), chosen, rejected)


def _preference_implicit(row: Columns, extra: Columns) -> Pair:
    (before, chosen), (also_before, rejected) = (split_conversation(row[name]) for name in ("chosen", "rejected"))
    if before != also_before:
        raise NotUsable("chosen and rejected have different prompts")
    if not before and isinstance(extra.get("prompt"), str):
        before = [{"role": "user", "content": extra["prompt"]}]
    return pair_of(prompt_of(before, extra), chosen, rejected)


def _preference_conversation(row: Columns, extra: Columns) -> Pair:
    return pair_of(prompt_of(row["messages"], extra), reply_of(row["chosen"]), reply_of(row["rejected"]))


def _unpaired(row: Columns, extra: Columns) -> Label:
    answer = _prompt_completion(row, extra)
    return Label(answer.prompt, answer.completion, row["label"])


def _prompt_completion(row: Columns, extra: Columns) -> Demonstration:
    return demonstration_of(prompt_of(row["prompt"], extra), reply_of(row["completion"]))


def _alpaca(row: Columns, extra: Columns) -> Demonstration:
    """The instruction; below it, after an empty line, the input when there is one."""
    parts = [part for part in (row["instruction"], row["input"] or "") if part.strip()]
    return demonstration_of(prompt_of("\n\n".join(parts), extra), row["completion"])


def _unpaired_conversation(row: Columns, extra: Columns) -> Label:
    answer = _conversation(row, extra)
    return Label(answer.prompt, answer.completion, row["label"])


def _conversation(row: Columns, extra: Columns) -> Demonstration:
    before, reply = split_conversation(row["messages"])
    return replace(demonstration_of(prompt_of(before, extra), reply), every_turn=True)


def _language_modelling(row: Columns, extra: Columns) -> Demonstration:
    """A text to be continued from nothing. Its own group: else all such rows, which share no prompt, would share one
    split."""
    return demonstration_of(Prompt("", columns=extra, group=row["text"].strip()), row["text"])


def _turns(row: Columns, extra: Columns) -> Prompt:
    """MT-bench: the first turn is the prompt; the later ones, asked after an answer, stay in the column."""
    turns = row["turns"]
    if not turns or not isinstance(turns[0], str):
        raise NotUsable("turns that do not begin with a text")
    return prompt_of(turns[0], {**extra, "turns": turns})


def _prompt_only(row: Columns, extra: Columns) -> Prompt:
    return prompt_of(row["prompt"], extra)


def _ends_with_the_user(row: Columns) -> bool:
    return row["messages"][-1]["role"] == "user"


def _transcripts(row: Columns) -> bool:
    return is_transcript(row["chosen"]) and is_transcript(row["rejected"])


_ANSWERED = ("chosen", "rejected", "completions", "reply_1", "reply_2", "reply_a", "reply_b", "prediction_1")
_EITHER, _TEXT, _MESSAGES = ("text", "messages"), ("text",), ("messages",)
_REPLIES = tuple(f"prediction_{n}" for n in (1, 2, 3, 4))
FORMATS: tuple[Format, ...] = (
    Format("preference", ("prompt", "chosen", "rejected"), _EITHER, "pairs", _preference,
           '{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}'),
    Format("hh", ("chosen", "rejected"), _TEXT, "pairs", _hh,
           '{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello!", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: What?"}',
           only=_transcripts),
    Format("preference_conversation", ("messages", "chosen", "rejected"), _MESSAGES, "pairs", _preference_conversation,
           '{"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello!"}, '
           '"rejected": {"from": "gpt", "value": "What?"}}',
           only=_ends_with_the_user),
    Format("preference_implicit", ("chosen", "rejected"), _MESSAGES, "pairs", _preference_implicit,
           '{"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], '
           '"rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "What?"}]}'),
    Format("ranked", ("prompt", "completions", "scores"), _EITHER, "pairs", several.ranked,
           '{"prompt": "Name a colour.", "completions": ["Blue.", "Seven."], "scores": [0.9, 0.1]}',
           others={"completions": LIST, "scores": LIST}, compares=several.every_two),
    Format("ranks", ("prompt", "completions", "ranks"), _EITHER, "pairs", several.ranks,
           '{"prompt": "Name a colour.", "completions": ["Seven.", "Blue."], "ranks": [2, 1]}',
           others={"completions": LIST, "ranks": LIST}, compares=several.every_two),
    Format("best_of_n", ("prompt", "completions", "best"), _EITHER, "pairs", several.best_of_n,
           '{"prompt": "Name a colour.", "completions": ["Seven.", "Blue."], "best": 1}',
           others={"completions": LIST, "best": NUMBER}),
    Format("alpaca_eval", ("prompt", "reply_1", "reply_2", "preference"), _EITHER, "pairs", several.alpaca_eval,
           '{"instruction": "Name a colour.", "output_1": "Seven.", "output_2": "Blue.", "preference": 2}',
           others={"preference": NUMBER}),
    Format("auto_j", ("prompt", "reply_1", "reply_2", "label"), _EITHER, "pairs", several.auto_j,
           '{"prompt": "Name a colour.", "response 1": "Seven.", "response 2": "Blue.", "label": 1}',
           others={"label": NUMBER}),
    Format("winner", ("prompt", "reply_a", "reply_b", "winner"), _EITHER, "pairs", several.winner,
           '{"prompt": "Name a colour.", "response_a": "Seven.", "response_b": "Blue.", "winner": "B"}',
           others={"winner": _TEXT}),
    Format("qa_feedback", ("prompt", *_REPLIES, "preference"), _TEXT, "pairs", several.qa_feedback,
           '{"question": "Which?", "prediction 1": "A", "prediction 2": "B", "prediction 3": "C", "prediction 4": "D", '
           '"preference": [1, 0, 0, 0, 0, 0]}',
           others={"preference": LIST}),
    Format("unpaired_preference", ("prompt", "completion", "label"), _EITHER, "labels", _unpaired,
           '{"prompt": "Name a colour.", "completion": "Seven.", "label": false}', not_with=_ANSWERED,
           others={"label": TRUTH}),
    Format("rated", ("prompt", "completion", "rating"), _EITHER, "pairs", several.rated,
           '{"prompt": "Name a colour.", "completion": "Blue.", "rating": 5}\n'
           '{"prompt": "Name a colour.", "completion": "Seven.", "rating": 1}', not_with=_ANSWERED,
           others={"rating": NUMBER}),
    Format("alpaca", ("instruction", "input", "completion"), _TEXT, "demonstrations", _alpaca,
           '{"instruction": "Name the colour of this.", "input": "the sky", "output": "Blue."}', not_with=_ANSWERED,
           others={"input": ("text", "null")}),
    Format("prompt_completion", ("prompt", "completion"), _EITHER, "demonstrations", _prompt_completion,
           '{"prompt": "Name a colour.", "completion": "Blue."}', not_with=_ANSWERED),
    Format("unpaired_conversation", ("messages", "label"), _MESSAGES, "labels", _unpaired_conversation,
           '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], '
           '"label": true}',
           not_with=_ANSWERED, others={"label": TRUTH}),
    Format("conversation", ("messages",), _MESSAGES, "demonstrations", _conversation,
           '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
           not_with=_ANSWERED),
    Format("prompt_only", ("prompt",), _EITHER, "prompts", _prompt_only,
           '{"prompt": "Name a colour."}', not_with=(*_ANSWERED, "completion", "messages")),
    Format("turns", ("turns",), _TEXT, "prompts", _turns,
           '{"turns": ["Name a colour.", "And another."]}', not_with=(*_ANSWERED, "completion", "messages"),
           others={"turns": LIST}),
    Format("language_modelling", ("text",), _TEXT, "demonstrations", _language_modelling,
           '{"text": "Blue is a colour."}', not_with=(*_ANSWERED, "completion", "messages", "prompt")),
)  # fmt: skip
"""The most telling first. Where the kinds allow messages, a list of `{"role": …, "content": …}` may stand for text."""

BY_NAME = {format.name: format for format in FORMATS}
OUR_COLUMNS = tuple(dict.fromkeys(name for format in FORMATS for name in format.columns))
NOT_TEXT = frozenset(name for format in FORMATS for name in format.others if name != "input")
"""Columns that a CSV file, where every cell is text, must have read as JSON."""
