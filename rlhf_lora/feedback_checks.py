"""Stages that an AI's feedback makes (`labels`, `revisions`, `revised_sft`): when they run unasked, and what is refused.

reward_model.pairs=relabel|rollouts   labels, before the reward model
revisions.rounds=N                    revisions and revised_sft, behind SFT
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import registry
from rlhf_lora.errors import ConfigError, DataError, UserError, did_you_mean
from rlhf_lora.records import prompt_of
from rlhf_lora.revised_rows import revised_prompts
from rlhf_lora.sources import Sources

STAGES = ("sft", "revisions", "revised_sft", "labels", "reward_model", "answers", "policy")
"""In the order in which they run."""
PAIRS = ("dataset", "relabel", "rollouts")
READS_AS = {"labels": "reward_model", "revisions": "sft", "revised_sft": "sft"}
"""Stage → whose data it reads."""


def unasked(config: DictConfig, names: Sequence[str]) -> list[str]:
    """The stages that run where none were named: `names`, and those that the settings of AI feedback ask for."""
    found = list(names)
    if config.revisions.rounds > 0:
        found[found.index("sft") + 1 if "sft" in found else 0 : 0] = ["revisions", "revised_sft"]
    if config.reward_model.pairs != "dataset" and "reward_model" in found:
        found.insert(found.index("reward_model"), "labels")
    return found


def readers(names: Sequence[str]) -> list[str]:
    """The stages whose datasets are read, for stages that may have one of their own."""
    return list(dict.fromkeys(READS_AS.get(name, name) for name in names))


def check_ranges(config: DictConfig) -> None:
    """Ranges and choices of `ai_labels`, `revisions` and `reward_model.pairs`."""
    choices: dict[str, tuple[str, ...]] = {
        "reward_model.pairs": PAIRS, "ai_labels.orders": ("both", "once"),
        "revisions.by": ("self", "judge"), "revisions.of": ("sft", "prompts"),
    }  # fmt: skip
    for place, allowed in choices.items():
        value = OmegaConf.select(config, place)
        if value not in allowed:
            fix = " or ".join(allowed)
            raise ConfigError(f"{place} is '{value}'{did_you_mean(str(value), allowed)}", where=place, fix=fix)
    lowest = {
        "ai_labels.samples_per_prompt": 2, "ai_labels.prompts": 1, "revisions.rounds": 0, "revisions.prompts": 1,
        "revisions.max_new_tokens": 1,
    }  # fmt: skip
    for place, low in lowest.items():
        value = OmegaConf.select(config, place)
        if value is not None and value < low:
            raise ConfigError(f"{place} is {value}", where=place, fix=f"at least {low}")
    if not 0 <= config.ai_labels.tie_within < 0.5:
        raise ConfigError(
            f"ai_labels.tie_within is {config.ai_labels.tie_within}", where="ai_labels.tie_within",
            fix="from 0 up to 0.5: how far from one half a probability still is a tie",
        )  # fmt: skip
    for place in ("ai_labels.keep_dataset", "revisions.helpful"):
        if not 0 <= OmegaConf.select(config, place) <= 1:
            raise ConfigError(f"{place} is {OmegaConf.select(config, place)}", where=place, fix="a share from 0 to 1")


def check_stages(config: DictConfig, names: Sequence[str]) -> None:
    """What the settings ask for runs, and what runs is asked for by the settings.

    Raises:
        ConfigError: in words, with the setting to change.
    """
    pairs, listed = config.reward_model.pairs, f"stages=[{','.join(names)}]"
    if pairs != "dataset" and "reward_model" in names and "labels" not in names:
        raise ConfigError(
            f"reward_model.pairs={pairs} needs the stage labels, in which the judge is asked", where=listed,
            fix="add labels to stages, or reward_model.pairs=dataset",
        )  # fmt: skip
    if pairs != "dataset" and "labels" not in names:
        raise ConfigError(
            "nothing in this run learns from a judge's labels: no reward model is trained", where=f"reward_model.pairs={pairs}",
            fix="reward=learned with an optimizer that rolls out, such as ppo; or reward_model.pairs=dataset",
        )  # fmt: skip
    if pairs == "dataset" and "labels" in names:
        raise ConfigError(
            "the stage labels has nothing to ask a judge about: the labels are the dataset's", where="reward_model.pairs=dataset",
            fix="reward_model.pairs=relabel, or rollouts; or leave the stage out",
        )  # fmt: skip
    of_revisions = [name for name in ("revisions", "revised_sft") if name in names]
    if of_revisions and config.revisions.rounds == 0:
        raise ConfigError(
            f"the stage {of_revisions[0]} has nothing to do: no revision is asked for", where="revisions.rounds=0",
            fix="revisions.rounds=4, or leave the stage out",
        )  # fmt: skip
    if config.revisions.rounds > 0 and "revisions" not in names:
        what = (
            "the stage revised_sft learns from"
            if of_revisions
            else f"revisions.rounds={config.revisions.rounds} asks for"
        )
        raise ConfigError(
            f"{what} revisions, and the stage revisions does not run", where=listed,
            fix="add revisions to stages, or revisions.rounds=0",
        )  # fmt: skip


def asking_stages(config: DictConfig) -> tuple[str, ...]:
    """The stages that ask the run's judge, if they run."""
    return ("labels", "revisions") if config.revisions.by == "judge" else ("labels",)


