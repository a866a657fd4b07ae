"""What every conformance kit is made of: promises with ids, a report of what came of each, and a plugin under test.

    KIT = Kit("reward")

    @KIT.promise("count", "one score for each sample", needs=("runs",))
    def count(subject) -> str:
        ...
        raise Broken(given="3 scores for 8 samples", wanted="8", fix="return one score for each sample")
        return "8 scores for 8 samples"

A promise that was not looked at, since another one is broken or it does not apply, is neither kept nor broken: its row has
`ok=None` and says why.
"""

from __future__ import annotations

import contextlib
import io
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lora import plugin_table, registry
from rlhf_lora.errors import ContractError, PluginError

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "wandb", "matplotlib")
"""What no plugin may load before it is opened."""
LOUD = 10_000
"""Characters that a plugin may print while it is looked at."""
SHOWN = 60
"""Characters of a text that a message repeats."""

Watch = Callable[[str, str], None]
"""Called with the id of a promise and the input, before a plugin is asked: whoever watches from outside can then say at
which of them it hung or ended the process."""


@dataclass(frozen=True)
class Row:
    """What came of one promise.

    Attributes:
        id: of the promise; it does not change between releases.
        ok: True kept, False broken, None not looked at.
        why: what was found; of a broken promise what was given, what was wanted and what to do.
        title: the promise in words.
        sample, value: the input at which it broke, and what the plugin gave for it; empty where there is none.
    """

    id: str
    ok: bool | None
    why: str
    title: str = ""
    sample: str = ""
    value: str = ""


@dataclass(frozen=True)
class Report:
    """All rows of one plugin."""

    plugin: str
    rows: tuple[Row, ...] = ()

    @property
    def passed(self) -> bool:
        """No promise is broken."""
        return not self.broken

    @property
    def broken(self) -> list[Row]:
        return [row for row in self.rows if row.ok is False]

    def __getitem__(self, id: str) -> Row:
        """The row of a promise.

        Raises:
            KeyError: the kit has no such promise.
        """
        for row in self.rows:
            if row.id == id:
                return row
        raise KeyError(id)

    def __str__(self) -> str:
        """What is broken, a line each."""
        return "\n".join(f"{self.plugin} breaks '{row.id}' ({row.title}): {row.why}" for row in self.broken)


class Broken(Exception):
    """A promise is not kept.

    Args:
        given: what the plugin did. wanted: what was promised. fix: what its author can do.
        sample: the input at which it showed. value: what the plugin gave for it.
    """

    def __init__(self, given: str, wanted: str, fix: str, sample: str = "", value: str = ""):
        self.sample, self.value = sample, value
        at = f" for {sample}" if sample and sample not in given else ""
        super().__init__(f"given {given}{at}; wanted {wanted}; to do: {fix}")


class NotLookedAt(Exception):
    """A promise does not apply, or cannot be looked at here; the message says why."""


class NeedsModel(Exception):
    """The plugin reached for the model or its tokenizer, and there is none."""


class NoModel:
    """Stands where the shared model would: whoever uses it needs one."""

    def __init__(self, what: str):
        object.__setattr__(self, "_what", what)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and repr look for these
            raise AttributeError(name)
        raise NeedsModel(f"it reads {self._what}.{name}")


@dataclass(frozen=True)
class Promise:
    """One line of a kit. `needs` are the ids that must be kept before this one can be looked at."""

    id: str
    title: str
    look: Callable[[Any], str]
    needs: tuple[str, ...]


class Kit:
    """The promises of one kind of plugin, in the order in which they are looked at."""

    def __init__(self, kind: str):
        self.kind = kind
        self.promises: list[Promise] = []

    def promise(self, id: str, title: str, needs: Sequence[str] = ()) -> Callable[[Callable[[Any], str]], Any]:
        """Add a function that returns what it found, or raises `Broken` or `NotLookedAt`."""

        def add(look: Callable[[Any], str]) -> Callable[[Any], str]:
            self.promises.append(Promise(id, title, look, tuple(needs)))
            return look

        return add

    def report(self, subject: Subject, raises: bool) -> Report:
        """Look at every promise.

        Raises:
            ContractError: one is broken, and `raises`.
        """
        rows: list[Row] = []
        for promise in self.promises:
            row = _looked_at(promise, subject, {row.id: row for row in rows})
            rows.append(row)
            subject.on_row(row)
        report = Report(subject.name, tuple(rows))
        if raises and not report.passed:
            raise ContractError(str(report))
        return report


