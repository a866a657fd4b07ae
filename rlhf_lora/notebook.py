"""The door for notebooks and scripts: compose a configuration, train, or step through a run and watch it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from rlhf_lora import config as configuration

if TYPE_CHECKING:
    from rlhf_lora.pipeline import Run


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
