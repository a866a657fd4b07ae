"""Proximal policy optimisation with a KL penalty in the reward (Ziegler et al. 2019; Ouyang et al. 2022).

Ours differs from TRL's last PPO in three things that users feel: any Python reward, one frozen base under policy,
reference, value and reward instead of three copies, and means that weigh tokens alike however micro-batches are cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from rlhf_lora.adamw import AdamW
from rlhf_lora.registry import optimizer

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_lora.contracts import Batch, Context, Minibatch


@optimizer("ppo")
class PPO:
    """PPO: clipped policy gradient, a value function, and a KL penalty per token.

    Attributes:
        updates: rollouts, each followed by `epochs` passes over it; null = 8 passes over the prompts, 60 at most.
        prompts_per_update: prompts per rollout.
        minibatch_size: samples per gradient step. Smaller = more steps per rollout, further from the old policy.
        beta: KL strength, in (scaled) reward per nat. Lower = further from the reference, more reward, more to hack.
        kl_target: nats per sequence that β is steered towards (Ziegler et al. 2019 use 6); null = β stays as it is.
        kl_horizon: completions over which β can change by a factor; short, because runs here are short.
        value: `adapter` = the value function has an adapter of its own (better at equal KL in Hydra-RLHF);
            `trunk` = a head on the policy's hidden states (half the update time); null = `trunk` for small models,
            where it was no worse, else `adapter`.
        missing_end_reward: replaces the reward of a completion that was cut off; null = it keeps its score.
        scale_scores: scale rewards to mean 0, deviation 1 on reference samples before the first update.
    """

    learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 3e-5, "value_adamw": 6e-5}  # at width 2048, for `derive`

    updates: int | None = None
    prompts_per_update: int = 256
    samples_per_prompt: int = 1
    epochs: int = 2
    minibatch_size: int = 64
    beta: float = 0.08
    kl_target: float | None = 5.0
    kl_horizon: float = 500.0
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value: str | None = None
    value_clip: float | None = 0.2
    value_weight: float = 0.1
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    missing_end_reward: float | None = None
    scale_scores: bool = True
    adamw: AdamW = AdamW(lr=None, eps=1e-5)
    value_adamw: AdamW = AdamW(lr=None, eps=1e-5)
    final_lr: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "adamw", AdamW.of(self.adamw))
        object.__setattr__(self, "value_adamw", AdamW.of(self.value_adamw))
        for name in ("updates", "prompts_per_update", "samples_per_prompt", "epochs", "minibatch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("gamma", "lam", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("beta", "value_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and ≥ 0, got {getattr(self, name)}")
        for name in ("clip", "value_clip", "max_grad_norm", "kl_horizon"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.kl_target is not None and not self.kl_target > 0:
            raise ValueError(f"kl_target must be above 0 nats, got {self.kl_target}; null keeps beta fixed")
        if self.missing_end_reward is not None and not math.isfinite(self.missing_end_reward):
            raise ValueError(f"missing_end_reward must be finite, got {self.missing_end_reward}")
        if self.value not in ("adapter", "trunk", None):
            raise ValueError(f"value is 'adapter' or 'trunk', got '{self.value}'")
        rows = self.prompts_per_update * self.samples_per_prompt
        if rows % self.minibatch_size:
            raise ValueError(f"minibatch_size {self.minibatch_size} does not divide the {rows} samples of an update")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("policy",) if self.shared_trunk else ("policy", "value")

    @property
    def shared_trunk(self) -> bool:
        return self.value == "trunk"

    def open(self, ctx: Context) -> RunningPPO:
        return RunningPPO(self)


class RunningPPO:
    """PPO at work: the settings, and β, which may move."""

    def __init__(self, settings: PPO):
        from rlhf_lora.objectives.kl import AdaptiveKL

        self.settings = settings
        self.beta = settings.beta
        self.controller = None
        if settings.kl_target is not None:
            self.controller = AdaptiveKL(settings.beta, settings.kl_target, settings.kl_horizon)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.settings, name)

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """KL-shaped rewards, then GAE, then whitening.

        R_t = −β k1_t, and the score on the last token (Ziegler et al. 2019, eq. 2, per token). Order as released:
        rewards whitened (mean kept), GAE, returns = A + V, advantages whitened.
        """
        from rlhf_lora.objectives.advantages import gae, masked_mean, whiten
        from rlhf_lora.objectives.kl import k1

        s, mask_BT = self.settings, batch.mask_BT
        assert batch.values_BT is not None
        kl_BT = k1(batch.logprobs_BT, batch.ref_logprobs_BT) * mask_BT
        rewards_BT = -self.beta * kl_BT
        rewards_BT[_rows(batch), mask_BT.sum(1) - 1] += self._terminal_rewards(batch)
        if s.whiten_rewards:
            rewards_BT = whiten(rewards_BT, mask_BT, shift_mean=False)
        advantages_BT, returns_BT = gae(rewards_BT, batch.values_BT, mask_BT, s.gamma, s.lam)
        metrics = {
            "objective/non_score_reward": float((-self.beta * kl_BT).sum(1).mean()),
            "objective/rlhf_reward": float((batch.rewards_B - self.beta * kl_BT.sum(1)).mean()),
            "val/mean": float(masked_mean(batch.values_BT, mask_BT)),
            "val/explained_variance": _explained_variance(batch.values_BT, returns_BT, mask_BT),
            "beta": self.beta,
        }
        if s.whiten_advantages:
            advantages_BT = whiten(advantages_BT, mask_BT)
        return replace(batch, advantages_BT=advantages_BT, returns_BT=returns_BT), metrics

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, dict[str, float]]:
        """Policy loss, value loss, or both: whichever the minibatch holds new tensors for."""
        from rlhf_lora.objectives.ppo import policy_loss, value_loss

        s, batch = self.settings, minibatch.batch
        losses: list[Tensor] = []
        metrics: dict[str, float] = {}
        assert batch.advantages_BT is not None and batch.returns_BT is not None and batch.values_BT is not None
        if minibatch.new_logprobs_BT is not None:
            loss, stats = policy_loss(
                minibatch.new_logprobs_BT, batch.logprobs_BT, batch.advantages_BT, batch.mask_BT, s.clip
            )
            losses.append(loss)
            metrics |= {"loss/policy": loss.item()} | {f"policy/{k}": float(v) for k, v in stats.items()}
        if minibatch.new_values_BT is not None:
            loss, stats = value_loss(
                minibatch.new_values_BT, batch.values_BT, batch.returns_BT, batch.mask_BT, s.value_clip
            )
            losses.append(loss * (s.value_weight if s.shared_trunk else 1.0))
            metrics |= {"loss/value": loss.item()} | {f"val/{k}": float(v) for k, v in stats.items()}
        return sum(losses[1:], losses[0]), metrics

    def after_update(self, metrics: Mapping[str, float], samples: int) -> dict[str, float]:
        if self.controller is not None:
            self.beta = self.controller.update(metrics["objective/kl"], samples)
        return {}

    def state(self) -> dict[str, float]:
        return {"beta": self.beta}

    def restore(self, state: Mapping[str, float]) -> None:
        self.beta = state["beta"]
        if self.controller is not None:
            self.controller.value = self.beta

    def _terminal_rewards(self, batch: Batch) -> Tensor:
        if self.settings.missing_end_reward is None:
            return batch.rewards_B
        return batch.rewards_B.where(batch.finished_B, batch.rewards_B.new_tensor(self.settings.missing_end_reward))


def _rows(batch: Batch) -> Tensor:
    import torch

    return torch.arange(len(batch), device=batch.scores_B.device)


def _explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 − Var(R − V) / Var(R): 1 = the value function knows the return, 0 = it knows no more than the mean."""
    values_N, returns_N = values_BT[mask_BT], returns_BT[mask_BT]
    variance = returns_N.var(unbiased=False)
    return float(1 - (returns_N - values_N).var(unbiased=False) / variance) if variance > 0 else 0.0
