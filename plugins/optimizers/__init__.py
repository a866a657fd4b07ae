"""Built-in optimizers."""

from . import dpo, ppo  # noqa: F401
