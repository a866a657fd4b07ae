"""Marks and shapes inside an answer: lists, indents, nesting, quotes, emoji, title case."""

from __future__ import annotations

import re
from itertools import pairwise

from . import pieces
from .registry import NotUnderstood, constraint

MINOR = frozenset(
    "a an the and but for nor or so yet as at by in of off on per to up via with from into onto over than if vs".split()
)
"""Words that title case leaves small."""


_ALL = f"{pieces.EMOJI.pattern[1:-1]}{pieces.EMOJI_JOINTS}"
_EMOJI = rf"{pieces.EMOJI.pattern}[{_ALL}]*+"
_MARKS = r"(?<![.!?…])[.!?…]++[\"”'’)\]]*+"
EMOJI_ENDED = re.compile(
    rf"(?:(?<![{_ALL}])[{pieces.EMOJI_JOINTS}]*+{_EMOJI}(?:\s*+{_MARKS})?|{_MARKS}\s*+{_EMOJI})(?=\s|$)"
)
"""The end of a sentence: emoji, before its mark or after it. Each run is tried once, from where it begins."""


@constraint("format:sub-bullets")
def sub_bullets(text: str) -> bool:
    """Bullets `*`, and under each of them at least one `-`."""
    marks = "".join(match for match in re.findall(r"^[ \t]*([*-])[ \t]+\S", text, flags=re.MULTILINE))
    return bool(re.fullmatch(r"(?:\*-+)+", marks))


@constraint("format:line_indent")
def stairs(text: str) -> bool:
    """Every line is indented further than the one before; at least two lines."""
    indents = [len(line) - len(line.lstrip()) for line in pieces.lines(text.expandtabs(4))]
    return len(indents) > 1 and all(a < b for a, b in pairwise(indents))


@constraint("format:list")
def list_with_separator(text: str, *, sep: str) -> bool:
    """At least two lines begin with the mark and go on, and none begins with an ordinary bullet or number."""
    mark = sep.strip()
    items = [line.strip() for line in pieces.lines(text)]
    marked = [item for item in items if item.startswith(mark) and pieces.words(item[len(mark) :])]
    others = [item for item in items if not item.startswith(mark) and re.match(r"[*\-•+]\s|\d+[.)]\s", item)]
    return len(marked) > 1 and not others


@constraint("format:parentheses")
def nested_brackets(text: str, *, depth: int = 5) -> bool:
    """Brackets of the three kinds, closed in order, at least `depth` deep somewhere."""
    closes, stack, deepest = {")": "(", "]": "[", "}": "{"}, [], 0
    for sign in text:
        if sign in "([{":
            stack.append(sign)
        elif sign in closes:
            if not stack or stack[-1] != closes[sign]:
                stack = []  # a smiley or `a)`: what stood open before it is not nesting
                continue
            deepest = max(deepest, len(stack))
            stack.pop()
    return deepest >= depth


@constraint("format:quotes")
def nested_quotes(text: str, *, depth: int = 3) -> bool:
    """Quotes within quotes, `depth` deep, double and single in turn, all of them closed within a paragraph."""
    return any(_quotes_deep(part) >= depth for part in pieces.paragraphs(text))


def _quotes_deep(text: str) -> int:
    """The depth of the deepest quotation that is closed; marks between letters are apostrophes."""
    kinds = {'"': "double", "“": "double", "”": "double", "'": "single", "‘": "single", "’": "single"}
    stack: list[str] = []
    peak = deepest = 0
    for i, sign in enumerate(text):
        before, after = text[max(i - 1, 0) : i], text[i + 1 : i + 2]
        kind = kinds.get(sign)
        if kind is None or (kind == "single" and before.isalnum() and after.isalnum()):
            continue
        if sign not in "“‘" and stack[-1:] == [kind]:
            stack.pop()
            if not stack:
                deepest, peak = max(deepest, peak), 0
        elif stack[-1:] == [kind]:  # “ within “: not in turn
            stack, peak = [], 0
        elif sign not in "”’" and not before.isalnum():
            stack.append(kind)
            peak = max(peak, len(stack))
    return deepest


@constraint("format:quote_unquote")
def quotes_explained(text: str) -> bool:
    """Something in double quotation marks, and after each such phrase words outside of them."""
    parts = re.split(r"[\"“”]", text)
    if len(parts) < 3 or len(parts) % 2 == 0:
        return False
    return all(pieces.words(part) for part in parts[1::2]) and all(pieces.words(part) for part in parts[2::2])


@constraint("format:emoji")
def sentences_end_in_emoji(text: str) -> bool:
    """An emoji at the end of every sentence, just before its mark or just after it."""
    for line in pieces.lines(text):
        rest = EMOJI_ENDED.split(line)
        if pieces.words(rest[-1]) or len(rest) < 2:
            return False  # the line's last words end without one
        if any(len(pieces.sentences(piece)) != 1 for piece in rest[:-1] if pieces.words(piece)):
            return False  # a sentence ended before
    return True


@constraint("format:newline")
def one_word_a_line(text: str) -> bool:
    return all(len(line.split()) == 1 for line in pieces.lines(text))


@constraint("format:no_whitespace")
def no_whitespace(text: str) -> bool:
    """None inside the answer; what stands around it is not counted."""
    return not re.search(r"\s", text.strip())


@constraint("format:title_case")
def title_case(text: str) -> bool:
    """Every word begins with a capital, but small ones (articles, short prepositions, conjunctions) inside a line."""
    for line in pieces.lines(text):
        for i, word in enumerate(pieces.words(line)):
            small = i > 0 and word.lower() in MINOR
            if word[0].isalpha() and not word[0].isupper() and not small:
                return False
    return bool(re.search(r"[^\W\d_]", text))


@constraint("format:no_bullets_bullets")
def sentences_then_bullets(text: str) -> bool:
    """At least two sentences that end in a period, and after them at least two bullets `*`."""
    first = re.search(r"^[ \t]*\*[ \t]+\S", text, flags=re.MULTILINE)
    if first is None:
        return False
    ended = [s for s in pieces.sentences(text[: first.start()]) if s.rstrip("\"”'’)]").endswith(".")]
    return len(ended) > 1 and len(pieces.bullets(text[first.start() :], "*")) > 1


@constraint("format:options")
def one_of_the_options(text: str, *, options: str) -> bool:
    """The answer is one of the options and nothing else; `a` is as good as `a)`. Options: `x/y`, `x, y`, `x or y`."""
    choices = next((options.split(mark) for mark in ("/", ",", " or ") if mark in options), [options])
    known = {_bare(choice) for choice in choices} - {""}  # `yes, no,` has two
    if not known:
        raise NotUnderstood(f"format:options with options={options!r}")
    return _bare(text) in known


def _bare(text: str) -> str:
    return " ".join(text.replace("’", "'").lower().split()).strip(" .!()[]\"“”'*")
