"""Built-in optimizers."""

from . import dpo, grpo, kto, ppo, rejection_sampling, rloo  # noqa: F401
