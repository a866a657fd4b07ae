"""`profile=oai2019` and `profile=tldr2024`: the constants of the two published PPOs, and that they can be run."""

from __future__ import annotations

import pytest
import torch
from tiny import overrides

from rlhf_lora import start
from rlhf_lora.config import compose
from rlhf_lora.loading import read_adapter
from rlhf_lora.registry import build

SHARED = {"samples_per_prompt": 1, "epochs": 4, "clip": 0.2, "value_clip": 0.2, "value_weight": 0.1, "gamma": 1.0,
          "lam": 0.95, "missing_end_reward": -1.0, "final_lr": 0.0, "kl": "k1", "whiten_advantages": True}  # fmt: skip
PROFILES = {
    "oai2019": SHARED
    | {"beta": 0.15, "kl_target": 6.0, "kl_horizon": 10_000.0, "whiten_rewards": True, "value": "trunk"},
    "tldr2024": SHARED
    | {
        "beta": 0.05,
        "kl_target": None,
        "whiten_rewards": False,
        "value": "adapter",
        "value_init": "reward",
    },
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_its_papers_constants(name):
    config = compose(f"profile={name}", "optimizer.adamw.lr=1e-5", "optimizer.value_adamw.lr=1e-5")
    made = build("optimizer", config.optimizer)
    assert {key: getattr(made, key) for key in PROFILES[name]} == PROFILES[name]
    assert made.prompts_per_update * made.samples_per_prompt == 512
    assert made.adamw.eps == made.value_adamw.eps == 1e-5
    assert made.adamw.eps_placement == ("tensorflow" if name == "oai2019" else "torch")
    assert config.rollout.temperature == 0.7


@pytest.mark.parametrize("name", PROFILES)
def test_what_the_user_says_wins_over_a_profile(name):
    assert compose(f"profile={name}", "optimizer.beta=0.3").optimizer.beta == 0.3


def test_the_critic_begins_as_the_reward_model(tiny_base, tmp_path):
    few = (
        "profile_overrides=true",
        "optimizer.prompts_per_update=12",
        "optimizer.minibatch_size=12",
        "optimizer.updates=1",
        "reward=learned",
        "optimizer.value_adamw.lr=0",
    )
    run = start(compose(*overrides(tiny_base, tmp_path / "run", "profile=tldr2024", *few)))
    with run:
        run.step()
        _, tensors = read_adapter(tmp_path / "run" / "adapters" / "reward")
        score = next(value for key, value in tensors.items() if key.endswith("score.weight"))
        assert score.any()
        assert torch.equal(run._loop.backbone.heads["value"].weight.detach(), score)
