"""Weights & Biases, offline unless asked otherwise: no account, no prompt, nothing sent.

`wandb sync RUN/wandb/offline-run-*` uploads a run later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, PluginError
from rlhf_lora.registry import tracker

MODES = ("offline", "online", "disabled")
COLUMNS = ("step", "prompt", "answer", "score", "reason")


@tracker("wandb")
class Wandb:
    """Sends metrics to Weights & Biases; offline by default, into the run folder.

    Attributes:
        mode: "offline" writes files only; "online" needs WANDB_API_KEY or `wandb login`; "disabled" does nothing.
        project: the project's name.
        entity: the team or user; the account's default when not given.
        group: runs that belong together, such as the jobs of a sweep.
        tags: labels.
        table_rows: completions that every saved rollout adds to the table `samples`; 0 = no table.
    """

    mode: str = "offline"
    project: str = "rlhf_lora"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    table_rows: int = 16

    def __post_init__(self) -> None:
        if self.table_rows < 0:
            raise ConfigError(f"table_rows is {self.table_rows}", where="tracker.table_rows", fix="0 or more")
        if self.mode not in MODES:
            raise ConfigError(f"tracker.mode is '{self.mode}'", where="tracker.mode", fix=f"one of {', '.join(MODES)}")

    def open(self, ctx: Context) -> WandbRun:
        """Start the run, or go on with it when the run folder is resumed."""
        return WandbRun(self, ctx.run_dir)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        raise PluginError("the tracker is not open", fix="call open(ctx) first and log to what it returns")

    def close(self) -> None:
        return


class WandbRun:
    """An open W&B run. `close` may be called twice."""

    def __init__(self, settings: Wandb, run_dir: Path | None):
        self._run: Any = _start(settings, run_dir)
        self._run_dir, self._table_rows = run_dir, settings.table_rows
        self._table: Any = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Steps start again with every stage, which W&B's own step may not: ours is a metric, and the x axis."""
        if self._run is not None:
            self._run.log({"step": step, **metrics})

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add completions to the table `samples`, and log how the scores of all of them are spread."""
        if self._run is None:
            return
        import wandb

        logged: dict[str, Any] = {"step": step}
        scores = [row["score"] for row in rows if row["score"] is not None]
        if scores:
            logged["objective/scores_histogram"] = wandb.Histogram(scores)
        if self._table_rows:
            # Incremental: each log writes the new rows only, and the dashboard shows them as one table.
            self._table = self._table or wandb.Table(columns=list(COLUMNS), log_mode="INCREMENTAL")
            for row in rows[: self._table_rows]:
                self._table.add_data(step, row["prompt"], row["text"], row["score"], row["reason"])
            logged["samples"] = self._table
        with _staged_in(self._run_dir):
            self._run.log(logged)

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            with _staged_in(self._run_dir):
                run.finish()


def _start(settings: Wandb, run_dir: Path | None) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb
    except ImportError as error:
        raise PluginError(f"no wandb here: {error}", where="tracker=wandb", fix="pip install wandb") from error
    # W&B would record the command line, the host and the code by itself; overrides can carry secrets.
    private = wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        disable_git=True,
        x_disable_meta=True,
        x_disable_stats=True,
        host="",
    )
    try:
        run = wandb.init(
            mode=settings.mode,  # type: ignore[arg-type]
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=list(settings.tags),
            name=run_dir.resolve().name if run_dir else None,
            id=_run_id(run_dir) if run_dir else None,
            dir=str(run_dir) if run_dir else None,
            config=_config(run_dir) if run_dir else None,
            resume="allow" if settings.mode == "online" else None,
            settings=private,
        )
    except (wandb.Error, OSError) as error:
        raise PluginError(
            f"W&B did not start: {error}",
            where=f"tracker=wandb tracker.mode={settings.mode}",
            fix="set WANDB_API_KEY, or use tracker.mode=offline and `wandb sync` later",
        ) from error
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


@contextmanager
def _staged_in(run_dir: Path | None) -> Iterator[None]:
    """W&B puts tables that wait for their upload below the home folder; a run folder should have all of its run."""
    before = os.environ.get("WANDB_DATA_DIR")
    if run_dir is not None and before is None:
        os.environ["WANDB_DATA_DIR"] = str(run_dir.resolve() / "wandb" / "data")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("WANDB_DATA_DIR", None)


def _run_id(run_dir: Path) -> str:
    """The same for the same run folder, so that a resumed run goes on in the same W&B run."""
    return hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]


def _config(run_dir: Path) -> dict[str, Any]:
    import yaml

    file = run_dir / "config.yaml"
    return dict(yaml.safe_load(file.read_text("utf-8")) or {}) if file.is_file() else {}
