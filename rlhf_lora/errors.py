"""Everything this kit raises on purpose, and the exit code each one ends a command with.

    RlhfLoraError
    ├── UserError           what the user gave is wrong                        exit 2
    │   ├── ConfigError     an override, a group, a setting                    (ValueError)
    │   ├── PluginError     a plugin that cannot be found, loaded or built     (LookupError)
    │   ├── DataError       a file, a row, a column                            (ValueError)
    │   └── ModelError      a model folder, an adapter, a tokenizer            (ValueError)
    ├── ContractError       a plugin broke a promise of its contract           exit 3, (TypeError)
    ├── Stopped             a monitor or a failing part ended the run          exit 3
    └── Interrupted         a signal ended the run at a checkpoint             exit 130 / 143

A message says three things: what was found, where, and what to do about it. It is the whole output a user sees:
the command line prints no traceback for anything below `RlhfLoraError`.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class RlhfLoraError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class UserError(RlhfLoraError):
    """What the user gave is wrong.

    Args:
        what: what was found, in one sentence.
        where: the override, file and line, or field it was found in.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = ""):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  to do: {self.fix}")
        return "\n".join(lines)


class ConfigError(UserError, ValueError):
    """An override, a config group or a setting that cannot be honoured."""


class PluginError(UserError, LookupError):
    """A plugin that cannot be found, loaded or built."""


class DataError(UserError, ValueError):
    """A data file, row or column that cannot be used."""


class ModelError(UserError, ValueError):
    """A model folder, adapter or tokenizer that cannot be used."""


class ContractError(RlhfLoraError, TypeError):
    """A plugin broke a promise of its contract (wrong count, not a number, not finite, …)."""

    exit_code = 3


class Stopped(RlhfLoraError):
    """The run ended itself: too many scores missing, a loss that is not finite, a server that is gone."""

    exit_code = 3


class Interrupted(RlhfLoraError):
    """A signal ended the run. `signal` is its number; the state is on disk."""

    def __init__(self, signal: int, message: str):
        self.exit_code = 128 + signal
        super().__init__(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'length'?` when something near is known, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def raised_at(error: BaseException) -> str:
    """` (my_reward.py, line 7)`: the deepest frame that is not the kit's own; empty where there is none."""
    own = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if own not in Path(f.filename).parents]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
