"""Every word of an answer: its first letter, its length, its vowels, its place."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from . import pieces
from .registry import NotUnderstood, constraint

VOWELS = frozenset("aeiou")


def _letters(text: str) -> list[str]:
    """Words that have letters, lowered, letters alone."""
    bare = ("".join(sign for sign in word if sign.isalpha()) for word in pieces.lowered(text))
    return [word for word in bare if word]


@constraint("words:vowel")
def three_vowels(text: str) -> bool:
    """At most three of a, e, i, o, u in the whole answer, and at least one."""
    return 1 <= len(VOWELS.intersection(text.lower())) <= 3


@constraint("words:consonants")
def consonant_clusters(text: str) -> bool:
    """Every word has two consonants side by side; y is one."""
    found = _letters(text)
    return bool(found) and all(re.search(r"[^\Waeiou\d_]{2}", word) for word in found)


@constraint("words:no_consecutive")
def neighbours_differ(text: str) -> bool:
    """No two words side by side begin with the same letter."""
    found = _letters(text)
    return bool(found) and all(a[0] != b[0] for a, b in pairwise(found))


@constraint("words:palindrome")
def palindromes(text: str) -> bool:
    """At least ten different words of five letters or more that read the same backwards."""
    return len({word for word in _letters(text) if len(word) >= 5 and word == word[::-1]}) >= 10


@constraint("words:repeats")
def no_word_too_often(text: str, *, small_n: int) -> bool:
    """No word more often than `small_n` times."""
    found = Counter(pieces.lowered(text))
    return bool(found) and max(found.values()) <= small_n


@constraint("words:prime_lengths")
def prime_lengths(text: str) -> bool:
    """Every word has a prime number of letters."""
    found = _letters(text)
    return bool(found) and all(_prime(len(word)) for word in found)


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


@constraint("words:alphabet")
def along_the_alphabet(text: str) -> bool:
    """Each word begins with the letter after that of the word before; Z is followed by A. Two words at least."""
    found = _letters(text)
    steps = [(ord(b[0]) - ord(a[0])) % 26 == 1 for a, b in pairwise(found)]
    return bool(steps) and all(steps) and all("a" <= word[0] <= "z" for word in found)


@constraint("words:last_first")
def sentences_are_chained(text: str) -> bool:
    """The last word of each sentence is the first of the next; two sentences at least."""
    found = [pieces.lowered(sentence) for sentence in pieces.sentences(text)]
    return len(found) > 1 and all(a[-1] == b[0] for a, b in pairwise(found))


@constraint("words:paragraph_last_first")
def paragraphs_return(text: str) -> bool:
    """Each line with text, which is a paragraph here, ends with the word that it began with."""
    found = [pieces.lowered(line) for line in pieces.lines(text)]
    return bool(found) and all(len(line) > 1 and line[0] == line[-1] for line in found)


@constraint("words:keywords_specific_position")
def keyword_at(text: str, *, keyword: str, n: int, m: int) -> bool:
    """The m-th word of the n-th sentence, both counted from 1."""
    if n < 1 or m < 1:
        raise NotUnderstood(f"words:keywords_specific_position at sentence {n}, word {m}")
    sentences = pieces.sentences(text)
    found = pieces.lowered(sentences[n - 1]) if len(sentences) >= n else []
    return len(found) >= m and found[m - 1] == keyword.lower()