def _looked_at(promise: Promise, subject: Subject, before: dict[str, Row]) -> Row:
    missing = [id for id in promise.needs if not before[id].ok]
    if missing:
        first = before[missing[0]]
        reason = f"'{first.id}' is broken" if first.ok is False else first.why.removeprefix("not looked at: ")
        return Row(promise.id, None, f"not looked at: {reason}", promise.title)
    subject.at = promise.id
    try:
        return Row(promise.id, True, promise.look(subject), promise.title)
    except Broken as broken:
        return Row(promise.id, False, str(broken), promise.title, broken.sample, broken.value)
    except NotLookedAt as reason:
        return Row(promise.id, None, str(reason), promise.title)
    except NeedsModel as reason:
        return Row(promise.id, None, f"needs a model: {reason}", promise.title)


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


# --- promises that all kinds share ------------------------------------------------------------------------------------


def add_shared(kit: Kit) -> None:
    """The promises of every plugin, put before those of its kind."""
    kit.promise("cheap", "importing and building it loads nothing heavy")(_cheap)
    kit.promise("rebuild", "it is equal after being built from its saved configuration")(_rebuild)


def add_quiet(kit: Kit, needs: Sequence[str] = ()) -> None:
    """Goes last: it is about all that was asked before."""
    kit.promise("quiet", "it does not flood the terminal", needs)(_quiet)


def _cheap(subject: Subject) -> str:
    loaded = sorted(heavy_modules() - subject.heavy_before)
    if loaded:
        raise Broken(
            f"{', '.join(loaded)} was loaded", "no heavy package before the plugin is opened",
            "move the import into the function that needs it", value=", ".join(loaded),
        )  # fmt: skip
    if subject.heavy_before:
        raise NotLookedAt(f"cannot be seen in a process that has loaded {sorted(subject.heavy_before)[0]} before")
    return "no heavy package was loaded"


def _rebuild(subject: Subject) -> str:
    try:
        config = registry.to_config(subject.plugin)
    except ContractError:
        raise NotLookedAt(f'it is not registered: put @{subject.kind}("name") on its class') from None
    again = subject.ask(registry.build, subject.kind, config, sample=f"the configuration {config}")
    if again != subject.plugin:
        raise Broken(
            f"{short(again)} from the configuration of {short(subject.plugin)}", "an equal plugin",
            "check fields in __post_init__ and leave them as they were given; work out other values in a property",
            value=short(again),
        )  # fmt: skip
    return f"settings: {', '.join(key for key in config if key != 'name') or 'none'}"


def _quiet(subject: Subject) -> str:
    if subject.printed > LOUD:
        raise Broken(
            f"{subject.printed:,} characters of output that begin {short(subject.first_printed)}",
            f"at most {LOUD:,} while it is looked at", "take the print out, or use `logging`",
            value=f"{subject.printed:,} characters",
        )  # fmt: skip
    return f"{subject.printed:,} characters printed" if subject.printed else "nothing printed"


def heavy_modules() -> frozenset[str]:
    """Heavy packages that are loaded in this process."""
    return frozenset(name for name in HEAVY if name in sys.modules)


# --- finding the plugin -----------------------------------------------------------------------------------------------


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


# --- words ------------------------------------------------------------------------------------------------------------


def short(value: Any, width: int = SHOWN) -> str:
    """A value as messages repeat it: its repr, without the middle when it is long. No control character is left in it."""
    return clipped(repr(value), width)


def clipped(text: str, width: int = SHOWN) -> str:
    """Text without its middle, when it is long."""
    return text if len(text) <= width else f"{text[: width * 2 // 3]} … {text[-width // 4 :]}"


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as plain text, for logs."""
    for row in rows:
        yield f"{'ok  ' if row.ok else 'FAIL' if row.ok is False else '-   '} {row.id:<12} {row.why}"
