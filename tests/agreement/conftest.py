"""The two releases, as what of them is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from releases import installed, statements, take


@pytest.fixture(scope="session")
def trl_1_12() -> Path:
    """Folder that trl 1.12.0 can be imported from."""
    return installed("1.12.0")


@pytest.fixture(scope="session")
def theirs(trl_1_12: Path) -> SimpleNamespace:
    """PPO of trl 1.12.0: its functions, and the three parts of `PPOTrainer.train` that are arithmetic, each a function
    from names to names: `lengths` (what of an answer counts), `shaped` (rewards, advantages, returns), `losses` (of one
    micro-batch, with their figures)."""
    import torch

    file = trl_1_12 / "trl" / "experimental" / "ppo" / "ppo_trainer.py"
    scope: dict[str, Any] = {
        "torch": torch, "F": torch.nn.functional, "INVALID_LOGPROB": 1.0, "empty_cache": lambda: None,
    }  # fmt: skip
    take(scope, file, "masked_mean", "masked_var", "masked_whiten", "truncate_response")
    take(scope, trl_1_12 / "trl" / "experimental" / "utils.py", "first_true_indices")
    take(scope, trl_1_12 / "trl" / "trainer" / "utils.py", "selective_log_softmax", "entropy_from_logits")
    bounds = {
        "lengths": ("postprocessed_response", "sequence_length"),
        "shaped": ("contain_eos_token", "advantages"),
        "losses": ("mb_advantage", "entropy"),
    }
    parts = {name: _part(statements(file, "train", *ends), scope) for name, ends in bounds.items()}
    return SimpleNamespace(**_named(scope), **parts, source=file.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def older() -> SimpleNamespace:
    """PPO of trl 0.11.4, the last release with the KL controller, and with the rest in methods that can be called."""
    import collections.abc

    import numpy as np
    import torch

    folder = installed("0.11.4") / "trl"
    scope: dict[str, Any] = {
        "torch": torch, "np": np, "F": torch.nn.functional, "Mapping": collections.abc.Mapping,
    }  # fmt: skip
    core = ("masked_mean", "masked_var", "masked_whiten", "entropy_from_logits", "clip_by_value", "flatten_dict")
    take(scope, folder / "core.py", *core, "logprobs_from_logits")
    take(scope, folder / "trainer" / "utils.py", "AdaptiveKLController")
    methods = ("compute_rewards", "_kl_penalty", "compute_advantages", "loss")
    take(scope, folder / "trainer" / "ppo_trainer.py", *methods)
    return SimpleNamespace(**{name.lstrip("_"): value for name, value in _named(scope).items()})


def _part(run: Callable[[Mapping[str, Any]], dict[str, Any]], scope: dict[str, Any]) -> Callable[..., SimpleNamespace]:
    return lambda **names: SimpleNamespace(**_named(run(scope | names)))


def _named(scope: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scope.items() if not name.startswith("__")}
