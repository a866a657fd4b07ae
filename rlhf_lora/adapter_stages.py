"""Stages that leave an adapter folder: trained, or taken from the run folder or the cache; and the record of each.

SFT and the reward model. A policy that learns from rows is `off_policy`'s, the on-policy loop `pipeline`'s own.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import progress, stage_cache
from rlhf_lora.atomic import write_text
from rlhf_lora.contracts import FitContext, Tracker
from rlhf_lora.plan import Plan
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.records import named_seed

if TYPE_CHECKING:
    from rlhf_lora.assembly import Assembly

Record = dict[str, Any]
"""Of one finished stage: `key` of its inputs, `seconds`, `metrics`, `figures` for the summary, `reused`."""


class StageRecords(Mapping[str, Record]):
    """`stages.json`: stage → its record, in the order in which they finished."""

    def __init__(self, folder: Path):
        self.path = folder / "stages.json"
        self._records: dict[str, Record] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}

    def __getitem__(self, stage: str) -> Record:
        return self._records[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def has(self, stage: StagePlan) -> bool:
        """Whether the stage was finished with these very inputs."""
        return self.get(stage.name, {}).get("key") == stage.key

    def keep(self, stage: str, record: Mapping[str, Any]) -> None:
        self._records[stage] = dict(record)
        write_text(self.path, json.dumps(self._records, indent=1, allow_nan=False) + "\n")


def with_base(plan: Plan, records: StageRecords) -> Plan:
    """The plan with the path of the kit's own base in it, which is built first where the cache has none."""
    from rlhf_lora.mini import bases

    assert plan.mini is not None
    started, bar = time.perf_counter(), None

    def report(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or progress.Progress("base", total)
        bar.update(1)

    path = bases.ensure(plan.cache_dir, plan.mini, report)
    if bar is not None:
        bar.close()
        records.keep("base", {"seconds": time.perf_counter() - started, "reused": False})
    elif "base" not in records:
        records.keep("base", {"seconds": 0.0, "reused": True})
    return dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, path=str(path)))


@dataclass(frozen=True)
class AdapterStages:
    """Runs stages one by one.

    Attributes:
        parts: plan and run folder, the base's path known. tracker: opened.
        interrupted: the number of the signal that asked the run to stop, or None.
    """

    parts: Assembly
    records: StageRecords
    tracker: Tracker
    interrupted: Callable[[], int | None]

    def run(self, stage: StagePlan) -> None:
        """Run a stage before the policy, or take it from the run folder or the cache."""
        if self.records.has(stage) and self.parts.left_by(stage.name).is_dir():
            return
        from_cache = self.parts.plan.config.cache and stage.repeatable
        record = self.cached(stage, lambda: self._fit(stage)) if from_cache else self._fit(stage)
        self.records.keep(stage.name, {"key": stage.key, "reused": False} | record)

    def cached(self, stage: StagePlan, fit: Callable[[], Record]) -> Record:
        """The record of a stage that the cache has, or that is trained with `fit` and put there."""
        adapter, folder = self.parts.left_by(stage.name), self.parts.folder
        with stage_cache.locked(self.parts.plan.cache_dir, stage.name, stage.key, self.interrupted) as cached:
            record = stage_cache.take(cached, adapter)
            if record is None:
                record = fit()
                stage_cache.put(cached, adapter, record | {"rows": folder.metrics(stage.name)})
                return record
        progress.stage(stage.name, "reused")
        folder.drop_metrics_after(stage.name, -1)  # of a start that was killed here
        for row in record.pop("rows"):
            folder.log(row.pop("stage"), row.pop("step"), {k: v for k, v in row.items() if k != "time_s"})
        return record | {"reused": True, "seconds": 0.0}

    def _fit(self, stage: StagePlan) -> Record:
        """Train SFT or the reward model, or have a judge or the model itself make what they learn from.

        Returns:
            Its record: seconds, metrics, figures.
        """
        from rlhf_lora.file_stages import NAMES, FileStages
        from rlhf_lora.held_out import judge_reward_model
        from rlhf_lora.stages import reward_model, sft

        plan, started = self.parts.plan, time.perf_counter()
        progress.stage(stage.name, f"{stage.rows} {stage.reads}")
        files = FileStages(self.parts, self.interrupted)
        if stage.name in NAMES:
            figures = files.run(stage.name)
            return {"seconds": time.perf_counter() - started, "metrics": {}, "figures": figures}
        ctx = self.context(stage.name)
        if stage.name in ("sft", "revised_sft"):
            rows = plan.splits.demonstrations if stage.name == "sft" else files.demonstrations()
            metrics = sft.fit(plan.spec, rows, plan.settings("sft"), ctx)
            figures = files.measured() if stage.name == "revised_sft" else {}
        else:
            loss = plan.config.reward_model.loss
            pairs = files.pairs() if plan.stage("labels") else None
            metrics = reward_model.fit(plan.spec, plan.rows(stage, pairs), plan.settings("reward_model"), ctx, loss)
            figures = judge_reward_model(
                plan.spec, ctx.out, plan.splits, self.parts.gold_scorer(), plan.config.evaluation.split
            )
        return {"seconds": time.perf_counter() - started, "metrics": metrics, "figures": figures}

    def context(self, name: str) -> FitContext:
        parts = self.parts
        return FitContext(
            out=parts.adapter_of(name), seed=named_seed(parts.plan.config.seed, name) % 2**31, log=self._logger(name),
            start_adapter=parts.plan.start_adapter if name in ("sft", "revised_sft") else parts.sft_adapter,
            description=name,
            work_dir=parts.folder.checkpoints / name, interrupted=self.interrupted,
        )  # fmt: skip

    def _logger(self, stage: str) -> Callable[[int, Mapping[str, float]], None]:
        """Log to the folder; a stage that starts again writes over the rows of its first try."""
        folder = self.parts.folder
        last = max((row["step"] for row in folder.metrics(stage)), default=-1)

        def log(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal last
            if step <= last:
                folder.drop_metrics_after(stage, step - 1)
            last = step
            folder.log(stage, step, metrics)
            named = metrics if stage == "policy" else {f"{stage}/{name}": value for name, value in metrics.items()}
            self.tracker.log(step, named)

        return log
