"""Rules on the words of an answer: patterns and keywords."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

import regex

from rlhf_lora.records import Sample
from rlhf_lora.registry import reward

from .rule import CannotJudge, Kept, Rule, rule
from .shape import one_of

PATTERN_SECONDS = 1.0
"""A pattern that is not done with one answer after this time gives it no score. The `regex` package counts it inside
its matching, so it holds in any thread; `(a|a)*b` would otherwise hang a run for longer than anyone waits."""


@rule("regex")
@reward("regex")
class Regex(Rule):
    """A pattern matches the answer (without the white space around it), or must not.

    Patterns are of the `regex` package, which knows everything that `re` does. Flags stand in the pattern: `(?s)`.

    Attributes:
        pattern: the pattern; or else `pattern_column`.
        pattern_column: the dataset column that has each row's own pattern.
        match: `search` (anywhere) or `fullmatch` (the whole answer).
        forbid: the pattern must not match.
        ignore_case: capital and small letters are the same.
    """

    pattern: str | None = None
    pattern_column: str | None = None
    match: str = "search"
    forbid: bool = False
    ignore_case: bool = False

    def __post_init__(self) -> None:
        one_of("match", self.match, ("search", "fullmatch"))
        if not self.pattern_column and not self.pattern:
            raise ValueError("it needs a pattern, or a pattern_column")
        if self.pattern_column and self.pattern:
            raise ValueError("it takes a pattern or a pattern_column, not both")
        if self.pattern:
            self._compiled(self.pattern)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.pattern_column,) if self.pattern_column else ()

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        pattern = self._row_pattern(row[self.pattern_column]) if self.pattern_column else self.pattern or ""
        found = self._matches(pattern, sample.text.strip())
        if found != self.forbid:
            return Kept(1.0)
        return Kept(0.0, f"/{pattern}/ {'matches' if self.forbid else 'does not match'}")

    def _compiled(self, pattern: str) -> Any:
        try:
            return regex.compile(pattern, regex.IGNORECASE if self.ignore_case else 0)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(f"the pattern /{pattern}/ cannot be read: {error}") from None

    def _row_pattern(self, given: Any) -> str:
        if not isinstance(given, str) or not given:
            raise CannotJudge(f"{self.pattern_column}={given!r} is no pattern", "unreadable")
        try:
            self._compiled(given)
        except ValueError as error:
            raise CannotJudge(str(error), "unreadable") from None
        return given

    def _matches(self, pattern: str, text: str) -> bool:
        compiled = self._compiled(pattern)  # kept by the package
        try:
            return getattr(compiled, self.match)(text, timeout=PATTERN_SECONDS) is not None
        except TimeoutError:
            raise CannotJudge(f"/{pattern}/ was not done after {PATTERN_SECONDS:g} s", "error") from None


@rule("keywords")
@reward("keywords")
class Keywords(Rule):
    """Words that must or must not stand in the answer.

    The value is the mean over what was asked for: 1 or 0 for `any` and `none`, the share found for `all` and `column`.

    Attributes:
        any: at least one of these.
        all: every one of these.
        none: not one of these.
        column: the dataset column with each row's own words, all of them wanted: a list, or text with commas.
        case: capital and small letters differ.
        whole_words: `art` is not found in `start`. Set it to false for languages without spaces.
    """

    any: list[str] = field(default_factory=list)
    all: list[str] = field(default_factory=list)
    none: list[str] = field(default_factory=list)
    column: str | None = None
    case: bool = False
    whole_words: bool = True

    def __post_init__(self) -> None:
        words = [*self.any, *self.all, *self.none]
        if not words and not self.column:
            raise ValueError("it needs words: any, all, none, or a column that has them")
        if [word for word in words if not word.strip()]:
            raise ValueError("a word is empty")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.column else ()

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        text = sample.text if self.case else sample.text.casefold()
        parts: list[Kept] = []
        if self.any:
            some = self._found(self.any, text)
            parts.append(Kept(1.0) if some else Kept(0.0, f"none of {_listed(self.any)}"))
        if self.none:
            bad = self._found(self.none, text)
            parts.append(Kept(0.0, f"has {_listed(bad)}") if bad else Kept(1.0))
        for words in [self.all, *([self._words(row[self.column])] if self.column else [])]:
            if words:
                found = self._found(words, text)
                lacks = [word for word in words if word not in found]
                parts.append(Kept(len(found) / len(words), f"lacks {_listed(lacks)}" if lacks else ""))
        return Kept(sum(part.value for part in parts) / len(parts), ", ".join(p.why for p in parts if p.why))

    def _found(self, words: Iterable[str], text: str) -> list[str]:
        return [word for word in words if self._stands_in(word if self.case else word.casefold(), text)]

    def _stands_in(self, word: str, text: str) -> bool:
        if not self.whole_words:
            return word in text
        return regex.search(rf"(?<!\w){regex.escape(word)}(?!\w)", text) is not None

    def _words(self, given: Any) -> list[str]:
        pieces = given.split(",") if isinstance(given, str) else given
        words = [str(piece).strip() for piece in pieces] if _are_words(pieces) else []
        if not any(words):
            raise CannotJudge(f"{self.column}={given!r} has no words", "unreadable")
        return [word for word in words if word]


def _are_words(pieces: Any) -> bool:
    """A list of text and numbers: a value that is missing (None, NaN) is no word."""
    return isinstance(pieces, list | tuple) and all(
        isinstance(piece, str) or (isinstance(piece, int | float) and not isinstance(piece, bool) and piece == piece)
        for piece in pieces
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
