"""`dataset=jsonl`: a file of comparisons, demonstrations, labelled answers or prompts, in the shapes people have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Data
from rlhf_lora.registry import dataset

from . import files, formats, json_rows, parts, row_reader, several, tabular


@dataset("jsonl")
class Jsonl:
    """Rows of a file, in any of the shapes of `docs/data.md`: JSONL, JSON array, CSV, Parquet; plain or gzip.

    Attributes:
        path: the file.
        test_path: a second file, for the final evaluation alone; prompts that both have are taken out of the first.
        columns: our names (prompt, chosen, rejected, completion, …) → the file's; null = the same, or a common name for it.
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
        if self.test_path is not None and Path(self.test_path).resolve() == Path(self.path).resolve():
            raise ConfigError(
                "the test file is the file itself",
                where="dataset.test_path",
                fix="leave test_path out: a share of the prompts is kept for the final evaluation anyway",
            )
        row_reader.check_settings(self._renamed, self.columns, self.format, self.limit)

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
        paths = [(self.path, "dataset.path")] + ([(self.test_path, "dataset.test_path")] if self.test_path else [])
        contents = [hashlib.sha256(json_rows.read(path, setting)).hexdigest() for path, setting in paths]
        sources = (formats, parts, several, row_reader, json_rows, files, tabular)
        readers = [hashlib.sha256(Path(source.__file__ or "").read_bytes()).hexdigest() for source in sources]
        settings = [self._renamed, self.limit, self.format]
        return hashlib.sha256(json.dumps([contents, readers, settings], sort_keys=True).encode()).hexdigest()

    @property
    def _renamed(self) -> dict[str, str]:
        return {ours: theirs for ours, theirs in self.columns.items() if theirs is not None}

    def _read(self, path: str, setting: str) -> Data:
        content = json_rows.read(path, setting)
        cells = files.is_csv(path, content)
        rows = files.numbered_rows(content, path, setting, self.limit)
        return row_reader.read(rows, self._renamed, self.format, name=Path(path).name, limit=self.limit, cells=cells)
