"""What becomes of the rows of one file: the first decides the format, and each is used or has a reason why not."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from rlhf_lora.errors import DataError, did_you_mean
from rlhf_lora.records import Data, Demonstration, Label, Pair, Prompt, Ranking, Rating, Unused

from . import formats
from .column_names import aliases_of, compared
from .formats import Format, Record
from .parts import NUMBERS_BESIDE, NotUsable, as_messages, kind_of
from .refusals import fits_no_format, looks_compared, scale_in_doubt, shown
from .several import Rated, Several, by_prompt, comparisons, gathered, other_scale
from .tabular import cell

MOST_PAIRS = 2_000_000
"""Beyond this, rows that compare everything with everything fill the memory before anyone sees why."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
VERDICTS = {"alpaca_eval": "preference", "auto_j": "label"}
"""The column of formats whose verdict on two replies is a number."""


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
            if name in self.format.others:
                fits = name in core and self.format.holds(name, core[name])
            else:
                kind = kind_of(core.get(name))
                fits = kind == self.shape or (kind == "list" and self.shape == "messages")
            if not fits:
                wrong.append(name)
        return wrong


def read(
    rows: Iterable[tuple[str, dict[str, Any]]],
    columns: Mapping[str, str],
    format: str,
    *,
    name: str,
    limit: int | None = None,
    cells: bool = False,
) -> Data:
    """All rows of one file, called `name` in messages.

    Raises:
        DataError: rows that fit no format or several, or none that can be used.
    """
    reader = RowReader(columns, formats.BY_NAME.get(format), cells)
    for where, row in rows:
        reader.take(where, row)
    reader.finish()
    if not reader.records:
        reasons = Counter(unused.reason for unused in reader.unused).most_common()
        was = reader.first.format.name if reader.first else ""
        instead = "; or have its replies imitated whatever their rating: dataset.format=prompt_completion"
        raise DataError(
            f"none of the {len(reader.unused)} rows of {name} can be used",
            where="; ".join(f"{reason}: {count}" for reason, count in reasons),
            fix=f"correct the rows, {reader.unused[0].where} first{instead if was == 'rated' else ''}",
        )
    return reader.data(cut=f"; the first {limit} rows at most" if limit else "")


