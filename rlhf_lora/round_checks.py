"""What a plan refuses of `rounds` and `refresh`, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import plan_checks, registry
from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.row_source import RowSource
from rlhf_lora.splits import Splits


def check(config: DictConfig, source: RowSource, names: Sequence[str], optimizer: Any, splits: Splits) -> None:
    """Rounds follow the policy, and a refresh has a reward model, somebody to label, and a round to do it for.

    Raises:
        ConfigError: one of these is not so.
    """
    if config.refresh.tau < 0:
        raise ConfigError(f"refresh.tau is {config.refresh.tau}", where="refresh.tau", fix="0 or more; 0 = never wrong")
    if config.rounds == 1:
        _check_one_round(config, optimizer)
        return
    where = f"rounds={config.rounds}"
    if "policy" not in names:
        raise ConfigError(
            "rounds train a policy, and none is trained here", where=where, fix="rounds=1, or stages=null"
        )
    if not source.is_own and source.name != "rollouts":
        raise ConfigError(
            f"optimizer={config.optimizer.name} would learn the same rows in every round: {source.setting or 'its rows'} is "
            f"{source.name}", where=where,
            fix=f"{source.setting}=rollouts, whose rows follow the policy; or rounds=1" if source.setting else "rounds=1",
        )  # fmt: skip
    if config.evaluation.every is not None:
        raise ConfigError(
            "each round is judged when it ends, on the final prompts; within rounds nothing is judged",
            where=f"evaluation.every={config.evaluation.every}", fix="evaluation.every=null, or rounds=1",
        )  # fmt: skip
    if config.refresh.by is not None:
        _check_refresh(config, names, splits)


def _check_one_round(config: DictConfig, optimizer: Any) -> None:
    if config.refresh.by is not None:
        raise ConfigError(
            "the reward model is refreshed before each round but the first, and there is one round",
            where=f"refresh.by={config.refresh.by}", fix="rounds=2 or more, or refresh.by=null",
        )  # fmt: skip
    if getattr(optimizer, "pool", False):
        raise ConfigError(
            "the pool is of the rounds before, and there is one round", where="optimizer.pool=true",
            fix="rounds=2 or more, or optimizer.pool=false",
        )  # fmt: skip


def _check_refresh(config: DictConfig, names: Sequence[str], splits: Splits) -> None:
    by = config.refresh.by
    if "reward_model" not in names:
        raise ConfigError(
            f"reward={config.reward.name} has no reward model of this run to refresh", where=f"refresh.by={by}",
            fix="reward=learned without reward.path, or refresh.by=null",
        )  # fmt: skip
    if config.reward_model.loss != "pairwise":
        raise ConfigError(
            f"new comparisons are pairs, and this reward model learns with reward_model.loss={config.reward_model.loss}",
            where=f"refresh.by={by}", fix="reward_model.loss=pairwise, or refresh.by=null",
        )  # fmt: skip
    if by == "judge":
        return
    try:
        annotator = registry.build("reward", {"name": by})
    except UserError as error:
        raise ConfigError(
            f"'{by}' cannot label: {error.what}", where=f"refresh.by={by}",
            fix="judge, or a reward that needs no settings, such as orders_gold",
        ) from error  # fmt: skip
    if getattr(annotator, "stages", ()):
        raise ConfigError(
            f"the reward {by} is what is to be refreshed: it cannot label for itself", where=f"refresh.by={by}",
            fix="a reward that needs no training, such as orders_gold, or refresh.by=judge",
        )  # fmt: skip
    plan_checks.check_columns(annotator, splits)


def notes(config: DictConfig) -> list[str]:
    if config.rounds == 1:
        return []
    each = (
        f"{config.optimizer.updates} updates each" if "updates" in config.optimizer else "one pass of optimisation each"
    )
    refreshed = "the reward stays what it is" if config.refresh.by is None else (
        f"before each but the first, {_by(config)} compares {config.refresh.pairs:,} pairs of the newest policy's "
        "answers, and the reward model is trained anew"
    )  # fmt: skip
    return [f"{config.rounds} rounds, {each}; the KL is measured from SFT in all of them; {refreshed}"]


def _by(config: DictConfig) -> str:
    by = config.refresh.by
    return f"judge={config.judge.name}" if by == "judge" else f"reward={by}"
