"""Group relative policy optimisation (Shao et al. 2024, "DeepSeekMath", §4.1): no value function, the KL in the loss.

What the KL term in the loss pulls towards depends on its estimator, which other kits leave unsaid. Sampled from π, the
gradient of k2 is that of KL(π‖ρ) at each token, and the gradient of k3, as published, that of KL(ρ‖π): another optimum
(tests/objectives/test_kl.py, tests/test_exact.py). Both leave out what a token does to the KL of later ones, which a KL
in the reward (`optimizer=rloo`, `ppo`) counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf_lora.registry import optimizer

from .on_policy import OnPolicySettings, Running

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_lora.contracts import Batch, Context, Minibatch


@optimizer("grpo")
class GRPO(OnPolicySettings):
    """GRPO: several completions per prompt, each judged by its place among them; the KL is in the loss.

    Attributes:
        scale_by_deviation: divide by the deviation within the group, as published; False = Dr. GRPO (Liu et al. 2025).
        kl: estimator of the KL in the loss: `k3` as published, `k2` for the gradient of KL(π‖ρ).
        mean: `sequences` as published, `tokens` = long answers count for more (DAPO).
    """

    prompts_per_update: int = 64
    samples_per_prompt: int = 4
    scale_by_deviation: bool = True
    kl: str = "k3"
    mean: str = "sequences"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt must be at least 2, got {self.samples_per_prompt}: a group of one is none"
            )
        if self.kl not in ("k2", "k3"):
            raise ValueError(f"kl is 'k2' or 'k3', got '{self.kl}'; k1 in a loss has no gradient on average")
        if self.mean not in ("sequences", "tokens"):
            raise ValueError(f"mean is 'sequences' or 'tokens', got '{self.mean}'")

    @property
    def mean_over(self) -> str:  # type: ignore[override]
        return self.mean

    def open(self, ctx: Context) -> RunningGRPO:
        return RunningGRPO(self)


class RunningGRPO(Running):
    """GRPO at work."""

    def advantages(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        from rlhf_lora.objectives.advantages import group_relative

        rewards_B = self.terminal_rewards(batch)
        advantages_B = group_relative(rewards_B, batch.group_B, self.settings.scale_by_deviation, batch.scored_B)
        metrics = {"objective/rlhf_reward": float(rewards_B.mean()), "beta": self.beta}
        return replace(batch, advantages_BT=advantages_B[:, None] * batch.mask_BT), metrics

    def loss(self, minibatch: Minibatch) -> tuple[Tensor, dict[str, float]]:
        """Clipped policy loss, plus β times the KL to the reference, both meant over the same."""
        from rlhf_lora.objectives import kl
        from rlhf_lora.objectives.advantages import masked_mean, sequence_mean
        from rlhf_lora.objectives.ppo import policy_loss

        s, batch, new_BT = self.settings, minibatch.batch, minibatch.new_logprobs_BT
        assert batch.advantages_BT is not None and new_BT is not None
        mean = sequence_mean if s.mean == "sequences" else masked_mean
        loss, stats = policy_loss(new_BT, batch.logprobs_BT, batch.advantages_BT, batch.mask_BT, s.clip, mean)
        estimator = kl.k2 if s.kl == "k2" else kl.k3
        # Masked before the exponential: what lies in padded places must not overflow.
        penalty = mean(estimator(new_BT * batch.mask_BT, batch.ref_logprobs_BT * batch.mask_BT), batch.mask_BT)
        metrics = {"loss/policy": loss.item(), f"loss/kl_{s.kl}": penalty.item()}
        return loss + self.beta * penalty, metrics | {f"policy/{k}": float(v) for k, v in stats.items()}
