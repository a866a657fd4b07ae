"""What a kit found out about a plugin: a row for each promise, a report of them all, and how a promise is broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = 60
"""Characters of a text that a message repeats."""


@dataclass(frozen=True)
class Row:
    """What came of one promise.

    Attributes:
        id: of the promise; it does not change between releases.
        ok: True kept, False broken, None not looked at.
        why: what was found; of a broken promise what was given, what was wanted and what to do.
        title: the promise in words.
        sample, value: the input at which it broke, and what the plugin gave for it; empty where there is none.
    """

    id: str
    ok: bool | None
    why: str
    title: str = ""
    sample: str = ""
    value: str = ""


@dataclass(frozen=True)
class Report:
    """All rows of one plugin."""

    plugin: str
    rows: tuple[Row, ...] = ()

    @property
    def passed(self) -> bool:
        """No promise is broken."""
        return not self.broken

    @property
    def broken(self) -> list[Row]:
        return [row for row in self.rows if row.ok is False]

    def __getitem__(self, id: str) -> Row:
        """The row of a promise.

        Raises:
            KeyError: the kit has no such promise.
        """
        for row in self.rows:
            if row.id == id:
                return row
        raise KeyError(id)

    def __str__(self) -> str:
        """What is broken, a line each."""
        return "\n".join(f"{self.plugin} breaks '{row.id}' ({row.title}): {row.why}" for row in self.broken)


class Broken(Exception):
    """A promise is not kept.

    Args:
        given: what the plugin did. wanted: what was promised. fix: what its author can do.
        sample: the input at which it showed. value: what the plugin gave for it.
    """

    def __init__(self, given: str, wanted: str, fix: str, sample: str = "", value: str = ""):
        self.sample, self.value = sample, value
        at = f" for {sample}" if sample and sample not in given else ""
        super().__init__(f"given {given}{at}; wanted {wanted}; to do: {fix}")


class NotLookedAt(Exception):
    """A promise does not apply, or cannot be looked at here; the message says why."""


class NeedsModel(Exception):
    """The plugin reached for the model or its tokenizer, and there is none."""


# --- words ------------------------------------------------------------------------------------------------------------


def short(value: Any, width: int = SHOWN) -> str:
    """A value as messages repeat it: its repr, without the middle when it is long. No control character is left in it."""
    return clipped(repr(value), width)


def clipped(text: str, width: int = SHOWN) -> str:
    """Text without its middle, when it is long."""
    return text if len(text) <= width else f"{text[: width * 2 // 3]} … {text[-width // 4 :]}"


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as plain text, for logs."""
    for row in rows:
        yield f"{'ok  ' if row.ok else 'FAIL' if row.ok is False else '-   '} {row.id:<12} {row.why}"
