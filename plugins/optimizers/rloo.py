"""REINFORCE leave-one-out (Ahmadian et al. 2024, "Back to Basics"): no value function, the others are the baseline.

Ours differs from TRL's in the ratio: per token and clipped as in PPO, where TRL's is per sequence. On the first pass,
where π = π_old, both are REINFORCE; they part only with `epochs` > 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_lora.registry import optimizer

from .on_policy import OnPolicySettings, Running

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_lora.contracts import Batch, Context, Minibatch


@optimizer("rloo")
class RLOO(OnPolicySettings):
    """RLOO: several completions per prompt, each judged against the mean of the others; the KL is in the reward.

    Attributes:
        whiten_advantages: mean 0, deviation 1 over a rollout; off in the paper.
    """

    prompts_per_update: int = 64
    samples_per_prompt: int = 4
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt must be at least 2, got {self.samples_per_prompt}: who are the others?"
            )

    def open(self, ctx: Context) -> RunningRLOO:
        return RunningRLOO(self)


class RunningRLOO(Running):
    """RLOO at work."""

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """R = r − β Σ_t k1; every token of a completion has R minus the mean R of the prompt's other completions."""
        from rlhf_lora.objectives.advantages import leave_one_out, whiten
        from rlhf_lora.objectives.kl import k1

        kl_B = (k1(batch.logprobs_BT, batch.ref_logprobs_BT) * batch.mask_BT).sum(1)
        rewards_B = self.terminal_rewards(batch) - self.beta * kl_B
        advantages_BT = leave_one_out(rewards_B, batch.group_B, batch.scored_B)[:, None] * batch.mask_BT
        metrics = {
            "objective/non_score_reward": float(-self.beta * kl_B.mean()),
            "objective/rlhf_reward": float(rewards_B.mean()),
            "beta": self.beta,
        }
        if self.settings.whiten_advantages:
            advantages_BT = whiten(advantages_BT, batch.mask_BT, counted_B=batch.scored_B)
        return replace(batch, advantages_BT=advantages_BT), metrics

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, dict[str, float]]:
        from rlhf_lora.objectives.ppo import policy_loss

        batch = minibatch.batch
        assert batch.advantages_BT is not None and minibatch.new_logprobs_BT is not None
        loss, stats = policy_loss(
            minibatch.new_logprobs_BT, batch.logprobs_BT, batch.advantages_BT, batch.mask_BT, self.settings.clip
        )
        return loss, {"loss/policy": loss.item()} | {f"policy/{k}": float(v) for k, v in stats.items()}