def check_rows(config: DictConfig, names: Sequence[str], read: Sources) -> None:
    """The new stages have something to work on, in a form that the reward model can learn from.

    Raises:
        ConfigError: of `reward_model`. DataError: no pairs, no prompts.
    """
    if "labels" in names:
        _check_labels(config, read)
    if "revisions" in names:
        _check_revisions(config, read)


def _check_revisions(config: DictConfig, read: Sources) -> None:
    splits, settings = read.splits, config.revisions
    for name in settings.measure:
        try:
            registry.build("reward", {"name": name})
        except UserError as error:
            raise ConfigError(
                f"{name} cannot measure: {error.what}", where=f"revisions.measure=[{','.join(settings.measure)}]",
                fix=error.fix or "rewards that need no settings, such as helpdesk_harm",
            ) from error  # fmt: skip
    if not (every := splits.demonstrations if settings.of == "sft" else splits.prompts):
        wanted = "demonstrations, whose prompts are answered," if settings.of == "sft" else "prompts"
        raise DataError(
            f"the stage revisions needs {wanted} and there are none", where=f"revisions.of={settings.of}",
            fix="revisions.of=prompts answers those of the policy; revisions.of=sft those of the demonstrations",
        )  # fmt: skip
    if not revised_prompts(config, splits):
        have = ", ".join(sorted({column for row in every for column in prompt_of(row).columns})) or "none"
        where = ", ".join(f"{column}: {value}" for column, value in settings.where.items())
        raise DataError(
            "no prompt has what revisions.where asks for, so there is nothing to revise",
            where=f"revisions.where={{{where}}}", fix=f"columns of this data: {have}",
        )  # fmt: skip


def _check_labels(config: DictConfig, read: Sources) -> None:
    how, loss, splits = config.reward_model.pairs, config.reward_model.loss, read.splits
    if loss not in ("auto", "pairwise"):
        raise ConfigError(
            f"a judge compares two answers, and reward_model.loss={loss} learns from something else",
            where=f"reward_model.pairs={how}", fix="reward_model.loss=pairwise",
        )  # fmt: skip
    if how == "rollouts" and config.reward_model.rows is not None:
        raise ConfigError(
            "how many pairs come of rollouts is not known before they are compared",
            where=f"reward_model.rows={config.reward_model.rows}", fix="ai_labels.prompts=N, as many as are to be answered",
        )  # fmt: skip
    if how == "relabel" and not splits.pairs:
        raise DataError(
            "the judge is to compare the dataset's answers anew, and the data has no pairs", where=read.named("reward_model"),
            fix="reward_model.pairs=rollouts compares answers of the SFT policy; or give data with pairs",
        )  # fmt: skip
    if how == "rollouts" and not (splits.pairs or splits.prompts):
        raise DataError(
            "the SFT policy is to answer prompts, and none are left for the reward model", where=read.named("reward_model"),
            fix="give more rows, or a larger splits.reward_model",
        )  # fmt: skip


def settings(config: DictConfig, *places: str) -> list[Any]:
    """Parts of the configuration as plain values, for a stage's key."""
    nodes = [OmegaConf.select(config, place) for place in places]
    plain = [OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node for node in nodes]
    found: list[Any] = json.loads(json.dumps(plain, default=str))
    return found
