"""A judge made of a listener: what it is asked, and what its answers come to.

    comparison → question(s), one for each principle → answers, by their ids → probabilities → the mean → a Verdict

Questions of the same words are asked once. A missing verdict says in the first word of its reason what is missing:
`refusal: …`, `unreadable: …` or `error: …`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlhf_lora.errors import ContractError
from rlhf_lora.judging import reading, texts
from rlhf_lora.judging.constitution import Rule, drawn
from rlhf_lora.judging.fences import clean
from rlhf_lora.judging.orders import probability
from rlhf_lora.judging.questions import Answer, Listener, Question
from rlhf_lora.judging.reading import MISSING, Menu, Said, Unread
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.records import Comparison, Message, Prompt, Score, Verdict
from rlhf_lora.scores import awaited

VERSIONS = {"texts": texts.VERSION, "reading": reading.VERSION}
WORD_TOKENS = 8
"""Of an answer that is one word: some models put white space or a quotation mark before it."""
LINE_TOKENS = 48
"""For the last line, behind the reasons."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to find out: the turns that lead up to it, how it is asked, and how the answer is read."""

    turns: tuple[Message, ...]
    question: str
    menu: Menu
    thinks: str = ""
    tokens: int = WORD_TOKENS

    @property
    def messages(self) -> tuple[Message, ...]:
        return texts.then(self.turns, self.question) if self.question else self.turns


