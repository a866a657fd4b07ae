"""Keywords: there, so and so often, not there, letters; and case and commas."""

from __future__ import annotations

from . import pieces
from .registry import NotUnderstood, compared, constraint


@constraint("keywords:existence")
def all_there(text: str, *, keywords: list[str]) -> bool:
    return all(pieces.count(text, word) for word in keywords)


@constraint("keywords:frequency")
def so_often(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return compared(pieces.count(text, keyword), relation, frequency)


@constraint("keywords:forbidden_words")
def none_there(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(pieces.count(text, word) for word in forbidden_words)


@constraint("keywords:letter_frequency")
def letter_so_often(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    if len(letter) != 1:
        raise NotUnderstood(f"keywords:letter_frequency with letter={letter!r}")
    return compared(text.lower().count(letter.lower()), let_relation, let_frequency)


@constraint("count:keywords_multiple")
def five_keywords(text: str, *, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    """Once, twice, three, five and seven times, no more and no less."""
    wanted = {keyword1: 1, keyword2: 2, keyword3: 3, keyword4: 5, keyword5: 7}
    return all(pieces.count(text, word) == often for word, often in wanted.items())


@constraint("change_case:capital_word_frequency")
def words_in_capitals(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return compared(sum(word.isupper() for word in pieces.words(text)), capital_relation, capital_frequency)


@constraint("change_case:english_capital")
def all_capitals(text: str) -> bool:
    """Capitals only. That it is English is not looked at."""
    return text.isupper()


@constraint("change_case:english_lowercase")
def all_lowercase(text: str) -> bool:
    """No capital letter. That it is English is not looked at."""
    return text.islower()


@constraint("punctuation:no_comma")
def no_comma(text: str) -> bool:
    return "," not in text
