"""A policy that learns from rows (DPO, KTO, rejection sampling): of the data, or made by the reward in the stage `answers`.

It is a model of its own, as SFT's is, and leaves an adapter folder behind.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_lora import progress, rounds
from rlhf_lora.adapter_stages import AdapterStages, Record
from rlhf_lora.contracts import FitContext
from rlhf_lora.made_rows import AnswersStage
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.records import named_seed
from rlhf_lora.turns import Turn


def is_trained(records: Mapping[str, Record], stage: StagePlan, turn: Turn) -> bool:
    """Whether the policy of a round was finished with these very inputs; of one that rolls out, its loop knows."""
    return records.get(turn.named("policy"), {}).get("key") == stage.key


def train_policy(stages: AdapterStages) -> dict[str, float]:
    """Train it and keep its record. Returns the last metrics."""
    plan, turn = stages.parts.plan, stages.parts.turn
    stage = plan.stage("policy")
    assert stage is not None
    rows, made = _rows(stages, stage)
    started = time.perf_counter()
    progress.stage(turn.named("policy"), f"{plan.config.optimizer.name} on {len(rows)} {plan.optimizer.learns_from}")
    metrics: dict[str, float] = plan.optimizer.fit(plan.spec, rows, _context(stages))
    seconds = time.perf_counter() - started
    record = {"key": stage.key, "seconds": seconds, "metrics": metrics, "made": made}
    stages.records.keep(turn.named("policy"), record)
    return metrics


def _context(stages: AdapterStages) -> FitContext:
    """As of any stage; in a later round the policy of the round before is where training starts, and SFT stays the
    reference. Steps are counted through the rounds."""
    parts, ctx = stages.parts, stages.context("policy")
    turn = parts.turn
    if turn.of == 1:
        return ctx
    name, seed = turn.named("policy"), named_seed(parts.plan.config.seed, turn.stream("policy")) % 2**31
    ctx = dataclasses.replace(
        ctx, seed=seed, work_dir=parts.folder.checkpoints / name, log=_counted_through(stages, ctx.log)
    )
    if turn.is_first:
        return ctx
    reference = parts.sft_adapter
    return dataclasses.replace(
        ctx, start_adapter=parts.policy_start, reference=reference, bare_reference=reference is None
    )  # fmt: skip


def _counted_through(stages: AdapterStages, log: Any) -> Any:
    turn, records = stages.parts.turn, stages.records
    before = sum(
        int(records[name]["metrics"]["steps"]) for number in range(1, turn.number)
        if (name := f"policy_{number}") in records
    )  # fmt: skip
    return lambda step, metrics: log(before + step, metrics)


def _rows(stages: AdapterStages, stage: StagePlan) -> tuple[Sequence[Any], Record]:
    """What the policy learns from, and figures of it where the reward made it."""
    plan, turn = stages.parts.plan, stages.parts.turn
    answers = plan.stage("answers")
    if answers is None:
        return plan.rows(stage), {}
    at_work = AnswersStage(stages.parts, stages.records, stages.interrupted)
    key = answers.key if turn.is_first else rounds.key(plan, "answers", turn)
    made = at_work.rows(at_work.run(answers, key), turn.seed(plan.config.seed))
    rows, pooled = list(made.rows), {}
    if getattr(plan.optimizer, "pool", False) and not turn.is_first:
        earlier = [row for number in range(1, turn.number) for row in at_work.rows_of_round(number)]
        rows, pooled = [*earlier, *rows], {"pooled": len(earlier)}
    return rows, {"rows": len(rows), "left_out": dict(made.left_out), **made.figures, **pooled}
