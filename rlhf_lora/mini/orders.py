"""The miniature task *orders*: a guest asks for three things, the waiter repeats them politely. The gold score is known.

    prompt    one of six wordings around three items, at most 12 words     "may i have tea soup and bread ? waiter:"
    reply     each item once, in the order asked, courteous, at most       "certainly tea soup and bread"
              8 words, then the end token
    gold      plain Python, at most 5.0; used to make labels, to evaluate, and openly as the reward `orders_gold`

Nobody's data is needed: prompts, messy replies (`WEB`), better but imperfect ones (`DEMO`) and comparisons by a noisy
annotator are all drawn from a `random.Random`. No torch here. Everything is decided by the arguments, so equal seeds
give equal text.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

END, UNKNOWN = "<end>", "<unk>"
"""The end token of the tiny base's tokenizer. It is never part of a text."""

ITEMS = (
    "tea soup bread rice fish cake milk salad pasta beans coffee cheese apple pie juice eggs butter honey plum water ham corn "
    "toast figs"
).split()
COURTESY = ("certainly", "gladly", "sure", "thanks", "enjoy", "welcome")
RUDE = ("ugh", "whatever", "hurry", "nonsense", "fool", "no")
FILLER = ("well", "um", "so", "then", "just", "maybe", "anyway", "right", "okay", "perhaps")
OPENINGS = COURTESY[:3]
CLOSINGS = COURTESY[3:]
LINKS = ("and", "one", "with", "here", "is", "coming", "up")
SLIP_WORDS = ("slip", "served", "missing", "extra", "mixed", "fine")

TEMPLATES = (
    "please bring {} {} and {} . waiter:",
    "may i have {} {} and {} ? waiter:",
    "i would like {} {} and {} . waiter:",
    "one {} one {} and one {} for me . waiter:",
    "we want {} with {} and {} . waiter:",
    "table two : {} , {} , {} . waiter:",
)
PROMPT_WORDS = "please bring may i have would like for me we want table two : , . ? waiter:".split()
MAX_WORDS = 8
MAX_RESPONSE_TOKENS = 20

Triple = tuple[str, str, str]

_WORD = re.compile(r"[a-z]+")
_ITEMS, _COURTESY, _RUDE = frozenset(ITEMS), frozenset(COURTESY), frozenset(RUDE)


def vocabulary() -> list[str]:
    """Every word a text of this task can hold, specials first. Its order is the token ids."""
    return list(dict.fromkeys([END, UNKNOWN, *PROMPT_WORDS, *LINKS, *COURTESY, *RUDE, *FILLER, *ITEMS, *SLIP_WORDS]))


# --- the gold score ---------------------------------------------------------------------------------------------------


class Gold(NamedTuple):
    """The true value of a reply, at most 5.0, and what it is made of (the parts sum to the value)."""

    value: float
    parts: dict[str, float]


def asked(prompt_text: str) -> Triple:
    """The three items a prompt asks for, in order.

    Raises:
        ValueError: the text does not name exactly three different items, so it is no order.
    """
    found = [word for word in _WORD.findall(prompt_text.lower()) if word in _ITEMS]
    if len(found) != 3 or len(set(found)) != 3:
        raise ValueError(f"an order names three different items, this one {len(found)}: {prompt_text!r}")
    return (found[0], found[1], found[2])


def gold(prompt_text: str, reply_text: str, finished: bool = True) -> Gold:
    """Score a reply: +1 for each item asked for, +1 if all three come in the order asked, +0.5 for a courteous word,
    -0.5 for each item too many (not asked for, or said again), -1 for rudeness, -0.15 for each word over eight,
    +0.5 if the reply ended by itself and -0.5 if it was cut.

    Raises:
        ValueError: the prompt is no order.
    """
    wanted = asked(prompt_text)
    words = _WORD.findall(reply_text.lower())
    said = [word for word in words if word in _ITEMS]
    kept = [word for word in dict.fromkeys(said) if word in wanted]
    parts = {
        "items": float(len(kept)),
        "order": 1.0 if tuple(kept) == wanted else 0.0,
        "courtesy": 0.5 if _COURTESY.intersection(words) else 0.0,
        "extra": -0.5 * (len(said) - len(kept)),
        "rude": -1.0 if _RUDE.intersection(words) else 0.0,
        "length": -0.15 * max(0, len(words) - MAX_WORDS),
        "eos": 0.5 if finished else -0.5,
    }
    return Gold(math.fsum(parts.values()), parts)


# --- prompts ----------------------------------------------------------------------------------------------------------


def triples(items: int) -> list[Triple]:
    """All ordered triples of the first `items` items."""
    names = ITEMS[:items]
    return [(a, b, c) for a in names for b in names for c in names if len({a, b, c}) == 3]


def group(triple: Triple) -> str:
    """What decides the split of a prompt: its triple, so that all six wordings stay together."""
    return " ".join(triple)


def prompt_text(triple: Triple, template: int) -> str:
    return TEMPLATES[template].format(*triple)


# --- replies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Habits:
    """How a writer of replies errs: probabilities per reply (`omit` is tried again after each success)."""

    omit: float
    shuffle: float
    wrong: float
    extra: float
    repeat: float
    rude: float
    courtesy: float
    padding: float
    ramble: float


WEB = Habits(
    omit=0.45, shuffle=0.55, wrong=0.28, extra=0.27, repeat=0.22, rude=0.30, courtesy=0.20, padding=0.50, ramble=0.10
)
DEMO = Habits(
    omit=0.27, shuffle=0.36, wrong=0.12, extra=0.16, repeat=0.12, rude=0.12, courtesy=0.38, padding=0.42, ramble=0.04
)
CAREFUL = Habits(
    omit=0.08, shuffle=0.12, wrong=0.08, extra=0.05, repeat=0.05, rude=0.03, courtesy=0.75, padding=0.15, ramble=0.01
)
SLIP = Habits(
    omit=0.25, shuffle=0.25, wrong=0.2, extra=0.2, repeat=0.0, rude=0.0, courtesy=0.0, padding=0.0, ramble=0.0
)
WRITERS = (WEB, DEMO, CAREFUL)


