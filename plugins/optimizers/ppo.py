"""Proximal policy optimisation with a KL penalty in the reward (Ziegler et al. 2019; Ouyang et al. 2022).

Ours differs from TRL's last PPO in three things that users feel: any Python reward, one frozen base under policy,
reference, value and reward instead of three copies, and means that weigh tokens alike however micro-batches are cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rlhf_lora.adamw import AdamW
from rlhf_lora.registry import optimizer

from .on_policy import OnPolicySettings, Running

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_lora.contracts import Batch, Context, Minibatch


@optimizer("ppo")
class PPO(OnPolicySettings):
    """PPO: clipped policy gradient, a value function, and a KL penalty per token.

    Attributes:
        kl: estimator of the KL in the reward: `k1` as published, `k2`, `k3`; named in the metrics.
        value: `adapter` = the value function has an adapter of its own (better at equal KL in Hydra-RLHF);
            `trunk` = a head on the policy's hidden states (half the update time); null = `trunk` for small models,
            where it was no worse, else `adapter`.
        value_init: `zero` = the value head begins at 0; `reward` = it begins as the reward model (Huang et al. 2024).
        score_position: `end` = the score is the reward of the end token; `after_end` = it stands one place behind it, on
            the value that is read there, as in Huang et al. 2024 and TRL: at lam < 1 the end token gets a little less of it.
        value_clip: how far a value may move from the old one within an update; null = as far as it likes.
    """

    learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 3e-5, "value_adamw": 6e-5}  # at width 2048, for `derive`

    kl: str = "k1"
    gamma: float = 1.0
    lam: float = 0.95
    value: str | None = None
    value_init: str = "zero"
    score_position: str = "end"
    value_clip: float | None = 0.2
    value_weight: float = 0.1
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    value_adamw: AdamW = AdamW(lr=None, eps=1e-5)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value_adamw", AdamW.of(self.value_adamw))
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.value_weight < math.inf:
            raise ValueError(f"value_weight must be finite and ≥ 0, got {self.value_weight}")
        if self.value_clip is not None and not self.value_clip > 0:
            raise ValueError(f"value_clip must be above 0, got {self.value_clip}")
        if self.value not in ("adapter", "trunk", None):
            raise ValueError(f"value is 'adapter' or 'trunk', got '{self.value}'")
        if self.value_init not in ("zero", "reward"):
            raise ValueError(f"value_init is 'zero' or 'reward', got '{self.value_init}'")
        if self.value_init == "reward" and self.value == "trunk":
            raise ValueError("value_init=reward needs value=adapter: a head on the policy's trunk is no reward model")
        if self.score_position not in ("end", "after_end"):
            raise ValueError(f"score_position is 'end' or 'after_end', got '{self.score_position}'")
        if self.score_position == "after_end" and self.value == "trunk":
            raise ValueError(
                "score_position=after_end needs value=adapter: a place behind the end is the value's alone"
            )
        if self.kl not in ("k1", "k2", "k3"):
            raise ValueError(f"kl is 'k1', 'k2' or 'k3', got '{self.kl}'")
        if self.whiten_rewards and self.minibatch_size < 8:
            raise ValueError(
                f"whiten_rewards needs minibatch_size ≥ 8, got {self.minibatch_size}: too few to tell a deviation"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        return ("policy",) if self.shared_trunk else ("policy", "value")

    @property
    def shared_trunk(self) -> bool:
        return self.value == "trunk"

    @property
    def value_behind_end(self) -> bool:
        return self.score_position == "after_end"

    def open(self, ctx: Context) -> RunningPPO:
        return RunningPPO(self)


class RunningPPO(Running):
    """PPO at work."""

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """KL-shaped rewards, then GAE, then whitening.

        R_t = −β KL_t, and the score on the last place that has a value: the last token (Ziegler et al. 2019, eq. 2, per
        token), or the place behind it. What a process reward gave on the way stands where it was earned. Order as
        released: rewards whitened (mean kept), GAE, returns = A + V, advantages whitened.
        """
        from rlhf_lora.objectives import kl
        from rlhf_lora.objectives.advantages import gae, masked_mean, whiten

        s, mask_BT, value_mask_BT = self.settings, batch.mask_BT, batch.value_mask_BT
        assert batch.values_BT is not None
        estimator = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}[s.kl]
        kl_BT = estimator(batch.logprobs_BT, batch.ref_logprobs_BT).where(mask_BT, 0.0)
        rewards_BT, terminal_B = -self.beta * kl_BT, self.terminal_rewards(batch)
        earned_BT = self.earned_on_the_way(batch)
        rewards_BT += earned_BT
        rewards_BT[_rows(batch), value_mask_BT.sum(1) - 1] += terminal_B - earned_BT.sum(1)
        if s.whiten_rewards:
            rewards_BT = whiten(rewards_BT, value_mask_BT, shift_mean=False, counted_B=batch.scored_B)
        advantages_BT, returns_BT = gae(rewards_BT, batch.values_BT, value_mask_BT, s.gamma, s.lam)
        advantages_BT = advantages_BT * mask_BT
        metrics = {
            "objective/non_score_reward": float((-self.beta * kl_BT).sum(1).mean()),
            "objective/rlhf_reward": float((terminal_B - self.beta * kl_BT.sum(1)).mean()),
            f"objective/kl_{s.kl}": float(kl_BT.sum(1).mean()),
            "val/mean": float(masked_mean(batch.values_BT, value_mask_BT)),
            "val/explained_variance": _explained_variance(batch.values_BT, returns_BT, value_mask_BT),
            "beta": self.beta,
        }
        if s.whiten_advantages:
            advantages_BT = whiten(advantages_BT, mask_BT, counted_B=batch.scored_B)
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
                minibatch.new_values_BT, batch.values_BT, batch.returns_BT, batch.value_mask_BT, s.value_clip
            )
            losses.append(loss * (s.value_weight if s.shared_trunk else 1.0))
            metrics |= {"loss/value": loss.item()} | {f"val/{k}": float(v) for k, v in stats.items()}
        return sum(losses[1:], losses[0]), metrics


def _rows(batch: Batch) -> Tensor:
    import torch

    return torch.arange(len(batch), device=batch.scores_B.device)


def _explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 − Var(R − V) / Var(R): 1 = the value function knows the return, 0 = it knows no more than the mean."""
    values_N, returns_N = values_BT[mask_BT], returns_BT[mask_BT]
    variance = returns_N.var(unbiased=False)
    return float(1 - (returns_N - values_N).var(unbiased=False) / variance) if variance > 0 else 0.0
