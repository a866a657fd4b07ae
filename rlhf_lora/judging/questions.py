"""What is asked of a language model that judges, and what it answers, whoever the model is.

Texts are made and read in one place; a `Listener` knows one way of reaching a model and nothing of judging.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rlhf_lora.records import Message


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask.

    Attributes:
        id: names the question among those asked with it; its answer bears the same.
        messages: the conversation, system turn first when there is one.
        choices: what the answer may be, when one word of these is asked for and nothing before it: then probabilities
            can be read. Empty: free text.
        max_tokens: of the answer.
        versions: of whatever reads the answer, by name: part of what a cached answer is known by.
    """

    id: str
    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    max_tokens: int = 512
    temperature: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: exactly one of a text, a refusal, something unreadable, or a failure of the way there.

    Attributes:
        text: of kind `text`.
        probabilities: of the question's choices, summing to 1, when the way there gives token probabilities.
        reason: of any other kind, in words for a person.
    """

    id: str
    kind: Literal["text", "refusal", "unreadable", "error"]
    text: str = ""
    probabilities: Mapping[str, float] | None = None
    reason: str = ""


Readable = Callable[[Question, Answer], bool]
"""Whether an answer could be read. One that could not is asked for again where asking is cheap, and is never cached."""


class Listener(Protocol):
    """A way to a model. Answers come in the order of the questions, one each; a failure is an `Answer` of kind `error`."""

    def ask(
        self, questions: Sequence[Question], readable: Readable
    ) -> Sequence[Answer] | Awaitable[Sequence[Answer]]: ...

    def close(self) -> None: ...
