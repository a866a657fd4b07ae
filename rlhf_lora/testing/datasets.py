"""`check_dataset`: what the contract `Dataset` promises, an id for each promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lora import registry
from rlhf_lora.records import Data, Demonstration, Label, Pair, Prompt, Ranking, Rating, prompt_of
from rlhf_lora.testing.findings import Broken, Report, Row, short
from rlhf_lora.testing.promises import Kit, add_quiet, add_shared
from rlhf_lora.testing.subjects import Subject, Watch, built, heavy_modules, nothing

KIT = Kit("dataset")
LISTS = {
    "demonstrations": Demonstration, "pairs": Pair, "labels": Label, "prompts": Prompt, "rankings": Ranking, "ratings": Rating,
}  # fmt: skip


@dataclass
class Loaded(Subject):
    """A dataset under test, and what it loaded."""

    data: Any = None


def check_dataset(
    thing: Any,
    raises: bool = True,
    *,
    heavy_before: frozenset[str] | None = None,
    watch: Watch = nothing,
    on_row: Callable[[Row], None] = nothing,
) -> Report:
    """Hold a dataset to its contract; arguments as of `check_reward`.

    Raises:
        ContractError: a promise is broken. PluginError: `thing` is no dataset.
    """
    before = heavy_modules() if heavy_before is None else heavy_before
    return KIT.report(Loaded("dataset", *built("dataset", thing), before, watch, on_row), raises)


add_shared(KIT)


@KIT.promise("runs", "it loads")
def _runs(subject: Loaded) -> str:
    subject.data = subject.ask(subject.plugin.load, sample="load()")
    return f"a {type(subject.data).__name__}"


@KIT.promise("type", "what it loads is a Data of records", needs=("runs",))
def _type(subject: Loaded) -> str:
    if not isinstance(subject.data, Data):
        given = f"{short(subject.data)}, a {type(subject.data).__name__}"
        raise Broken(given, "a Data", "return Data(pairs=[…]) or the like", "load()", short(subject.data))
    if not isinstance(subject.data.test, Data | None):
        given = f"{short(subject.data.test)} in test"
        raise Broken(given, "a Data, or None", "Data(test=Data(prompts=[…]))", "load()", short(subject.data.test))
    found = list(lists_of(subject.data))
    for name, kind, records in found:
        for at, record in enumerate(records):
            if not isinstance(record, kind):
                given, fix = f"{short(record)} in {name}", f"put {kind.__name__} objects there"
                raise Broken(given, f"a {kind.__name__}", fix, f"{name}[{at}]", short(record))
    return ", ".join(f"{len(records)} {name}" for name, _, records in found if records)


@KIT.promise("rows", "there is something in it", needs=("type",))
def _rows(subject: Loaded) -> str:
    count = sum(len(records) for _, _, records in lists_of(subject.data))
    if not count:
        fix = "load a row or more, or raise a DataError that says why there is none"
        raise Broken("no record of any kind", "one at least", fix, "load()", "Data()")
    return f"{count} records"


@KIT.promise("prompts", "no prompt is empty", needs=("type",))
def _prompts(subject: Loaded) -> str:
    for name, _, records in lists_of(subject.data):
        for at, record in enumerate(records):
            prompt = prompt_of(record)
            if not isinstance(prompt, Prompt) or not isinstance(prompt.text, str):
                raise Broken(short(prompt), "a Prompt of text", "Prompt('…')", f"{name}[{at}]", short(prompt))
            if not prompt.text.strip():
                fix = "leave the row out and list it: Data(unused=[Unused(where, reason)])"
                raise Broken(
                    short(prompt.text), "a prompt that says something", fix, f"{name}[{at}]", short(prompt.text)
                )
    return "none is"


@KIT.promise("unused", "what is not used is listed with a reason", needs=("type",))
def _unused(subject: Loaded) -> str:
    for at, row in enumerate(subject.data.unused):
        if not getattr(row, "where", "") or not getattr(row, "reason", ""):
            fix = "Unused('file.jsonl, line 3', 'the answer is empty')"
            raise Broken(short(row), "where it stands and why", fix, f"unused[{at}]", short(row))
    return f"{len(subject.data.unused)} rows"


@KIT.promise("twice", "the same settings give the same rows in the same order", needs=("type",))
def _twice(subject: Loaded) -> str:
    again = subject.ask(_again(subject).load, sample="load() once more")
    others = {name: list(records) for name, _, records in lists_of(again)} if isinstance(again, Data) else {}
    ones = {name: list(records) for name, _, records in lists_of(subject.data)}
    for name in dict.fromkeys((*ones, *others)):
        one, other = ones.get(name, []), others.get(name, [])
        if one != other:
            at = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
            )
            given = f"{len(one)} and {len(other)} {name}, from number {at} on not the same"
            fix = "sort what is read, and draw with random.Random(self.seed)"
            raise Broken(
                given, "the same rows twice", fix, f"{name}[{at}]", short(other[at]) if at < len(other) else ""
            )
    return "equal"


@KIT.promise("fingerprint", "its fingerprint is text that does not change", needs=("runs",))
def _fingerprint(subject: Loaded) -> str:
    fix = "return hashlib.sha256(what decides the rows).hexdigest()"
    if not callable(getattr(subject.plugin, "fingerprint", None)):
        raise Broken("no method fingerprint()", "text that changes when the rows do", fix)
    first = subject.ask(subject.plugin.fingerprint, sample="fingerprint()")
    second = subject.ask(_again(subject).fingerprint, sample="fingerprint() once more")
    if not isinstance(first, str) or not first:
        raise Broken(short(first), "text", fix, "fingerprint()", short(first))
    if first != second:
        raise Broken(f"{short(first)} and {short(second)}", "the same text twice", fix, "fingerprint()", short(second))
    return first[:16]


def lists_of(data: Data) -> Iterator[tuple[str, type, Sequence[Any]]]:
    """Name, kind and records of every list of the data, those of its test set included: `test.pairs`."""
    for where, part in (("", data), ("test.", data.test)):
        if part is not None:
            yield from ((where + name, kind, getattr(part, name)) for name, kind in LISTS.items())


def _again(subject: Loaded) -> Any:
    """Another object of the same settings; of one that is not registered, itself."""
    try:
        return registry.build("dataset", registry.to_config(subject.plugin))
    except TypeError:  # ContractError: not registered
        return subject.plugin


add_quiet(KIT, needs=("runs",))
