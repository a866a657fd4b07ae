"""What the tiny judge learns from: short questions (`judging.texts`, the bare style) about orders, and their answers.

Pairs and replies come from the writers of the task `orders`, by streams of their own: no dataset has them. The answer to a
question follows the gold score, with a little of the noise that people have.

A model of 0.3 M parameters that is told A or B alone learns to judge in hours. So that it takes minutes, it is shown on the
way there what a reader would note down: which item a word of the prompt is, what each word of a reply says of the order, and
what the reply is worth so far (deep supervision: Lee et al. 2015, arXiv 1409.5185). Nothing of that is left in the model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_lora.judging import texts
from rlhf_lora.judging.constitution import OWN
from rlhf_lora.mini import orders
from rlhf_lora.records import Prompt

Notes = list[float | None]

WANTED, SAID, TALLY, WORTH = slice(0, 3), slice(3, 8), slice(8, 13), slice(13, 14)
"""Where among a word's notes which sort stands: the item of the order that it is, what it says of the order, how the reply
stands behind it, and what the reply is worth."""
SORTS = (WANTED, SAID, TALLY, WORTH)
NONE: Notes = [None] * WORTH.stop
SURE = 0.3
"""Noise of the answers, as `dataset.tau`: less than people's, and enough that a probability means something."""
ITEMS = frozenset(orders.ITEMS)


@dataclass(frozen=True)
class Lesson:
    """A text to learn from.

    Attributes:
        words: one token each.
        notes: for each word what is to be known there; empty for a text that is only to be continued.
        answer: whether the last word alone is learned, the answer to a question; else every word is.
    """

    words: list[str]
    notes: list[Notes]
    answer: bool


def vocabulary() -> list[str]:
    """The words of `orders` in their places, then those of the questions and answers."""
    asked = texts.bare_pair("", Prompt("?"), "", "").split() + texts.bare_answer("", Prompt("?"), "").split()
    return list(dict.fromkeys([*orders.vocabulary(), *asked, *texts.PAIR_OR_TIE, *texts.RATINGS]))


def comparison(rng: random.Random, triple: orders.Triple, items: int) -> Lesson:
    """Two replies in an order drawn by lot, and which is better."""
    prompt = orders.prompt_text(triple, rng.randrange(len(orders.TEMPLATES)))
    a, b = orders.compared(rng, triple, items)
    difference = orders.gold(prompt, a).value - orders.gold(prompt, b).value
    a_is_better, by = rng.random() < 0.5 * (1 + math.tanh(difference / (2 * SURE))), _principle(rng)
    swapped = rng.random() < 0.5
    line = texts.bare_pair(by, Prompt(prompt), *((b, a) if swapped else (a, b)))
    return question(line, "A" if a_is_better != swapped else "B", triple, prompt)


def rating(rng: random.Random, triple: orders.Triple, items: int) -> Lesson:
    """A reply, and how good it is: two steps for each point of the gold score, so 10 for the best there is."""
    prompt = orders.prompt_text(triple, rng.randrange(len(orders.TEMPLATES)))
    reply = orders.compared(rng, triple, items)[0]
    good = max(1, min(10, round(2 * orders.gold(prompt, reply).value)))
    return question(texts.bare_answer(_principle(rng), Prompt(prompt), reply), str(good), triple, prompt)


def text(rng: random.Random, triple: orders.Triple, items: int) -> Lesson:
    """What the base of `orders` is pretrained on: a slip, or an order and a reply to it."""
    kind = rng.random()
    if kind < 0.3:
        words = [*orders.slip(rng, triple, items).split(), orders.END]
    else:
        reply, finished = orders.draft(rng, triple, items, orders.CAREFUL if kind < 0.5 else orders.WEB)
        words = f"{orders.prompt_text(triple, rng.randrange(len(orders.TEMPLATES)))} {reply}".split()
        words += [orders.END] if finished else []
    return Lesson(words, [], answer=False)


def _principle(rng: random.Random) -> str:
    """None, as a rubric that is not given; or one of the kit's own, whose words it does not know."""
    return "" if rng.random() < 0.85 else rng.choice(OWN).text


def question(line: str, answer: str, triple: orders.Triple, prompt: str) -> Lesson:
    """A line that a judge is asked, its answer, and the notes on the way there."""
    words = line.split()
    notes = [NONE] * len(words)
    start = _place(words, prompt.split())
    for i, word in enumerate(prompt.split(), start):
        notes[i] = [*(float(word == wanted) for wanted in triple), *NONE[WANTED.stop :]]
    for head in ("A:", "B:", "answer:"):
        if head in words:
            _note_reply(notes, words, words.index(head) + 1, triple, prompt)
    return Lesson([*words, answer], notes, answer=True)


def _note_reply(notes: list[Notes], words: Sequence[str], start: int, triple: orders.Triple, prompt: str) -> None:
    """Behind each word of a reply: what the word says, how the reply stands so far, and what it is worth; and once more
    behind the last."""
    said: list[str] = []
    end = words.index("|", start)
    for i in range(start, end + 1):
        word = words[i] if i < end else ""
        of_word: Notes = [
            *(float(word == wanted) for wanted in triple),
            float(word in ITEMS and word not in triple),
            float(word in said),
        ]
        said += [word] if word in ITEMS else []
        gold = orders.gold(prompt, " ".join(words[start : min(i + 1, end)]))
        kept = [triple.index(item) for item in dict.fromkeys(said) if item in triple]
        named, extra, rude, polite = (gold.parts[part] for part in ("items", "extra", "rude", "courtesy"))
        tally: Notes = [named / 3, float(kept == sorted(kept)), -extra, float(rude < 0), float(polite > 0)]
        notes[i] = [*NONE[WANTED], *of_word, *tally, (gold.value - 2) / 2]


def _place(words: Sequence[str], part: Sequence[str]) -> int:
    return next(i for i in range(len(words)) if list(words[i : i + len(part)]) == list(part))
