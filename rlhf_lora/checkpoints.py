"""Checkpoints of the on-policy loop: one folder per saved update, safetensors and JSON, nothing that can run code.

    checkpoints/update-000012/  state.safetensors  state.json  manifest.json (sizes and SHA-256)

They appear by rename, so a kill leaves the one before. safetensors notices a cut file but not a flipped bit: hence the
hashes, which are checked before anything is loaded.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.atomic import damage, staging, write_manifest, write_text
from rlhf_lora.errors import RlhfLoraError, UserError

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"^update-(\d{6,})$")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a loop needs to go on after update `step`.

    Attributes:
        tensors: name → tensor on the CPU, bit-equal to what was saved.
        state: counters, random streams, controllers: plain JSON values.
        skipped: newer checkpoints that were damaged, each with what is wrong with it.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    skipped: tuple[str, ...] = ()


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Save the state after update `step`, then drop all but the newest `keep`.

    Checkpoints of later updates are dropped too: the run went on from an earlier one, they belong to a future that
    will not be.

    Raises:
        RlhfLoraError: `state` is not plain JSON with finite numbers.
    """
    from safetensors.torch import save_file

    try:
        text = json.dumps(dict(state), allow_nan=False, indent=1)
    except (TypeError, ValueError) as error:
        raise RlhfLoraError(f"the state after update {step} is not plain JSON: {error}") from error
    final = folder / f"update-{step:06d}"
    # Copied: safetensors refuses tensors that share memory, such as tied heads.
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with staging(final) as temp:
        save_file(plain, str(temp / "state.safetensors"))
        write_text(temp / "state.json", text + "\n")
        write_manifest(temp)
    steps = paths(folder)
    for old in [s for s in steps if s > step] + [s for s in steps if s <= step][:-keep]:
        shutil.rmtree(steps[old])
    return final


def paths(folder: Path) -> dict[int, Path]:
    """Step → checkpoint folder, oldest first, damaged ones included."""
    found = {int(m[1]): p for p in folder.iterdir() if (m := _NAME.match(p.name))} if folder.is_dir() else {}
    return dict(sorted(found.items()))


def latest(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint; None when there is none at all. What is skipped is told on stderr.

    Raises:
        UserError: there are checkpoints, and every one is damaged. A run never starts over by itself.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    skipped: list[str] = []
    for step, path in reversed(paths(folder).items()):
        wrong = damage(path)
        if wrong is None:
            try:
                state = json.loads((path / "state.json").read_bytes())
                return Checkpoint(step, load_file(str(path / "state.safetensors")), state, tuple(skipped))
            except (ValueError, OSError, SafetensorError) as error:
                wrong = str(error)
        skipped.append(f"{path.name}: {wrong}")
        print(f"checkpoint {skipped[-1]}; taking the one before", file=sys.stderr)
    if skipped:
        raise UserError(
            f"every checkpoint is damaged ({'; '.join(skipped)})",
            where=str(folder),
            fix="restore the folder from a backup, or start over with resume=never in a new run_dir",
        )
    return None
