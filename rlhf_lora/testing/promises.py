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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora import registry
from rlhf_lora.errors import ContractError
from rlhf_lora.testing.findings import Broken, NeedsModel, NotLookedAt, Report, Row, short
from rlhf_lora.testing.subjects import Subject, heavy_modules

LOUD = 10_000
"""Characters that a plugin may print while it is looked at."""


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
