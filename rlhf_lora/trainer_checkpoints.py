"""The Trainer's own checkpoints, kept inside our manifest: gone on with only when every byte is as it was written.

The Trainer stores its optimizer with `torch.save`. What we have not written ourselves is never loaded: a checkpoint
without manifest, with a changed file, or of other inputs counts as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf_lora.atomic import damage, write_manifest, write_text

KEY = "inputs.sha256"
EVERY_S = 300.0


def fingerprint(*inputs: Any) -> str:
    """Hex digest over everything that decides a stage's result."""

    def plain(value: Any) -> Any:
        is_instance = dataclasses.is_dataclass(value) and not isinstance(value, type)
        return dataclasses.asdict(value) if is_instance else str(value)

    return hashlib.sha256(json.dumps(inputs, default=plain, sort_keys=True).encode()).hexdigest()


class Checkpoints(TrainerCallback):
    """Saves now and then, and before an interrupt.

    Args:
        folder: where `checkpoint-STEP` folders go; nobody else writes there.
        key: `fingerprint` of the inputs.
        interrupted: gives the number of a signal that came, or None; asked after every step.
    """

    def __init__(self, folder: Path, key: str, interrupted: Callable[[], int | None] | None = None):
        self.folder, self.key = folder, key
        self.interrupted = interrupted or (lambda: None)
        self.signal = 0
        self._last = time.monotonic()

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole and of these inputs; the others are deleted."""
        found = None
        for path in self._paths():
            if found is None and damage(path) is None and (path / KEY).read_text("utf-8").strip() == self.key:
                found = path
            else:
                shutil.rmtree(path)
        return found

    def clear(self) -> None:
        for path in self._paths():
            shutil.rmtree(path)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.signal = self.signal or int(self.interrupted() or 0)
        if self.signal:
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self._last >= EVERY_S and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        newest = self.folder / f"checkpoint-{state.global_step}"
        write_text(newest / KEY, self.key + "\n")
        write_manifest(newest)
        for path in self._paths():
            if path != newest:
                shutil.rmtree(path)
        self._last = time.monotonic()

    def _paths(self) -> list[Path]:
        """Newest first."""
        found = [p for p in self.folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
        return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))
