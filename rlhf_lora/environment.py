"""What a bug report should say of the machine, and nothing that it should not: no secret, no name, no home folder.

Neither torch nor transformers is loaded for it, unless the card is asked for: a broken install must still be able to
say that it is broken.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lora import doors, registry
from rlhf_lora.plan import cache_folder
from rlhf_lora.software import versions

SETTINGS = (
    *("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE"),
    *("HF_HOME", "TOKENIZERS_PARALLELISM", "RLHF_LORA_CACHE", "RLHF_LORA_QUIET"),
)
"""Environment variables that change what a run does and hold no secret. No other is read."""


def environment(gpu: bool = False) -> dict[str, Any]:
    """Versions, platform, threads, settings, cache, plugins.

    Args:
        gpu: load torch, and say what it sees.
    """
    doors.load_entry_points()
    found: dict[str, Any] = dict(versions())
    if gpu:
        found |= _card()
    found["machine"] = platform.machine()
    found["cores"] = os.cpu_count()
    if (memory := _memory_gib()) is not None:
        found["memory_gib"] = memory
    found["installed"] = _shortened(str(Path(__file__).resolve().parent))
    found["virtual_environment"] = sys.prefix != sys.base_prefix
    found["settings"] = {name: _shortened(os.environ[name]) for name in SETTINGS if name in os.environ}
    cache = cache_folder()
    found["cache"] = {"folder": _shortened(str(cache.absolute())), "gib": round(_size_bytes(cache) / 2**30, 3)}
    found["plugins"] = {kind: registry.names(kind) for kind in registry.KINDS}
    found["failed_plugins"] = {package: _shortened(why) for package, why in doors.failures().items()}
    return found


def as_text(found: Mapping[str, Any]) -> str:
    """One line a fact, to be pasted into a report."""
    lines = []
    for name, value in found.items():
        if not isinstance(value, Mapping):
            lines.append(f"{name}: {value}")
        elif value:
            lines += [f"{name}:", *(f"  {key}: {_listed(inside)}" for key, inside in value.items())]
        elif name == "failed_plugins":
            lines.append(f"{name}: none")
    return "\n".join(lines) + "\n"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _shortened(text: str) -> str:
    """The home folder, which has the user's name in it, as `~`; the name elsewhere as `USER`."""
    for home in {str(Path.home()), str(Path.home().resolve())} - {os.sep}:
        text = text.replace(home, "~")
    name = Path.home().name
    return text.replace(f"{os.sep}{name}{os.sep}", f"{os.sep}USER{os.sep}") if len(name) > 1 else text


def _card() -> dict[str, Any]:
    """What torch sees; a torch that cannot be loaded is a finding, not a failure."""
    try:
        import torch
    except Exception as error:
        return {"gpu": f"torch cannot be loaded: {type(error).__name__}: {_shortened(str(error))}"}
    if not torch.cuda.is_available():
        return {"gpu": "none that torch can use", "torch_cuda": torch.version.cuda or "none: a CPU build"}
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "gpu": ", ".join(f"{card.name} ({card.total_memory / 2**30:.1f} GiB)" for card in cards),
        "torch_cuda": torch.version.cuda,
        "compute_capability": ", ".join(f"{card.major}.{card.minor}" for card in cards),
    }


def _memory_gib() -> float | None:
    """Physical memory, where the system tells it (Linux and macOS)."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _size_bytes(folder: Path) -> int:
    """Bytes below a folder, each file once however many names it has (finished stages are hard links)."""
    sizes = {}
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(top, name))
            except OSError:  # gone meanwhile: another run tidies up
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
