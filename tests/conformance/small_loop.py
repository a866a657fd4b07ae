"""What the conformance tests stand on: a loop on the tiny base, and batches small enough to be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tiny import prompts, spec, stir

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Batch, Context
from rlhf_lora.records import Demonstration, Sample
from rlhf_lora.registry import build
from rlhf_lora.stages.on_policy import OnPolicy
from rlhf_lora.stages.scoring import Scorer

LOOP = {
    "updates": 4, "prompts_per_update": 8, "minibatch_size": 8, "epochs": 1, "scale_scores": "none", "kl_target": None,
    "adamw": {"lr": 3e-3}, "value_adamw": {"lr": 3e-3}, "value": "adapter",
}  # fmt: skip


class Rule:
    """A reward from a function of one sample."""

    def __init__(self, rule: Callable[[Sample], float]):
        self.rule = rule

    def score(self, samples: Sequence[Sample]) -> list[float]:
        return [self.rule(sample) for sample in samples]


def length(sample: Sample) -> float:
    return float(len(sample.tokens or ()))


def backbone(base: Any, *roles: str, stirred: bool = True, **changes: Any) -> Backbone:
    """The base with roles, each with weights of its own unless `stirred` is False."""
    made = Backbone(spec(base, **changes), micro_batch=3, rollout_batch=4, logprob_chunk=7)
    for name in roles:
        made.add_role(name, trained=name in ("policy", "value"), head=name in ("value", "reward"))
        if stirred:
            stir(made, name)
    return made


def engine(name: str = "native", **settings: Any) -> Any:
    return build("rollout", {"name": name, "max_new_tokens": 6, "temperature": 1.0} | settings)


def ppo(**settings: Any) -> Any:
    """PPO at work, outside any loop."""
    return build("optimizer", {"name": "ppo", "kl_target": None, **settings}).open(Context())


def loop(
    base: Any, rule: Callable[[Sample], float] = length, *, micro_batch: int = 64, temperature: float = 1.0,
    sampler: Any = None, reward_role: bool = False, asked: int = 20, shown: Sequence[Demonstration] = (), **settings: Any,
) -> OnPolicy:  # fmt: skip
    """A loop on the base: the policy a fresh adapter, the reference the bare base, the value head zero."""
    optimizer = build("optimizer", {"name": "ppo"} | LOOP | settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Backbone(spec(base), micro_batch=64)
        made.add_role("policy", trained=True)
        made.add_role("reference", bare=True)
        if not optimizer.shared_trunk:
            made.add_role("value", trained=True)
        made.add_head("value")
    if reward_role:
        made.add_role("reward", head=True)
        stir(made, "reward")
    scorer, opened = Scorer(Rule(rule), "mine"), optimizer.open(Context())
    rollout = sampler or engine(temperature=temperature)
    return OnPolicy(made, rollout, scorer, opened, prompts(asked), seed=1, micro_batch=micro_batch,
                    demonstrations=shown)  # fmt: skip


def weights(made: OnPolicy) -> dict[str, torch.Tensor]:
    return {
        f"{role}.{name}": parameter.detach().clone()
        for role in ("policy", "value")
        for name, parameter in made.backbone.parameters(role).items()
    }


def batch(**changes: Any) -> Batch:
    """Two answers, of 3 tokens and of 2, the second cut off; behind its end stands rubbish."""
    given = {
        "tokens_BT": torch.zeros(2, 3, dtype=torch.long),
        "mask_BT": torch.tensor([[True, True, True], [True, True, False]]),
        "logprobs_BT": torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 9.0]]),
        "ref_logprobs_BT": torch.tensor([[-1.5, -1.0, -0.5], [-2.0, -1.0, -9.0]]),
        "values_BT": torch.zeros(2, 3),
        "scores_B": torch.tensor([10.0, 20.0]),
        "rewards_B": torch.tensor([2.0, 3.0]),
        "finished_B": torch.tensor([True, False]),
        "group_B": torch.tensor([0, 1]),
    }
    return Batch(**(given | changes))


def later(returns_BT: torch.Tensor) -> torch.Tensor:
    """Rewards per token out of returns at γ = λ = 1 and V = 0: what is left to come, less what is left after it."""
    return returns_BT - torch.cat([returns_BT[:, 1:], torch.zeros_like(returns_BT[:, :1])], dim=1)
