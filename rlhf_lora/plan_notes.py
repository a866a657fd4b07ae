"""What a plan says beside its tables: what a user would want to know before starting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import controls, feedback_plan, honoured, reward_labels, round_checks
from rlhf_lora.splits import Splits


def notes(config: DictConfig, splits: Splits, stages: Sequence[Any], built: Mapping[str, Any]) -> list[str]:
    """Sentences, each of them about this plan.

    Args:
        stages: the plan's (`plan.StagePlan`). built: the plugins, by kind.
    """
    found = round_checks.notes(config)
    if (control := controls.control_of(config)) is not None:
        found.append(f"this is a control ({control}), not a result. {controls.must_give(control)}")
    if changed := honoured.told(config):
        found.append(f"not quite profile={config.profile}: {', '.join(changed)}")
    if any(stage.name == "reward_model" for stage in stages):
        found += reward_labels.notes(config.reward_model.loss, splits)
    final, prompts = len(splits.final_prompts), len(splits.prompts)
    if any(s.name == "policy" for s in stages) and final < 100:
        found.append(f"only {final} held-out prompts: a win rate will be ± {98 / final**0.5:.0f} points")
    if (
        any(s.name == "policy" and s.reads == "prompts" for s in stages)
        and prompts < config.optimizer.prompts_per_update
    ):
        found.append(
            f"{prompts} prompts for {config.optimizer.prompts_per_update} a rollout: prompts repeat within one"
        )
    if config.evaluation.keep == "best" and config.evaluation.split == "tuning":
        found.append("the tuning prompts choose the update and judge it: the figure at the end will flatter it")
    if config.hardware.memory_gib:
        card = config.hardware.memory_gib
        found += [
            f"{stage.name} is estimated at {stage.memory.total_gib:.1f} GiB: too much for {card} GiB"
            for stage in stages
            if stage.memory and not stage.memory.fits(card)
        ]
    return found + feedback_plan.notes(config, [stage.name for stage in stages], built["reward"], built["judge"])
