"""Stages in order, through folders: SFT → reward model → policy → evaluation → report.

A stage reads adapter folders and writes one; what it needed in memory is freed before the next begins. Finished stages
with the same inputs come from the cache and say `reused`. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf_lora import final_evaluation, loading, off_policy, progress, refresh, rounds
from rlhf_lora.adapter_stages import AdapterStages, StageRecords, with_base
from rlhf_lora.assembly import Assembly, opened
from rlhf_lora.errors import ContractError, Interrupted, Stopped, UserError
from rlhf_lora.file_stages import meet_judge
from rlhf_lora.interrupts import Interrupts
from rlhf_lora.plan import Plan
from rlhf_lora.policy_loop import PolicyLoop
from rlhf_lora.report import write_model_card, write_report
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
        self._new_parents = [folder for folder in plan.run_dir.parents if not folder.is_dir()]
        self._folder, self.was_finished = claim(plan)
        self._records = StageRecords(self.folder)
        self._turn = rounds.standing(plan, self._records)
        self._prepared = False
        self._policy: PolicyLoop | None = None
        self._tracker: Any = None
        self._too_long: dict[str, int] = {}  # rows that a use had to do without
        self._known: dict[str, Any] = {}  # to plugins that were opened
        self._is_open = not self.was_finished

    @property
    def parts(self) -> Assembly:
        return Assembly(self.plan, self._folder, self._too_long, self._turn, self._known)

    @property
    def _stages(self) -> AdapterStages:
        return AdapterStages(self.parts, self._records, self._tracker, lambda: self.interrupts.number or None)

    @property
    def _loop(self) -> Any:
        return None if self._policy is None else self._policy.loop

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
        assert self._policy is not None
        return self._policy.step()

    def _next_round(self) -> None:
        if self._policy is not None:
            self._policy.close()
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
        except (Interrupted, KeyboardInterrupt) as error:
            status = "interrupted"
            error.add_note(self._way_on)
            raise
        except (Stopped, ContractError) as error:
            status = "stopped"
            self._checkpoint()
            error.add_note(self._way_on)
            raise
        except UserError:
            if self._is_new and not self._records:  # nothing was made yet, so nothing is left behind
                self._let_go()
                self._undo()
            raise
        finally:
            if self.folder.is_dir():
                self._close(status)
        return self

    @property
    def _way_on(self) -> str:
        """For who began without `run_dir`: the same command alone would begin another run."""
        return f"  go on with: rlhf-lora train … run_dir={self.folder}"

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
        assert self._policy is not None
        total = self.plan.optimizer.updates * self._turn.of
        with progress.Progress("policy", total, start=self._policy.done) as bar:
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
        if self._policy is None:
            refresh.run(self._stages)
        elif not self._policy.loop.between_updates:
            self._give_back_memory()  # the last update was broken off: its weights are neither before nor after
        if self.plan.is_on_policy and self._policy is None:
            self._policy = PolicyLoop(self.parts, self._tracker)
        return True

    @property
    def _policy_is_due(self) -> bool:
        stage = self.plan.stage("policy")
        return stage is not None and not off_policy.is_trained(self._records, stage, self._turn)

    def _leave_if_asked(self) -> None:
        number = self.interrupts.number
        if number:
            self._checkpoint()
            raise Interrupted(number, "interrupted; the state is on disk")

    # --- stages before the policy -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Card and threads, the base, SFT, the reward model. What the tracker or the judge lacks is told before they begin."""
        plan = self.plan
        loading.take_hardware(plan.spec.device, plan.config.hardware.threads)
        self._tracker = opened(plan.tracker, self.parts.context())
        meet_judge(self.parts, self._records.has)
        if plan.mini is not None:
            self.plan = with_base(plan, self._records)
        for stage in self.plan.stages:
            if stage.name not in ("answers", "policy"):
                self._stages.run(stage)

    # --- after it -----------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        if self.plan.stage("policy") is not None:
            final_evaluation.evaluate(self.parts, self._records, self._loop, self._leave_if_asked)

    def _checkpoint(self) -> None:
        if self._policy is not None:
            self._policy.checkpoint()

    # --- the ends ----------------------------------------------------------------------------------------------------

    def _close_tracker(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def _close(self, status: str) -> None:
        """Summary, report and model card; what the run held open is given back."""
        try:
            self._close_tracker()
            if self._policy is not None:
                self._policy.close()
        finally:
            seconds = time.perf_counter() - self.started
            told = summarise(self.plan, self._folder, status, self._records, self._loop, seconds, self._too_long)
            self._folder.write_summary(told)
            write_report(self._folder)
            write_model_card(self._folder)
            self._let_go()

    def _let_go(self) -> None:
        """Give back memory, tracker and folder."""
        self._close_tracker()
        self._give_back_memory()
        self._folder.release()
        self._is_open = False

    def _undo(self) -> None:
        """Take away the folder, and those above it that were made for it."""
        shutil.rmtree(self.folder)
        with suppress(OSError):  # another run is in one of them by now
            for folder in self._new_parents:
                folder.rmdir()

    def _give_back_memory(self) -> None:
        self._policy = None
        loading.free()
