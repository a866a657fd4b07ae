"""`profile=oai2019` and `profile=tldr2024`: the constants of the two published PPOs, and that they can be run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny import STEPS, overrides

from rlhf_lora import start
from rlhf_lora.config import compose, recompose
from rlhf_lora.errors import ConfigError
from rlhf_lora.loading import read_adapter
from rlhf_lora.plan import Plan, make_plan
from rlhf_lora.registry import build

SHARED = {"samples_per_prompt": 1, "epochs": 4, "clip": 0.2, "value_clip": 0.2, "value_weight": 0.1, "gamma": 1.0,
          "lam": 0.95, "missing_end_reward": -1.0, "missing_end": "replace", "final_lr": 0.0, "kl": "k1",
          "whiten_advantages": True}  # fmt: skip
PROFILES = {
    "oai2019": SHARED
    | {
        "beta": 0.15,
        "kl_target": 6.0,
        "kl_horizon": 10_000.0,
        "whiten_rewards": True,
        "value": "trunk",
        "scale_scores": "reference",
        "score_position": "end",
    },
    "tldr2024": SHARED
    | {
        "beta": 0.05,
        "kl_target": None,
        "whiten_rewards": False,
        "value": "adapter",
        "value_init": "reward",
        "scale_scores": "demonstrations",
        "score_position": "after_end",
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
def test_what_the_user_says_is_composed_over_a_profile(name):
    assert compose(f"profile={name}", "optimizer.beta=0.3").optimizer.beta == 0.3


@pytest.fixture
def plan(tiny_base, tmp_path) -> Any:
    def make(*more: str) -> Plan:
        run = (
            *(step for step in STEPS if step.startswith(("dataset.", "rollout.max", "splits"))),
            "seed=0",
            "reward=learned",
            "hardware.device=cpu",
            f"model.path={tiny_base}",
            f"run_dir={tmp_path / 'run'}",
        )
        return make_plan(compose(*run, *more))

    return make


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_as_it_stands_is_planned_without_a_word(plan, name):
    made = plan(f"profile={name}", "optimizer.gamma=1.0", "optimizer.updates=3")  # said again, or not the profile's
    assert made.config.profile == name
    assert not any("profile" in note for note in made.notes)


def test_an_override_against_a_profile_is_refused_with_both_values_and_the_way_out(plan):
    with pytest.raises(ConfigError) as caught:
        plan("profile=oai2019", "optimizer.beta=0.3", "optimizer.kl_target=null")
    assert "optimizer.beta=0.15, here 0.3; optimizer.kl_target=6, here null" in caught.value.what
    assert caught.value.where == "optimizer.beta, optimizer.kl_target"
    assert "profile_overrides=true" in caught.value.fix


def test_what_differs_from_a_profile_is_listed_when_it_is_wanted(plan):
    made = plan("profile=oai2019", "optimizer.beta=0.3", "profile_overrides=true")
    assert "not quite profile=oai2019: optimizer.beta 0.15 → 0.3" in made.notes


def test_a_saved_configuration_of_a_profile_is_judged_without_it(plan):
    saved = OmegaConf.to_container(compose("profile=oai2019"))
    assert recompose(saved, ["optimizer.beta=0.3"]).profile is None


def test_no_profile_is_one_of_the_choices(plan):
    assert compose("profile=null", "control=null", "experiment=null").profile is None


@pytest.mark.slow
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
