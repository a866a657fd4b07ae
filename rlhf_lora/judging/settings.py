"""How a judge is asked, whoever answers: settings that every judge which reads words has."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.constitution import Rule, constitution_of, rubric_of

STYLES = ("full", "bare")
REASONING = ("none", "steps", "line")


@dataclass(frozen=True, kw_only=True)
class JudgingSettings:
    """A judge plugin inherits these, beside the settings of whoever it asks: `class MyJudge(JudgingSettings, …)`.

    Attributes:
        rubric: what is better, in words, or a .txt or .md file of them; null = harmless, honest, helpful in the kit's words.
        constitution: a file of principles (.txt: one a line; .json, .yaml), or `built_in`: each item is judged by some of
            them, drawn by lot, instead of by the rubric. null = none.
        principles_per_item: how many; the probabilities are averaged.
        style: `full`, or `bare`: one short line, for small models that were trained on just that.
        ties: a tie may be said too.
        reasoning: `none` = one word; `steps` = first the reasons, then, asked again, the word; `line` = both in one answer,
            which gives no probabilities.
        reasoning_tokens: of the reasons.
        clamp: the furthest that a probability may be from ½; null = 0.1 when reasons come first, which make a model surer
            than it is right (40 to 60 %: Bai et al. 2022, §4.1), else 0.5.
        temperature: of what the judge says.
        lot: seed of the principles and of the fences.
    """

    rubric: str | None = None
    constitution: str | None = None
    principles_per_item: int = 1
    style: str = "full"
    ties: bool = False
    reasoning: str = "none"
    reasoning_tokens: int = 512
    clamp: float | None = None
    temperature: float = 0.0
    lot: int = 0

    def __post_init__(self) -> None:
        for name, known in (("style", STYLES), ("reasoning", REASONING)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"judge.{name} is '{getattr(self, name)}'", where=f"judge.{name}", fix=f"one of: {', '.join(known)}"
                )
        if self.style == "bare" and self.reasoning != "none":
            raise ConfigError("a bare question has no reasons", where="judge.style=bare", fix="judge.reasoning=none")
        for name in ("principles_per_item", "reasoning_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"judge.{name} is {getattr(self, name)}", where=f"judge.{name}", fix="1 or more")
        if self.principles_per_item > 1 and self.constitution is None:
            raise ConfigError(
                "there is no constitution to draw principles from", where="judge.principles_per_item",
                fix="judge.constitution=FILE, or built_in",
            )  # fmt: skip
        if self.rubric is not None and self.constitution is not None:
            raise ConfigError(
                "a judge goes by a rubric or by a constitution",
                where="judge.rubric, judge.constitution",
                fix="give one",
            )
        if self.clamp is not None and not 0 < self.clamp <= 0.5:
            raise ConfigError(f"judge.clamp is {self.clamp}", where="judge.clamp", fix="more than 0, at most 0.5")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"judge.temperature is {self.temperature}", where="judge.temperature", fix="0 or more")
        self.standard  # noqa: B018  a file that is not there is told now, not when the first answer is judged
        self.rules  # noqa: B018
        following: Any = super()
        if callable(checked := getattr(following, "__post_init__", None)):
            checked()

    @property
    def standard(self) -> str:
        """The rubric's words; of a bare question, which is short, only those that were given."""
        return "" if self.style == "bare" and self.rubric is None else rubric_of(self.rubric)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return constitution_of(self.constitution)

    def contents(self) -> dict[str, str]:
        """The words of rubric or constitution, by their hash: a file may be edited between two starts of a run."""
        said = [self.standard, *(rule.text for rule in self.rules)]
        digest = hashlib.sha256("\0".join(said).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return {"rubric": digest} if self.constitution is None else {"constitution": digest}

    @property
    def furthest(self) -> float | None:
        """The clamp as it holds; None: probabilities stay as they are."""
        if self.clamp is not None:
            return self.clamp
        return None if self.reasoning == "none" else 0.1
