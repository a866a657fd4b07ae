"""Built-in rollout engines."""

from . import hf, native  # noqa: F401
