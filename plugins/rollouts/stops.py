"""Stop strings: a completion ends when its text contains one of them, whatever tokens the string is made of.

The tokens up to and including the one that completed the string were sampled by the policy, so they are kept and
trained on, with their log-probs as they were captured. What a person reads and a reward scores is the text before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlhf_lora.errors import ConfigError


def check_stops(stop: Sequence[str]) -> None:
    """Refuse what would end every completion at once, or none.

    Raises:
        ConfigError: an empty string, or the two characters `\\n` where a line break was meant.
    """
    if "" in stop:
        raise ConfigError("an empty stop string ends every completion", where="rollout.stop", fix="leave it out")
    if any(re.search(r"\\n(?![a-z])", text) for text in stop):
        raise ConfigError(
            "a stop string holds a backslash and an n, not a line break", where="rollout.stop",
            fix="in a shell write $'rollout.stop=[\"\\nHuman:\"]', with the dollar sign before the quote",
        )  # fmt: skip


def text_before(text: str, stop: Sequence[str]) -> str | None:
    """What comes before the first stop string; None when there is none in the text."""
    found = [at for at in (text.find(one) for one in stop) if at >= 0]
    return text[: min(found)] if found else None


def completes(chat: Any, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the text of these tokens contains a stop string."""
    return text_before(chat.decode(tokens), stop) is not None


def until_stop_string(chat: Any, tokens: list[int], stop: Sequence[str]) -> list[int]:
    """The tokens up to and including the first one with which a stop string is whole."""
    if not stop or not completes(chat, tokens, stop):
        return tokens
    return next(tokens[:end] for end in range(1, len(tokens) + 1) if completes(chat, tokens[:end], stop))


class RowsThatStopped:
    """Watches a batch while it is decoded. Asked only when there are stop strings: it brings tokens to the host.

    Args:
        rows: how many completions are decoded side by side.
    """

    def __init__(self, chat: Any, stop: Sequence[str], rows: int):
        self.chat, self.stop = chat, stop
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.stopped = [False] * rows

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """One more token for each of `rows`; returns which of them contain a stop string by now."""
        for row, token in zip(rows, tokens, strict=True):
            if not self.stopped[row]:
                self.tokens[row].append(token)
                self.stopped[row] = completes(self.chat, self.tokens[row], self.stop)
        return [self.stopped[row] for row in rows]
