"""What optimizers on the on-policy loop share: the shape of the loop, β, and the reward of a completion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rlhf_lora.adamw import AdamW

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_lora.contracts import Batch


@dataclass(frozen=True, kw_only=True)
class OnPolicySettings:
    """Settings of an optimizer that learns from its own rollouts.

    Attributes:
        updates: rollouts, each followed by `epochs` passes over it; null = 8 passes over the prompts, 60 at most.
        prompts_per_update: prompts per rollout.
        samples_per_prompt: completions per prompt.
        minibatch_size: samples per gradient step. Smaller = more steps per rollout, further from the old policy.
        beta: KL strength, in (scaled) reward per nat. Lower = further from the reference, more reward, more to hack.
        kl_target: nats per sequence that β is steered towards (Ziegler et al. 2019 use 6); null = β stays as it is.
        kl_horizon: completions over which β can change by a factor; short, because runs here are short.
        max_kl: end the passes over a rollout when ½ mean (log π/π_old)² of a minibatch is above it; null = never.
        ptx: weight of the loss on demonstrations, mean per token, beside the policy's loss (InstructGPT's PPO-ptx; its
            27.8 belongs to another reduction). Needs demonstrations in the data.
        missing_end_reward: what a completion that was cut off gets, in units of the (scaled) reward; null = it keeps its
            score.
        missing_end: `replace` = it gets that in place of its score, as published, so that no score makes up for running
            on; `add` = on top of its score (TRL's `missing_eos_penalty=1` is `missing_end_reward=-1`).
        scale_scores: what rewards are measured against before the first update. `reference` = mean 0 and deviation 1 on
            256 completions of the reference (Ziegler et al. 2019), so that beta means the same for every reward;
            `demonstrations` = mean 0 on at most 256 demonstrations, in their own unit (Huang et al. 2024); `none` = raw.
        max_grad_norm: gradients of a role longer than this are scaled down to it; null = never.
    """

    learning_rates: ClassVar[Mapping[str, float]] = {"adamw": 3e-5}  # at width 2048, for `derive`
    mean_over: ClassVar[str] = "tokens"

    updates: int | None = None
    prompts_per_update: int = 256
    samples_per_prompt: int = 1
    epochs: int = 2
    minibatch_size: int = 64
    beta: float = 0.08
    kl_target: float | None = 5.0
    kl_horizon: float = 500.0
    clip: float = 0.2
    max_kl: float | None = None
    ptx: float = 0.0
    missing_end_reward: float | None = None
    missing_end: str = "replace"
    scale_scores: str = "reference"
    adamw: AdamW = AdamW(lr=None, eps=1e-5)  # noqa: RUF009 frozen
    final_lr: float = 0.1
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "adamw", AdamW.of(self.adamw))
        for name in ("updates", "prompts_per_update", "samples_per_prompt", "epochs", "minibatch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.final_lr <= 1:
            raise ValueError(f"final_lr must be in [0, 1], got {self.final_lr}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be finite and ≥ 0, got {self.beta}")
        if not 0 <= self.ptx < math.inf:
            raise ValueError(f"ptx must be finite and ≥ 0, got {self.ptx}")
        for name in ("clip", "max_grad_norm", "kl_horizon", "max_kl"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.kl_target is not None and not self.kl_target > 0:
            raise ValueError(f"kl_target must be above 0 nats, got {self.kl_target}; null keeps beta fixed")
        if self.missing_end_reward is not None and not math.isfinite(self.missing_end_reward):
            raise ValueError(f"missing_end_reward must be finite, got {self.missing_end_reward}")
        if self.scale_scores not in ("reference", "demonstrations", "none"):
            raise ValueError(f"scale_scores is 'reference', 'demonstrations' or 'none', got '{self.scale_scores}'")
        if self.missing_end not in ("replace", "add"):
            raise ValueError(f"missing_end is 'replace' or 'add', got '{self.missing_end}'")
        rows = self.prompts_per_update * self.samples_per_prompt
        if rows % self.minibatch_size:
            raise ValueError(f"minibatch_size {self.minibatch_size} does not divide the {rows} samples of an update")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("policy",)

    @property
    def shared_trunk(self) -> bool:
        return False

    @property
    def value_behind_end(self) -> bool:
        return False

    @property
    def value_adamw(self) -> AdamW:
        """Of a value role; those that have one say so."""
        return self.adamw


class Running:
    """An optimizer at work: its settings, and β, which may move."""

    def __init__(self, settings: Any):
        from rlhf_lora.objectives.kl import AdaptiveKL

        self.settings = settings
        self.beta: float = settings.beta
        self.controller = None
        if settings.kl_target is not None:
            self.controller = AdaptiveKL(settings.beta, settings.kl_target, settings.kl_horizon)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.settings, name)

    def terminal_rewards(self, batch: Batch) -> Tensor:
        """The (scaled) reward of each completion, shape (B,); cut ones have `missing_end_reward` when it is set: in its
        place (Ziegler et al. 2019, `penalty_reward_value`), or on top of it (TRL, `missing_eos_penalty`)."""
        s, rewards_B = self.settings, batch.rewards_B
        if s.missing_end_reward is None:
            return rewards_B
        penalty = rewards_B.new_tensor(s.missing_end_reward)
        cut_B = rewards_B + penalty if s.missing_end == "add" else penalty
        return rewards_B.where(batch.finished_B, cut_B)

    def earned_on_the_way(self, batch: Batch) -> Tensor:
        """Of each completion's reward, what belongs to tokens before its end, shape (B, T): the steps of a process reward.

        None of it where a cut completion's reward is replaced.
        """
        if batch.steps_BT is None:
            return batch.logprobs_BT.new_zeros(batch.mask_BT.shape)
        s = self.settings
        replaced_B = ~batch.finished_B if s.missing_end_reward is not None and s.missing_end == "replace" else None
        return batch.steps_BT if replaced_B is None else batch.steps_BT * ~replaced_B[:, None]

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
