"""Answers, and what the reward says of them: the rows of an optimizer whose rows a reward makes.

    1. answer   the policy answers each prompt several times; or the answers are the dataset's own
    2. score    any reward source; what has no score is counted and makes no row

Both go chunk by chunk, and a chunk that is done is on disk before the next begins: a kill loses none of it, and no paid
score is asked for twice. The same prompts and seed give the same answers however often the stage was broken off.

    WORK/samples.jsonl   a prompt a line: texts, tokens, whether they ended
    WORK/scores.jsonl    an answer a line, in their order
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from rlhf_lora.answer_sets import Answered, AnswerSet
from rlhf_lora.atomic import staging, write_manifest, write_text
from rlhf_lora.errors import Stopped
from rlhf_lora.records import Prompt, Sample, Score, named_seed
from rlhf_lora.row_file import RowFile
from rlhf_lora.scores import score_as_plain, score_of_plain
from rlhf_lora.stages.scoring import Scorer

AT_ONCE = 512
"""Answers of a chunk: what a kill may cost."""
ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class Answering:
    """The stage at work.

    Attributes:
        work: where finished chunks are kept; its name must say what they are chunks of.
        scorer: of the run's reward; None where nothing is to be scored. gold: of the truth, where it is known.
        missing: `drop` = answers without a score make no row; `stop` = the first one ends the run.
        missing_share: stop when a larger share of a chunk has no score.
        interrupted: the number of the signal that asked the run to stop, or None.
    """

    work: Path
    scorer: Scorer | None
    gold: Scorer | None
    missing: str
    missing_share: float
    interrupted: Callable[[], int | None]

    def answer(self, backbone: Any, engine: Any, prompts: Sequence[Prompt], count: int, seed: int) -> list[AnswerSet]:
        """`count` answers of the role policy to each prompt, not scored yet."""
        size, file = max(1, AT_ONCE // count), RowFile(self.work / "samples.jsonl")

        def seed_of(first: int) -> int:
            return named_seed(seed, f"answers/{first // size}")

        rows = sampled(backbone, engine, prompts, count, file, seed_of, self.interrupted, size)
        return [
            AnswerSet(prompt, tuple(map(_answered, row["answers"], row["finished"], row["tokens"])))
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def score(self, sets: Sequence[AnswerSet]) -> list[AnswerSet]:
        """The same with scores. A reward that looks at all answers together is given all at once.

        Raises:
            Stopped: too many answers of a chunk have no score. The chunks before it are kept.
        """
        samples = [
            Sample(one.prompt.text, answer.text, messages=one.prompt.messages, columns=one.prompt.columns,
                   tokens=answer.tokens and list(answer.tokens), finished=answer.finished)
            for one in sets for answer in one.answers
        ]  # fmt: skip
        assert self.scorer is not None
        whole = getattr(self.scorer.source, "whole_batch", False)
        file, size = RowFile(self.work / "scores.jsonl"), max(1, len(samples)) if whole else AT_ONCE

        def ask(portion: range) -> list[dict[str, Any]]:
            return self._asked(samples[portion.start : portion.stop])

        told = iter(file.fill(len(samples), size, ask, "scores", self.interrupted))
        return [replace(one, answers=tuple(_with(answer, next(told)) for answer in one.answers)) for one in sets]

    def _asked(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        assert self.scorer is not None
        told = self.scorer(samples)
        self._refuse_missing(told)
        golds = [None] * len(samples) if self.gold is None else [score.value for score in self.gold(samples)]
        return [{"score": score_as_plain(score), "gold": gold} for score, gold in zip(told, golds, strict=True)]

    def _refuse_missing(self, scores: Sequence[Score]) -> None:
        missing = [score for score in scores if score.value is None]
        most = 0.0 if self.missing == "stop" else self.missing_share
        if len(missing) > most * len(scores):
            reasons = sorted({f"{score.kind}: {score.reason}" for score in missing})
            raise Stopped(
                f"{len(missing)} of {len(scores)} answers have no score (first reasons: {'; '.join(reasons[:3])}); "
                "stopped rather than learn from the rest. What was sampled and scored before is kept"
            )


def sampled(
    backbone: Any, engine: Any, prompts: Sequence[Prompt], count: int, file: RowFile, seed_of: Callable[[int], int],
    interrupted: Callable[[], int | None], at_once: int = 256,
) -> list[dict[str, Any]]:  # fmt: skip
    """`count` answers of the role policy to each prompt. Killed and taken up again, they are the same ones.

    Args:
        seed_of: place of a portion's first prompt → the portion's seed.

    Returns:
        A row for each prompt: `prompt`, `id`, and a list each of `answers`, `tokens`, `finished`.
    """

    def make(portion: range) -> list[dict[str, Any]]:
        asked = prompts[portion.start : portion.stop]
        samples = engine.generate(backbone, asked, count, seed_of(portion.start))
        return [_sampled_row(prompt, samples[i * count : (i + 1) * count]) for i, prompt in enumerate(asked)]

    return file.fill(len(prompts), at_once, make, "answers", interrupted)


def _sampled_row(prompt: Prompt, samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "prompt": prompt.text, "id": prompt.id, "answers": [sample.text for sample in samples],
        "tokens": [list(sample.tokens or ()) for sample in samples], "finished": [sample.finished for sample in samples],
    }  # fmt: skip


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(sets: Sequence[AnswerSet]) -> dict[str, float]:
    """For the summary: `prompts`, `answers`, `cut` (at the length limit), `abstained`, `errors`, `unreadable`, and mean
    and deviation of the scores, `gold_mean` where the truth is known. What is 0 of the missing is absent."""
    answers = [answer for one in sets for answer in one.answers]
    values = [answer.score.value for answer in answers if answer.score.value is not None]
    golds = [answer.gold for answer in answers if answer.gold is not None]
    found = {"prompts": len(sets), "answers": len(answers), "cut": sum(not answer.finished for answer in answers)}
    for name, kind in (("abstained", "abstain"), ("errors", "error"), ("unreadable", "unreadable")):
        found |= {name: count} if (count := sum(a.score.kind == kind for a in answers)) else {}
    told: dict[str, float] = {"score_mean": fmean(values), "score_deviation": pstdev(values)} if values else {}
    return found | told | ({"gold_mean": fmean(golds)} if golds else {})


def rows(sets: Sequence[AnswerSet]) -> list[dict[str, Any]]:
    """For samples/answers.parquet: one row an answer."""
    return [
        {"prompt": one.prompt.text, "text": answer.text, "score": answer.score.value, "gold": answer.gold,
         "finished": answer.finished, "reason": answer.score.reason or None, "kind": answer.score.kind}
        for one in sets for answer in one.answers
    ]  # fmt: skip


# --- on disk ----------------------------------------------------------------------------------------------------------


def save(folder: Path, sets: Sequence[AnswerSet]) -> None:
    """Publish `answers.jsonl`: one prompt a line, with its answers and their scores."""
    with staging(folder) as temp:
        lines = [json.dumps(_plain(one), allow_nan=False) for one in sets]
        write_text(temp / ANSWERS, "".join(f"{line}\n" for line in lines))
        write_manifest(temp)


def load(folder: Path) -> list[AnswerSet]:
    """What `save` wrote."""
    found = []
    with (folder / ANSWERS).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            asked = row["prompt"] | {
                "messages": None if row["prompt"]["messages"] is None else tuple(row["prompt"]["messages"])
            }
            answers = tuple(
                _with(_answered(one["text"], one["finished"], one.get("tokens")), one) for one in row["answers"]
            )
            found.append(AnswerSet(Prompt(**asked), answers))
    return found


def _plain(one: AnswerSet) -> dict[str, Any]:
    prompt = one.prompt
    messages = None if prompt.messages is None else [dict(turn) for turn in prompt.messages]
    asked = {"text": prompt.text, "messages": messages, "columns": dict(prompt.columns), "group": prompt.group}
    answers = [
        {"text": a.text, "finished": a.finished, "tokens": a.tokens and list(a.tokens), "gold": a.gold,
         "score": score_as_plain(a.score)}
        for a in one.answers
    ]  # fmt: skip
    return {"prompt": asked, "answers": answers}


def _answered(text: str, finished: bool, tokens: Sequence[int] | None) -> Answered:
    return Answered(text, Score.none("not asked yet"), finished, None if tokens is None else tuple(tokens))


def _with(answer: Answered, told: Mapping[str, Any]) -> Answered:
    return replace(answer, score=score_of_plain(told["score"]), gold=told["gold"])
