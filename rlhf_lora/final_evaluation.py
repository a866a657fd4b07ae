"""The evaluation at the end of a run, or of one of its rounds: policy against reference on the final prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rlhf_lora import evaluation, progress, rounds
from rlhf_lora.adapter_stages import StageRecords
from rlhf_lora.assembly import Assembly, opened
from rlhf_lora.best_of_n import sizes
from rlhf_lora.held_out import judge_implicit_reward


def evaluate(parts: Assembly, records: StageRecords, loop: Any, leave_if_asked: Callable[[], None]) -> None:
    """Judge, and keep figures, samples and the adapters under the names that every run has; arguments as of `judge`."""
    plan, turn, started = parts.plan, parts.turn, time.perf_counter()
    progress.stage(turn.named("evaluation"), f"{len(evaluation.evaluation_prompts(plan))} held-out prompts")
    result = judge(parts, loop, leave_if_asked)
    name = rounds.evaluation_of(turn)
    rounds.publish(parts.folder, turn)
    parts.folder.save_samples(name, None, result.rows)
    record = {"seconds": time.perf_counter() - started, "figures": result.summary}
    records.keep(name, record | rounds.closing(plan, turn, loop))


def judge(parts: Assembly, loop: Any, leave_if_asked: Callable[[], None]) -> evaluation.Evaluation:
    """Judge the policy of a run, or of the round that `parts.turn` says. Best of n is judged at the end alone.

    Args:
        loop: the on-policy loop while it is open, whose backbone and reward are used; None: they are loaded.
        leave_if_asked: called between the long parts; may raise to leave.
    """
    plan = parts.plan
    backbone = loop.backbone if loop is not None else parts.backbone(parts.adapter_of("policy"))
    ctx = parts.context(backbone)
    with ExitStack() as stack:
        if loop is not None:
            stack.enter_context(loop.apart())
            stack.enter_context(loop.best.in_place())
        judges = parts.judges(ctx, loop and loop.scorer)
        if loop is None:
            stack.callback(evaluation.close_all, judges)
        result = evaluation.evaluate_policy(
            backbone,
            opened(plan.rollout, ctx),
            parts.short_enough(backbone, evaluation.evaluation_prompts(plan), "evaluation prompts"),
            evaluation.evaluation_seed(plan),
            judges,
            between=leave_if_asked,
            best_of=sizes(plan.config.evaluation.best_of_n) if parts.turn.is_last else (),
        )
        if pairs := evaluation.evaluation_pairs(plan):
            result.summary["implicit_reward"] = judge_implicit_reward(
                backbone, pairs, plan.optimizer.max_length, parts.gold_scorer()
            )
    return result
