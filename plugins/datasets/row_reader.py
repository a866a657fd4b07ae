"""What becomes of the rows of one file: the first decides the format, and each is used or has a reason why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from rlhf_lora.errors import DataError, did_you_mean
from rlhf_lora.records import Data, Demonstration, Label, Pair, Prompt, Unused

from . import formats
from .formats import Format, NotUsable, Record
from .json_rows import shortened

SYNONYMS = {"prompt": ("instruction", "question", "query"), "completion": ("output", "response", "answer")}
"""Our column → what others call it; proposed in a message, never assumed."""

BARE_COMPARISON = {"chosen": "text", "rejected": "text"}


@dataclass(frozen=True)
class _First:
    """What the first row decided for the whole file."""

    format: Format
    shape: str
    where: str

    def wrong(self, core: Mapping[str, Any]) -> list[str]:
        """Columns of a later row that are of another kind, by our names. An ill-formed message makes a row unusable,
        not the file: any list will do here."""
        wrong = []
        for name in self.format.columns:
            kind, wanted = formats.kind_of(core.get(name)), "true or false" if name == "label" else self.shape
            if kind != wanted and not (kind == "list" and wanted == "messages"):
                wrong.append(name)
        return wrong


class RowReader:
    """Takes rows one by one and keeps what became of them: a record, or a reason why not."""

    def __init__(self, columns: Mapping[str, str], format: Format | None):
        self.columns, self.asked = columns, format
        self.first: _First | None = None
        self.records: list[Record] = []
        self.unused: list[Unused] = []
        self.further: set[str] = set()
        self._seen: dict[bytes, str] = {}

    def take(self, where: str, row: dict[str, Any]) -> None:
        """Read one row.

        Raises:
            DataError: it fits no format, another one than the first row, or lacks a column.
        """
        core, extra = self._named(where, row)
        if self.first is None:
            self.first = self._recognise(where, row, core)
        elif self.first.wrong(core) or (self.asked is None and self.first.format.hides(core)):
            self._another_format(where, core, self.first)
        extra |= {self.columns.get(name, name): core[name] for name in core if name not in self.first.format.columns}
        try:
            if earlier := self._earlier(where, row):
                where = f"{where} (as {earlier})"
                raise NotUsable("the same row stands before")
            self.records.append(self.first.format.read(core, extra))
            self.further |= extra.keys()
        except NotUsable as reason:
            self.unused.append(Unused(where, str(reason)))

    def data(self, cut: str) -> Data:
        """What was read. `cut` is added to the format's description."""
        assert self.first is not None
        columns = ", ".join(self.columns.get(name, name) for name in self.first.format.columns)
        further = f"; further columns: {', '.join(sorted(self.further))}" if self.further else ""

        def of(kind: type) -> list[Any]:
            return [record for record in self.records if isinstance(record, kind)]

        return Data(
            demonstrations=of(Demonstration),
            pairs=of(Pair),
            labels=of(Label),
            prompts=of(Prompt),
            unused=self.unused,
            format=f"{self.first.format.name} ({columns}: {self.first.shape}){further}{cut}",
        )

    def _named(self, where: str, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The row's columns under our names, and the rest under the file's."""
        for ours, theirs in self.columns.items():
            if theirs not in row:
                raise DataError(
                    f"no column '{theirs}'{did_you_mean(theirs, row)}",
                    where=f"dataset.columns.{ours}={theirs}; {where}",
                    fix=f"columns of this row: {', '.join(row) or 'none'}",
                )
        source = {name: self.columns.get(name, name) for name in formats.OUR_COLUMNS}
        taken = set(self.columns.values())
        core = {
            ours: row[theirs]
            for ours, theirs in source.items()
            if theirs in row and (ours in self.columns or theirs not in taken)
        }
        used = {source[ours] for ours in core}
        return core, {name: value for name, value in row.items() if name not in used}

    def _earlier(self, where: str, row: dict[str, Any]) -> str | None:
        """Where exactly this row stood before; None for a new one."""
        try:
            text = json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8")
        except UnicodeEncodeError:
            raise NotUsable("text that is no Unicode (half of a surrogate pair)") from None
        first = self._seen.setdefault(hashlib.sha256(text).digest(), where)
        return first if first != where else None

    def _recognise(self, where: str, row: dict[str, Any], core: dict[str, Any]) -> _First:
        if self.asked is None:
            found = formats.recognise(core)
        else:
            shape = self.asked.shape(core)
            found = (self.asked, shape) if shape else None
        if found is None:
            _fits_no_format(where, row, core, self.asked)
        format, shape = found
        return _First(format, shape, where)

    def _another_format(self, where: str, core: dict[str, Any], first: _First) -> NoReturn:
        now = formats.recognise(core)
        fix = "correct the row, or take it out"
        if now and now != (first.format, first.shape):
            was = f"{first.format.name} ({first.shape})"
            what = f"rows of different formats: {was} first, then {now[0].name} ({now[1]})"
            fix = "keep one format per file"
        elif wrong := first.wrong(core):
            name = self.columns.get(wrong[0], wrong[0])
            found = formats.kind_of(core[wrong[0]]) if wrong[0] in core else ""
            what = f"the column '{name}' is {found} here" if found else f"no column '{name}' in this row"
            what += f"; the file began as {first.format.described()}"
        else:
            more = ", ".join(self.columns.get(name, name) for name in formats.OUR_COLUMNS if name in core)
            what = f"the file began as {first.format.described()}; this row has the columns {more}"
        raise DataError(what, where=f"{where}; the first row: {first.where}", fix=fix)


def _fits_no_format(where: str, row: Mapping[str, Any], core: Mapping[str, Any], asked: Format | None) -> NoReturn:
    """Show the row, and every format that it could have had."""
    where = f"{where}: {_shown(row)}"
    if asked is None and {name: formats.kind_of(value) for name, value in core.items()} == BARE_COMPARISON:
        raise DataError(
            "chosen and rejected are plain text, and nothing says where the prompt ends and the replies begin",
            where=where,
            fix=r"add a column prompt, or write transcripts: \n\nHuman: …\n\nAssistant: …",
        )
    names = {ours: next((n for n in theirs if n in row), None) for ours, theirs in SYNONYMS.items() if ours not in core}
    # Alpaca's `instruction` is half a prompt when there is an `input` beside it: no proposal then.
    renamed = "" if "input" in row else ", ".join(f"{ours}: {theirs}" for ours, theirs in names.items() if theirs)
    raise DataError(
        "the columns fit no format" if asked is None else f"the row does not have the format {asked.name}",
        where=where,
        fix="bring the rows into one of these, or name the columns"
        + (f", perhaps 'dataset.columns={{{renamed}}}'" if renamed else " with dataset.columns")
        + "".join(f"\n      {format.described()}" for format in ([asked] if asked else formats.FORMATS)),
    )


def _shown(row: Mapping[str, Any]) -> str:
    """A row's columns, their kinds and how they begin."""
    columns = [f"{n} ({formats.kind_of(v)}) {shortened(json.dumps(v, ensure_ascii=False), 40)}" for n, v in row.items()]
    return "; ".join(columns[:12]) + ("; …" if len(columns) > 12 else "") if columns else "no columns"
