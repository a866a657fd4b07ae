"""Built-in optimizers."""

from . import dpo, grpo, ppo, rloo  # noqa: F401
