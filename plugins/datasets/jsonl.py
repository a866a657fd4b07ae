"""`dataset=jsonl`: a file of comparisons, demonstrations, labelled answers or prompts, in the shapes people have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rlhf_lora.records import Data
from rlhf_lora.registry import dataset

from . import files, json_rows, row_reader
from .rows_dataset import RowsDataset


@dataset("jsonl")
class Jsonl(RowsDataset):
    """Rows of a file, in any of the shapes of `docs/data.md`: JSONL, JSON array, CSV, Parquet; plain or gzip.

    Attributes:
        path: the file.
        test_path: a second file, for the final evaluation alone; prompts that both have are taken out of the first.
    """

    missing = ("data file", "dataset.path=FILE")
    part, test_setting = "file", "test_path"

    test_path: str | None = None

    def fingerprint(self) -> str:
        """SHA-256 of what the files hold and how they are read; where they lie does not matter."""
        contents = [hashlib.sha256(json_rows.read(*part)).hexdigest() for part in self._parts()]
        return hashlib.sha256(json.dumps([contents, self._how_read()], sort_keys=True).encode()).hexdigest()

    def _parts(self) -> list[tuple[str, str]]:
        """(path, the setting that gave it)."""
        test = [] if self.test_path is None else [(self.test_path, "dataset.test_path")]
        return [(self.path, "dataset.path"), *test]

    def _read(self, part: tuple[str, str]) -> Data:
        path, setting = part
        content = json_rows.read(path, setting)
        cells = files.is_csv(path, content)
        rows = files.numbered_rows(content, path, setting, self.limit)
        return row_reader.read(rows, self.renamed, self.format, name=Path(path).name, limit=self.limit, cells=cells)

    def _tests_itself(self) -> bool:
        return self.test_path is not None and Path(self.test_path).resolve() == Path(self.path).resolve()
