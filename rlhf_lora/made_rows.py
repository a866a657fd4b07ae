"""The stage `answers` in a run: answers sampled or taken from the data, scored by the run's reward, kept, cached; and the
rows that the optimizer makes of them.

    answers/answers.jsonl        answers_2/… in the second round of several
    samples/answers.parquet      the same for people
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlhf_lora import progress, stage_cache
from rlhf_lora.adapter_stages import Record, StageRecords
from rlhf_lora.answer_sets import Answered, AnswerSet, Made
from rlhf_lora.assembly import Assembly, opened
from rlhf_lora.chat import Chat
from rlhf_lora.errors import Stopped
from rlhf_lora.evaluation import close_all
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.records import Prompt, Score, named_seed, prompt_of
from rlhf_lora.stages import answers
from rlhf_lora.stages.on_policy import SCALE_SAMPLES
from rlhf_lora.turns import Turn


class AnswersStage:
    """Args:
    parts: plan, run folder and round. interrupted: the number of the signal that asked the run to stop, or None.
    """

    def __init__(self, parts: Assembly, records: StageRecords, interrupted: Callable[[], int | None]):
        self.parts, self.records, self.interrupted = parts, records, interrupted
        self.name = parts.turn.named("answers")

    @property
    def folder(self) -> Path:
        return self.parts.folder.path / self.name

    def run(self, stage: StagePlan, key: str) -> list[AnswerSet]:
        """The scored answers: sampled and scored now, or taken from the run folder or the cache.

        Args:
            key: of everything that decides them.
        """
        if self.records.get(self.name, {}).get("key") == key and (self.folder / answers.ANSWERS).is_file():
            return answers.load(self.folder)
        # What a judge is asked may be answered otherwise another time; its own cache keeps what was paid for.
        from_cache = self.parts.plan.config.cache and stage.repeatable
        record = self._cached(stage, key) if from_cache else self._make(stage, key)
        sets = answers.load(self.folder)
        self.parts.folder.save_samples(self.name, None, answers.rows(sets))
        self.records.keep(self.name, {"key": key, "reused": False} | record)
        return sets

    def rows(self, sets: Sequence[AnswerSet], seed: int) -> Made:
        """What the optimizer learns of them.

        Raises:
            Stopped: nothing.
        """
        made: Made = self.parts.plan.optimizer.rows_of(sets, seed)
        if not made.rows:
            why = "; ".join(f"{count:,} × {reason}" for reason, count in made.left_out.most_common(3))
            raise Stopped(
                f"the scores of {sum(len(one.answers) for one in sets):,} answers make no {self.parts.plan.row_source.learns_from} "
                f"to learn from ({why or 'there are no answers'}); look at samples/{self.name}.parquet, then at the reward"
            )
        return made

    def rows_of_round(self, number: int) -> Sequence[Any]:
        """What the optimizer learned of the answers of an earlier round."""
        sets = answers.load(self.parts.folder.path / f"answers_{number}")
        turn = Turn(number, self.parts.turn.of)
        made: Made = self.parts.plan.optimizer.rows_of(sets, turn.seed(self.parts.plan.config.seed))
        return made.rows

    # --- inside -------------------------------------------------------------------------------------------------------

    def _cached(self, stage: StagePlan, key: str) -> Record:
        cache_dir = self.parts.plan.cache_dir
        with stage_cache.locked(cache_dir, "answers", key, self.interrupted) as cached:
            record = stage_cache.take(cached, self.folder)
            if record is None:
                record = self._make(stage, key)
                stage_cache.put(cached, self.folder, record)
                return record
        progress.stage(self.name, "reused")
        return record | {"reused": True, "seconds": 0.0}

    def _make(self, stage: StagePlan, key: str) -> Record:
        started, parts = time.perf_counter(), self.parts
        optimizer, config, source = parts.plan.optimizer, parts.plan.config, parts.plan.row_source
        seed = named_seed(config.seed, parts.turn.stream("answers"))
        backbone = parts.backbone(parts.policy_start)
        ctx = parts.context(backbone)
        engine, gold = opened(parts.plan.rollout, ctx), parts.gold_scorer()
        with ExitStack() as stack:
            scorer = parts.scorer(ctx)
            stack.callback(close_all, {"score": scorer} | ({} if gold is None else {"gold": gold}))
            work = parts.folder.checkpoints / f"{self.name}-{key}"
            at_work = answers.Answering(
                work, scorer, gold, config.scoring.missing, config.scoring.missing_share, self.interrupted
            )
            prompts: list[Prompt] = []
            if source.name == "rollouts" or wants_calibration(scorer):
                prompts = parts.short_enough(backbone, parts.plan.splits.prompts, "prompts")
            if wants_calibration(scorer):
                # A reward that wants to see the reference's answers before it scores, as before an on-policy run.
                few = prompts[:SCALE_SAMPLES]
                seen = engine.generate(backbone, few, 1, named_seed(seed, "calibration"), role="reference")
                scorer.source.calibrate(seen)
            if source.name == "rollouts":
                prompts = drawn(prompts, optimizer.prompts, parts.turn.number, config.seed)
                progress.stage(self.name, f"{len(prompts)} prompts × {optimizer.samples_per_prompt} answers")
                sets = at_work.answer(backbone, engine, prompts, optimizer.samples_per_prompt, seed)
                too_long = 0
            else:
                sets, too_long = of_data(backbone.chat, parts.plan.rows(stage), optimizer.max_length)
                progress.stage(
                    self.name, f"{len(sets)} prompts of the data, {sum(len(s.answers) for s in sets)} answers"
                )
            sets = at_work.score(sets)
        answers.save(self.folder, sets)
        shutil.rmtree(work, ignore_errors=True)
        figures = answers.figures(sets) | ({"too_long": too_long} if too_long else {})
        return {"seconds": time.perf_counter() - started, "figures": figures}


def wants_calibration(scorer: Any) -> bool:
    source = scorer.source
    return callable(getattr(source, "calibrate", None)) and getattr(source, "needs_calibration", True)


def drawn(prompts: Sequence[Prompt], count: int | None, number: int, seed: int, repeat: bool = False) -> list[Prompt]:
    """`count` prompts of a fixed shuffle; the `number`th time the next ones, and so on round. All of them with None.

    Args:
        repeat: give as many as were asked for even where there are fewer prompts, some of them twice.
    """
    if count is None or (count >= len(prompts) and not repeat):
        return list(prompts)
    order = random.Random(named_seed(seed, "answers/prompts")).sample(range(len(prompts)), len(prompts))
    return [prompts[order[i % len(order)]] for i in range((number - 1) * count, number * count)]


def of_data(chat: Chat, rows: Sequence[Any], longest: int) -> tuple[list[AnswerSet], int]:
    """The dataset's answers by prompt, each once, and how many were left out since they are too long to learn from."""
    found: dict[str, tuple[Prompt, dict[str, Answered]]] = {}
    too_long = 0
    for row in rows:
        prompt = prompt_of(row)
        answers = found.setdefault(prompt.text, (prompt, {}))[1]
        for text in (row.chosen, row.rejected) if hasattr(row, "chosen") else (row.completion,):
            if text in answers:
                continue
            if len(chat.prompt_ids(prompt)) + len(chat.response_ids(text, prompt=prompt)) > longest:
                too_long += 1
            else:
                answers[text] = Answered(text, Score.none("not asked yet"))
    return [AnswerSet(prompt, tuple(answers.values())) for prompt, answers in found.values() if answers], too_long
