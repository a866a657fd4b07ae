"""What a plan refuses of the evaluations that a run is asked for: those within it, and best of n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import best_of_n
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.reward_tree import waiting_for
from rlhf_lora.splits import Splits

KEPT_BY = tuple(f"{part}.{name}" for part in ("policy", "gold") for name in ("win_rate_vs_reference", "score_mean"))
"""What the best update can be told by: higher is better in all of them."""


def check_midway(config: DictConfig, optimizer: Any, splits: Splits, gold: str | None) -> None:
    """Evaluations within the run can be done, and the best update can be told by them."""
    every, keep, metric = config.evaluation.every, config.evaluation.keep, config.evaluation.metric
    if keep == "best" and every is None:
        raise ConfigError(
            "the best update cannot be told without evaluations within the run", where="evaluation.keep=best",
            fix="evaluation.every=N, with N updates between them",
        )  # fmt: skip
    if every is None:
        return
    if hasattr(optimizer, "learns_from"):
        raise ConfigError(
            f"optimizer={config.optimizer.name} learns from data that exists and has no updates to evaluate between",
            where=f"evaluation.every={every}", fix="evaluation.every=null, or an optimizer that rolls out, such as ppo",
        )  # fmt: skip
    if not splits.tuning_prompts:
        raise DataError(
            "no prompt is left for evaluations within the run: they use the tuning split", where="splits.tuning",
            fix="give more rows or a larger splits.tuning, or leave evaluation.every out",
        )  # fmt: skip
    if keep == "best" and metric.startswith("gold.") and gold is None:
        raise ConfigError(
            "the truth is not known for this data, so there is no gold figure", where=f"evaluation.metric={metric}",
            fix="a figure of the run's own reward: evaluation.metric=policy.win_rate_vs_reference",
        )  # fmt: skip


def check_best_of_n(config: DictConfig, reward: Any, names: Sequence[str]) -> None:
    """Best of n is given as numbers of answers, and the run has a reward to choose by."""
    given = config.evaluation.best_of_n
    try:
        wanted = best_of_n.sizes(given)
    except ValueError as error:
        raise ConfigError(
            f"evaluation.best_of_n={given}: {error}", where="evaluation.best_of_n",
            fix="a number of answers from 2, or several: 4, [4,16]; null = none",
        ) from error  # fmt: skip
    if wanted and [name for name in getattr(reward, "stages", ()) if name not in names]:
        raise ConfigError(
            f"reward={config.reward.name} is not trained in this run, so nothing can choose the best of {wanted[0]}",
            where=f"evaluation.best_of_n={given}",
            fix=f"evaluation.best_of_n=null, {waiting_for(reward, 'reward_model')}.path=RUN of a trained reward model, "
            "or a reward that needs no training",
        )
