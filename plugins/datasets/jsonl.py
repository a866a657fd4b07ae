"""`dataset=jsonl`: a file of comparisons, demonstrations, labelled answers or prompts, in the shapes people have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

from rlhf_lora.errors import ConfigError, DataError, did_you_mean
from rlhf_lora.records import Data
from rlhf_lora.registry import dataset

from . import formats, json_rows, parts, row_reader, several


@dataset("jsonl")
class Jsonl:
    """Rows of a JSONL file or JSON array, plain or gzip: TRL's formats and the raw HH transcripts.

    Attributes:
        path: the file.
        test_path: a second file, for the final evaluation alone; prompts that both have are taken out of the first.
        columns: our names (prompt, chosen, rejected, completion, messages, label) → the file's; null = the same.
        limit: read only this many rows of each file.
        format: `auto` lets the first row decide; else one of the names in `formats.FORMATS`.
    """

    path: str
    test_path: str | None = None
    columns: dict[str, str | None] = dataclasses.field(default_factory=lambda: dict.fromkeys(formats.OUR_COLUMNS))
    limit: int | None = None
    format: str = "auto"

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("no data file is given", where="dataset.path", fix="dataset.path=FILE")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}", where="dataset.limit", fix="give 1 or more, or null for all")
        if self.test_path is not None and Path(self.test_path).resolve() == Path(self.path).resolve():
            raise ConfigError(
                "the test file is the file itself",
                where="dataset.test_path",
                fix="leave test_path out: a share of the prompts is kept for the final evaluation anyway",
            )
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
        twice = [theirs for theirs, count in Counter(self._renamed.values()).items() if count > 1]
        if twice:
            raise ConfigError(
                f"the column '{twice[0]}' is named twice",
                where="dataset.columns",
                fix="name each column of the file once",
            )

    def load(self) -> Data:
        """Read the file, and the test file when there is one.

        Raises:
            DataError: a file that cannot be read, rows that fit no format or several, or none that can be used.
        """
        data = self._read(self.path, "dataset.path")
        if self.test_path is not None:
            data = dataclasses.replace(data, test=self._read(self.test_path, "dataset.test_path"))
        return data

    def fingerprint(self) -> str:
        """SHA-256 of what the files hold and how they are read; where they lie does not matter."""
        files = [(self.path, "dataset.path")] + ([(self.test_path, "dataset.test_path")] if self.test_path else [])
        contents = [hashlib.sha256(json_rows.read(path, setting)).hexdigest() for path, setting in files]
        sources = (formats, parts, several, row_reader, json_rows)
        readers = [hashlib.sha256(Path(source.__file__ or "").read_bytes()).hexdigest() for source in sources]
        settings = [self._renamed, self.limit, self.format]
        return hashlib.sha256(json.dumps([contents, readers, settings], sort_keys=True).encode()).hexdigest()

    @property
    def _renamed(self) -> dict[str, str]:
        return {ours: theirs for ours, theirs in self.columns.items() if theirs is not None}

    def _read(self, path: str, setting: str) -> Data:
        reader = row_reader.RowReader(self._renamed, formats.BY_NAME.get(self.format))
        for where, row in json_rows.numbered_rows(path, setting, self.limit):
            reader.take(where, row)
        reader.finish()
        if not reader.records:
            reasons = Counter(unused.reason for unused in reader.unused).most_common()
            raise DataError(
                f"none of the {len(reader.unused)} rows of {Path(path).name} can be used",
                where="; ".join(f"{reason}: {count}" for reason, count in reasons),
                fix=f"correct the rows, {reader.unused[0].where} first",
            )
        return reader.data(cut=f"; the first {self.limit} rows at most" if self.limit else "")
