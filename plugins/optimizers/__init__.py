"""Built-in optimizers."""

from . import dpo, grpo, kto, ppo, rloo  # noqa: F401
