"""`dataset=orders`: the miniature task with its gold score (`rlhf_lora.mini.orders`), generated in about a second."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from pathlib import Path
from typing import ClassVar

from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import orders, orders_rankings
from rlhf_lora.records import Data, Demonstration, Pair, Prompt, Ranking
from rlhf_lora.registry import dataset

MOST_ANSWERS = 9
"""InstructGPT's labellers ranked 4 to 9 answers."""


@dataset("orders")
class Orders:
    """Generated orders for three of `items` things, with replies, noisy comparisons and a known gold score.

    Counts are rows before the kit's split by hash (SFT 15 %, reward model 50 %, prompts 25 %, tuning 5 %, final 5 %).

    Attributes:
        items: how many different things can be ordered, 4 to 24; more is harder for a tiny reward model.
        demonstrations: rows of better but imperfect replies.
        pairs: compared replies; with `answers` above 2 as many rankings.
        answers: to each prompt that are put in order, 2 to 9. 2 = pairs. More = rankings by the same annotator, Plackett-Luce
            with scores gold / tau: any two of the replies stand as if they had been compared alone (`reward_model.loss=kwise`).
        prompts: different prompts; null = all 6 · items · (items - 1) · (items - 2).
        tau: noise of the annotator, P(A better) = sigmoid(gold difference / tau); small is sure, 1 errs on one in four.
        seed: of the generator; null = the run's.
    """

    max_new_tokens: ClassVar[int] = 20  # the longest reply has 19 words and its end
    mini_task: ClassVar[str] = "orders"

    items: int = 12
    demonstrations: int = 14_000
    pairs: int = 30_000
    prompts: int | None = None
    tau: float = 0.5
    answers: int = 2
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 4 <= self.items <= len(orders.ITEMS):
            raise ConfigError(f"items is {self.items}", where="dataset.items", fix=f"give 4 to {len(orders.ITEMS)}")
        if not 2 <= self.answers <= MOST_ANSWERS:
            raise ConfigError(f"answers is {self.answers}", where="dataset.answers", fix=f"give 2 to {MOST_ANSWERS}")
        if not 0 < self.tau < math.inf:
            raise ConfigError(f"tau is {self.tau}", where="dataset.tau", fix="give a number above 0")
        for name in ("demonstrations", "pairs", "prompts"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=f"dataset.{name}", fix="give 0 or more")
        if self.prompts is not None and self.prompts > self.most_prompts:
            raise ConfigError(
                f"{self.items} items make {self.most_prompts} different prompts, {self.prompts} were asked for",
                where="dataset.prompts",
                fix=f"dataset.prompts={self.most_prompts} or fewer, or more items",
            )

    @property
    def most_prompts(self) -> int:
        return self.items * (self.items - 1) * (self.items - 2) * len(orders.TEMPLATES)

    def load(self) -> Data:
        every = orders.triples(self.items)
        return Data(
            demonstrations=self._demonstrations(every),
            pairs=self._pairs(every) if self.answers == 2 else (),
            rankings=self._rankings(every) if self.answers > 2 else (),
            prompts=self._prompts(every),
            gold="orders_gold",
            format="orders (generated)",
        )

    def fingerprint(self) -> str:
        settings = json.dumps(dataclasses.asdict(self), sort_keys=True)
        files = (str(orders.__file__), str(orders_rankings.__file__), __file__)
        source = b"".join(Path(file).read_bytes() for file in files)
        return hashlib.sha256(settings.encode() + b"\0" + source).hexdigest()

    def _stream(self, name: str) -> random.Random:
        """A random stream of its own for each list, so that asking for more pairs changes no demonstration."""
        return random.Random(f"orders/{self.seed or 0}/{name}")

    def _demonstrations(self, every: list[orders.Triple]) -> list[Demonstration]:
        rng = self._stream("demonstrations")
        rows = []
        for _ in range(self.demonstrations):
            triple, prompt = _order(rng, every)
            rows.append(Demonstration(prompt, orders.draft(rng, triple, self.items, orders.DEMO).text))
        return rows

    def _pairs(self, every: list[orders.Triple]) -> list[Pair]:
        rng = self._stream("pairs")
        rows = []
        for _ in range(self.pairs):
            triple, prompt = _order(rng, every)
            a, b = orders.compared(rng, triple, self.items)
            better = orders.gold(prompt.text, a).value, orders.gold(prompt.text, b).value
            if not orders.prefers(rng, *better, tau=self.tau):
                a, b = b, a
            rows.append(Pair(prompt, chosen=a, rejected=b))
        return rows

    def _rankings(self, every: list[orders.Triple]) -> list[Ranking]:
        rng = self._stream("rankings")
        rows = []
        for _ in range(self.pairs):
            triple, prompt = _order(rng, every)
            replies = orders_rankings.several(rng, triple, self.items, self.answers)
            golds = [orders.gold(prompt.text, reply).value for reply in replies]
            ranks = orders_rankings.ranked(rng, golds, self.tau)
            rows.append(Ranking(prompt, tuple(replies), tuple(float(rank) for rank in ranks)))
        return rows

    def _prompts(self, every: list[orders.Triple]) -> list[Prompt]:
        rng = self._stream("prompts")
        wordings = len(orders.TEMPLATES)
        chosen = rng.sample(range(len(every) * wordings), self.most_prompts if self.prompts is None else self.prompts)
        return [_prompt(every[index // wordings], index % wordings) for index in chosen]


def _order(rng: random.Random, every: list[orders.Triple]) -> tuple[orders.Triple, Prompt]:
    """An order, and one wording of it."""
    triple = rng.choice(every)
    return triple, _prompt(triple, rng.randrange(len(orders.TEMPLATES)))


def _prompt(triple: orders.Triple, template: int) -> Prompt:
    return Prompt(orders.prompt_text(triple, template), group=orders.group(triple))
