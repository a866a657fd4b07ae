"""A plugin under test: found by name, class or object, asked with care, and opened without a model."""

from __future__ import annotations

import contextlib
import io
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lora import plugin_table, registry
from rlhf_lora.contracts import Context
from rlhf_lora.errors import PluginError
from rlhf_lora.testing.findings import SHOWN, Broken, NeedsModel, NotLookedAt, Row, clipped, short

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "wandb", "matplotlib")
"""What no plugin may load before it is opened."""

Watch = Callable[[str, str], None]
"""Called with the id of a promise and the input, before a plugin is asked: whoever watches from outside can then say at
which of them it hung or ended the process."""


def nothing(*_: Any) -> None:
    """The watcher of a check that nobody watches."""


@dataclass
class Subject:
    """A plugin under test.

    Attributes:
        kind, name: `reward`, `reward=brevity`.
        plugin: the object as it was built.
        heavy_before: heavy packages that were loaded before the plugin came in.
        watch, on_row: told of each input and of each finished row.
        at: the promise that is being looked at.
        printed: how many characters it printed so far, and where they began.
    """

    kind: str
    name: str
    plugin: Any
    heavy_before: frozenset[str]
    watch: Watch = nothing
    on_row: Callable[[Row], None] = nothing
    at: str = ""
    printed: int = 0
    first_printed: str = field(default="", repr=False)

    def ask(self, function: Callable[..., Any], *given: Any, sample: str = "", **more: Any) -> Any:
        """What the plugin answers. What it prints is kept from the terminal and counted.

        Raises:
            Broken: it raised, or tried to end the process.
        """
        self.watch(self.at, sample)
        caught = Caught()
        try:
            with contextlib.redirect_stdout(caught), contextlib.redirect_stderr(caught):
                return function(*given, **more)
        except (NeedsModel, Broken, NotLookedAt):
            raise
        except SystemExit as end:
            raise Broken(
                f"sys.exit({end.code if end.code is not None else ''})", "an answer",
                "raise an exception that says what is wrong; a plugin never ends the process", sample, "SystemExit",
            ) from end  # fmt: skip
        except Exception as error:
            said = f"{type(error).__name__}: {clipped(str(error), 200)}"
            raise Broken(f"{said} ({last_line(error)})", "an answer", "mend that line", sample, said) from error
        finally:
            self.printed += caught.count
            self.first_printed = self.first_printed or caught.kept


class Caught(io.TextIOBase):
    """Counts what is printed and keeps the beginning: a plugin that prints megabytes fills no memory."""

    def __init__(self) -> None:
        self.count, self.kept = 0, ""

    def write(self, text: str) -> int:
        self.count += len(text)
        if len(self.kept) < 2 * SHOWN:
            self.kept += text[: 2 * SHOWN]
        return len(text)

    def writable(self) -> bool:
        return True


def heavy_modules() -> frozenset[str]:
    """Heavy packages that are loaded in this process."""
    return frozenset(name for name in HEAVY if name in sys.modules)


def built(kind: str, thing: Any) -> tuple[str, Any]:
    """`reward=brevity` and the plugin object, of an object, a class, a decorated function or a registered name.

    Raises:
        PluginError: nothing of the kind.
    """
    if isinstance(thing, str):
        return f"{kind}={thing}", registry.build(kind, {"name": thing})
    for entry in plugin_table.table.values():
        if entry.kind == kind and (thing is entry.cls or thing is getattr(entry.cls, "made_from", entry.cls)):
            return f"{kind}={entry.name}", registry.build(kind, {"name": entry.name})
        if entry.kind == kind and type(thing) is entry.cls:
            return f"{kind}={entry.name}", thing
    if isinstance(thing, type) or not hasattr(thing, registry.KINDS[kind] or "__class__"):
        raise PluginError(
            f"{short(thing)} is no {kind}",
            where=f"check_{kind}",
            fix=f'give an object, its name, or what @{kind}("name") stands on',
        )
    return f"{kind} {type(thing).__name__}", thing


def last_line(error: BaseException) -> str:
    """`brevity.py, line 7: the line`: the deepest frame in somebody's own file, not in this kit or an installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(str(Path(__file__).parent))]
    installed = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"])
    own = [frame for frame in outside if not frame.filename.startswith(installed)] or outside
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else "no line of it is known"


def open_without_model(plugin: Any, seed: int = 0, judge: Any = None) -> Any:
    """What `plugin.open` returns where there is no model; the plugin itself when it has no `open`.

    Args:
        judge: a judge that needs no model either, for a reward that asks one; without it, such a reward is not opened.

    Raises:
        NeedsModel: it uses the model, or a stage has to train it first.
    """
    stages = getattr(plugin, "stages", ())
    if stages:
        raise NeedsModel(f"the stage {stages[0]} trains it first")
    if judge is None and getattr(plugin, "needs_judge", False):
        raise NeedsModel("it asks a judge")
    opener = getattr(plugin, "open", None)
    if not callable(opener):
        return plugin
    return opener(Context(seed=seed, judge=judge, backbone=NoModel("ctx.backbone"), chat=NoModel("ctx.chat")))


class NoModel:
    """Stands where the shared model would: whoever uses it needs one."""

    def __init__(self, what: str):
        object.__setattr__(self, "_what", what)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and repr look for these
            raise AttributeError(name)
        raise NeedsModel(f"it reads {self._what}.{name}")
