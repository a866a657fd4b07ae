"""Judging midway: every N updates the policy answers the tuning prompts, and the best update can be kept.

The final prompts are not touched: what chose an update must not judge it. Whatever is drawn here comes from streams of
its own, so a run that is judged midway trains bit for bit as one that is not. The answers are drawn from the same
stream each time, which takes the luck of the draw out of the comparison between updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lora import progress
from rlhf_lora.assembly import Assembly
from rlhf_lora.errors import Stopped
from rlhf_lora.evaluation import Reference, answer_reference, evaluate_policy
from rlhf_lora.records import named_seed
from rlhf_lora.stages.loop_state import streams_of
from rlhf_lora.stages.on_policy import OnPolicy


class Midway:
    """The evaluations within one on-policy run.

    Args:
        parts: of the run. loop: whose policy is judged, by its own engine and reward and by the truth where it is known.
    """

    def __init__(self, parts: Assembly, loop: OnPolicy):
        self.parts, self.loop = parts, loop
        self.settings = parts.plan.config.evaluation
        chosen = parts.plan.splits.tuning_prompts[: self.settings.prompts]
        self.prompts = parts.short_enough(loop.backbone, chosen, "tuning prompts")
        self.judges = parts.judges(parts.context(loop.backbone), loop.scorer)
        self._seed = named_seed(parts.plan.config.seed, "evaluation/midway") >> 1
        self._reference: Reference | None = None

    def is_due(self, update: int) -> bool:
        """Every N updates, and after the last one."""
        return update % self.settings.every == 0 or update == self.parts.plan.optimizer.updates

    def judge(self, update: int) -> dict[str, float]:
        """Judge the policy after `update`, remember it if it is the best so far; returns a row of metrics.

        Raises:
            Stopped: the best is to be kept, and there is no figure to tell it by.
        """
        backbone, engine = self.loop.backbone, self.loop.engine
        if self._reference is None:
            with streams_of(self._seed + 1):
                self._reference = answer_reference(backbone, engine, self.prompts, self._seed, self.judges)
        with streams_of(self._seed):
            result = evaluate_policy(backbone, engine, self.prompts, self._seed, self.judges, reference=self._reference)
        row = flat(result.summary)
        if self.settings.keep == "best":
            self._offer(update, result.summary)
        return row

    def _offer(self, update: int, summary: Mapping[str, Mapping[str, Any]]) -> None:
        part, _, name = self.settings.metric.partition(".")
        value = summary.get(part, {}).get(name)
        if value is None:
            raise Stopped(
                f"no tuning prompt has a score on both sides, so update {update} has no {self.settings.metric} "
                "to be kept or passed over by"
            )
        if self.loop.best.offer(update, value):
            progress.stage("evaluation", f"update {update} is the best so far: {self.settings.metric} {value:.3f}")


def flat(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`policy.kl_to_reference` as `eval/kl_to_reference`, `gold.score_mean` as `eval/gold/score_mean`; an interval is
    two numbers, `…_low` and `…_high`."""
    row: dict[str, float] = {}
    for part, figures in summary.items():
        for name, value in figures.items():
            place = f"eval/{name}" if part == "policy" else f"eval/{part}/{name}"
            if isinstance(value, list):
                row |= {f"{place}_low": float(value[0]), f"{place}_high": float(value[1])}
            else:
                row[place] = float(value)
    return row
