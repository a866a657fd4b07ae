"""What decides which model a stage loads, and what names it by content. Imports nothing heavy: the plan uses it too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from rlhf_lora.chat import Mode
from rlhf_lora.errors import ModelError


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters (Hu et al. 2021): h = W x + (alpha / r) B A x, B = 0 at the start."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def config(self, task: Literal["CAUSAL_LM", "SEQ_CLS"]) -> Any:
        from peft import LoraConfig

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        heads = ["score"] if task == "SEQ_CLS" else None
        return LoraConfig(
            task_type=task, r=self.r, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets,
            modules_to_save=heads,
        )  # fmt: skip


@dataclass(frozen=True)
class ModelSpec:
    """Everything that decides what a stage loads. Stages share this, never a live model.

    Attributes:
        path: local folder in Transformers layout, or hub id.
        dtype: of compute, embeddings and norms; adapters and heads are always float32.
    """

    path: str
    revision: str | None = None
    load_in_4bit: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    lora: LoraSpec = field(default_factory=LoraSpec)
    template: Mode = "auto"
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    gradient_checkpointing: bool = False

    @property
    def torch_dtype(self) -> Any:
        import torch

        return torch.float32 if self.dtype == "float32" else torch.bfloat16


def check_model_folder(path: str, setting: str = "model.path") -> None:
    """Refuse, before anything heavy is imported, a local folder that cannot be a model.

    Args:
        setting: that gave the path, for the message.

    Raises:
        ModelError: no config.json, or no weights.
    """
    folder = Path(path)
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise ModelError(f"no model folder {path}", where=f"{setting}={path}", fix="give a folder or a hub id")
        return
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{path} has no config.json", where=f"{setting}={path}", fix="give a folder in Transformers layout"
        )
    if not list(folder.glob("*.safetensors")):
        other = [f.name for f in folder.glob("pytorch_model*.bin")]
        hint = (
            f"it has {other[0]}: convert it, this kit never unpickles"
            if other
            else "copy the *.safetensors files there"
        )
        raise ModelError(f"{path} has no weights (*.safetensors)", where=f"{setting}={path}", fix=hint)


def file_of(path: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a model where it is on this machine: in its folder, or of a hub id in the hub's cache. Asks no network."""
    if Path(path).is_dir():
        return file if (file := Path(path, name)).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def base_hash(path: str, revision: str | None = None) -> str:
    """16 hex digits that name a base by content: config and weights of a folder, or a hub id with its revision."""
    folder = Path(path)
    if not folder.is_dir():
        return hashlib.sha256(f"{path}@{revision}".encode()).hexdigest()[:16]
    digest = hashlib.sha256()
    names = sorted(
        [
            *folder.glob("*.safetensors"),
            *folder.glob("config.json"),
            *folder.glob("tokenizer*.json"),
            *folder.glob("chat_template*"),
        ]
    )
    for file in names:
        stat = file.stat()
        digest.update(f"{file.name}:{_file_hash(str(file.resolve()), stat.st_size, stat.st_mtime_ns)};".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapter_hash(folder: Path) -> str:
    """16 hex digits over an adapter's configuration and weights."""
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors", "reward.json"):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
