"""How many of something: words, different words, numbers, pronouns, conjunctions, punctuation marks."""

from __future__ import annotations

import re

from . import pieces
from .registry import NotUnderstood, constraint

CONJUNCTIONS = frozenset("and but for nor or so yet".split())
PRONOUNS = frozenset(
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves this that these those who whom whose which what whoever "
    "whomever whatever whichever someone somebody something anyone anybody anything everyone everybody everything "
    "nobody nothing none each other another".split()
)
"""English pronouns, possessive ones too. Words that may be something else as well (that, her) are counted always."""
STOP_WORDS = PRONOUNS | frozenset(
    "a an the and but if or because as until while of at by for with about against between into through during before "
    "after above below to from up down in out on off over under again further then once here there when where why how "
    "all any both few more most some such no nor not only own same so than too very can will just should now am is are "
    "was were be been being have has had having do does did doing would could might must shall may don't doesn't didn't "
    "isn't aren't wasn't weren't won't wouldn't can't cannot couldn't shouldn't hasn't haven't hadn't i'm i've i'll i'd "
    "you're you've you'll you'd he's she's it's we're we've we'll they're they've they'll that's there's what's".split()
)
"""English function words. Lists differ from one library to the next by a few; this one is ours."""


@constraint("count:word_count_range")
def words_between(text: str, *, min_words: int, max_words: int) -> bool:
    """From `min_words` to `max_words`, both included."""
    if min_words > max_words:
        raise NotUnderstood(f"count:word_count_range from {min_words} to {max_words}")
    return min_words <= len(pieces.words(text)) <= max_words


@constraint("count:unique_word_count")
def different_words(text: str, *, N: int) -> bool:
    return len(set(pieces.lowered(text))) >= N


@constraint("count:numbers")
def numbers(text: str, *, N: int) -> bool:
    """Exactly so many numbers in digits; `1,000.5` is one, `H2O` and `3rd` have none."""
    return len(re.findall(r"(?<![\w.,])\d+(?:[.,]\d+)*(?!\w)", text)) == N


@constraint("count:pronouns")
def pronouns(text: str, *, N: int) -> bool:
    """At least so many, the same ones counted again; `it's` and `they've` count."""
    found = (word.partition("'")[0] for word in pieces.lowered(text))
    return sum(word in PRONOUNS for word in found) >= N


@constraint("count:conjunctions")
def different_conjunctions(text: str, *, small_n: int) -> bool:
    """At least so many different ones of and, but, for, nor, or, so, yet."""
    return len(CONJUNCTIONS.intersection(pieces.lowered(text))) >= small_n


@constraint("count:punctuation")
def every_punctuation_mark(text: str) -> bool:
    """An interrobang (`?!`, `!?`, `‽`), and apart from it each of . , ; : ! ?"""
    rest = re.sub(r"\?!|!\?|‽", " ", text)
    return rest != text and all(mark in rest for mark in ".,;:!?")


@constraint("count:words_japanese")
def every_nth_japanese(text: str, *, N: int) -> bool:
    """Words are what stands between spaces; the N-th, 2N-th, … has kana or kanji in it. At least N words."""
    if N < 1:
        raise NotUnderstood(f"count:words_japanese with N={N}")
    chosen = text.split()[N - 1 :: N]
    return bool(chosen) and all(re.search("[\u3040-\u30ff\u3400-\u9fff\uff66-\uff9f]", word) for word in chosen)
