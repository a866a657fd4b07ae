"""Weights & Biases, offline unless asked otherwise: no account, no prompt, nothing sent.

`wandb sync RUN/wandb/offline-run-*` uploads a run later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, PluginError
from rlhf_lora.registry import tracker

MODES = ("offline", "online", "disabled")


@tracker("wandb")
class Wandb:
    """Sends metrics to Weights & Biases; offline by default, into the run folder.

    Attributes:
        mode: "offline" writes files only; "online" needs WANDB_API_KEY or `wandb login`; "disabled" does nothing.
        project: the project's name.
        entity: the team or user; the account's default when not given.
        group: runs that belong together, such as the jobs of a sweep.
        tags: labels.
    """

    mode: str = "offline"
    project: str = "rlhf_lora"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
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

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Steps start again with every stage, which W&B's own step may not: ours is a metric, and the x axis."""
        if self._run is not None:
            self._run.log({"step": step, **metrics})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def _start(settings: Wandb, run_dir: Path | None) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb
    except ImportError as error:
        raise PluginError(f"no wandb here: {error}", where="tracker=wandb", fix="pip install wandb") from error
    # W&B would record the command line, the host and the code by itself; overrides can carry secrets.
    private = wandb.Settings(
        silent=True, console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True
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


def _run_id(run_dir: Path) -> str:
    """The same for the same run folder, so that a resumed run goes on in the same W&B run."""
    return hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]


def _config(run_dir: Path) -> dict[str, Any]:
    import yaml

    file = run_dir / "config.yaml"
    return dict(yaml.safe_load(file.read_text("utf-8")) or {}) if file.is_file() else {}
