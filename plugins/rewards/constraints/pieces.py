"""An answer in pieces: words, sentences, paragraphs, bullets. Every constraint cuts text by these, so they agree."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
"""Letters and digits; `don't` and `well-known` are one word each."""

ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc e.g i.e cf fig no vol approx u.s u.k a.m p.m inc ltd co al".split()
)
_END = re.compile(r"(?<![.!?‽…])[.!?‽…]++[\"”'’)\]]*+(?=\s|$)")
_BULLET = re.compile(r"^\s*([*\-•+])\s+(.*)$")


def words(text: str) -> list[str]:
    return WORD.findall(text)


def lowered(text: str) -> list[str]:
    return [word.lower().replace("’", "'") for word in words(text)]


def lines(text: str) -> list[str]:
    """Lines that are not blank."""
    return [line for line in text.splitlines() if line.strip()]


def sentences(text: str) -> list[str]:
    """Sentences with their end marks. A line's end ends a sentence too; marks without any word are no sentence."""
    return [piece for line in lines(text) for piece in _sentences_of(line) if words(piece)]


def _sentences_of(line: str) -> list[str]:
    found, start, ends = [], 0, len(line.rstrip())
    for mark in _END.finditer(line):
        before = line[start : mark.start()].rsplit(None, 1)
        last = before[-1].lower().lstrip("(\"'“‘") if before else ""
        initial = len(last) == 1 and last.isalpha() and last not in ("i", "a")
        if mark.group() == "." and mark.end() < ends and (last in ABBREVIATIONS or initial):
            continue
        found.append(line[start : mark.end()].strip())
        start = mark.end()
    rest = line[start:].strip()
    return [*found, rest] if rest else found


def paragraphs(text: str) -> list[str]:
    """Pieces between blank lines."""
    return [piece.strip() for piece in re.split(r"\n\s*\n", text) if piece.strip()]


def bullets(text: str, marks: str = "*-•+") -> list[str]:
    """Texts of the lines that begin with a bullet, one of `marks`, and a space."""
    found = (_BULLET.match(line) for line in text.splitlines())
    return [match[2] for match in found if match and match[1] in marks]


def count(text: str, phrase: str) -> int:
    """How often a word or phrase stands in the text, as whole words, upper and lower case alike."""
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, flags=re.IGNORECASE))


EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]")
EMOJI_JOINTS = "\ufe0f\u200d\u20e3"
"""What follows or joins emoji and is nothing by itself."""


def ending(sentence: str) -> str:
    """`question`, `exclamation` or `statement`, by the last mark; `?!` is a question."""
    marks = re.search(r"(?<![.!?‽…])[.!?‽…]++(?=[\"”'’)\]]*+\s*+$)", sentence)
    found = marks.group() if marks else ""
    return "question" if "?" in found or "‽" in found else "exclamation" if "!" in found else "statement"