class Asked:
    """The contract `Judge`, kept by asking a listener.

    Args:
        listener: is closed with it.
        on_device: the listener computes on the backbone's device.
    """

    def __init__(self, listener: Listener, settings: JudgingSettings | None = None, on_device: bool = False):
        self.listener, self.settings, self.on_device = listener, settings or JudgingSettings(), on_device
        self._rules, self._standard = self.settings.rules, self.settings.standard

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        return self.compare_all([Comparison(prompt, a, b)])[0]

    def compare_all(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each, in order. An answer and itself are a tie, and nobody is asked."""
        items = [[] if one.a == one.b else self._pair_items(one) for one in comparisons]
        return [self._verdict(found) if found else SAME for found in self._found(items)]

    def rate_all(self, answers: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Ratings from 1 to 10; the expected one where probabilities are given."""
        items = [self._rating_items(prompt, text) for prompt, text in answers]
        return [self._rating(found) for found in self._found(items)]

    def principles_of(self, comparison: Comparison) -> tuple[Rule, ...]:
        """What a comparison is judged by: the same in both orders. Nothing where there is a rubric."""
        item = [comparison.prompt.text, *sorted((comparison.a, comparison.b))]
        return drawn(self._rules, item, self.settings.principles_per_item, self.settings.lot)

    def principle_of(self, comparison: Comparison) -> str:
        """Their ids, for the rows of a labels file."""
        return ",".join(rule.id for rule in self.principles_of(comparison))

    def close(self) -> None:
        self.listener.close()

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _pair_items(self, one: Comparison) -> list[Item]:
        standards = [rule.text for rule in self.principles_of(one)] or [self._standard]
        return [self._pair_item(standard, one) for standard in standards]

    def _pair_item(self, standard: str, one: Comparison) -> Item:
        how = self.settings
        choices = texts.PAIR_OR_TIE if how.ties else texts.PAIR
        if how.style == "bare":
            return _bare(texts.bare_pair(standard, one.prompt, one.a, one.b), Menu("Verdict", choices))
        turns, nonce = texts.pair_turns(standard, one.prompt, one.a, one.b, how.lot)
        if how.reasoning == "line":
            said = texts.LINE_PAIR.format(choices=", ".join(choices), nonce=nonce)
            return Item(turns, said, Menu("Verdict", choices, nonce), tokens=how.reasoning_tokens + LINE_TOKENS)
        thinks = texts.THINK_PAIR if how.reasoning == "steps" else ""
        return Item(turns, texts.which(choices), Menu("Verdict", choices), thinks)

    def _rating_items(self, prompt: Prompt, answer: str) -> list[Item]:
        # By the prompt alone: answers to one prompt, which are compared by their ratings, are rated by the same principles.
        rules = drawn(self._rules, [prompt.text], self.settings.principles_per_item, self.settings.lot)
        return [self._rating_item(s, prompt, answer) for s in [rule.text for rule in rules] or [self._standard]]

    def _rating_item(self, standard: str, prompt: Prompt, answer: str) -> Item:
        how, span = self.settings, (1.0, 10.0)
        menu = Menu("Rating", texts.RATINGS, span=span)
        if how.style == "bare":
            return _bare(texts.bare_answer(standard, prompt, answer), menu)
        turns, nonce = texts.answer_turns(standard, prompt, answer, how.lot)
        if how.reasoning == "line":
            said = texts.LINE_RATE.format(nonce=nonce)
            return Item(turns, said, replace(menu, nonce=nonce), tokens=how.reasoning_tokens + LINE_TOKENS)
        return Item(turns, texts.HOW_GOOD, menu, texts.THINK_RATE if how.reasoning == "steps" else "")

    # --- asking -------------------------------------------------------------------------------------------------------

    def _found(self, items: Sequence[Sequence[Item]]) -> list[list[Said | Unread]]:
        """What was found out about each item of each list; equal items are asked once."""
        ids: dict[Any, str] = {}
        for item in (item for group in items for item in group):
            ids.setdefault(_words(item), f"q{len(ids)}")
        unique = {ids[_words(item)]: item for group in items for item in group}
        found = self._with_thoughts(unique) if self.settings.reasoning == "steps" else self._asked(unique)
        return [[found[ids[_words(item)]] for item in group] for group in items]

    def _with_thoughts(self, items: Mapping[str, Item]) -> dict[str, Said | Unread]:
        """In two steps: the reasons, then what they come to."""
        how = self.settings
        questions = [
            Question(
                f"{key}/reasons",
                texts.then(item.turns, item.thinks),
                (),
                how.reasoning_tokens,
                how.temperature,
                VERSIONS,
            )
            for key, item in items.items()
        ]
        answers = self._answers(questions, lambda _, answer: bool(answer.text.strip()))
        thoughts = {key: answers[f"{key}/reasons"] for key in items}
        told = {
            key: replace(item, turns=texts.having_said(item.turns, item.thinks, thoughts[key].text))
            for key, item in items.items() if thoughts[key].kind == "text" and thoughts[key].text.strip()
        }  # fmt: skip
        found = {
            key: replace(said, thoughts=thoughts[key].text.strip()) if isinstance(said, Said) else said
            for key, said in self._asked(told).items()
        }
        return {key: found.get(key) or _no_reasons(answer) for key, answer in thoughts.items()}

    def _asked(self, items: Mapping[str, Item]) -> dict[str, Said | Unread]:
        questions = [
            Question(
                key, item.messages, () if item.menu.nonce else item.menu.choices, item.tokens, self.settings.temperature, VERSIONS
            )
            for key, item in items.items()
        ]  # fmt: skip
        answers = self._answers(questions, lambda q, answer: isinstance(items[q.id].menu.read(answer), Said))
        return {key: item.menu.read(answers[key]) for key, item in items.items()}

    def _answers(
        self, questions: Sequence[Question], readable: Callable[[Question, Answer], bool]
    ) -> dict[str, Answer]:
        """By the questions' ids.

        Raises:
            ContractError: the listener did not answer each question once.
        """
        if not questions:
            return {}
        given: Sequence[Answer] = awaited(self.listener.ask(questions, readable))
        if not hasattr(given, "__len__") or not all(isinstance(answer, Answer) for answer in given):
            raise ContractError(f"{type(self.listener).__name__} gave {type(given).__name__}, not a list of answers")
        if [answer.id for answer in given] != [question.id for question in questions]:
            raise ContractError(
                f"{type(self.listener).__name__} gave {len(given)} answers to {len(questions)} questions, or in another order"
            )
        return {answer.id: answer for answer in given}

    # --- what it comes to ---------------------------------------------------------------------------------------------

    def _verdict(self, found: Sequence[Said | Unread]) -> Verdict:
        read = [self._of(said) for said in found if isinstance(said, Said)]
        if 2 * len(read) <= len(found):
            return Verdict(None, reason=next(one.words for one in found if isinstance(one, Unread)))
        reason = "; ".join(one.reason for one in read if one.reason)
        if len(found) == 1:
            return replace(read[0], reason=reason)
        p = math.fsum(probability(one) or 0.0 for one in read) / len(read)
        return Verdict("tie" if abs(p - 0.5) < 1e-9 else "A" if p > 0.5 else "B", p, reason)

    def _of(self, said: Said) -> Verdict:
        furthest = self.settings.furthest
        choice: Literal["A", "B", "tie"] = said.choice  # type: ignore[assignment]
        p = None if said.probabilities is None else said.probabilities["A"] + said.probabilities.get("tie", 0.0) / 2
        if furthest is not None:
            sure = probability(Verdict(choice, p))
            p = None if sure is None else min(0.5 + furthest, max(0.5 - furthest, sure))
        choice = "tie" if p == 0.5 else choice  # of two that are equally likely, neither comes first
        return Verdict(choice, None if p is None else min(1.0, max(0.0, p)), _told(said.thoughts))

    def _rating(self, found: Sequence[Said | Unread]) -> Score:
        read = [one for one in found if isinstance(one, Said)]
        if 2 * len(read) <= len(found):
            missing = next(one for one in found if isinstance(one, Unread))
            return Score.none(missing.words, kind=MISSING[missing.kind])
        value = math.fsum(_expected(one) for one in read) / len(read)
        return Score(value, reason="; ".join(_told(one.thoughts) for one in read if one.thoughts))


SAME = Verdict("tie", 0.5, "the same words")


def _bare(line: str, menu: Menu) -> Item:
    return Item(({"role": "user", "content": line},), "", menu)


def _words(item: Item) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in item.messages)


def _expected(said: Said) -> float:
    if said.probabilities is None:
        return float(said.choice)
    return min(10.0, max(1.0, math.fsum(float(choice) * p for choice, p in said.probabilities.items())))


def _no_reasons(answer: Answer) -> Unread:
    if answer.kind == "text":
        return Unread("unreadable", "no reasons were given")
    return Unread(answer.kind, answer.reason or "no reason was given")


def _told(thoughts: str, most: int = 2000) -> str:
    flat = clean(thoughts).strip()
    return flat if len(flat) <= most else f"{flat[:most]}…"
