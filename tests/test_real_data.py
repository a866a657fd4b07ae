"""The real files that users have. Runs when `RLHF_LORA_DATA` names the folder that holds them; never copied."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

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
    assert data.rows is not None
    return data.rows


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
        ("gsm8k/train.jsonl.gz", {}, 7473, "prompt_completion", {}),
        ("gsm8k/train.jsonl.gz", {"format": "prompt_only"}, 7473, "prompt_only", {}),
        ("sft/alpaca_en_demo.json.gz", {}, 999, "alpaca", {"the same row stands before": 14}),
        ("sft/gpteacher_roleplay.json.gz", {}, 1923, "alpaca", {}),
        ("sharegpt/dpo_en_demo.json.gz", {}, 300, "preference_conversation", {"the same row stands before": 5}),
        ("alpaca-eval/annotations_alpaca-7b.json.gz", {}, 565, "alpaca_eval", {"a tie": 10}),
        ("alpaca-eval/annotations_llama-2-7b-chat-hf.json.gz", {}, 565, "alpaca_eval", {}),
        (
            "human-pairs/autoj_pairwise.jsonl.gz",
            {},
            972,
            "auto_j",
            {"a tie": 281, "the rejected reply is empty": 1},
        ),
        ("ranked/alpaca_eval_k.jsonl.gz", {}, 565, "ranked", {}),
        ("ranked/qa_feedback_human.json.gz", {}, 355, "qa_feedback", {"a tie": 9}),
        ("judge/mt_bench_question.jsonl", {}, 80, "turns", {}),
    ],
)
def test_every_row_is_used_or_has_a_reason(name, settings, rows, format, reasons):
    data = load(name, **settings)
    assert Counter(row.reason for row in data.unused) == reasons
    assert used(data) + len(data.unused) == rows
    assert data.format.startswith(f"{format} (")


def test_hh_replies_are_cut_at_the_last_mark_and_join_to_the_text_of_the_file():
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


def _said(pairs: Any) -> list[tuple[str, str, str]]:
    return [(pair.prompt.text, pair.chosen, pair.rejected) for pair in pairs]


def rows_of(name: str) -> list[dict[str, Any]]:
    text = gzip.decompress((FOLDER / name).read_bytes()).decode()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line]


def test_every_comparison_of_the_ranked_files_is_a_pair_or_a_tie():
    """Worked out from the file: K (K - 1) / 2 comparisons of K replies, a tie where two scores are equal."""
    data, rows = load("ranked/alpaca_eval_k.jsonl.gz"), rows_of("ranked/alpaca_eval_k.jsonl.gz")
    ties = sum(a == b for row in rows for a, b in combinations(row["scores"], 2))
    every = sum(len(row["scores"]) * (len(row["scores"]) - 1) // 2 for row in rows)
    assert (len(data.pairs), data.left_out) == (every - ties, {"a tie": ties})
    rank = {(r["prompt"], c): s for r in rows for c, s in zip(r["completions"], r["scores"], strict=True)}
    assert all(rank[p.prompt.text, p.chosen] > rank[p.prompt.text, p.rejected] for p in data.pairs)
    assert len(data.rankings) == 565
    assert Counter(p for r in data.rankings for p in _said(r.pairs())) == Counter(_said(data.pairs)), (
        "the same, grouped"
    )

    data, rows = load("ranked/qa_feedback_human.json.gz"), rows_of("ranked/qa_feedback_human.json.gz")
    verdicts = Counter(bool(v) for row in rows for v in row["preference"])
    assert len(data.pairs) == verdicts[True] == 1865
    assert data.left_out == {"a tie": verdicts[False] - 6 * 9}, "nine rows are ties from end to end"
    said = {row["question"]: row for row in rows}
    assert len(data.rankings) == 346 - 14, "fourteen rows go in circles"
    for ranking in data.rankings:
        row = said[ranking.prompt.text]
        order = [(a > b) - (b > a) for a, b in combinations(ranking.ranks, 2)]
        assert order == [{0: 0, 1: -1, 2: 1}[verdict] for verdict in row["preference"]]


@pytest.mark.parametrize(
    ("name", "verdict", "first", "second", "replies"),
    [
        ("alpaca-eval/annotations_alpaca-7b.json.gz", "preference", 1, 2, ("output_1", "output_2")),
        ("human-pairs/autoj_pairwise.jsonl.gz", "label", 0, 1, ("response 1", "response 2")),
    ],
)
def test_verdicts_on_two_replies_agree_with_the_file(name, verdict, first, second, replies):
    wanted = [
        tuple(row[reply] for reply in (replies if row[verdict] == first else reversed(replies)))
        for row in rows_of(name)
        if row[verdict] in (first, second) and all(row[reply].strip() for reply in replies)
    ]
    assert [(pair.chosen, pair.rejected) for pair in load(name).pairs] == wanted


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("judge/fastchat_judge_prompts.jsonl", "prompt_template (text)"),
        ("judge/mt_bench_reference_gpt4.jsonl", "choices (list)"),
    ],
)
def test_templates_and_references_without_prompts_are_refused_with_their_columns(name, says):
    with pytest.raises(DataError) as caught:
        load(name)
    assert "the columns fit no format" in str(caught.value)
    assert says in str(caught.value)


def test_hh_is_read_in_well_under_a_second():
    started = time.process_time()
    load("hh-harmless/train.jsonl.gz")
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("hh-harmless/train.jsonl.gz", 1408),
        ("helpful-ai-pairs/train.jsonl.gz", 5829),
        ("human-pairs/autoj_pairwise.jsonl.gz", 972),
        ("ranked/qa_feedback_human.json.gz", 355),
        ("gsm8k/train.jsonl.gz", 7473),
        ("sft/alpaca_en_demo.json.gz", 999),
        ("ifbench/prompts.jsonl.gz", 162),
        ("sharegpt/kto_en_demo.json.gz", 300),
    ],
)
def test_the_plan_shows_every_row_lengths_and_examples_in_seconds(name, rows, tiny_qwen2):
    from rlhf_lora import data_view
    from rlhf_lora.config import compose
    from rlhf_lora.plan import make_plan

    started = time.process_time()
    path = f"dataset.path={FOLDER / name}"
    made = make_plan(
        compose(f"model.path={tiny_qwen2}", "dataset=jsonl", path, "reward=length", "rollout.max_new_tokens=32")
    )
    (view,) = data_view.view(made)
    assert time.process_time() - started < 5
    assert view.rows == rows == view.used + sum(reason.rows for reason in view.unused)
    assert len(view.examples) == data_view.EXAMPLES
    assert all(lengths.counted == sum(count for _, count in lengths.bins) > 0 for lengths in view.lengths)
