"""Rows that follow from other rows of the data: pairs from rankings, rankings from ratings, demonstrations from what was called
better, prompts from everything. `splits` hands them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rlhf_lora.records import Data, Demonstration, Prompt, Ranking, Rating, Unused


def with_pairs(data: Data) -> Data:
    """The data, and its test set, with the pairs that its rankings make, and the rankings that its ratings of one prompt
    make; unchanged where a dataset gave pairs, which then are these."""
    test = None if data.test is None else with_pairs(data.test)
    rankings = data.rankings or (() if data.pairs else _rankings_of(data.ratings))
    pairs = data.pairs or [pair for ranking in rankings for pair in ranking.pairs()]
    return dataclasses.replace(data, test=test, rankings=rankings, pairs=pairs)


def _rankings_of(ratings: Sequence[Rating]) -> list[Ranking]:
    """The rated answers to each prompt in order, where two of them differ in value."""
    groups: dict[str, list[Rating]] = {}
    for rating in ratings:
        groups.setdefault(rating.prompt.text, []).append(rating)
    return [
        Ranking(group[0].prompt, tuple(r.completion for r in group), tuple(-r.value for r in group))
        for group in groups.values()
        if len({rating.value for rating in group}) > 1
    ]


def good_answers(data: Data, chosen_rows: Callable[[Any], list[Any]]) -> list[Demonstration]:
    """What to imitate when nobody wrote demonstrations: the best answers of rankings, else the better ones of pairs, else
    the answers called good. The better answer of a ranking's pair may be its second worst."""
    if data.rankings:
        rankings = chosen_rows(data.rankings)
        return _once(Demonstration(r.prompt, r.completions[r.ranks.index(min(r.ranks))]) for r in rankings)
    if data.pairs:
        return _once(Demonstration(pair.prompt, pair.chosen) for pair in chosen_rows(data.pairs) if pair.label > 0.5)
    return _once(Demonstration(label.prompt, label.completion) for label in chosen_rows(data.labels) if label.good)


def _once(demonstrations: Iterable[Demonstration]) -> list[Demonstration]:
    """An answer that beat several others is imitated once."""
    unique: dict[tuple[str, str], Demonstration] = {}
    for demonstration in demonstrations:
        unique.setdefault((demonstration.prompt.text, demonstration.completion), demonstration)
    return list(unique.values())


def prompts_of(data: Data) -> list[Prompt]:
    """The prompts of the data, each once: those it lists, else those of its rows. The first one's columns stay."""
    unique: dict[str, Prompt] = {}
    for prompt in data.prompts or prompts_of_rows(data):
        unique.setdefault(prompt.text, prompt)
    return list(unique.values())


def prompts_of_rows(data: Data) -> list[Prompt]:
    # Plain text to learn the language from has an empty prompt: nothing to ask a policy.
    lists = (data.pairs, data.demonstrations, data.labels, data.rankings, data.ratings)
    return [row.prompt for rows in lists for row in rows if row.prompt.text]


def repeated(data: Data) -> list[Unused]:
    """Listed prompts that `prompts_of` leaves out, because the same text stands there before."""
    seen: set[str] = set()
    return [
        Unused(f"prompt {prompt.id}", "the same prompt again, with other columns")
        for prompt in data.prompts
        if prompt.text in seen or seen.add(prompt.text)  # type: ignore[func-returns-value]
    ]
