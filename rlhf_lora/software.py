"""What a run runs on: versions of Python and packages, platform, threads, the kit's commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("rlhf-lora", "torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate"),
    *("datasets", "tokenizers", "safetensors", "hydra-core", "omegaconf", "pyarrow", "wandb"),
)


def versions() -> dict[str, Any]:
    """What the run runs on, without importing any of it: python, packages, platform, threads, the kit's commit."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    asked = os.environ.get("OMP_NUM_THREADS", "")
    found["threads"] = torch.get_num_threads() if torch else int(asked) if asked.isdigit() else os.cpu_count()
    if torch and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    if commit := _commit(Path(__file__).resolve().parents[1]):
        found["commit"] = commit
    return found


def _commit(source: Path) -> str | None:
    """The kit's own commit; nothing for an installed copy, which may lie in somebody else's repository."""
    if not (source / ".git").exists():
        return None
    ask = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(ask, capture_output=True, encoding="utf-8", timeout=5, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
