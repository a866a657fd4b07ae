"""`dataset=hub`: a dataset of the Hugging Face Hub, or a local folder that its loader understands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from rlhf_lora.errors import DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import dataset

from . import row_reader, tabular
from .json_rows import shortened
from .rows_dataset import RowsDataset


@dataset("hub")
class Hub(RowsDataset):
    """Rows that `datasets.load_dataset` finds, in any of the shapes of `docs/data.md`. Runs no code of the dataset.

    Attributes:
        path: its name on the Hub (`owner/name`), or a local folder with parquet, jsonl or csv files.
        config: the subset, when there are several.
        split: which part; the loader's slices (`train[:1000]`) work.
        test_split: a second part, for the final evaluation alone.
        revision: commit, tag or branch; give a commit to get the same rows tomorrow.
    """

    missing = ("dataset", "dataset.path=OWNER/NAME or a folder")
    part, test_setting = "split", "test_split"

    config: str | None = None
    split: str = "train"
    test_split: str | None = None
    revision: str | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the rows and how they are read; where they came from does not matter."""
        digest = hashlib.sha256(json.dumps(self._how_read(), sort_keys=True).encode())
        for split in self._parts():
            for _, row in self._rows(split):
                digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def _parts(self) -> list[str]:
        return [self.split, *([] if self.test_split is None else [self.test_split])]

    def _read(self, part: str) -> Data:
        name = f"{self.path} ({part})"
        return row_reader.read(self._rows(part), self.renamed, self.format, name=name, limit=self.limit)

    def _tests_itself(self) -> bool:
        return self.test_split == self.split

    def _rows(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        import datasets

        # Its progress bars would stand between the lines of ours.
        bars = datasets.utils.logging.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            table = datasets.load_dataset(self.path, self.config, split=split, revision=self.revision)
        except Exception as error:  # a dozen kinds, from three libraries; none of them is ours
            raise self._cannot_load(split, error) from error
        finally:
            if bars:
                datasets.enable_progress_bars()
        if not len(table):
            raise DataError(f"{self.path} holds no rows", where=self._where(split), fix="choose another split")
        for number, row in enumerate(table, 1):
            if self.limit is not None and number > self.limit:
                return
            where = f"{self.path} ({split}), row {number}"
            yield where, {name: tabular.plain(value, name, where) for name, value in row.items()}

    def _where(self, split: str) -> str:
        subset = f" dataset.config={self.config}" if self.config else ""
        return f"dataset.path={self.path}{subset} dataset.split={split}"

    def _cannot_load(self, split: str, error: Exception) -> DataError:
        """The loader's trouble in our words, its own words beside."""
        import datasets
        import huggingface_hub

        said = shortened(str(error), 160)
        where = f"{self._where(split)}; the loader says: {type(error).__name__}: {said}"
        if "split" in said.lower():
            return DataError(f"{self.path} has no split '{split}'", where=where, fix="dataset.split=NAME of one it has")
        if "config" in said.lower():
            return DataError(
                f"{self.path} has several subsets, or none of that name", where=where, fix="dataset.config=NAME"
            )
        if isinstance(error, (ConnectionError, TimeoutError, datasets.exceptions.DatasetNotFoundError)) or (
            "offline" in said.lower()
        ):
            offline = huggingface_hub.constants.HF_HUB_OFFLINE
            return DataError(
                f"no dataset {self.path} here"
                + (", and HF_HUB_OFFLINE forbids to look for it on the Hub" if offline else ", nor found on the Hub"),
                where=where,
                fix=("unset HF_HUB_OFFLINE, " if offline else "correct the name, log in if it is gated, ")
                + "or give a local file: dataset=jsonl dataset.path=FILE",
            )
        return DataError(
            f"{self.path} cannot be loaded", where=where, fix="give its files: dataset=jsonl dataset.path=FILE"
        )
