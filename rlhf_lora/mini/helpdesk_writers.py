"""Who writes the replies of *helpdesk*, who compares them, and what stands in the notes of the pretraining text.

Writers err by chance (`Habits`): the messy text of the web, better but imperfect demonstrations, careful staff. A noisy
annotator sees the difference of a gold score plus logistic noise, so that P(A better) = sigmoid(difference / tau); how
large it looks to him is his rating on Llama 2's four levels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_lora.mini import helpdesk
from rlhf_lora.mini.helpdesk import Items
from rlhf_lora.mini.orders import Draft


@dataclass(frozen=True)
class Habits:
    """Probabilities per reply (`omit` is tried again after each success).

    Attributes:
        explain, evade, withhold: of an unsafe request: refuse and say why, refuse without a reason, leave the hazard
            out in silence. The rest hands it over.
        contradict, partly: of refusals of an unsafe request: hand over everything all the same, or the harmless things.
        refuse_safe, refuse_borderline: refuse what is harmless; with and without a reason equally often.
    """

    omit: float
    shuffle: float
    wrong: float
    extra: float
    rude: float
    courtesy: float
    padding: float
    ramble: float
    explain: float
    evade: float
    withhold: float
    contradict: float
    partly: float
    refuse_safe: float
    refuse_borderline: float


WEB = Habits(
    omit=0.40, shuffle=0.50, wrong=0.25, extra=0.25, rude=0.30, courtesy=0.20, padding=0.45, ramble=0.10, explain=0.10,
    evade=0.15, withhold=0.10, contradict=0.20, partly=0.3, refuse_safe=0.06, refuse_borderline=0.20,
)  # fmt: skip
DEMO = Habits(
    omit=0.25, shuffle=0.33, wrong=0.12, extra=0.14, rude=0.12, courtesy=0.40, padding=0.35, ramble=0.04, explain=0.28,
    evade=0.24, withhold=0.10, contradict=0.10, partly=0.4, refuse_safe=0.04, refuse_borderline=0.22,
)  # fmt: skip
CAREFUL = Habits(
    omit=0.08, shuffle=0.10, wrong=0.06, extra=0.05, rude=0.03, courtesy=0.75, padding=0.12, ramble=0.01, explain=0.70,
    evade=0.10, withhold=0.12, contradict=0.02, partly=0.6, refuse_safe=0.01, refuse_borderline=0.04,
)  # fmt: skip
WRITERS = (WEB, DEMO, CAREFUL)


def draft(rng: random.Random, items: Items, habits: Habits) -> Draft:
    """One reply to a request for `items` by a writer with these habits."""
    refused, given = _decided(rng, items, habits)
    words = _phrase(rng, _said(rng, given, items, habits) if given else [])
    if refused:
        phrase = _refusal(rng, refused)
        words = [*phrase, *words] if words and rng.random() < 0.5 else [*words, *phrase]
    if rng.random() < habits.courtesy:
        front = rng.random() < 0.5
        words = [rng.choice(helpdesk.COURTESY[:3]), *words] if front else [*words, rng.choice(helpdesk.COURTESY[3:])]
    if rng.random() < habits.rude:
        words.insert(rng.choice((0, len(words))), rng.choice(helpdesk.RUDE))
    if rng.random() < habits.padding:
        for _ in range(rng.randint(1, 3)):
            words.insert(_between(rng, words), rng.choice(helpdesk.FILLER))
    finished = rng.random() >= habits.ramble
    if not finished:
        words += rng.choices(helpdesk.FILLER, k=max(0, helpdesk.MAX_RESPONSE_TOKENS - len(words)))
    return Draft(" ".join(words[: helpdesk.MAX_RESPONSE_TOKENS]), finished)


def _decided(rng: random.Random, items: Items, habits: Habits) -> tuple[helpdesk.Refusal | None, list[str]]:
    """Whether to refuse and how, and what to give."""
    kind, at = helpdesk.kind_of(items), rng.random()
    if kind == "unsafe":
        harmless = [item for item in items if item not in helpdesk.HAZARDS]
        if at < habits.explain + habits.evade:
            how: helpdesk.Refusal = "explain" if at < habits.explain else "evade"
            given_at = rng.random()
            if given_at < habits.contradict:
                return how, list(items)
            return how, harmless if given_at < habits.contradict + habits.partly else []
        return None, harmless if at < habits.explain + habits.evade + habits.withhold else list(items)
    if at < (habits.refuse_safe if kind == "safe" else habits.refuse_borderline):
        return rng.choice(("explain", "evade")), []
    return None, list(items)


def _said(rng: random.Random, given: list[str], items: Items, habits: Habits) -> list[str]:
    """The things a reply names, in the order it names them."""
    said = list(given)
    while said and rng.random() < habits.omit:
        said.pop(rng.randrange(len(said)))
    if rng.random() < habits.shuffle:
        rng.shuffle(said)
    if said and rng.random() < habits.wrong:
        said[rng.randrange(len(said))] = _other(rng, items)
    if rng.random() < habits.extra:
        said.insert(rng.randint(0, len(said)), rng.choice((_other(rng, items), *said)))
    return said


def _other(rng: random.Random, items: Items) -> str:
    while (article := rng.choice(helpdesk.ARTICLES)) in items:
        pass
    return article


def _phrase(rng: random.Random, said: list[str]) -> list[str]:
    """Things as the desk would say them: bare, with "and" before the last, some behind "here is"."""
    things = list(said)
    if len(things) > 1 and rng.random() < 0.6:
        things.insert(len(things) - 1, "and")
    if things and rng.random() < 0.15:
        things[:0] = ["here", "is"]
    if things and rng.random() < 0.1:
        things += ["coming", "up"]
    return " ".join(things).split()


def _refusal(rng: random.Random, how: helpdesk.Refusal) -> list[str]:
    phrases = helpdesk.EXPLAINED if how == "explain" else helpdesk.EVADED
    return rng.choice(phrases).format(rng.choice(helpdesk.REASONS)).split()


def _between(rng: random.Random, words: list[str]) -> int:
    """A place to put a word that is not inside a thing of two words: "acid um song" would be another thing."""
    while True:
        place = rng.randint(0, len(words))
        if not (0 < place < len(words) and words[place - 1] in helpdesk.HAZARDS and words[place] in helpdesk.SENSES):
            return place


# --- comparisons ------------------------------------------------------------------------------------------------------


def compared(rng: random.Random, items: Items) -> tuple[str, str]:
    """Two different replies to one request: by two writers, or (half the time) one reply and the same, one thing changed."""
    while True:
        first = draft(rng, items, rng.choice(WRITERS)).text
        second = draft(rng, items, rng.choice(WRITERS)).text if rng.random() < 0.5 else edited(rng, items, first)
        if second != first:
            return (first, second) if rng.random() < 0.5 else (second, first)


def edited(rng: random.Random, items: Items, text: str) -> str:
    """`text` with one thing changed: a thing swapped, lost, added or exchanged, a refusal put in, taken out or reworded."""
    words = text.split()
    if rng.random() < 0.35 or not helpdesk.spans(words):
        return _other_refusal(rng, items, words)
    return _other_things(rng, items, words)


def _other_refusal(rng: random.Random, items: Items, words: list[str]) -> str:
    """With another refusal than before. Where it had one, it may give what was asked for instead."""
    was = helpdesk.refusal(" ".join(words))
    ways: tuple[helpdesk.Refusal | None, ...] = ("explain", "evade", None)
    how = rng.choice([way for way in ways if way != was])
    refusing = {*" ".join((*helpdesk.EXPLAINED, *helpdesk.EVADED)).split(), *helpdesk.REASONS}
    kept = [word for word in words if word not in refusing] if was else list(words)
    kept += _refusal(rng, how) if how else [] if helpdesk.spans(kept) else " ".join(items).split()
    return " ".join(kept[: helpdesk.MAX_RESPONSE_TOKENS])


def _other_things(rng: random.Random, items: Items, words: list[str]) -> str:
    found = helpdesk.spans(words)
    span, change = rng.choice(found), rng.randrange(4)
    new = rng.choice((*items, _other(rng, items), rng.choice(helpdesk.HAZARDS))).split()
    if change == 0:
        words[span.start : span.end] = new
    elif change == 1:
        del words[span.start : span.end]
    elif change == 2:
        words[span.end : span.end] = new
    else:
        other = rng.choice(found)
        first, second = sorted((span, other))
        if first != second:
            words[second.start : second.end] = first.item.split()
            words[first.start : first.end] = second.item.split()
    return " ".join(words[: helpdesk.MAX_RESPONSE_TOKENS])


class Comparison(NamedTuple):
    """What an annotator says of two replies.

    Attributes:
        first_wins: whether the first one is called better; the truth and noise decide.
        rating: 3 significantly better, 2 better, 1 slightly better, 0 negligibly (Llama 2's levels).
        probability: that the first one is called better, sigmoid(gap / tau).
    """

    first_wins: bool
    rating: int
    probability: float


RATINGS = (0.5, 1.5, 3.0)
"""A difference that looks smaller than the first is negligible (0), then slight (1), then clear (2), else significant (3)."""


def annotated(rng: random.Random, gap: float, tau: float) -> Comparison:
    """A noisy annotator on two replies whose gold differs by `gap` (first minus second)."""
    at = rng.random() or 0.5  # 0.0 comes once in 2^53 draws and has no logit
    looks = gap + tau * math.log(at / (1.0 - at))  # logistic noise: P(looks > 0) = sigmoid(gap / tau)
    rating = sum(abs(looks) >= least for least in RATINGS)
    # tanh form: exp of a large gap would overflow for an annotator who is nearly sure
    return Comparison(looks > 0, rating, 0.5 * (1.0 + math.tanh(gap / (2.0 * tau))))


# --- notes ------------------------------------------------------------------------------------------------------------


def note(rng: random.Random, items: Items) -> str:
    """What was asked, what was replied, and what a look at both shows. Part of the pretraining text only.

    A note names facts, in the words that rules are made of, and judges nothing. It gives a tiny base, in seconds, what
    a real one has from its corpus: it can hold a reply against a request, and knows what "courteous" means.
    """
    reply = draft(rng, items, rng.choice(WRITERS)).text
    said = helpdesk.named(reply)
    words = ["note", ":", *" ".join(items).split(), "desk:", *reply.split(), "."]
    lacks = [item for item in items if item not in said]
    adds = [item for item in dict.fromkeys(said) if item not in items]
    words += ["lacks", *" ".join(lacks).split()] if lacks else []
    words += ["adds", *" ".join(adds).split()] if adds else []
    facts = [
        "hazard asked" if helpdesk.kind_of(items) == "unsafe" else "no hazard asked",
        "give hazard" if helpdesk.hazards_given(reply) else "give no hazard",
        "refuse" if helpdesk.refusal(reply) else "",
        "reason" if helpdesk.gives_reason(reply) else "no reason",
        "courteous" if helpdesk.is_courteous(reply) else "",
    ]
    rng.shuffle(facts)
    return " ".join([*words, *(" ".join(facts).split())])
