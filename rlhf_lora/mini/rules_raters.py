"""Who says whether a rule was broken, and replies that differ in just that.

Raters answer yes, no or unsure; they err now and then, and borderline requests make them unsure more often. As most
replies keep most rules, labels of whole replies are mostly "no": such a model is judged by AUC, not by accuracy.
"""

from __future__ import annotations

import random
from typing import Literal

from rlhf_lora.mini import helpdesk, helpdesk_writers
from rlhf_lora.mini.helpdesk import Items
from rlhf_lora.mini.rules import ACTS, KINDS, Act, Rule

Answer = Literal["yes", "no", "unsure"]
UNSURE_ON_BORDERLINE = 3.0
"""How many times as often raters are unsure there."""


def rated(rng: random.Random, rule: Rule, request: str, reply: str, noise: float, unsure: float) -> Answer:
    """Whether a rater says that the reply breaks the rule.

    Args:
        noise: probability of the wrong answer. unsure: of no answer, three times that on borderline requests.
    """
    hard = helpdesk.kind_of(helpdesk.asked(request)) == "borderline"
    is_unsure = rng.random() < unsure * (UNSURE_ON_BORDERLINE if hard else 1.0)
    errs = rng.random() < noise
    if is_unsure:
        return "unsure"
    return "yes" if rule.broken(request, reply) != errs else "no"


def judged_items(rng: random.Random, rule: Rule) -> Items:
    """Things for a request on which this rule can be broken."""
    return helpdesk.draw_items(rng, rng.choice(KINDS[rule.condition]))


def kept_and_broken(rng: random.Random, rule: Rule, items: Items, request: str) -> tuple[str, str]:
    """Two replies to one request, the first keeps the rule, the second breaks it, and the rule applies to both.

    Half the time they are one reply with and without the act; else two replies of writers who know nothing of each other,
    which differ in much else, so that only the sentence says what it is about.
    """
    apart, found = rng.random() < 0.5, dict[bool, str]()
    while len(found) < 2:
        reply = helpdesk_writers.draft(rng, items, rng.choice(helpdesk_writers.WRITERS)).text
        if rule.condition == "refusing" and helpdesk.refusal(reply) is None:
            reply = _with(rng, items, reply, "refuse")
        versions = [_with(rng, items, reply, rule.act), _without(reply, rule.act)]
        if apart:  # one of them, so that the other comes of another draft
            versions = [rng.choice(versions)]
        else:
            found.clear()
        for version in versions:
            if rule.applies(request, version):
                found.setdefault(rule.broken(request, version), version)
    return found[False], found[True]


def _with(rng: random.Random, items: Items, reply: str, act: Act) -> str:
    """The reply, doing this. Words are put where no thing of two words is torn apart, and none is cut off."""
    if _does(reply, act):
        return reply
    words = reply.split()
    if act == "courteous":
        new = [rng.choice(helpdesk.COURTESY)]
    elif act == "hazard":
        new = [next((item for item in items if item in helpdesk.HAZARDS), rng.choice(helpdesk.HAZARDS))]
    elif act == "refuse":
        new = rng.choice(helpdesk.EVADED).split()
    else:
        new = f"that is {rng.choice(helpdesk.REASONS)}".split()
    words = words[: helpdesk.MAX_RESPONSE_TOKENS - len(new)]
    return " ".join([*new, *words] if act != "hazard" and rng.random() < 0.5 else [*words, *new])


def _without(reply: str, act: Act) -> str:
    """The reply, not doing this."""
    if not _does(reply, act):
        return reply
    words = reply.split()
    if act == "courteous":
        return " ".join(word for word in words if word not in helpdesk.COURTESY)
    if act == "hazard":
        gone = {span.start for span in helpdesk.spans(words) if span.item in helpdesk.HAZARDS}
        return " ".join(word for i, word in enumerate(words) if i not in gone)
    if act == "reason":  # a refusal stays one, an evasive one
        words = [word for word in words if word not in (*helpdesk.REASONS, "that", "is")]
        return " ".join(words)
    refusing = {*" ".join(helpdesk.EVADED).split(), *" ".join(helpdesk.EXPLAINED).split()}
    return " ".join(word for word in words if word not in refusing and word not in helpdesk.REASONS)


def _does(reply: str, act: Act) -> bool:
    return ACTS[act][1](reply)
