"""How an answer begins and ends, what it repeats, and what must stand in it."""

from __future__ import annotations

import re

from . import pieces
from .registry import NotUnderstood, constraint


@constraint("startend:end_checker")
def ends_with(text: str, *, end_phrase: str) -> bool:
    """The very last words, upper and lower case alike; a closing quotation mark may follow."""
    said, phrase = text.strip().lower(), end_phrase.strip().lower()
    return said.endswith(phrase) or said.strip('"”').endswith(phrase)


@constraint("startend:quotation")
def in_quotation_marks(text: str) -> bool:
    """The whole answer stands between double quotation marks."""
    inner = text.strip()
    return len(inner) > 2 and inner[0] in '"“' and inner[-1] in '"”'


@constraint("combination:repeat_prompt")
def repeats_the_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """The prompt first, word for word, then an answer."""
    said, wanted = _spaced(text).lower(), _spaced(prompt_to_repeat).lower()
    return said.startswith(wanted) and bool(pieces.words(said[len(wanted) :]))


@constraint("repeat:repeat_span")
def copies_a_span(text: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """The words of the prompt from index `n_start` to `n_end`, both included, counted from 0; nothing else."""
    words = prompt_to_repeat.split()
    if not 0 <= n_start <= n_end < len(words):
        raise NotUnderstood(f"repeat:repeat_span from {n_start} to {n_end} of {len(words)} words")
    return _spaced(text).strip('"“”') == " ".join(words[n_start : n_end + 1])


@constraint("combination:two_responses")
def two_responses(text: str) -> bool:
    """Two different answers with `******` between them."""
    parts = [part.strip() for part in text.split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


@constraint("detectable_content:number_placeholders")
def placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many `[names in square brackets]`."""
    return len(re.findall(r"\[[^\[\]]+\]", text)) >= num_placeholders


@constraint("detectable_content:postscript")
def postscript(text: str, *, postscript_marker: str) -> bool:
    """A line that begins with the mark (`P.S.`) and goes on."""
    mark = re.escape(postscript_marker.strip())
    return bool(re.search(rf"^[ \t]*{mark}\W*\w", text, flags=re.IGNORECASE | re.MULTILINE))


@constraint("words:words_position")
def second_and_second_to_last(text: str, *, keyword: str) -> bool:
    words = pieces.lowered(text)
    return len(words) >= 3 and words[1] == words[-2] == keyword.lower()


def _spaced(text: str) -> str:
    return " ".join(text.split())
