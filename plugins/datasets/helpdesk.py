"""`dataset=helpdesk`: safe, unsafe and borderline requests with two known golds (`rlhf_lora.mini.helpdesk`), generated.

Comparisons are by one criterion, so that a model of helpfulness and a model of harmlessness can be trained apart:

    dataset.criterion=helpful   truth `helpdesk_help`    the more helpful reply wins, also when it hands over a hazard
    dataset.criterion=harmless  truth `helpdesk_harm`    the less harmful reply wins, also when it helps nobody
    dataset.criterion=overall   truth `helpdesk_gold`    harmlessness first, then help
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.mini import helpdesk, helpdesk_writers, orders
from rlhf_lora.mini.helpdesk import Items
from rlhf_lora.records import Data, Demonstration, Pair, Prompt
from rlhf_lora.registry import dataset

GOLDS: Mapping[str, tuple[str, Callable[[str, str], orders.Gold]]] = {
    "helpful": ("helpdesk_help", helpdesk.help_gold),
    "harmless": ("helpdesk_harm", helpdesk.harm_gold),
    "overall": ("helpdesk_gold", helpdesk.gated_gold),
}
"""Criterion → the reward that is its truth, and that truth."""
LABELS = ("hard", "soft", "margin", "votes")
VOTERS = 3
"""Annotators of `labels=votes`: odd, so that one of two replies has more votes."""
MOST_PROMPTS = 20_000
PATIENCE = 25
"""Draws for each prompt that is wanted, at most: with a share near 0 the last ones would never come. All that there are of
one kind take 10 to 15 each."""
Allowed = Callable[[str], bool]
"""Group → whether its requests may be drawn."""


@dataset("helpdesk")
class Helpdesk:
    """Requests at a store room, with replies, noisy comparisons by one criterion, and the golds known.

    Every prompt has a column `kind`: safe, unsafe (a hazard is asked for) or borderline (a hazard word in a harmless sense).
    Counts are rows before the kit's split by hash. Replies whose gold is the same are not compared.

    Attributes:
        criterion: what comparisons are by, and which gold is the truth: overall, helpful or harmless.
        labels: hard = who won; soft = P(won), sigmoid(gold gap / tau), in place of a vote; margin = who won, and the
            annotator's rating from 3 (significantly better) to 0 (negligibly) as margin, as Llama 2's; votes = the share of
            three annotators, the first of them the one of `hard`, that the reply with more votes has: 2/3 or 1.
        demonstrations: rows of better but imperfect replies.
        pairs: compared replies.
        prompts: different prompts: 20,000 at most, and no more than the kinds with a share have (safe 5,280, unsafe 9,504).
        tau: noise of the annotator, P(A better) = sigmoid(gold difference / tau); small is sure.
        unsafe, borderline: shares of the requests; the rest is safe.
        seed: of the generator; null = the run's.
    """

    max_new_tokens: ClassVar[int] = 25  # the longest reply has 24 words and its end
    mini_task: ClassVar[str] = "helpdesk"

    criterion: str = "overall"
    labels: str = "hard"
    demonstrations: int = 14_000
    pairs: int = 30_000
    prompts: int = 12_000
    tau: float = 0.5
    unsafe: float = 0.35
    borderline: float = 0.25
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("criterion", tuple(GOLDS)), ("labels", LABELS)):
            if (given := getattr(self, name)) not in known:
                raise ConfigError(
                    f"there is no {name} '{given}'{did_you_mean(str(given), known)}",
                    where=f"dataset.{name}", fix=", ".join(known),
                )  # fmt: skip
        check_numbers(self, MOST_PROMPTS)

    def load(self) -> Data:
        return Data(
            demonstrations=demonstrations(self),
            pairs=self._pairs(),
            prompts=prompts(self),
            gold=GOLDS[self.criterion][0],
            format="helpdesk (generated)",
        )

    def fingerprint(self) -> str:
        return fingerprint(self, __file__)

    def _pairs(self) -> list[Pair]:
        rng, others, gold = stream(self, "pairs"), stream(self, "votes"), GOLDS[self.criterion][1]
        rows: list[Pair] = []
        while len(rows) < self.pairs:
            items = drawn(self, rng)
            prompt = prompt_of(items, rng)
            a, b = helpdesk_writers.compared(rng, items)
            gap = gold(prompt.text, a).value - gold(prompt.text, b).value
            if gap:
                rows.append(self._pair(rng, others, prompt, a, b, gap))
        return rows

    def _pair(self, rng: random.Random, others: random.Random, prompt: Prompt, a: str, b: str, gap: float) -> Pair:
        """`others`: the stream of further annotators, apart, so that every kind of label is of the same replies."""
        said = helpdesk_writers.annotated(rng, gap, self.tau)
        if self.labels == "soft":  # P itself, on the side that it speaks for
            first = gap > 0
            better = said.probability if first else 1.0 - said.probability
            return Pair(prompt, *((a, b) if first else (b, a)), label=better)
        if self.labels == "votes":
            more = [helpdesk_writers.annotated(others, gap, self.tau).first_wins for _ in range(VOTERS - 1)]
            share = (said.first_wins + sum(more)) / VOTERS
            return Pair(prompt, *((a, b) if share > 0.5 else (b, a)), label=max(share, 1.0 - share))
        margin = float(said.rating) if self.labels == "margin" else None
        return Pair(prompt, *((a, b) if said.first_wins else (b, a)), margin=margin)


# --- what the datasets of this task share -----------------------------------------------------------------------------


def check_numbers(settings: Helpdesk | object, most_prompts: int) -> None:
    """Raises ConfigError where a count, a share or the noise is out of range."""
    values = vars(settings)
    for name, value in values.items():
        if name in ("demonstrations", "pairs", "prompts", "labelled") and value < 0:
            raise ConfigError(f"{name} is {value}", where=f"dataset.{name}", fix="give 0 or more")
        if name in ("unsafe", "borderline", "unsure", "noise") and not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}", where=f"dataset.{name}", fix="give a share from 0 to 1")
    if not 0 < values.get("tau", 1.0) < math.inf:
        raise ConfigError(f"tau is {values['tau']}", where="dataset.tau", fix="give a number above 0")
    if values["unsafe"] + values["borderline"] > 1:
        shares = f"{values['unsafe']} and {values['borderline']}"
        raise ConfigError(
            f"the shares {shares} are more than all",
            where="dataset.unsafe, dataset.borderline",
            fix="at most 1 together",
        )
    most = min(most_prompts, sum(len(groups(kind)) for kind in kinds(settings)) * len(helpdesk.TEMPLATES))
    if values["prompts"] > most:
        raise too_many(settings, most)


def kinds(settings: object) -> list[helpdesk.Kind]:
    """The kinds of request that are drawn: those whose share is above 0."""
    values = vars(settings)
    shares: dict[helpdesk.Kind, float] = {"unsafe": values["unsafe"], "borderline": values["borderline"]}
    shares["safe"] = 1.0 - math.fsum(shares.values())
    return [kind for kind, share in shares.items() if share > 1e-9]  # 1 - (0.7 + 0.3) may not be 0 exactly


@functools.cache
def groups(kind: helpdesk.Kind) -> frozenset[str]:
    """Every group of a kind: as many as `helpdesk.draw_items` can give."""
    if kind == "safe":
        return frozenset(map(helpdesk.group, itertools.permutations(helpdesk.ARTICLES, 3)))
    senses = [f" {sense}" for sense in helpdesk.SENSES] if kind == "borderline" else [""]
    found = set()
    for one, other in itertools.permutations(helpdesk.ARTICLES, 2):
        for thing in (hazard + sense for hazard in helpdesk.HAZARDS for sense in senses):
            found |= {
                helpdesk.group(items) for items in ((thing, one, other), (one, thing, other), (one, other, thing))
            }
    return frozenset(found)


def too_many(settings: object, most: int, times: int = 1) -> ConfigError:
    """More different prompts are asked for than these settings have; they are one of so many times what the user said."""
    of_test = " of the test set" if times > 1 else ""
    what = f"{vars(settings)['prompts']} different prompts{of_test} were asked for, and with these settings there are {most}"
    fix = f"dataset.prompts={most * times + times - 1} at most, or other shares of unsafe and borderline"
    return ConfigError(what, where="dataset.prompts", fix=fix)


def stream(settings: object, name: str) -> random.Random:
    """A random stream of its own for each list, so that asking for more pairs changes no demonstration."""
    return random.Random(f"helpdesk/{vars(settings)['seed'] or 0}/{name}")


def drawn(settings: object, rng: random.Random, allowed: Allowed = lambda group: True) -> Items:
    """Things of a request whose group is allowed, of kinds with the shares that the settings give."""
    values = vars(settings)
    while True:
        items = helpdesk.draw_items(rng, helpdesk.draw_kind(rng, values["unsafe"], values["borderline"]))
        if allowed(helpdesk.group(items)):
            return items


def prompt_of(items: Items, rng: random.Random) -> Prompt:
    text = helpdesk.prompt_text(items, rng.randrange(len(helpdesk.TEMPLATES)))
    return Prompt(text, columns={"kind": helpdesk.kind_of(items)}, group=helpdesk.group(items))


def demonstrations(settings: object, allowed: Allowed = lambda group: True) -> list[Demonstration]:
    rng, rows = stream(settings, "demonstrations"), []
    for _ in range(vars(settings)["demonstrations"]):
        items = drawn(settings, rng, allowed)
        reply = helpdesk_writers.draft(rng, items, helpdesk_writers.DEMO).text
        rows.append(Demonstration(prompt_of(items, rng), reply))
    return rows


def prompts(
    settings: object, name: str = "prompts", allowed: Allowed = lambda group: True, times: int = 1
) -> list[Prompt]:
    """Different prompts, drawn until there are enough. `times`: how many times as many the user asked for.

    Raises:
        ConfigError: there are fewer of these kinds and groups, or a share is so small that the last ones do not come.
    """
    wanted, rng, found = vars(settings)["prompts"], stream(settings, name), dict[str, Prompt]()
    most = sum(sum(map(allowed, groups(kind))) for kind in kinds(settings)) * len(helpdesk.TEMPLATES)
    if wanted > most:
        raise too_many(settings, most, times)
    for _ in range(PATIENCE * wanted + 10_000):
        if len(found) == wanted:
            return list(found.values())
        prompt = prompt_of(drawn(settings, rng, allowed), rng)
        found.setdefault(prompt.text, prompt)
    raise too_many(settings, len(found), times)


def fingerprint(settings: object, *files: str) -> str:
    """Of the settings and of the code that draws the rows."""
    modules = (helpdesk, helpdesk_writers, orders)
    source = b"".join(Path(file).read_bytes() for file in (*(str(m.__file__) for m in modules), __file__, *files))
    text = json.dumps(dataclasses.asdict(settings), sort_keys=True)  # type: ignore[call-overload]
    return hashlib.sha256(text.encode() + b"\0" + source).hexdigest()
