"""What a plan refuses about the run's judge: one that is missing, one that nobody asks, and pairs that cannot be made."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from rlhf_lora.controls import control_of
from rlhf_lora.errors import ConfigError
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.reward_tree import every_reward


def askers(config: DictConfig, reward: Any) -> list[str]:
    """The settings that ask the run's judge, as a person would write them: rewards that say so by `needs_judge`, and stages."""
    found = [
        f"reward={config.reward.name}" if where == "reward" else f"{where}: its reward"
        for where, one in every_reward(reward)
        if getattr(one, "needs_judge", False)
    ]
    if config.reward_model.pairs != "dataset":
        found.append(f"reward_model.pairs={config.reward_model.pairs}")
    if config.revisions.rounds > 0 and config.revisions.by == "judge":
        found.append("revisions.by=judge")
    if config.refresh.by == "judge":
        found.append("refresh.by=judge")
    return found


def check_judge(config: DictConfig, reward: Any, optimizer: Any, judge: Any = None, idle: bool = False) -> None:
    """Who is to be asked is there, somebody asks, and what is asked can be made of the rollouts.

    Args:
        judge: the run's, as it is built; None where it has none.
        idle: a judge that nobody asks is no mistake.

    Raises:
        ConfigError: in words, with the setting to change.
    """
    asking = askers(config, reward)
    if asking and config.judge is None:
        raise ConfigError(
            f"{asking[0]} asks a judge, and the run has none", where="judge=null",
            fix="judge=NAME: `rlhf-lora plugins judge` lists them",
        )  # fmt: skip
    if config.judge is not None and not asking and not idle and control_of(config) is None:
        raise ConfigError(
            f"nobody in this run asks the judge: reward={config.reward.name} does without", where=f"judge={config.judge.name}",
            fix="reward=ai_feedback; reward_model.pairs=relabel; or judge=null (a judge for a finished run alone: "
            "rlhf-lora evaluate RUN judge=NAME)",
        )  # fmt: skip
    for where, one in every_reward(reward):
        _check_group(where, one, optimizer)
        _check_ratings(where, one, judge)


def _wants_ratings(reward: Any) -> bool:
    return getattr(reward, "needs_judge", False) and getattr(reward, "mode", None) == "pointwise"


def _check_ratings(where: str, reward: Any, judge: Any) -> None:
    """One that is opened shows only then what it can do, and is asked again there."""
    if (
        _wants_ratings(reward)
        and judge is not None
        and not any(callable(getattr(judge, can, None)) for can in ("rate_all", "open"))
    ):
        raise ConfigError(
            "the judge compares answers and does not rate one alone: it has no rate_all", where=f"{where}.mode=pointwise",
            fix=f"{where}.mode=pairwise, or another judge",
        )  # fmt: skip


def check_words(judge: Any, spec: ModelSpec, mini: Any, reward: Any = None) -> None:
    """A judge on a model of this machine is shown its tokenizer before anything is loaded.

    Args:
        spec, mini: of the run's base. reward: the run's, which may ask for ratings.

    Raises:
        UserError: the judge says that it could not judge with it.
    """
    own = getattr(judge, "own_spec", None)
    if not callable(check := getattr(judge, "check_chat", None)) or not (
        own or getattr(judge, "needs_backbone", False)
    ):
        return
    from rlhf_lora.plan_tokens import plan_tokens

    tokens = plan_tokens(spec, mini) if own is None else plan_tokens(own)
    if tokens.exact:
        check(tokens.chat, any(_wants_ratings(one) for _, one in every_reward(reward)))


def _check_group(where: str, reward: Any, optimizer: Any) -> None:
    """Comparisons within a prompt's answers need several of them, whenever scores are asked for."""
    if getattr(reward, "against", None) != "group":
        return
    setting = f"{where}.against=group"
    if where != "reward":
        raise ConfigError(
            "within a mix an answer is scored alone too, where no other is there to compare it with", where=setting,
            fix=f"{where}.against=reference",
        )  # fmt: skip
    if hasattr(optimizer, "learns_from"):
        return
    if optimizer.samples_per_prompt < 2:
        raise ConfigError(
            "every prompt is answered once, so there is no other answer to compare with", where=setting,
            fix="optimizer.samples_per_prompt=2 or more (rloo and grpo have 4), or reward.against=reference",
        )  # fmt: skip
    if optimizer.scale_scores != "none":
        raise ConfigError(
            "the unit of the scores is measured on single answers, which have none to be compared with",
            where=f"optimizer.scale_scores={optimizer.scale_scores}",
            fix="optimizer.scale_scores=none: they are probabilities already",
        )  # fmt: skip
