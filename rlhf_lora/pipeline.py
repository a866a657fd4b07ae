"""Stages in order, through folders: SFT → reward model → policy → evaluation → report.

A stage reads adapter folders and writes one; what it needed in memory is freed before the next begins. Finished stages
with the same inputs come from the cache and say `reused`. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rlhf_lora import off_policy, progress, refresh, rounds
from rlhf_lora.adapter_stages import AdapterStages, StageRecords, with_base
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, ContractError, Interrupted, Stopped, UserError
from rlhf_lora.interrupts import Interrupts
from rlhf_lora.plan import Plan
from rlhf_lora.records import named_seed
from rlhf_lora.taking_up import claim, summarise


class Run:
    """One run: `step()` through it update by update, or `finish()` it.

    A run that ends gives back what it held, so that a notebook can train again. One that is left half-way does so with
    `close()`, or at the end of `with start(config) as run:`; stepping it again goes on from its checkpoint.

    Args:
        plan: what to do.

    Raises:
        ConfigError: the run folder holds another run.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._open()

    def _open(self) -> None:
        """Claim the folder, and begin where it stands."""
        plan = self.plan
        self.interrupts = Interrupts()
        self.started = time.perf_counter()
        self._is_new = not plan.run_dir.is_dir() or not any(plan.run_dir.iterdir())
        self._folder, self.was_finished = claim(plan)
        self._records = StageRecords(self.folder)
        self._turn = rounds.standing(plan, self._records)
        self._prepared = False
        self._loop: Any = None
        self._midway: Any = None
        self._tracker: Any = None
        self._too_long: dict[str, int] = {}  # rows that a use had to do without
        self._is_open = not self.was_finished

    @property
    def parts(self) -> Any:
        from rlhf_lora.assembly import Assembly

        return Assembly(self.plan, self._folder, self._too_long, self._turn)

    @property
    def _stages(self) -> AdapterStages:
        return AdapterStages(self.parts, self._records, self._tracker, lambda: self.interrupts.number or None)

    @property
    def folder(self) -> Path:
        return self._folder.path

    @property
    def summary(self) -> dict[str, Any]:
        return self._folder.summary

    # --- the way through ----------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float] | None:
        """One update of the policy; the stages before it run first. None when the policy is trained, in all rounds."""
        if not self._is_at_work():
            return None
        while (metrics := self._step_of_round()) is None and not self._turn.is_last:
            self._evaluate()
            self._next_round()
        return metrics

    def _step_of_round(self) -> dict[str, float] | None:
        if not self._policy_is_ready():
            return None
        if not self.plan.is_on_policy:
            return off_policy.train_policy(self._stages)
        if self._loop.state.update >= self.plan.optimizer.updates:
            return None
        metrics: dict[str, float] = self._loop.step()
        self._record_update(metrics)
        return metrics

    def _next_round(self) -> None:
        if self._loop is not None:
            self._loop.scorer.close()
        self._give_back_memory()
        self._turn = self._turn.next

    def finish(self) -> Run:
        """Run to the end: what is left of the stages, the evaluation, the report.

        Raises:
            Interrupted: a signal came; the state is on disk. Stopped: a monitor ended the run; likewise.
        """
        if not self._is_at_work():
            return self
        status = "failed"
        try:
            with self.interrupts:
                self._run_policy()
                self._evaluate()
            status, self.was_finished = "finished", True
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        except (Stopped, ContractError):
            status = "stopped"
            self._checkpoint()
            raise
        except UserError:
            if self._is_new and not self._records:  # nothing was made yet, so nothing is left behind
                self._let_go()
                shutil.rmtree(self.folder)
            raise
        finally:
            if self.folder.is_dir():
                self._close(status)
        return self

    def close(self) -> None:
        """Leave it here: save the state, give back memory and folder. A second call, or one after the end, does nothing."""
        if self._is_open:
            self._checkpoint()
            self._close("interrupted")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_at_work(self) -> bool:
        """Take up a run that was closed half-way; False when it is finished."""
        if not self._is_open and not self.was_finished:
            self._open()
        return self._is_open

    def _run_policy(self) -> None:
        if not self._policy_is_ready() and self._turn.is_last:
            return
        if not self.plan.is_on_policy:
            while self.step() is not None:
                self._leave_if_asked()
            return
        total = self.plan.optimizer.updates * self._turn.of
        with progress.Progress("policy", total, start=self._done) as bar:
            while (metrics := self.step()) is not None:
                bar.update(1, score=metrics["objective/scores"], kl=metrics["objective/kl"])
                self._leave_if_asked()

    def _policy_is_ready(self) -> bool:
        """Run the stages before the policy and open its loop; False when there is no policy left to train."""
        if not self._prepared:
            self._prepare()
            self._prepared = True
        if not self._policy_is_due:
            return False
        if self._loop is None:
            refresh.run(self._stages)
        if self._loop is not None and not self._loop.between_updates:
            self._loop = None  # the last update was broken off: its weights are neither before nor after
        if self.plan.is_on_policy and self._loop is None:
            self._open_loop()
        return True

    def _leave_if_asked(self) -> None:
        number = self.interrupts.number
        if number:
            self._checkpoint()
            raise Interrupted(number, f"interrupted; go on with: rlhf-lora train … run_dir={self.folder}")

    # --- stages before the policy -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Threads, the base, SFT, the reward model."""
        import torch

        plan = self.plan
        if plan.spec.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "torch finds no CUDA card",
                where="hardware.device=cuda",
                fix="hardware=cpu, or install a CUDA build of torch",
            )
        if plan.spec.device == "cuda":
            torch.cuda.reset_peak_memory_stats()  # of this run, not of one before it in the same process
        if plan.config.hardware.threads:
            torch.set_num_threads(plan.config.hardware.threads)
        self._open_tracker()
        if plan.judge is not None:
            from rlhf_lora.file_stages import meet_judge

            meet_judge(self.parts, self._records.has)
        if plan.mini is not None:
            self.plan = with_base(plan, self._records)
        for stage in self.plan.stages:
            if stage.name not in ("answers", "policy"):
                self._stages.run(stage)

    # --- the policy ---------------------------------------------------------------------------------------------------

    @property
    def _policy_is_due(self) -> bool:
        stage = self.plan.stage("policy")
        return stage is not None and not off_policy.is_trained(self._records, stage, self._turn)

    @property
    def _before(self) -> int:
        """Updates of the rounds before this one: updates are counted through."""
        return (self._turn.number - 1) * int(self.plan.optimizer.updates) if self.plan.is_on_policy else 0

    @property
    def _done(self) -> int:
        return self._before + (self._loop.state.update if self._loop is not None else 0)

    def _open_loop(self) -> None:
        """The shared base with its roles, the reward and the optimizer opened, and the state of an interrupted run."""
        from rlhf_lora.assembly import opened
        from rlhf_lora.stages import loop_state
        from rlhf_lora.stages.on_policy import OnPolicy

        plan = self.plan
        progress.stage("policy", f"{plan.config.optimizer.name} against reward={plan.config.reward.name}")
        loop_state.seed_streams(named_seed(plan.config.seed, self._turn.stream("policy")))
        backbone = self.parts.training_backbone()
        ctx = self.parts.context(backbone)
        self._loop = OnPolicy(
            backbone, opened(plan.rollout, ctx), self.parts.scorer(ctx), opened(plan.optimizer, ctx),
            self.parts.short_enough(backbone, plan.splits.prompts, "prompts"),
            seed=self._turn.seed(plan.config.seed), micro_batch=plan.config.hardware.micro_batch,
            missing=plan.config.scoring.missing, missing_share=plan.config.scoring.missing_share,
            demonstrations=self.parts.demonstrations(backbone),
        )  # fmt: skip
        checkpoint = self._folder.latest_checkpoint()
        if checkpoint is not None and checkpoint.step > self._before:
            self._loop.resume(checkpoint.tensors, checkpoint.state)
            progress.stage("policy", f"going on after update {checkpoint.step}")
        for stage in ("policy", "evaluation"):
            self._folder.rewind(stage, self._done)
        if plan.config.evaluation.every is not None:
            from rlhf_lora.midway import Midway

            self._midway = Midway(self.parts, self._loop)

    def _record_update(self, metrics: dict[str, float]) -> None:
        update, config = self._done, self.plan.config
        last = self._loop.state.update == self.plan.optimizer.updates
        self._folder.log("policy", update, metrics)
        self._tracker.log(update, metrics)
        if last or update == 1 or update % config.samples_every == 0:
            rows = self._loop.last.rows()
            self._folder.save_samples("policy", update, rows)
            if callable(shown := getattr(self._tracker, "samples", None)):
                shown(update, rows)
        if self._midway is not None and self._midway.is_due(update):
            self._judge_midway(update)
        if last:
            from rlhf_lora.atomic import staging

            with staging(self.parts.adapter_of("policy")) as temp, self._loop.best.in_place():
                self._loop.backbone.save_adapter("policy", temp)
        if last or update % config.checkpoint_every == 0:
            self._checkpoint()

    def _judge_midway(self, update: int) -> None:
        """An update that could not be judged is not checkpointed: the run goes on from the one before, and tries again."""
        with self._loop.apart(), self._loop.clock("midway"):
            figures = self._midway.judge(update)
        self._folder.log("evaluation", update, figures)
        self._tracker.log(update, figures)

    def _checkpoint(self) -> None:
        if self._loop is not None and self._loop.between_updates and self._loop.state.update > 0:
            self._folder.save_checkpoint(self._done, *self._loop.checkpoint())

    # --- judging ------------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Policy against reference on the final prompts: once, or after each round."""
        if self.plan.stage("policy") is None:
            return
        from rlhf_lora.evaluation import evaluation_prompts
        from rlhf_lora.final_evaluation import judge

        progress.stage(self._turn.named("evaluation"), f"{len(evaluation_prompts(self.plan))} held-out prompts")
        started, name = time.perf_counter(), rounds.evaluation_of(self._turn)
        result = judge(self.parts, self._loop, self._leave_if_asked)
        rounds.publish(self._folder, self._turn)
        self._folder.save_samples(name, None, result.rows)
        record = {"seconds": time.perf_counter() - started, "figures": result.summary}
        self._records.keep(name, record | rounds.closing(self.plan, self._turn, self._loop))

    # --- the ends ----------------------------------------------------------------------------------------------------

    def _open_tracker(self) -> None:
        """Before anything long begins: what it lacks is told at once, and every stage is tracked."""
        from rlhf_lora.assembly import opened

        self._tracker = opened(self.plan.tracker, self._bare_context)

    @property
    def _bare_context(self) -> Context:
        """For plugins that need no model."""
        plan = self.plan
        return Context(seed=plan.config.seed, cache_dir=plan.cache_dir, run_dir=self.folder, device=plan.spec.device)

    def _close_tracker(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def _close(self, status: str) -> None:
        """Summary, report and model card; what the run held open is given back."""
        from rlhf_lora.report import write_model_card, write_report

        try:
            self._close_tracker()
            if self._loop is not None:
                self._loop.scorer.close()
        finally:
            self._folder.write_summary(self._summary(status))
            write_report(self._folder)
            write_model_card(self._folder)
            self._let_go()

    def _let_go(self) -> None:
        """Give back memory, tracker and folder."""
        self._close_tracker()
        self._give_back_memory()
        self._folder.release()
        self._is_open = False

    def _give_back_memory(self) -> None:
        self._loop = self._midway = None
        gc.collect()  # models with adapters are cycles
        if self.plan.spec.device == "cuda" and "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()

    def _summary(self, status: str) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started
        return summarise(self.plan, self._folder, status, self._records, self._loop, seconds, self._too_long)
