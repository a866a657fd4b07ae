"""`dataset=hub` with the real loader, on local folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rlhf_lora.plugins.datasets import rows_dataset

from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import build, to_config

ROWS = [{"question": f"{i} + 1?", "answer": str(i + 1), "score_of": None} for i in range(5)]


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "sums"
    place.mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), place / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), place / "test-00000-of-00001.parquet")
    return place


def hub(path: Path | str, **settings: Any) -> Any:
    return build("dataset", {"name": "hub", "path": str(path), **settings})


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        hub(path, **settings).load()
    return str(caught.value)


def test_a_folder_of_parquet_is_read_like_a_file(folder):
    data: Data = hub(folder).load()
    assert [(row.prompt.text, row.completion) for row in data.demonstrations][:2] == [("0 + 1?", "1"), ("1 + 1?", "2")]
    assert data.format.startswith("prompt_completion (question, answer: text)")
    assert len(hub(folder, limit=2).load().demonstrations) == 2


def test_a_folder_of_jsonl_is_read_and_its_unused_rows_are_named(tmp_path):
    (tmp_path / "rows").mkdir()
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "", "completion": "b"}]
    (tmp_path / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (unused,) = hub(tmp_path / "rows").load().unused
    assert (unused.where.endswith("(train), row 2"), unused.reason) == (True, "the prompt is empty")


def test_columns_and_slices_and_a_test_split(folder):
    data = hub(
        folder, split="train[1:3]", test_split="test", columns={"prompt": "question"}, format="prompt_only"
    ).load()
    assert [prompt.text for prompt in data.prompts] == ["1 + 1?", "2 + 1?"]
    assert data.test is not None
    assert [prompt.text for prompt in data.test.prompts] == ["0 + 1?"]


def test_a_split_that_is_not_there_is_refused(folder):
    message = refusal(folder, split="validation")
    assert "has no split 'validation'" in message
    assert "dataset.split=validation" in message


def test_a_dataset_that_is_not_here_says_that_offline_is_why(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("nobody/no-such-dataset")
    assert "no dataset nobody/no-such-dataset here, and HF_HUB_OFFLINE forbids" in message
    assert "dataset=jsonl dataset.path=FILE" in message


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "to do:" in refusal(tmp_path / "empty")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": ""}, "no dataset is given"),
        ({"limit": 0}, "limit is 0"),
        ({"test_split": "train"}, "the test split is the split itself"),
        ({"columns": {"promt": "question"}}, "did you mean 'prompt'"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_fetched(settings, says):
    with pytest.raises(ConfigError, match=says):
        build("dataset", {"name": "hub", "path": "x", **settings})


def test_saved_settings_build_the_same_dataset_and_fingerprints_follow_rows(folder):
    dataset = hub(folder, limit=3)
    assert build("dataset", to_config(dataset)) == dataset
    assert dataset.fingerprint() == hub(folder, limit=3, split="train[:4]").fingerprint()
    assert len({hub(folder, **settings).fingerprint() for settings in ({}, {"limit": 3}, {"split": "test"})}) == 3


@pytest.mark.slow
def test_the_loader_is_not_imported_before_it_is_needed():
    code = "import sys, rlhf_lora.plugins.datasets.hub; assert not {'datasets', 'pyarrow', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fingerprint_follows_the_code_that_reads_rows(folder, monkeypatch):
    before = hub(folder).fingerprint()
    monkeypatch.setattr(rows_dataset, "READERS", rows_dataset.READERS[1:])
    assert hub(folder).fingerprint() != before
