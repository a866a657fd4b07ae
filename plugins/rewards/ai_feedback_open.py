"""`reward=ai_feedback` at work: what is asked of the opened judge, what its verdicts are worth, and how it is watched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError
from rlhf_lora.judging import orders
from rlhf_lora.judging.canaries import Asked, Canaries
from rlhf_lora.judging.tally import Key, Tally
from rlhf_lora.records import Comparison, Prompt, Sample, Score, Verdict
from rlhf_lora.reward_calls import call_seconds
from rlhf_lora.scores import awaited, check_scores, kind_of, win_probability

if TYPE_CHECKING:
    from .ai_feedback import AiFeedback


def opened(how: AiFeedback, ctx: Context) -> Pairwise | Grouped | Pointwise:
    """The reward with its judge opened.

    Raises:
        ConfigError: the judge cannot do what is asked of it.
    """
    judge = ctx.judge.open(ctx) if callable(getattr(ctx.judge, "open", None)) else ctx.judge
    asker = Asker(judge, how)
    if how.mode == "pointwise":
        return Pointwise(asker)
    return Grouped(asker) if how.against == "group" else Pairwise(asker)


class Asker:
    """An opened judge, asked as the settings say, and what came of it counted."""

    def __init__(self, judge: Any, how: AiFeedback):
        self.judge, self.how, self.tally = judge, how, Tally()
        self.canaries = Canaries(how.canaries_every, how.on_alarm)
        if how.mode == "pointwise" and not callable(getattr(judge, "rate_all", None)):
            self.close()
            raise ConfigError(
                "the judge compares answers and does not rate one alone", where="reward.mode=pointwise",
                fix="reward.mode=pairwise, or another judge",
            )  # fmt: skip

    @property
    def on_device(self) -> bool:
        return bool(getattr(self.judge, "on_device", False))

    def close(self) -> None:
        if callable(close := getattr(self.judge, "close", None)):
            close()

    def seconds(self, questions: int) -> float:
        """The most seconds that the judge, or its way to a model, says so many questions may take; 0 where neither does."""
        told = max(call_seconds(self.judge, questions), call_seconds(getattr(self.judge, "listener", None), questions))
        return told * (2 if self.how.mode == "pairwise" and self.how.orders == "both" else 1)

    def compared(self, pairs: Sequence[tuple[Prompt, str, str]]) -> list[Verdict]:
        """A verdict for each (prompt, A, B). The same words twice are a tie, and nobody is asked."""
        asked = [Comparison(*pair) for pair in pairs if pair[1] != pair[2]]
        given = orders.compare(self.judge, asked, self.how.orders, self.how.tie_within)  # type: ignore[arg-type]
        self.tally.keep([question(one.prompt, one.a, one.b) for one in asked], given)
        answers = iter(given)
        return [next(answers).verdict if a != b else Verdict("tie", 0.5, "the same words") for _, a, b in pairs]

    def rated(self, answers: Sequence[tuple[Prompt, str]]) -> list[Score]:
        if not answers:
            return []
        scores = check_scores(awaited(self.judge.rate_all(answers)), len(answers), type(self.judge).__name__)
        self.tally.keep([question(*answer) for answer in answers], scores)
        return scores

    def watched(
        self, update: int, samples: Sequence[Sample], scores: Sequence[Score], keys: Sequence[Key], asked: Asked
    ) -> dict[str, float]:
        """Metrics of an update: what the judge did with its questions, and what it says of canaries.

        Args:
            keys: the update's questions.
        """
        told = self.tally.take(keys)
        told |= self.canaries.look(update, samples, scores, asked)
        self.tally.take(())
        return told


class Pairwise:
    """Against one answer of the reference: `rlhf_lora.against` brings that."""

    def __init__(self, asker: Asker):
        self.asker, self.on_device, self.close = asker, asker.on_device, asker.close

    def call_seconds(self, count: int) -> float:
        return self.asker.seconds(count)

    def compare(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[Verdict]:
        return self.asker.compared([(Prompt.of(a), a.text, b.text) for a, b in pairs])

    def watch(
        self, update: int, samples: Sequence[Sample], scores: Sequence[Score], answers: Sequence[Sample] = ()
    ) -> dict[str, float]:
        """Args: answers: what each sample was compared with."""

        def asked(places: Sequence[int], texts: Sequence[str]) -> list[Score]:
            pairs = [(Prompt.of(samples[i]), text, answers[i].text) for i, text in zip(places, texts, strict=True)]
            return [win_probability(verdict) for verdict in self.asker.compared(pairs)]

        if not answers:
            return {}
        keys = [question(Prompt.of(a), a.text, b.text) for a, b in zip(samples, answers, strict=True)]
        return self.asker.watched(update, samples, scores, keys, asked)


class Grouped:
    """Each of a prompt's answers against each other one: the mean of its probabilities to be better."""

    whole_batch = True
    columns = ()

    def __init__(self, asker: Asker):
        self.asker, self.on_device, self.close = asker, asker.on_device, asker.close

    def call_seconds(self, count: int) -> float:
        return self.asker.seconds(count * (count - 1) // 2)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        pairs = [pair for group in groups(samples) for pair in combinations(group, 2)]
        verdicts = self.asker.compared([(Prompt.of(samples[i]), samples[i].text, samples[j].text) for i, j in pairs])
        won: list[list[float]] = [[] for _ in samples]
        unread: list[str | None] = [None] * len(samples)
        for (i, j), verdict in zip(pairs, verdicts, strict=True):
            if (p := orders.probability(verdict)) is None:
                unread[i] = unread[j] = verdict.reason
            else:
                won[i].append(p)
                won[j].append(1 - p)
        return [_mean(mine, why) for mine, why in zip(won, unread, strict=True)]

    def as_judge(self) -> Pairwise:
        """In an evaluation there is one answer to a prompt, and the reference's beside it."""
        return Pairwise(self.asker)

    def watch(self, update: int, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        members = {i: group for group in groups(samples) for i in group}

        def asked(places: Sequence[int], texts: Sequence[str]) -> list[Score]:
            pairs = [(place, text, j) for place, text in zip(places, texts, strict=True) for j in members[place]]
            given = self.asker.compared([(Prompt.of(samples[i]), text, samples[j].text) for i, text, j in pairs])
            found: dict[tuple[int, str], list[float]] = {}
            for (i, text, _), verdict in zip(pairs, given, strict=True):
                if (p := orders.probability(verdict)) is not None:
                    found.setdefault((i, text), []).append(p)
            return [_mean(found.get(key, []), "unreadable") for key in zip(places, texts, strict=True)]

        pairs = [pair for group in groups(samples) for pair in combinations(group, 2)]
        keys = [question(Prompt.of(samples[i]), samples[i].text, samples[j].text) for i, j in pairs]
        return self.asker.watched(update, samples, scores, keys, asked)


class Pointwise:
    """The judge's rating of each answer alone."""

    columns = ()

    def __init__(self, asker: Asker):
        self.asker, self.on_device, self.close = asker, asker.on_device, asker.close

    def call_seconds(self, count: int) -> float:
        return self.asker.seconds(count)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return self.asker.rated([(Prompt.of(sample), sample.text) for sample in samples])

    def watch(self, update: int, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        def asked(places: Sequence[int], texts: Sequence[str]) -> list[Score]:
            return self.asker.rated([(Prompt.of(samples[i]), text) for i, text in zip(places, texts, strict=True)])

        keys = [question(Prompt.of(sample), sample.text) for sample in samples]
        return self.asker.watched(update, samples, scores, keys, asked)


def question(prompt: Prompt, *texts: str) -> Key:
    """What a tally knows a question by."""
    return (prompt.text, *texts)


def groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Places of the samples that answer the same prompt."""
    found: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        found.setdefault(repr((sample.prompt, sample.messages)), []).append(i)
    return list(found.values())


def _mean(won: Sequence[float], why: str | None) -> Score:
    """Args: why: of the last comparison that had no verdict; None where there was none to make."""
    if won:
        return Score(math.fsum(won) / len(won), reason=f"against {len(won)}")
    if why is None:
        return Score.none("there is no other answer to the same prompt to compare it with")
    return Score.none(why or "the comparison could not be read", kind=kind_of(why))
