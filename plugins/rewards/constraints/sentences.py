"""Every sentence of an answer: what it holds, how long it is, and how it stands to the one before."""

from __future__ import annotations

from itertools import groupby, pairwise

from . import pieces
from .registry import NotUnderstood, constraint


@constraint("sentence:keyword")
def keyword_in_sentence(text: str, *, word: str, N: int) -> bool:
    """The N-th sentence, counted from 1, has the word."""
    if N < 1:
        raise NotUnderstood(f"sentence:keyword in sentence {N}")
    found = pieces.sentences(text)
    return len(found) >= N and pieces.count(found[N - 1], word) > 0


@constraint("sentence:increment")
def growing_sentences(text: str, *, small_n: int) -> bool:
    """Each sentence has exactly so many words more than the one before; two sentences at least."""
    lengths = [len(pieces.words(sentence)) for sentence in pieces.sentences(text)]
    return len(lengths) > 1 and all(b - a == small_n for a, b in pairwise(lengths))


@constraint("sentence:alliteration_increment")
def growing_alliteration(text: str) -> bool:
    """The longest run of words with one first letter grows from sentence to sentence; two sentences at least."""
    runs = []
    for sentence in pieces.sentences(text):
        initials = [word[0] for word in pieces.lowered(sentence)]
        runs.append(max(len(list(same)) for _, same in groupby(initials)))
    return len(runs) > 1 and all(a < b for a, b in pairwise(runs))


@constraint("ratio:sentence_words")
def three_even_sentences(text: str) -> bool:
    """Three sentences of equally many characters, and no word twice."""
    found = [sentence.strip() for sentence in pieces.sentences(text)]
    words = pieces.lowered(text)
    return len(found) == 3 and len({len(sentence) for sentence in found}) == 1 and len(words) == len(set(words))
