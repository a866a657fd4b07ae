"""The Optuna sampler: each trial is a job, chosen from what the ones before came to.

The study lies in optuna.journal in the sweep's folder. The same command again goes on with it, and a trial that was
interrupted is finished first; another objective or other axes are another study in the same journal.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from rlhf_lora import progress
from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.sweep import objective, table
from rlhf_lora.sweep.axes import Axis
from rlhf_lora.sweep.jobs import Job

if TYPE_CHECKING:
    from rlhf_lora.sweep.runner import Sweep

JOURNAL = "optuna.journal"
REFUSED = "refused-"
"""Begins the key of a trial whose configuration cannot be composed: values that are fine one by one."""


class Study:
    """A study that is checked and has not begun: each value, and both ends of each interval, gave a job that could run.

    Raises:
        ConfigError: Optuna is not installed, there is nothing to choose, or a job that cannot have the objective.
        UserError: a value that no job can take.
    """

    def __init__(self, sweep: Sweep):
        self.sweep, self.settings = sweep, sweep.request.settings
        self.optuna = _optuna()
        if not sweep.request.axes:
            raise ConfigError(
                "there is nothing for Optuna to choose",
                where="sweep.sampler=optuna",
                fix="optimizer.beta=interval(0.01,0.3)",
            )
        self.distributions = {axis.key: self._distribution(axis) for axis in sweep.request.axes}
        self._of = self._check()
        self.objective = objective.chosen(self.settings.objective, sweep.figures)

    def run(self) -> None:
        """Trials until there are `sweep.trials`, those of earlier calls included, or a signal comes."""
        study = self._open()
        while not self.sweep.asked.number:
            trials = study.get_trials(deepcopy=False)
            running = [t for t in trials if not t.state.is_finished()]
            if running:
                number, params = running[0].number, running[0].params
            elif len(trials) >= self.settings.trials:
                break
            else:
                # A sampler per trial, seeded by its number: an interrupted study goes the way an uninterrupted one does.
                study.sampler = self._sampler(len(trials))
                trial = study.ask(self.distributions)
                number, params = trial.number, trial.params
            self._tell(study, number, self._run_trial(params))
        self._want_failed(study)

    def _want_failed(self, study: Any) -> None:
        """The exit code speaks for the trials that failed in an earlier call, too: they are not tried again."""
        state, jobs = self.optuna.trial.TrialState.FAIL, self.sweep.folder.jobs.values()
        for trial in study.get_trials(deepcopy=False, states=(state,)):
            changes = dict(change.split("=", 1) for change in self._changes(trial.params))
            self.sweep.wanted += [job for job in jobs if job.changes == changes and job not in self.sweep.wanted]

    def _run_trial(self, params: dict[str, Any]) -> Job:
        """The job of a trial, run unless it is finished or has failed in this call: small spaces repeat themselves."""
        job, folder = self._job(params), self.sweep.folder
        folder.save()
        if job.key not in {tried.key for tried in self.sweep.wanted}:
            self.sweep.wanted.append(job)
            if not folder.is_finished(job) and not job.key.startswith(REFUSED):
                self.sweep.run_job(job)
        return job

    def _job(self, params: dict[str, Any]) -> Job:
        """The job of a trial; one whose configuration is refused is a job that failed."""
        changes, folder = self._changes(params), self.sweep.folder
        try:
            made = self.sweep.prepare(changes)
        except UserError as error:
            key = REFUSED + hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:12]
            job = folder.job(key, [*self.sweep.fixed, *changes], dict(c.split("=", 1) for c in changes))
            job.exit_code, job.error = 2, error.what
            return job
        return folder.job(made.key, made.overrides, made.changes)

    def _tell(self, study: Any, number: int, job: Job) -> None:
        if self.sweep.asked.number and not self.sweep.folder.is_finished(job):
            return
        if not self.sweep.folder.is_finished(job):
            study.tell(number, state=self.optuna.trial.TrialState.FAIL)
            return
        value = table.number_at(self.sweep.folder.summary(job), self.objective)
        if (
            value is None
        ):  # it can have one and has none, as when no prompt got a score: no reason to end a night's search
            progress.note(f"job {job.number} has no figure {self.objective}: a trial that failed")
            study.tell(number, state=self.optuna.trial.TrialState.FAIL)
            return
        study.tell(number, float(value))

    # --- Optuna's side ------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        storages = self.optuna.storages
        journal = storages.journal.JournalFileBackend(str(self.sweep.folder.path / JOURNAL))
        axes = [f"{axis.key}={self.distributions[axis.key]}" for axis in self.sweep.request.axes]
        name = json.dumps([self.objective, self.settings.direction, self.settings.seed, self._of, axes])
        return self.optuna.create_study(
            study_name=name,
            storage=storages.JournalStorage(journal),
            direction=self.settings.direction,
            sampler=self._sampler(0),
            load_if_exists=True,
        )

    def _sampler(self, trial: int) -> Any:
        startup = min(10, max(3, self.settings.trials // 4))
        return self.optuna.samplers.TPESampler(seed=self.settings.seed * 100_003 + trial, n_startup_trials=startup)

    def _distribution(self, axis: Axis) -> Any:
        """Choices are categories; a range is a grid of numbers; an interval is all of them, even in the logarithm with
        `tag(log, interval(a,b))`, whole with `int(interval(a,b))`."""
        from hydra.core.override_parser.types import IntervalSweep, RangeSweep

        kinds, value = self.optuna.distributions, axis.parsed
        try:
            if isinstance(value, IntervalSweep):
                make = kinds.IntDistribution if isinstance(value.start, int) else kinds.FloatDistribution
                return make(value.start, value.end, log="log" in value.tags)
            if isinstance(value, RangeSweep) and all(isinstance(v, int) for v in (value.start, value.stop, value.step)):
                values = sorted(int(v) for v in axis.values)
                return kinds.IntDistribution(values[0], values[-1], step=abs(int(value.step)))
        except ValueError as error:
            raise ConfigError(
                f"Optuna refuses {axis.key}: {error}", where=axis.key, fix="interval(low,high), low < high"
            ) from error
        return kinds.CategoricalDistribution(axis.values)

    def _changes(self, params: dict[str, Any]) -> list[str]:
        return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in params.items()]

    def _check(self) -> str:
        """Returns the key of the first job: with the axes, it names everything that decides what a trial comes to."""
        ends = {
            key: list(d.choices) if hasattr(d, "choices") else [d.low, d.high] for key, d in self.distributions.items()
        }
        first = {key: values[0] for key, values in ends.items()}
        for changed in ({**first, key: value} for key, values in ends.items() for value in values[1:]):
            self.sweep.prepare(self._changes(changed))
        return self.sweep.prepare(self._changes(first)).key


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "Optuna is not installed",
            where="sweep.sampler=optuna",
            fix='pip install "rlhf-lora[optuna]", or sweep.sampler=grid',
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
