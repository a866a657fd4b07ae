"""What `dataset=jsonl` and `dataset=hub` share: the settings of how rows are read, wherever the rows are."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.records import Data

from . import column_names, files, formats, json_rows, parts, row_reader, several, tabular

READERS = (formats, column_names, parts, several, row_reader, json_rows, files, tabular)
"""The modules that decide what becomes of a row: what they say is part of a dataset's fingerprint."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsDataset(ABC):
    """Rows in any of the shapes of `docs/data.md`. A dataset says which parts it has and how one is read.

    Attributes:
        path: where the rows are.
        columns: our names (prompt, chosen, rejected, completion, …) → theirs; null = the same, or a common name for it.
        limit: read only this many rows of each part.
        format: `auto` lets the first row decide; else one of the names in `formats.FORMATS`.
    """

    path: str
    columns: dict[str, str | None] = dataclasses.field(default_factory=lambda: dict.fromkeys(formats.OUR_COLUMNS))
    limit: int | None = None
    format: str = "auto"

    missing: ClassVar[tuple[str, str]]
    """What is not given when there is no path, and what to do."""
    part: ClassVar[str]
    """What a part is called in messages."""
    test_setting: ClassVar[str]
    """The setting that names the part for the final evaluation."""

    def __post_init__(self) -> None:
        """Refuse settings that no rows could honour, before one is read.

        Raises:
            ConfigError: no path, an unknown format, a column that is not ours or named twice, a limit below 1, a test
                part that is the part itself.
        """
        if not self.path:
            what, fix = self.missing
            raise ConfigError(f"no {what} is given", where="dataset.path", fix=fix)
        if self._tests_itself():
            raise ConfigError(
                f"the test {self.part} is the {self.part} itself",
                where=f"dataset.{self.test_setting}",
                fix="leave it out: a share of the prompts is kept for the final evaluation anyway",
            )
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}", where="dataset.limit", fix="give 1 or more, or null for all")
        known = ("auto", *formats.BY_NAME)
        if self.format not in known:
            raise ConfigError(
                f"no format named '{self.format}'{did_you_mean(self.format, known)}",
                where="dataset.format",
                fix=f"one of: {', '.join(known)}",
            )
        for ours in self.columns:
            if ours not in formats.OUR_COLUMNS:
                raise ConfigError(
                    f"'{ours}' is not one of our columns{did_you_mean(ours, formats.OUR_COLUMNS)}",
                    where=f"dataset.columns.{ours}",
                    fix=f"ours are {', '.join(formats.OUR_COLUMNS)}; e.g. 'dataset.columns={{prompt: question}}'",
                )
        twice = [theirs for theirs, count in Counter(self.renamed.values()).items() if count > 1]
        if twice:
            raise ConfigError(
                f"the column '{twice[0]}' is named twice",
                where="dataset.columns",
                fix="name each column of the file once",
            )

    def load(self) -> Data:
        """Read the part, and the test part when there is one.

        Raises:
            DataError: a part that cannot be had, rows that fit no format or several, or none that can be used.
        """
        part, *test = self._parts()
        data = self._read(part)
        return dataclasses.replace(data, test=self._read(test[0])) if test else data

    @abstractmethod
    def _parts(self) -> list[Any]:
        """The part, and the one for the final evaluation when there is one."""

    @abstractmethod
    def _read(self, part: Any) -> Data: ...

    @abstractmethod
    def _tests_itself(self) -> bool:
        """Whether the part for the final evaluation is the part itself."""

    @property
    def renamed(self) -> dict[str, str]:
        """Our names → theirs, where they differ or are said."""
        return {ours: theirs for ours, theirs in self.columns.items() if theirs is not None}

    def _how_read(self) -> list[Any]:
        """Whatever decides, beside the rows themselves, what becomes of them: goes into the fingerprint."""
        readers = [hashlib.sha256(Path(source.__file__ or "").read_bytes()).hexdigest() for source in READERS]
        return [readers, self.renamed, self.limit, self.format]
