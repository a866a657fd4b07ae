"""Settings of the gradient optimizer, `adamw` inside every policy optimizer.

In this kit the word optimizer means PPO, DPO, …; what moves the weights is AdamW (Loshchilov & Hutter 2019), the same
for all of them. Imports nothing heavy: configurations are composed without torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


# Not frozen, because OmegaConf makes the nodes of frozen dataclasses read-only; hashable, because a plugin may then
# write it as a plain default. Nobody changes one after it was made.
@dataclasses.dataclass(unsafe_hash=True)
class AdamW:
    """Learning rate and the rest.

    Attributes:
        lr: peak learning rate; null = derived from the model's width when the plan is made (`derived_lr`).
        weight_decay: on adapters and heads alike; 0 keeps B = 0 a fixed point of no gradient.
        eps_placement: `torch` adds ε to √v̂, as the paper; `tensorflow` adds it to √v, as OpenAI's release did, which makes
            the first steps on small gradients smaller (0.03 instead of 0.5 of lr where |g| = ε). In the on-policy loop.

    Raises:
        ValueError: a setting out of its range.
    """

    lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    eps_placement: str = "torch"

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"adamw.{name} must be finite and ≥ 0, got {value!r}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"adamw.{name} must be in [0, 1), got {getattr(self, name)!r}")
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"adamw.eps must be > 0, got {self.eps!r}")
        if self.eps_placement not in ("torch", "tensorflow"):
            raise ValueError(f"adamw.eps_placement is 'torch' or 'tensorflow', got {self.eps_placement!r}")

    def eps_at(self, step: int) -> float:
        """What torch has to add at a step, counted from 1, so that ε stands where `eps_placement` says.

        TensorFlow: lr √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε); the same as torch's with ε / √(1−β₂ᵗ).
        """
        return self.eps if self.eps_placement == "torch" else self.eps / math.sqrt(1.0 - self.beta2**step)

    @classmethod
    def of(cls, value: AdamW | Mapping[str, Any]) -> AdamW:
        """An AdamW from itself or from the mapping that a saved configuration holds.

        Raises:
            ValueError: an unknown setting, or one that is no number.
        """
        if isinstance(value, AdamW):
            return value
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = [key for key in value if key not in known]
        if unknown:
            raise ValueError(f"adamw has no setting '{unknown[0]}'; settings: {', '.join(known)}")
        numbers: dict[str, Any] = {
            key: given if given is None or key == "eps_placement" else float(given) for key, given in value.items()
        }
        try:
            return cls(**numbers)
        except TypeError as error:
            raise ValueError(f"adamw: {error}") from None


def derived_lr(at_2048: float, width: int, power: float) -> float:
    """A learning rate that suits the model's width: `at_2048 · (2048 / width) ** power`, two digits.

    Small models want higher rates. The power was read off the two ends we know: what trains the 64-wide embedded base
    and what is usual for LoRA on 2,048- to 4,096-wide models.
    """
    return float(f"{at_2048 * (2048 / width) ** power:.1e}")
