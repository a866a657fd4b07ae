"""What of a rendered conversation the template wrote, and what people wrote.

Special tokens are the template's to write: a `<|im_end|>` in somebody's message is text, and is spelt out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rlhf_lora.errors import DataError
from rlhf_lora.records import Message


def pieces(
    render: Callable[[Sequence[Message]], str], messages: Sequence[Message], special: Sequence[str]
) -> list[tuple[str, bool]]:
    """A rendered conversation in pieces: (text, whether special tokens in it are meant).

    One piece, unless a message holds one of the tokens called `special`. Then what the template wrote is told from what
    people wrote by rendering once more with stand-ins for their words.

    Raises:
        DataError: a message holds a special token, and the template changes messages in other ways than trimming them.
    """
    text = render(messages)
    if not any(mark in turn["content"] for turn in messages for mark in special):
        return [(text, True)]
    frame = render([{**turn, "content": f"\ue000{i}\ue001"} for i, turn in enumerate(messages)])
    parts = re.split("\ue000([0-9]+)\ue001", frame)
    for written in (str, str.strip):  # many templates trim
        found = [
            (written(messages[int(part)]["content"]), False) if i % 2 else (part, True) for i, part in enumerate(parts)
        ]
        if "".join(part for part, _ in found) == text:
            return found
    raise DataError(
        "a message holds one of the model's special tokens as text, in a place that its chat template rewrites",
        where=f"a conversation that begins {messages[0]['content'][:60]!r}",
        fix=f"take {', '.join(special[:6])} out of the text of your data",
    )


def turn_end(render: Callable[[Sequence[Message]], str], special: Sequence[str]) -> str | None:
    """The special token that the template writes right behind a reply, if it writes one.

    Not always the tokenizer's end token: Gemma's replies end with `<end_of_turn>`, its texts with `<eos>`.

    Args:
        render: without the generation prompt.
    """
    mark = "\ue000"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    behind = render(talk).rpartition(mark)[2].lstrip()
    return next((token for token in special if behind.startswith(token)), None)
