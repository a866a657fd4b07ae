"""The rewards inside a reward: what a plan has to know of each, whether it stands alone or is a part of a mix.

A reward that is made of others has a method `inner_rewards()`, name → reward; the settings of each are at
`reward.parts.NAME`. It answers for them as a whole (`stages`, `columns`, `folder`), and here they are one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def every_reward(reward: Any, where: str = "reward") -> Iterator[tuple[str, Any]]:
    """(setting, reward) of each reward that scores by itself: the reward, or the parts of a mix at any depth."""
    inner = getattr(reward, "inner_rewards", None)
    if not callable(inner):
        yield where, reward
        return
    for name, part in inner().items():
        yield from every_reward(part, f"{where}.parts.{name}")


def asks_judge(reward: Any) -> bool:
    """Whether scores come from the run's judge, some of them at least."""
    return any(getattr(one, "needs_judge", False) for _, one in every_reward(reward))


def trained_folders(reward: Any) -> dict[str, Path]:
    """`reward.path`, or `reward.parts.NAME.path` → adapter folder of a reward model that was trained before."""
    folders = {f"{place}.path": getattr(one, "folder", None) for place, one in every_reward(reward)}
    return {setting: folder for setting, folder in folders.items() if folder is not None}


def waiting_for(reward: Any, stage: str) -> str:
    """The setting of the reward that needs a stage of this run."""
    return next((place for place, one in every_reward(reward) if stage in getattr(one, "stages", ())), "reward")


def with_reward_model(reward: Any, folder: Path) -> Any:
    """The reward with the model that this run has trained in every place that waits for one."""
    if not getattr(reward, "stages", ()):
        return reward
    own = getattr(reward, "with_reward_model", None)
    return own(folder) if callable(own) else dataclasses.replace(reward, path=str(folder))
