"""The built-in plugins. They come in by the same door as strangers' (entry point `rlhf_lora.plugins`), and only the
registry reaches them."""

if __name__ == "plugins":
    raise ImportError("import rlhf_lora.plugins, not plugins: a second copy would register everything twice")

from . import datasets, judges, optimizers, rewards, rollouts, trackers  # noqa: F401
