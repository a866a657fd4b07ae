"""The real files that users have. Runs when `RLHF_LORA_DATA` names the folder that holds them; never copied."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from rlhf_lora.errors import DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import build
from rlhf_lora.splits import split

FOLDER = Path(os.environ.get("RLHF_LORA_DATA", ""))

pytestmark = pytest.mark.skipif("RLHF_LORA_DATA" not in os.environ, reason="RLHF_LORA_DATA names no data folder")


def load(name: str, **settings: object) -> Data:
    return build("dataset", {"name": "jsonl", "path": str(FOLDER / name), **settings}).load()


def used(data: Data) -> int:
    return len(data.pairs) + len(data.demonstrations) + len(data.labels) + len(data.prompts)


@pytest.mark.parametrize(
    ("name", "settings", "rows", "format", "reasons"),
    [
        (
            "hh-harmless/train.jsonl.gz",
            {},
            1408,
            "hh",
            {"chosen and rejected have different prompts": 4, "the chosen reply is empty": 3},
        ),
        ("hh-harmless/test.jsonl.gz", {}, 243, "hh", {}),
        ("helpful-ai-pairs/train.jsonl.gz", {}, 5829, "preference", {"the rejected reply is empty": 1}),
        ("helpful-ai-pairs/test.jsonl.gz", {}, 904, "preference", {"chosen and rejected are the same": 1}),
        ("ifbench/prompts.jsonl.gz", {}, 162, "prompt_only", {}),
        ("sharegpt/kto_en_demo.json.gz", {}, 300, "unpaired_conversation", {}),
        (
            "gsm8k/train.jsonl.gz",
            {"columns": {"prompt": "question", "completion": "answer"}},
            7473,
            "prompt_completion",
            {},
        ),
        (
            "sft/gpteacher_roleplay.json.gz",
            {"columns": {"prompt": "instruction", "completion": "response"}},
            1923,
            "prompt_completion",
            {},
        ),
    ],
)
def test_every_row_is_used_or_has_a_reason(name, settings, rows, format, reasons):
    data = load(name, **settings)
    assert Counter(row.reason for row in data.unused) == reasons
    assert used(data) + len(data.unused) == rows
    assert data.format.startswith(f"{format} (")


def test_hh_replies_are_cut_at_the_last_mark_and_join_to_the_text_of_the_file():
    import gzip
    import json

    lines = gzip.decompress((FOLDER / "hh-harmless/train.jsonl.gz").read_bytes()).decode().splitlines()
    texts = {json.loads(line)["chosen"] for line in lines}
    pairs = load("hh-harmless/train.jsonl.gz").pairs
    assert all(pair.prompt.text + pair.chosen in texts for pair in pairs)
    assert all(pair.prompt.text.endswith("\n\nAssistant:") for pair in pairs)
    assert all("\n\nAssistant:" not in pair.chosen + pair.rejected for pair in pairs)
    for pair in pairs:
        roles = [turn["role"] for turn in pair.prompt.messages or ()]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], "a chat template wants them to alternate"


def test_hh_splits_are_all_of_a_useful_size_and_share_no_prompt():
    splits = split(load("hh-harmless/train.jsonl.gz", test_path=str(FOLDER / "hh-harmless/test.jsonl.gz")))
    counts = splits.counts()
    assert counts["final_pairs"] == 243
    assert counts["unused"] == 7, "no prompt of the test file is in the other one"
    assert counts["demonstrations"] + counts["pairs"] + counts["tuning_pairs"] <= 1401
    smallest = {"demonstrations": 200, "pairs": 700, "prompts": 150, "tuning_pairs": 40}
    assert all(counts[name] >= least for name, least in smallest.items()), counts
    trained = {row.prompt.split_key for row in (*splits.demonstrations, *splits.pairs)}
    assert not trained & {prompt.split_key for prompt in (*splits.tuning_prompts, *splits.final_prompts)}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gsm8k/train.jsonl.gz", "'dataset.columns={prompt: question, completion: answer}'"),
        ("sharegpt/dpo_en_demo.json.gz", "chosen (object)"),
        ("alpaca-eval/annotations_alpaca-7b.json.gz", "preference (number) 1"),
        ("ranked/qa_feedback_human.json.gz", "prediction 1 (text)"),
    ],
)
def test_files_of_other_shapes_are_refused_with_their_columns(name, says):
    with pytest.raises(DataError) as caught:
        load(name)
    assert "the columns fit no format" in str(caught.value)
    assert says in str(caught.value)


def test_hh_is_read_in_well_under_a_second():
    started = time.perf_counter()
    load("hh-harmless/train.jsonl.gz")
    assert time.perf_counter() - started < 1.0
