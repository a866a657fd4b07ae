"""Which tiny base goes with a dataset. `model=mini` follows the words of the task: one base each, cached by content.

A dataset says its task as `mini_task`; datasets of one task share its base. What comes from elsewhere has none, but for labels
on answers to such a task, of which their owner can say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_lora.atomic import staging
from rlhf_lora.mini import base, helpdesk, helpdesk_base, orders
from rlhf_lora.mini.base import BaseSettings, Progress
from rlhf_lora.mini.helpdesk_base import HelpdeskBase

AnyBase = BaseSettings | HelpdeskBase

# `ensure` and `helpdesk_base` repeat what `base` does: the source of `base` is part of the key of the orders base, so taking
# parameters there would name every user's base anew, and every figure measured on it would be of another base.


def task_of(dataset: Any) -> str | None:
    """`orders` or `helpdesk`; None where no tiny base knows the dataset's words."""
    task: str | None = getattr(dataset, "mini_task", None)
    return task


def vocabulary(settings: AnyBase | None) -> list[str]:
    """The words of a base; its token ids are their places. None stands for the base of `orders`."""
    return helpdesk.vocabulary() if isinstance(settings, HelpdeskBase) else orders.vocabulary()


def content_hash(settings: AnyBase) -> str:
    """16 hex digits that name the base in the cache and in a run's inputs."""
    if isinstance(settings, HelpdeskBase):
        return helpdesk_base.content_hash(settings)
    return base.content_hash(settings)


def build(folder: Path, settings: AnyBase, progress: Progress | None = None) -> None:
    """Make the base that `settings` describe in `folder`, whatever the cache holds."""
    if isinstance(settings, HelpdeskBase):
        helpdesk_base.build_base(folder, settings, progress)
    else:
        base.build_base(folder, settings, progress)


def ensure(cache_dir: Path, settings: AnyBase, progress: Progress | None = None) -> Path:
    """The folder of the base that `settings` describe, built when the cache does not hold it (see `base.ensure_base`)."""
    if not isinstance(settings, HelpdeskBase):
        return base.ensure_base(cache_dir, settings, progress)
    from filelock import FileLock

    home = Path(cache_dir) / "bases"
    target = home / f"helpdesk-{content_hash(settings)}"
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            with staging(target) as building:
                build(building, settings, progress)
    return target