class RowReader:
    """Takes rows one by one and keeps what became of them: a record, or a reason why not."""

    def __init__(self, columns: Mapping[str, str], format: Format | None, cells: bool = False):
        """`cells`: every value is text, as in CSV; those of columns that hold something else are read as JSON."""
        self.columns, self.asked, self.cells = columns, format, cells
        self.first: _First | None = None
        self.aliases: dict[str, str] = {}
        self.records: list[Record] = []
        self.unused: list[Unused] = []
        self.left_out: Counter[str] = Counter()
        self.used = 0
        self.beside = 0
        self.further: set[str] = set()
        self._rated: dict[str, Rated] = {}
        self._seen: dict[bytes, str] = {}
        self._verdicts: set[float] = set()

    def take(self, where: str, row: dict[str, Any]) -> None:
        """Read one row.

        Raises:
            DataError: it fits no format, another one than the first row, or lacks a column.
        """
        core = self._named(where, row)
        if self.first is None:
            core = self._first_core(where, row, core)
            self.first = self._recognise(where, row, core)
        if self.asked is None and self.first.format.gives == "prompts" and any(compared(row)):
            looks_compared(where, row)
        if self.first.wrong(core) or (self.asked is None and self.first.format.hides(core)):
            self._another_format(where, core, self.first)
        verdict: Any = core.get(VERDICTS.get(self.first.format.name, ""))
        if kind_of(verdict) == "number":
            self._verdicts.add(verdict)
        source = {name: self._theirs(name) for name in self.first.format.columns}
        kept = {"answer"} if source.get("completion") == "answer" else set()  # for rewards that check against it
        extra = {name: value for name, value in row.items() if name not in set(source.values()) - kept}
        if self.cells and self.first.format.gives == "pairs":
            extra |= {name: cell(extra[name], not_text=True) for name in NUMBERS_BESIDE & extra.keys()}
        try:
            if earlier := self._earlier(where, row):
                where = f"{where} (as {earlier})"
                raise NotUsable("the same row stands before")
            self._room_for(self.first.format.compares(core), where)
            found = self.first.format.read(core, extra)
            if isinstance(found, Rated):
                self._rated[where] = found
            else:
                self._keep(where, found)
            self.further |= extra.keys()
        except NotUsable as reason:
            self.unused.append(Unused(where, str(reason)))

    def finish(self) -> None:
        """Bring together what several rows give only together. Call once, after the last row.

        Raises:
            DataError: too many pairs, or verdicts that all together look like another scale.
        """
        if self.first and self.asked is None and other_scale(self.first.format.name, self._verdicts):
            column = self._theirs(VERDICTS[self.first.format.name])
            scale_in_doubt(self.first.format, column, self._verdicts, self.first.where)
        for group in by_prompt(self._rated):
            self._room_for(comparisons(len(group)), group[-1][0])
            for where, found in gathered(group):
                if isinstance(found, NotUsable):
                    self.unused.append(Unused(where, str(found)))
                else:
                    self._keep(where, found)
        self._rated = {}

    def _room_for(self, more: int, where: str) -> None:
        """Raises:
        DataError: with so many further comparisons there would be more than `MOST_PAIRS`. Asked before they are made.
        """
        if len(self.records) - self.beside + more > MOST_PAIRS:
            raise DataError(
                f"the rows give more than {MOST_PAIRS:,} pairs to compare",
                where=f"{where}, where the count passes it",
                fix="read fewer rows: dataset.limit=…, or compare fewer replies to one prompt",
            )

    def data(self, cut: str) -> Data:
        """What was read. `cut` is added to the format's description."""
        assert self.first is not None
        columns = ", ".join(self._theirs(name) for name in self.first.format.columns)
        further = f"; further columns: {', '.join(sorted(self.further))}" if self.further else ""

        def of(kind: type) -> list[Any]:
            return [record for record in self.records if isinstance(record, kind)]

        pairs, left_out = of(Pair), "".join(f", {count:,} none: {why}" for why, count in self.left_out.most_common())
        gave = f"; {self.used:,} rows gave {len(pairs):,} pairs{left_out}" if pairs and len(pairs) != self.used else ""
        return Data(
            demonstrations=of(Demonstration),
            pairs=pairs,
            labels=of(Label),
            prompts=of(Prompt),
            unused=self.unused,
            rows=self.used,
            left_out=dict(self.left_out),
            format=f"{self.first.format.name} ({columns}: {self.first.shape}){gave}{further}{cut}",
            rankings=of(Ranking),
            ratings=of(Rating),
        )

    def _keep(self, where: str, found: Record | Several) -> None:
        self.used += 1
        if not isinstance(found, Several):
            self.records.append(found)
            return
        self.records += found.records
        self.beside += sum(isinstance(record, Ranking | Rating) for record in found.records)  # say again what pairs say
        self.left_out += found.left_out
        self._room_for(0, where)

    def _theirs(self, ours: str) -> str:
        """What the file calls one of our columns."""
        return self.columns.get(ours) or self.aliases.get(ours, ours)

    def _named(self, where: str, row: dict[str, Any]) -> dict[str, Any]:
        """The row's columns under our names, as far as it has them."""
        for ours, theirs in self.columns.items():
            if theirs not in row:
                raise DataError(
                    f"no column '{theirs}'{did_you_mean(theirs, row)}",
                    where=f"dataset.columns.{ours}={theirs}; {where}",
                    fix=f"columns of this row: {', '.join(row) or 'none'}",
                )
        taken = set(self.columns.values())
        source = {name: self._theirs(name) for name in formats.OUR_COLUMNS}
        return {
            ours: self._value(ours, row[theirs])
            for ours, theirs in source.items()
            if theirs in row and (ours in self.columns or theirs not in taken)
        }

    def _value(self, ours: str, value: Any) -> Any:
        if self.cells and isinstance(value, str):
            value = cell(value, ours in formats.NOT_TEXT)
        return as_messages(value) if ours not in formats.NOT_TEXT else value

    def _first_core(self, where: str, row: dict[str, Any], core: dict[str, Any]) -> dict[str, Any]:
        """The first row's columns, other people's names for them included; the same names then hold for all rows.

        Raises:
            DataError: a column that the format needs could be either of two.
        """
        candidates = aliases_of(row, self.columns)
        self.aliases = {ours: theirs[0] for ours, theirs in candidates.items()}
        named = self._named(where, row)
        found = (self.asked, "") if self.asked else formats.recognise(named)
        for ours in found[0].columns if found else ():
            if len(several := candidates.get(ours, [])) > 1:
                raise DataError(
                    f"the {ours} could be the column {' or '.join(repr(name) for name in several)}",
                    where=f"{where}: {shown(row)}",
                    fix=f"name it: dataset.columns.{ours}={several[0]}",
                )
        return named

    def _earlier(self, where: str, row: dict[str, Any]) -> str | None:
        """Where exactly this row stood before; None for a new one."""
        try:
            text = json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8")
        except UnicodeEncodeError:
            raise NotUsable("text that is no Unicode (half of a surrogate pair)") from None
        if b"\\u0000" in text and _NUL.search(text):
            raise NotUsable("text with a NUL character")
        first = self._seen.setdefault(hashlib.sha256(text).digest(), where)
        return first if first != where else None

    def _recognise(self, where: str, row: dict[str, Any], core: dict[str, Any]) -> _First:
        if self.asked is None:
            found = formats.recognise(core)
        else:
            shape = self.asked.shape(core)
            found = (self.asked, shape) if shape else None
        if found is None:
            fits_no_format(where, row, core, self.asked)
        format, shape = found
        return _First(format, shape, where)

    def _another_format(self, where: str, core: dict[str, Any], first: _First) -> NoReturn:
        now = formats.recognise(core)
        fix = "correct the row, or take it out"
        missing = [name for name in first.wrong(core) if name in self.aliases and name not in core]
        if now and now != (first.format, first.shape) and not missing:
            was = f"{first.format.name} ({first.shape})"
            what = f"rows of different formats: {was} first, then {now[0].name} ({now[1]})"
            fix = "keep one format per file"
        elif wrong := first.wrong(core):
            name = self._theirs(wrong[0])
            found = kind_of(core[wrong[0]]) if wrong[0] in core else ""
            what = f"the column '{name}' is {found} here" if found else f"no column '{name}' in this row"
            what += f"; the file began as {first.format.described()}"
        else:
            more = ", ".join(self._theirs(name) for name in formats.OUR_COLUMNS if name in core)
            what = f"the file began as {first.format.described()}; this row has the columns {more}"
        raise DataError(what, where=f"{where}; the first row: {first.where}", fix=fix)
