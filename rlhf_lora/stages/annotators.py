"""Who compares two answers of the policy for a refreshed reward model: a judge, or people simulated by a reward.

Comparisons go chunk by chunk and are on disk before the next are asked for, each under its number.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlhf_lora import progress
from rlhf_lora.answer_sets import Answered, AnswerSet
from rlhf_lora.atomic import write_text
from rlhf_lora.errors import Interrupted, Stopped
from rlhf_lora.judging import orders
from rlhf_lora.records import Comparison, Pair, Prompt, Sample, named_seed
from rlhf_lora.stages.scoring import Scorer

AT_ONCE = 256
"""Comparisons asked for at a time: what a kill may cost."""
ROUNDING = 1e-6
"""(0.9 + (1 − 0.9)) / 2 is a tie, whatever floating point makes of it."""


class Annotator(Protocol):
    """Says for each set of two answers P(the first is better), None where nothing can be read; and whether the order of
    reading decided it."""

    def probabilities(self, sets: Sequence[AnswerSet], first: int) -> list[tuple[float | None, bool]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Judging:
    """An opened judge, asked in both orders."""

    judge: Any

    def probabilities(self, sets: Sequence[AnswerSet], first: int) -> list[tuple[float | None, bool]]:
        asked = [Comparison(one.prompt, one.answers[0].text, one.answers[1].text) for one in sets]
        with orders.judges_fault(type(self.judge).__name__):
            told = orders.compare(self.judge, asked, tie_within=ROUNDING)
        return [
            (0.5 if one.verdict.choice == "tie" else one.verdict.probability_a, bool(one.flipped)) for one in told
        ]  # fmt: skip

    def close(self) -> None:
        if callable(close := getattr(self.judge, "close", None)):
            close()


@dataclass(frozen=True)
class People:
    """Simulated people: each sees the score of both answers and calls the higher one better, with
    P = σ(difference / tau), tau = 0: always (Bradley and Terry 1952). Their answers are certain in tone, so labels are
    hard. The same comparison gets the same answer whatever was asked before."""

    scorer: Scorer
    tau: float
    seed: int

    def probabilities(self, sets: Sequence[AnswerSet], first: int) -> list[tuple[float | None, bool]]:
        scores = self.scorer([_sample(one.prompt, answer) for one in sets for answer in one.answers])
        return [(self._of(scores[2 * i].value, scores[2 * i + 1].value, first + i), False) for i in range(len(sets))]

    def _of(self, a: float | None, b: float | None, number: int) -> float | None:
        if a is None or b is None:
            return None
        if self.tau == 0:
            return 0.5 if a == b else float(a > b)
        sure = 0.5 * (1 + math.tanh((a - b) / (2 * self.tau)))
        return float(random.Random(named_seed(self.seed, str(number))).random() < sure)

    def close(self) -> None:
        self.scorer.close()


@dataclass(frozen=True)
class ComparedPair:
    """Two answers, P(the first is better) or None, and what the truth says of them where it is known."""

    answers: AnswerSet
    probability: float | None
    flipped: bool
    golds: tuple[float | None, float | None]


def labelled(
    annotator: Annotator, sets: Sequence[AnswerSet], gold: Scorer | None, work: Path,
    interrupted: Callable[[], int | None], missing_share: float = 1.0,
) -> list[ComparedPair]:  # fmt: skip
    """Have every set of two answers compared; chunks that are in `work` are not asked again.

    Raises:
        Stopped: of a chunk, more than `missing_share` could not be read. The chunks before it are kept.
    """
    found = []
    for start in progress.track(range(0, len(sets), AT_ONCE), "comparisons"):
        part, file = sets[start : start + AT_ONCE], work / f"comparisons-{start // AT_ONCE:06d}.json"
        if file.is_file():
            kept = json.loads(file.read_text("utf-8"))
        else:
            told = annotator.probabilities(part, start)
            _stop_if_missing(sum(p is None for p, _ in told), len(part), missing_share)
            golds: list[Any] = [None] * (2 * len(part))
            if gold is not None:
                golds = [score.value for score in gold([_sample(o.prompt, a) for o in part for a in o.answers])]
            kept = [
                {"id": start + i, "probability": p, "flipped": flipped, "golds": golds[2 * i : 2 * i + 2]}
                for i, (p, flipped) in enumerate(told)
            ]
            write_text(file, json.dumps(kept, allow_nan=False) + "\n")
            if (number := interrupted()) is not None:
                raise Interrupted(number, "interrupted while answers were compared; what is done is on disk")
        by_id = {one["id"]: one for one in kept}
        for i, one in enumerate(part):
            row = by_id[start + i]
            found.append(ComparedPair(one, row["probability"], row["flipped"], tuple(row["golds"])))
    return found


def _stop_if_missing(unread: int, asked: int, share: float) -> None:
    if unread > share * asked:
        raise Stopped(
            f"{unread} of {asked} new comparisons could not be read, more than scoring.missing_share={share:g} allows; "
            "stopped rather than refresh the reward model with the rest. What was read before is kept"
        )


def counted(compared: Sequence[ComparedPair]) -> tuple[list[Pair], dict[str, Any]]:
    """Pairs of what was decided, and figures: `asked`, `pairs`, and what gave none by reason; `flipped`, the share that the
    order of reading decided; `gold_agreement` where the truth is known, without its ties."""
    pairs, left_out, right = [], Counter[str](), []
    for one in compared:
        a, b = one.answers.answers
        p = one.probability
        if p is None or p == 0.5 or (a.text == b.text and a.finished == b.finished):
            left_out["unreadable" if p is None else "a tie" if p == 0.5 else "the same words"] += 1
            continue
        better, worse = (a, b) if p > 0.5 else (b, a)
        pairs.append(
            Pair(one.answers.prompt, better.text, worse.text, None, max(p, 1 - p), (better.finished, worse.finished))
        )
        gold_a, gold_b = one.golds
        if gold_a is not None and gold_b is not None and gold_a != gold_b:
            right.append((gold_a > gold_b) == (p > 0.5))
    figures: dict[str, Any] = {"asked": len(compared), "pairs": len(pairs), "left_out": dict(left_out)}
    if compared:
        figures["flipped"] = sum(one.flipped for one in compared) / len(compared)
    if right:
        figures |= {"gold_agreement": sum(right) / len(right), "gold_compared": len(right)}
    return pairs, figures


def _sample(prompt: Prompt, answer: Answered) -> Sample:
    tokens = None if answer.tokens is None else list(answer.tokens)
    return Sample(
        prompt.text, answer.text, messages=prompt.messages, columns=prompt.columns, tokens=tokens, finished=answer.finished
    )  # fmt: skip