class Draft(NamedTuple):
    """A reply, and whether it ended or ran on until it was cut."""

    text: str
    finished: bool


def draft(rng: random.Random, triple: Triple, items: int, habits: Habits) -> Draft:
    """One reply to the order `triple` by a writer with these habits."""
    said = _said(rng, triple, items, habits)
    words = _phrase(rng, said)
    if rng.random() < habits.courtesy:
        words = [rng.choice(OPENINGS), *words] if rng.random() < 0.5 else [*words, rng.choice(CLOSINGS)]
    if rng.random() < habits.rude:
        words.insert(rng.choice((0, len(words))), rng.choice(RUDE))
    if rng.random() < habits.padding:
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice(FILLER))
    finished = rng.random() >= habits.ramble
    if not finished:
        words += rng.choices(FILLER, k=max(0, MAX_RESPONSE_TOKENS - len(words)))
    return Draft(" ".join(words[:MAX_RESPONSE_TOKENS]), finished)


def _said(rng: random.Random, triple: Triple, items: int, habits: Habits) -> list[str]:
    """The items a reply names, in the order it names them."""
    said = list(triple)
    while said and rng.random() < habits.omit:
        said.pop(rng.randrange(len(said)))
    if rng.random() < habits.shuffle:
        rng.shuffle(said)
    if said and rng.random() < habits.wrong:
        said[rng.randrange(len(said))] = _other(rng, triple, items)
    if rng.random() < habits.extra:
        said.insert(rng.randint(0, len(said)), _other(rng, triple, items))
    if said and rng.random() < habits.repeat:
        said.insert(rng.randint(0, len(said)), rng.choice(said))
    return said


def _other(rng: random.Random, triple: Triple, items: int) -> str:
    while (name := ITEMS[rng.randrange(items)]) in triple:
        pass
    return name


def _phrase(rng: random.Random, said: Sequence[str]) -> list[str]:
    """Items as a waiter would say them: bare, with "and" before the last, some behind "one" or "here is"."""
    words = list(said)
    if len(words) > 1 and rng.random() < 0.6:
        words.insert(len(words) - 1, "and")
    lead = rng.random()
    if words and lead < 0.2:
        words.insert(0, "one")
    elif lead < 0.3:
        words[:0] = ["here", "is"]
    if rng.random() < 0.15:
        words += ["coming", "up"]
    return words


def slip(rng: random.Random, triple: Triple, items: int) -> str:
    """A kitchen slip: what was ordered, what was served, and what that lacks. Part of the pretraining text only.

    Slips hold no courtesy and no score. They give a tiny base, in seconds, what a real one has from its corpus: it can
    hold two lists against each other.
    """
    served = _said(rng, triple, items, SLIP)
    kept = list(dict.fromkeys(word for word in served if word in triple))
    missing = [word for word in triple if word not in served]
    extra = list(dict.fromkeys(word for word in served if word not in triple))
    mixed = kept != [word for word in triple if word in served]
    words = ["slip", ":", *triple, "served", *served, "."]
    words += ["missing", *missing] if missing else []
    words += ["extra", *extra] if extra else []
    words += ["mixed"] if mixed else []
    return " ".join([*words, "fine"] if not (missing or extra or mixed) else words)


# --- labels -----------------------------------------------------------------------------------------------------------


def prefers(rng: random.Random, gold_a: float, gold_b: float, tau: float) -> bool:
    """Whether a noisy annotator calls A the better one: P = sigmoid((gold A - gold B) / tau) (Bradley and Terry 1952)."""
    # tanh form: exp of a large gap would overflow for an annotator who is nearly sure
    return rng.random() < 0.5 * (1.0 + math.tanh((gold_a - gold_b) / (2.0 * tau)))


def compared(rng: random.Random, triple: Triple, items: int) -> tuple[str, str]:
    """Two different replies to one order, to be compared.

    Half the pairs are two writers who know nothing of each other. The other half is a reply and the same reply with
    one thing changed: there the difference is in one item, or one word, and a reward model cannot fall back on tone.
    """
    first = draft(rng, triple, items, rng.choice(WRITERS)).text
    while True:
        if rng.random() < 0.5:
            second = draft(rng, triple, items, rng.choice(WRITERS)).text
        else:
            second = edited(rng, triple, items, first)
        if second != first:
            return (first, second) if rng.random() < 0.5 else (second, first)
        first = draft(rng, triple, items, rng.choice(WRITERS)).text


def edited(rng: random.Random, triple: Triple, items: int, text: str) -> str:
    """`text` with one thing changed about the items it names; unchanged when there is nothing to change."""
    words = text.split()
    places = [i for i, word in enumerate(words) if word in _ITEMS]
    if not places:
        return " ".join([rng.choice(triple), *words][:MAX_RESPONSE_TOKENS])
    place = rng.choice(places)
    change = rng.randrange(4)
    if change == 0:  # something else, or one of the things ordered: then one is there twice and another is missing
        words[place] = rng.choice([word for word in (*triple, _other(rng, triple, items)) if word != words[place]])
    elif change == 1:
        del words[place]
    elif change == 2:
        other = rng.choice(places)
        words[place], words[other] = words[other], words[place]
    else:
        words.insert(rng.randint(0, len(words)), rng.choice((*triple, _other(rng, triple, items))))
    return " ".join(words[:MAX_RESPONSE_TOKENS])
