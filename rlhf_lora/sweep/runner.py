"""A sweep: `rlhf-lora train optimizer=ppo,dpo optimizer.beta=0.05,0.1 seed=range(0,3) -m run_dir=X`.

All jobs are composed and checked before the first begins. Then one after another, each in a process of its own; stages
that they share come from the cache. A job that fails is a result. The same command again does what is left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlhf_lora import config, plan, progress, schema, user_presets
from rlhf_lora.errors import ConfigError, Interrupted, UserError
from rlhf_lora.interrupts import Interrupts
from rlhf_lora.records import Data
from rlhf_lora.sweep import axes, jobs, objective, table
from rlhf_lora.sweep.axes import SweepRequest
from rlhf_lora.sweep.jobs import Job, SweepFolder


class Sweep:
    """A sweep that is checked and has not begun.

    Args:
        words: overrides with sweeps in them, `sweep=NAME` and `sweep.KEY=…` among them.
        config_dir: the user's own presets.

    Raises:
        UserError: an override, or a job that could not run; the message names the job. Nothing was written.
    """

    def __init__(self, words: Sequence[str], config_dir: Path | None = None):
        self.config_dir = user_presets.checked(config_dir) if config_dir else None
        self.request: SweepRequest = axes.read(
            words, lambda group: schema.options(group, self.config_dir), self.config_dir
        )
        self.fixed = [word for word in self.request.fixed if word.partition("=")[0] != "run_dir"]
        self.folder = SweepFolder(self._path())
        self.asked = Interrupts()
        self._load = _once_each()
        self.wanted: list[Job] = []
        self.figures: set[frozenset[str]] = set()  # what the summaries of the jobs can have
        if self.request.settings.sampler == "grid":
            self.wanted = self._check(list(self.request.grid()))
            if self.request.settings.objective is not None:
                objective.check(self.request.settings.objective, set().union(*self.figures))
        else:
            from rlhf_lora.sweep import study

            self.study = study.Study(self)

    def run(self) -> int:
        """Run what is not finished. Returns the exit code: 0, or 3 when a job failed.

        Raises:
            Interrupted: a signal came; the job that ran has saved its state, and the sweep can be gone on with.
        """
        self.folder.claim()
        status = "interrupted"
        try:
            with self.asked:
                if self.request.settings.sampler == "grid":
                    self._grid()
                else:
                    self.study.run()
            if not self.asked.number:
                status = "finished" if all(map(self.folder.is_finished, self.wanted)) else "failed"
        finally:
            self._write(status)
            self.folder.release()
        if self.asked.number:
            raise Interrupted(
                self.asked.number, f"interrupted; the same command goes on: … -m run_dir={self.folder.path}"
            )
        return 0 if status == "finished" else 3

    def _grid(self) -> None:
        self.wanted = [self.folder.job(job.key, job.overrides, job.changes) for job in self.wanted]
        self.folder.save()
        before = sum(map(self.folder.is_finished, self.wanted))
        progress.stage("sweep", f"{len(self.wanted)} jobs, {before} finished before · {self.folder.path}")
        for job in self.wanted:
            if self.asked.number:
                return
            if not self.folder.is_finished(job):
                self.run_job(job)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _check(self, grid: Sequence[Sequence[str]]) -> list[Job]:
        """Every job's configuration, checked as `rlhf-lora plan` would; equal ones are one job."""
        found: dict[str, Job] = {}
        with progress.Progress("checking jobs", len(grid)) as bar:
            for changes in grid:
                job = self.prepare(changes)
                found.setdefault(job.key, job)
                bar.update()
        if len(found) < len(grid) and not progress.quiet():
            print(f"{len(grid) - len(found)} of {len(grid)} jobs are the same as another", file=sys.stderr)
        return list(found.values())

    def prepare(self, changes: Iterable[str]) -> Job:
        """A job that could run, without a number.

        Raises:
            UserError: it could not; `what` begins with the job.
        """
        changes = list(changes)
        overrides = [*self.fixed, *changes]
        try:
            composed = config.compose(*overrides, config_dir=self.config_dir)
            made = plan.make_plan(composed, self._load)
        except UserError as error:
            if changes:
                error.what = f"job {' '.join(changes)}: {error.what}"
            raise
        self.figures.add(frozenset(objective.figures(made)))
        container = OmegaConf.to_container(made.config)
        assert isinstance(container, dict)
        key = jobs.key_of({str(k): v for k, v in container.items()}, made.inputs)
        return Job(-1, key, overrides, {c.partition("=")[0]: c.partition("=")[2] for c in changes})

    def run_job(self, job: Job) -> None:
        """Run a job, and show where the sweep stands."""
        progress.stage(
            f"job {job.number}", f"{' '.join(f'{k}={v}' for k, v in job.changes.items())} · {self.folder.log(job)}"
        )
        more = ["--config-dir", str(self.config_dir)] if self.config_dir else []
        jobs.run(self.folder, job, self.asked, more)
        progress.note(table.text([row for row in self.rows() if row["status"] != "waiting"]))
        self._write("running")

    # --- the table ----------------------------------------------------------------------------------------------------

    def rows(self) -> list[table.Row]:
        settings = self.request.settings
        return table.rows(self.folder, settings.objective, settings.direction)

    def _write(self, status: str) -> None:
        from rlhf_lora.report.frontier import write_sweep_page

        rows = self.rows()
        table.write_summary(self.folder, status, rows)
        header, cells = table.cells(rows)
        write_sweep_page(
            self.folder.path / "sweep.html", self.folder.path.resolve().name, status, header, cells, rows,
            table.over_seeds_cells(rows),
        )  # fmt: skip

    def _path(self) -> Path:
        given = [word.partition("=")[2] for word in self.request.fixed if word.partition("=")[0] == "run_dir"]
        if not given:
            now = datetime.now()
            return Path("runs") / now.strftime("%Y-%m-%d") / f"{now:%H-%M-%S}-sweep"
        from hydra.core.override_parser.overrides_parser import OverridesParser

        value = OverridesParser.create().parse_override(f"run_dir={given[-1]}").value()
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{given[-1]} is no folder", where=f"run_dir={given[-1]}", fix="run_dir=FOLDER")
        return Path(str(value))


def run_sweep(words: Sequence[str], config_dir: Path | None = None) -> int:
    """`train … -m`: the table and, last, the folder on stdout. Returns the exit code."""
    sweep = Sweep(words, config_dir)
    try:
        code = sweep.run()
    finally:
        if sweep.folder.jobs and (sweep.folder.path / "summary.json").exists():
            progress.note("")
            print(table.text(sweep.rows()))
            print(sweep.folder.path, flush=True)
    return code


def _once_each() -> Callable[[Any], Data]:
    """Jobs of a sweep mostly share their data: a dataset is read once while it is asked for again and again."""
    last: dict[str, Data] = {}

    def load(dataset: Any) -> Data:
        name = repr(dataset)  # a frozen dataclass: its type and all of its fields
        if name not in last:
            while len(last) >= 3:  # seeds make datasets of their own; not all of them fit in memory
                last.pop(next(iter(last)))
            last[name] = dataset.load()
        return last[name]

    return load
