"""Several answers to one prompt, each with a score or none, and what an off-policy optimizer is taught by them: pairs,
labels, or the best as demonstrations. Pure: no model, nothing read or written.

    AnswerSet       a prompt and its answers, each scored      ← stage `answers`: the policy's own, or the dataset's
    pairs           the better one first                       → DPO
    labels          good above a threshold, bad below it       → KTO
    best            the answer with the highest score          → rejection sampling

An answer without a score is in no row, and two with the same score are no pair. What gives no row is counted by reason.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, median
from typing import Any

from rlhf_lora.records import Demonstration, Label, Pair, Prompt, Score, named_seed

PAIRS_FROM = ("best_worst", "best_rest", "all")
THRESHOLDS = ("median", "mean")

NO_TWO = "fewer than two answers with a score"
EQUAL = "equal scores"
CLOSE = "scores closer than the margin"
SAME_WORDS = "the same words"
UNSCORED = "no score"
AT_THRESHOLD = "at the threshold"
NO_BEST = "no answer with a score"


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer and what the reward said of it.

    Attributes:
        tokens: as they were sampled; None for an answer of the dataset.
        gold: what the truth says of it, where that is known.
    """

    text: str
    score: Score
    finished: bool = True
    tokens: tuple[int, ...] | None = None
    gold: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The answers to one prompt, in the order in which they were sampled or stand in the data."""

    prompt: Prompt
    answers: tuple[Answered, ...]

    @property
    def scored(self) -> list[Answered]:
        return [answer for answer in self.answers if answer.score.value is not None]

    @property
    def values(self) -> list[float]:
        return [answer.score.value for answer in self.answers if answer.score.value is not None]


@dataclass(frozen=True)
class Made:
    """Rows to learn from, and what gave none.

    Attributes:
        left_out: reason → how many; of prompts, pairs or answers, as the reason says.
        figures: further numbers for the summary.
    """

    rows: Sequence[Any]
    left_out: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)


# --- pairs ------------------------------------------------------------------------------------------------------------


def pairs(
    sets: Sequence[AnswerSet], which: str = "best_worst", min_margin: float = 0.0, soft: bool = False, seed: int = 0
) -> Made:
    """Pairs by score.

    Args:
        which: `best_worst` = one pair a prompt; `best_rest` = the best with each other; `all` = every two. Where several
            are best or worst, one of them by lot.
        min_margin: no pair of scores that are closer than this.
        soft: P(chosen is better) = σ(score difference) instead of 1 (Bradley-Terry, for scores that are its logits).

    Returns:
        Pairs with the difference of their scores as `margin`; `gold_agreement` among the figures where the truth is
        known: the share of the pairs that it orders the same way, without its ties.
    """
    made, left_out, right = [], Counter[str](), []
    for place, one in enumerate(sets):
        if len(one.scored) < 2:
            left_out[NO_TWO] += 1
            continue
        for better, worse in _candidates(one.scored, which, named_seed(seed, f"pairs/{place}")):
            margin = _value(better) - _value(worse)
            if (why := _no_pair(better, worse, margin, min_margin)) is not None:
                left_out[why] += 1
                continue
            label = 1 / (1 + math.exp(-margin)) if soft else 1.0
            finished = (better.finished, worse.finished)
            made.append(Pair(one.prompt, better.text, worse.text, margin, label, finished))
            if better.gold is not None and worse.gold is not None and better.gold != worse.gold:
                right.append(better.gold > worse.gold)
    return Made(made, left_out, _agreement(right))


def _candidates(scored: Sequence[Answered], which: str, seed: int) -> Iterator[tuple[Answered, Answered]]:
    if which == "all":
        for one, other in combinations(scored, 2):
            yield (one, other) if _value(one) >= _value(other) else (other, one)
        return
    draw = random.Random(seed)
    best = _by_lot(scored, max(map(_value, scored)), draw)
    if which == "best_worst":
        rest = [answer for answer in scored if answer is not best]
        yield best, _by_lot(rest, min(map(_value, rest)), draw)
        return
    yield from ((best, other) for other in scored if other is not best)


def _no_pair(better: Answered, worse: Answered, margin: float, least: float) -> str | None:
    if margin == 0:
        return EQUAL
    if margin < least:
        return CLOSE
    return SAME_WORDS if better.text == worse.text and better.finished == worse.finished else None


# --- labels -----------------------------------------------------------------------------------------------------------


def labels(sets: Sequence[AnswerSet], threshold: str | float = "median") -> Made:
    """Good above the threshold, bad below it; an answer that stands on it is neither.

    Args:
        threshold: `median` or `mean` of the scores of the same prompt, or one number for all.

    Returns:
        Labels; `gold_agreement` among the figures where the truth is known: how often a good answer is better by the
        truth than a bad one of the same prompt, without its ties.
    """
    made, left_out, right = [], Counter[str](), []
    for one in sets:
        left_out[UNSCORED] += len(one.answers) - len(one.scored)
        if not one.scored:
            continue
        limit = threshold_of(one.values, threshold)
        kept = [(answer, _value(answer) > limit) for answer in one.scored if _value(answer) != limit]
        left_out[AT_THRESHOLD] += len(one.scored) - len(kept)
        made += [Label(one.prompt, answer.text, good, answer.finished) for answer, good in kept]
        golds = {
            kind: [answer.gold for answer, good in kept if good == kind and answer.gold is not None]
            for kind in (True, False)
        }
        right += [a > b for a in golds[True] for b in golds[False] if a != b]
    figures = {"good_share": sum(label.good for label in made) / len(made)} if made else {}
    return Made(made, +left_out, figures | _agreement(right))


def threshold_of(values: Sequence[float], threshold: str | float) -> float:
    if threshold == "median":
        return median(values)
    return fmean(values) if threshold == "mean" else float(threshold)


def check_threshold(threshold: Any) -> None:
    """Raises ValueError where it is none."""
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool) and math.isfinite(threshold)
    if not is_number and threshold not in THRESHOLDS:
        raise ValueError(
            f"threshold must be {' or '.join(THRESHOLDS)} of a prompt's scores, or a number; got {threshold!r}"
        )


# --- the best ---------------------------------------------------------------------------------------------------------


def best(sets: Sequence[AnswerSet], seed: int = 0) -> Made:
    """The answer with the highest score of each prompt, one by lot where several have it, as a demonstration (Touvron et
    al. 2023, Llama 2, §3.2.3).

    Returns:
        Demonstrations; the figure `max_median_gap` is the mean over prompts of the highest score less the median: what
        sampling more is worth (their figure 7). Where the truth is known `gold_gain`: the mean of the truth of the best
        less that of all.
    """
    made, left_out, gaps, gains = [], Counter[str](), [], []
    for place, one in enumerate(sets):
        if not one.scored:
            left_out[NO_BEST] += 1
            continue
        highest = max(one.values)
        chosen = _by_lot(one.scored, highest, random.Random(named_seed(seed, f"best/{place}")))
        made.append(Demonstration(one.prompt, chosen.text, finished=chosen.finished))
        gaps.append(highest - median(one.values))
        golds = [answer.gold for answer in one.scored if answer.gold is not None]
        if chosen.gold is not None:
            gains.append(chosen.gold - fmean(golds))
    figures = {name: fmean(found) for name, found in (("max_median_gap", gaps), ("gold_gain", gains)) if found}
    return Made(made, left_out, figures)


def _by_lot(answers: Sequence[Answered], value: float, draw: random.Random) -> Answered:
    return draw.choice([answer for answer in answers if _value(answer) == value])


def _value(answer: Answered) -> float:
    assert answer.score.value is not None
    return answer.score.value


def _agreement(right: Sequence[bool]) -> dict[str, float]:
    return {"gold_agreement": sum(right) / len(right), "gold_compared": float(len(right))} if right else {}
