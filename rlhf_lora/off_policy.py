"""A policy that learns from rows (DPO, KTO, rejection sampling): of the data, or made by the reward in the stage `labelling`.

It is a model of its own, as SFT's is, and leaves an adapter folder behind.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rlhf_lora import progress
from rlhf_lora.adapter_stages import AdapterStages, Record
from rlhf_lora.made_rows import LabellingStage
from rlhf_lora.plan import StagePlan


def train_policy(stages: AdapterStages) -> dict[str, float]:
    """Train it and keep its record. Returns the last metrics."""
    plan = stages.parts.plan
    stage = plan.stage("policy")
    assert stage is not None
    rows, made = _rows(stages, stage)
    started = time.perf_counter()
    progress.stage("policy", f"{plan.config.optimizer.name} on {len(rows)} {plan.optimizer.learns_from}")
    metrics: dict[str, float] = plan.optimizer.fit(plan.spec, rows, stages.context("policy"))
    seconds = time.perf_counter() - started
    stages.records.keep("policy", {"key": stage.key, "seconds": seconds, "metrics": metrics, "made": made})
    return metrics


def _rows(stages: AdapterStages, stage: StagePlan) -> tuple[Sequence[Any], Record]:
    """What the policy learns from, and figures of it where the reward made it."""
    plan = stages.parts.plan
    labelling = plan.stage("labelling")
    if labelling is None:
        return plan.rows(stage), {}
    at_work = LabellingStage(stages.parts, stages.records, stages.interrupted)
    made = at_work.rows(at_work.run(labelling, labelling.key), plan.config.seed)
    return made.rows, {"rows": len(made.rows), "left_out": dict(made.left_out), **made.figures}
