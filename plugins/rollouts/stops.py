"""Stop strings: a completion ends when its text contains one of them, whatever tokens the string is made of.

The tokens up to and including the one that completed the string were sampled by the policy, so they are kept and
trained on, with their log-probs as they were captured. What a person reads and a reward scores is the text before it.

A string can be made to count from a token on only: Ziegler et al. 2019 end an answer at the first full stop among tokens
16 to 23 (`truncate_after`), and a full stop before that is a part of it. The end token is no string: it always ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora.errors import ConfigError


def check_stops(stop: Sequence[str], after: int) -> None:
    """Refuse what would end every completion at once, or none.

    Raises:
        ConfigError: an empty string, or the two characters `\\n` where a line break was meant; an `after` below 0.
    """
    if after < 0:
        raise ConfigError(f"stop_after is {after}", where="rollout.stop_after", fix="0, or a number of tokens")
    if "" in stop:
        raise ConfigError("an empty stop string ends every completion", where="rollout.stop", fix="leave it out")
    if any(re.search(r"\\n(?![a-z])", text) for text in stop):
        raise ConfigError(
            "a stop string holds a backslash and an n, not a line break", where="rollout.stop",
            fix="in a shell write $'rollout.stop=[\"\\nHuman:\"]', with the dollar sign before the quote",
        )  # fmt: skip


@dataclass(frozen=True)
class StopRule:
    """Where a completion ends by its text.

    Attributes:
        strings: any of these ends it. after: a string counts when the token that completes it has this index or a later one,
            the first token being 0.
    """

    strings: Sequence[str] = ()
    after: int = 0

    def text_before(self, chat: Any, tokens: Sequence[int]) -> str | None:
        """The text of these tokens before the first string that counts; None when there is none in it."""
        if not self.strings:
            return None
        text = chat.decode(tokens)
        # A character that `after` cuts in two is not whole yet: it belongs to the tokens that count.
        begun = len(chat.decode(tokens[: self.after]).rstrip("\N{REPLACEMENT CHARACTER}")) if self.after else 0
        found = [text.find(one, max(0, begun + 1 - len(one))) for one in self.strings]
        return text[: min(at for at in found if at >= 0)] if max(found) >= 0 else None

    def ends(self, chat: Any, tokens: Sequence[int]) -> bool:
        """Whether the text of these tokens contains a string that counts."""
        return self.text_before(chat, tokens) is not None

    def until_end(self, chat: Any, tokens: list[int]) -> list[int]:
        """The tokens up to and including the first one with which a string that counts is whole."""
        if not self.ends(chat, tokens):
            return tokens
        return next(tokens[:end] for end in range(1, len(tokens) + 1) if self.ends(chat, tokens[:end]))


class RowsThatStopped:
    """Watches a batch while it is decoded. Asked only when there are stop strings: it brings tokens to the host.

    Args:
        rows: how many completions are decoded side by side.
    """

    def __init__(self, chat: Any, rule: StopRule, rows: int):
        self.chat, self.rule = chat, rule
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.stopped = [False] * rows

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """One more token for each of `rows`; returns which of them contain a stop string that counts by now."""
        for row, token in zip(rows, tokens, strict=True):
            if not self.stopped[row]:
                self.tokens[row].append(token)
                self.stopped[row] = self.rule.ends(self.chat, self.tokens[row])
        return [self.stopped[row] for row in rows]
