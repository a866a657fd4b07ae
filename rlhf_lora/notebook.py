"""The door for notebooks and scripts: compose a configuration, train, or step through a run and watch it; read a sweep."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from rlhf_lora import config as configuration

if TYPE_CHECKING:
    from rlhf_lora.pipeline import Run
    from rlhf_lora.report.inline import Figure

# Of tqdm, when a library imports it in a notebook: that its bars want ipywidgets. Ours want nothing.
warnings.filterwarnings("ignore", message="IProgress not found")


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """The configuration that overrides describe: `compose("optimizer=ppo", "reward=length", "reward.target=20")`.

    Args:
        config_dir: presets of your own: CONFIG_DIR/experiment/NAME.yaml.

    Raises:
        UserError: with what is wrong, where, and what to do.
    """
    return configuration.compose(*overrides, config_dir=config_dir)


def start(config: DictConfig) -> Run:
    """A run that has not begun: `run.step()` does one update, `run.finish()` the rest."""
    from rlhf_lora.pipeline import Run
    from rlhf_lora.plan import make_plan

    return Run(make_plan(config))


def train(config: DictConfig) -> Run:
    """Run it to the end: `start(config)` and `run.finish()`."""
    return start(config).finish()


def plot_training(history: Sequence[Mapping[str, float]]) -> Figure:
    """Score and KL over the updates that `run.step()` has returned so far; a notebook shows what it returns."""
    from rlhf_lora.report import inline

    return inline.training(history)


def plot_frontier(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Reward against KL over the jobs of a sweep, as `read_sweep` gives them."""
    from rlhf_lora.report import inline

    return inline.frontier(rows)


def read_sweep(path: str | Path) -> list[dict[str, Any]]:
    """The jobs of a sweep's folder, best first, one flat row each: what differs (`changes`), figures, status.

    Raises:
        UserError: the folder is no sweep's.
    """
    from rlhf_lora.errors import UserError
    from rlhf_lora.sweep import table

    rows = table.read_sweep(path)
    if not rows:
        raise UserError(f"{path} holds no sweep", where=str(path), fix="give the run_dir of a `train … -m`")
    return rows
