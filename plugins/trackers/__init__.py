"""Built-in trackers."""

from . import local, wandb_run  # noqa: F401
