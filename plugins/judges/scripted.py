"""`judge=scripted`: a judge whose truth and whose faults are known, for tests and for measuring what faults do.

What it says of two answers is σ of the log-odds  (v_A − v_B + per_word · (words_A − words_B)) / τ + first,  where v is
what the truth gives an answer, with logistic noise of its own (`noise`); J1 of the kit's plan for its miniature tasks.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_lora import registry
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.mending import Mender
from rlhf_lora.records import Comparison, Prompt, Sample, Score, Verdict
from rlhf_lora.registry import judge
from rlhf_lora.revising import Draft, Revision
from rlhf_lora.scores import check_scores, columns_of, given_by, kind_of, values_of

ALWAYS = ("", "first", "second", "tie")
FOOLED = 1e6
"""Value of an answer that the judge falls for, above any truth's."""


@judge("scripted")
class Scripted:
    """Answers from a known truth, with faults of known size. The same question gets the same answer, by `seed` and content.

    Attributes:
        truth: name of the reward that is the truth, with `truth_settings`; null = `column`.
        column: a column of the prompt with the better answer's text, a list of good ones, or a value for each answer's text.
        tau: how much better an answer has to be for log-odds of 1, in the truth's unit.
        soft: give probabilities; false = the likelier answer alone, and ratings in whole numbers.
        noise: standard deviation, in the truth's unit, of the error in what it takes an answer to be worth; the same error
            wherever the answer stands.
        slips: standard deviation of an error that is drawn for each order anew, in log-odds.
        first: log-odds that what is read first gets for being read first.
        per_word: what a word more is worth, in the truth's unit.
        always: `first`, `second` or `tie`, whatever the answers; empty = judge.
        ties: a tie where the log-odds are no further than this from 0.
        refuses, unreadable, errors: shares of questions that get no verdict, each for its reason.
        fooled_by: answers that are, or contain, one of these texts are held to be perfect.
        lowest, highest: values of the truth that are rated 1 and 10.
        latency: seconds that a call takes, however many questions it has.
        mends: probability that it mends a fault where it is asked to revise an answer.
        seed: of all that is drawn.
    """

    truth: str | None = "orders_gold"
    truth_settings: dict[str, Any] = field(default_factory=dict)
    column: str | None = None
    tau: float = 1.0
    soft: bool = True
    noise: float = 0.0
    slips: float = 0.0
    first: float = 0.0
    per_word: float = 0.0
    always: str = ""
    ties: float = 0.0
    refuses: float = 0.0
    unreadable: float = 0.0
    errors: float = 0.0
    fooled_by: list[str] = field(default_factory=list)
    lowest: float = 0.0
    highest: float = 5.0
    latency: float = 0.0
    mends: float = 0.5
    seed: int = 0

    deterministic = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "fooled_by", [str(text) for text in self.fooled_by])
        self._check()

    def open(self, ctx: Context) -> OpenScripted:
        reward = None
        if self.column is None:
            reward = registry.build("reward", {"name": self.truth, **self.truth_settings}, "judge.truth")
            if getattr(reward, "stages", ()) or not callable(getattr(reward, "score", None)):
                raise ConfigError(
                    f"the reward '{self.truth}' does not know the truth by itself", where=f"judge.truth={self.truth}",
                    fix="a reward that scores text alone, such as orders_gold or length",
                )  # fmt: skip
            reward = reward.open(ctx) if callable(getattr(reward, "open", None)) else reward
        return OpenScripted(self, reward)

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        """Outside of a run, for truths that need no model."""
        return self.open(Context()).compare(prompt, a, b)

    def _check(self) -> None:
        if (self.truth is None) == (self.column is None):
            raise ConfigError(
                "a scripted judge has one truth: a reward's name, or a column of the data",
                where=f"judge.truth={self.truth} judge.column={self.column}",
                fix="judge.truth=null judge.column=NAME, or judge.truth=NAME",
            )  # fmt: skip
        if self.truth is not None and self.truth not in (known := registry.names("reward")):
            raise ConfigError(
                f"no reward named '{self.truth}'{did_you_mean(self.truth, known)}", where=f"judge.truth={self.truth}",
                fix="a reward that scores text alone, such as orders_gold or length; for a file of your own add plugins=[FILE.py]",
            )  # fmt: skip
        if self.always not in ALWAYS:
            raise ConfigError(f"judge.always is '{self.always}'", where="judge.always", fix="first, second or tie")
        for name in ("refuses", "unreadable", "errors", "mends"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"judge.{name} is {getattr(self, name)}", where=f"judge.{name}", fix="a share, 0 to 1"
                )
        if self.refuses + self.unreadable + self.errors > 1:
            raise ConfigError(
                "more than every question goes without a verdict", where="judge.refuses, judge.unreadable, judge.errors",
                fix="shares that sum to 1 at most",
            )  # fmt: skip
        for name in ("noise", "slips", "ties", "latency"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(
                    f"judge.{name} is {getattr(self, name)}", where=f"judge.{name}", fix="a number from 0 on"
                )
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ConfigError(f"judge.tau is {self.tau}", where="judge.tau", fix="a number above 0")
        if not (math.isfinite(self.first) and math.isfinite(self.per_word)):
            raise ConfigError("a bias is no finite number", where="judge.first, judge.per_word", fix="a number")
        if not self.lowest < self.highest:
            raise ConfigError(
                f"judge.lowest={self.lowest} is not below judge.highest={self.highest}", where="judge.lowest",
                fix="the values of the truth that are rated 1 and 10",
            )  # fmt: skip


@dataclass
class OpenScripted:
    """At work. `reward`: the truth, opened; None where it is a column."""

    settings: Scripted
    reward: Any = None

    @property
    def on_device(self) -> bool:
        return bool(getattr(self.reward, "on_device", False))

    def close(self) -> None:
        if callable(close := getattr(self.reward, "close", None)):
            close()

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        return self.compare_all([Comparison(prompt, a, b)])[0]

    def compare_all(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        self._wait()
        asked = [(one.prompt, text) for one in comparisons for text in (one.a, one.b)]
        values = self._values(asked)
        return [self._verdict(one, values[2 * i], values[2 * i + 1]) for i, one in enumerate(comparisons)]

    def rate_all(self, answers: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Ratings from 1 to 10."""
        self._wait()
        return [
            self._rating(prompt, text, value)
            for (prompt, text), value in zip(answers, self._values(answers), strict=True)
        ]

    def revise_all(self, drafts: Sequence[Draft]) -> list[Revision]:
        """Mends what the truth calls wrong, with the probability `mends`."""

        def truth(samples: Sequence[Sample]) -> list[float | None]:
            return [score.value for score in self._scored([(Prompt.of(sample), sample.text) for sample in samples])]

        return Mender(truth, self.settings.mends, self.settings.seed).revise_all(drafts)

    # --- one question -------------------------------------------------------------------------------------------------

    def _verdict(self, one: Comparison, a: Score, b: Score) -> Verdict:
        how = self.settings
        if (why := self._none("compare", one.prompt.text, one.a, one.b)) is not None:
            return Verdict(None, reason=why)
        if how.always:
            sure = {"first": ("A", 1.0), "second": ("B", 0.0), "tie": ("tie", 0.5)}[how.always]
            return Verdict(sure[0], sure[1] if how.soft else None, f"always {how.always}")  # type: ignore[arg-type]
        if a.value is None or b.value is None:
            missing = a if a.value is None else b
            return Verdict(None, reason=f"{missing.kind}: {missing.reason}")
        odds = (a.value - b.value) / how.tau + how.first
        if how.slips:
            odds += how.slips * self._normal("slip", one.prompt.text, one.a, one.b)
        p = _sigmoid(odds)
        choice = "tie" if abs(odds) <= how.ties else "A" if odds > 0 else "B"
        told = 0.5 if choice == "tie" else p
        return Verdict(choice, told if how.soft else None, f"{a.value:.3g} against {b.value:.3g}")  # type: ignore[arg-type]

    def _rating(self, prompt: Prompt, text: str, value: Score) -> Score:
        how = self.settings
        if (why := self._none("rate", prompt.text, text)) is not None:
            return Score.none(why, kind=kind_of(why))
        if value.value is None:
            return value
        share = min(1.0, max(0.0, (value.value - how.lowest) / (how.highest - how.lowest)))
        rating = 1 + 9 * share
        return Score(rating if how.soft else float(round(rating)), reason=f"worth {value.value:.3g}")

    def _none(self, *content: str) -> str | None:
        """Why this question gets no verdict; None where it gets one."""
        how, lot = self.settings, self._lot("none", *content)
        if lot < how.refuses:
            return "refusal: I would rather not say"
        if lot < how.refuses + how.unreadable:
            return "unreadable: 'as you like it'"
        if lot < how.refuses + how.unreadable + how.errors:
            return "error: the way to the judge failed"
        return None

    # --- what answers are worth ---------------------------------------------------------------------------------------

    def _values(self, answers: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """What the judge takes each to be worth, its own errors in it; none where the truth says nothing."""
        if self.settings.always or not answers:
            return [Score(0.0)] * len(answers)
        truths = [self._labelled(*one) for one in answers] if self.reward is None else self._scored(answers)
        return [self._taken(prompt, text, truth) for (prompt, text), truth in zip(answers, truths, strict=True)]

    def _taken(self, prompt: Prompt, text: str, truth: Score) -> Score:
        how = self.settings
        if any(
            text.strip() == lure.strip() or (lure.strip() and lure.lower() in text.lower()) for lure in how.fooled_by
        ):
            return Score(FOOLED)
        if truth.value is None:
            return truth
        value = truth.value + how.per_word * len(text.split())
        return Score(value + how.noise * self._normal("value", prompt.text, text) if how.noise else value)

    def _scored(self, answers: Sequence[tuple[Prompt, str]]) -> list[Score]:
        samples = [
            Sample(prompt.text, text, messages=prompt.messages, columns=prompt.columns) for prompt, text in answers
        ]
        columns = values_of(columns_of(self.reward), samples, str(self.settings.truth))
        return check_scores(given_by(self.reward, samples, columns), len(samples), str(self.settings.truth))

    def _labelled(self, prompt: Prompt, text: str) -> Score:
        """Of the labels in a column: 1 for a good answer and 0 for another, or the value that it has there."""
        column = str(self.settings.column)
        if column not in prompt.columns:
            return Score.none(f"the prompt has no column '{column}'")
        label = prompt.columns[column]
        if isinstance(label, Mapping):
            return Score(float(label[text])) if text in label else Score.none("the answer is not among the labels")
        good = [label] if isinstance(label, str) else list(label)
        return Score(float(text.strip() in [str(one).strip() for one in good]))

    # --- what is drawn ------------------------------------------------------------------------------------------------

    def _lot(self, *content: str) -> float:
        """Uniform in [0, 1), by the seed and the content."""
        said = "\0".join([str(self.settings.seed), *content]).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(said).digest()[:6], "big") / 2**48

    def _normal(self, *content: str) -> float:
        """Standard normal, likewise (Box and Muller)."""
        radius = math.sqrt(-2 * math.log(1 - self._lot("r", *content)))
        return radius * math.cos(2 * math.pi * self._lot("phi", *content))

    def _wait(self) -> None:
        if self.settings.latency:
            time.sleep(self.settings.latency)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(max(x, -700.0)) / (1 + math.exp(max(x, -700.0)))
