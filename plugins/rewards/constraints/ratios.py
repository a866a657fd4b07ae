"""Shares: of stop words, of words taken over from a text, of kinds of sentences."""

from __future__ import annotations

from collections import Counter

from . import pieces
from .counts import STOP_WORDS
from .registry import constraint


@constraint("ratio:stop_words")
def few_stop_words(text: str, *, percentage: float) -> bool:
    """At most `percentage` % of the words are function words (`counts.STOP_WORDS`)."""
    found = pieces.lowered(text)
    return bool(found) and 100 * sum(word in STOP_WORDS for word in found) <= percentage * len(found)


@constraint("ratio:overlap")
def trigram_overlap(text: str, *, reference_text: str, percentage: float) -> bool:
    """Of the different runs of three words in the answer, `percentage` % (± 2) stand in the reference text too."""
    said, reference = _trigrams(text), _trigrams(reference_text)
    return bool(said) and abs(100 * len(said & reference) / len(said) - percentage) <= 2


def _trigrams(text: str) -> set[tuple[str, ...]]:
    found = pieces.lowered(text)
    return set(zip(found, found[1:], found[2:], strict=False))


def _kinds(text: str) -> Counter[str]:
    return Counter(pieces.ending(sentence) for sentence in pieces.sentences(text))


@constraint("ratio:sentence_type")
def two_statements_a_question(text: str) -> bool:
    """Twice as many statements as questions, and a question at least."""
    kinds = _kinds(text)
    return kinds["question"] > 0 and kinds["statement"] == 2 * kinds["question"]


@constraint("ratio:sentence_balance")
def balanced_sentences(text: str) -> bool:
    """As many statements as questions as exclamations, and one of each at least."""
    kinds = _kinds(text)
    return kinds["question"] > 0 and kinds["statement"] == kinds["question"] == kinds["exclamation"]
