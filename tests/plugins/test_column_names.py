"""Alpaca, ShareGPT, plain text, and what people call the same column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lora.errors import DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import build
from rlhf_lora.splits import split


def load(folder: Path, *rows: Any, **settings: Any) -> Data:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build("dataset", {"name": "jsonl", "path": str(file), **settings}).load()


def refusal(folder: Path, *rows: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, *rows, **settings)
    return str(caught.value)


@pytest.mark.parametrize("prompt", ["prompt", "instruction", "question", "query"])
@pytest.mark.parametrize("reply", ["completion", "output", "response"])
def test_common_names_are_understood(tmp_path, prompt, reply):
    data = load(tmp_path, {prompt: "Hi", reply: "Hello!", "source": "me"})
    (row,) = data.demonstrations
    assert (row.prompt.text, row.completion, row.prompt.columns) == ("Hi", "Hello!", {"source": "me"})
    assert data.format.startswith(f"prompt_completion ({prompt}, {reply}: text)")


def test_common_names_stand_for_pairs_and_labels_too(tmp_path):
    (pair,) = load(tmp_path, {"question": "Hi", "chosen_response": "Hello!", "rejected_response": "What?"}).pairs
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("Hi", "Hello!", "What?")
    (label,) = load(tmp_path, {"query": "Hi", "response": "What?", "label": False}).labels
    assert (label.prompt.text, label.completion, label.good) == ("Hi", "What?", False)


def test_question_and_answer_are_a_demonstration_and_rewards_still_get_the_answer(tmp_path):
    (row,) = load(tmp_path, {"question": "2 + 2?", "answer": "<<2+2=4>>4\n#### 4"}).demonstrations
    assert row.completion == "<<2+2=4>>4\n#### 4"
    assert row.prompt.columns == {"answer": "<<2+2=4>>4\n#### 4"}


def test_an_answer_beside_a_prompt_is_for_rewards_and_not_imitated(tmp_path):
    data = load(tmp_path, {"prompt": "2 + 2?", "answer": "4"})
    assert (len(data.prompts), data.prompts[0].columns) == (1, {"answer": "4"})


def test_two_columns_that_could_be_the_reply_are_both_named(tmp_path):
    row = {"instruction": "Hi", "output": "Hello!", "response": "What?"}
    message = refusal(tmp_path, row)
    assert "the completion could be the column 'output' or 'response'" in message
    assert "dataset.columns.completion=output" in message
    (found,) = load(tmp_path, row, columns={"completion": "response"}).demonstrations
    assert (found.completion, found.prompt.columns) == ("What?", {"output": "Hello!"})


def test_a_doubtful_column_that_no_format_needs_is_no_trouble(tmp_path):
    row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "output": "x", "response": "y"}
    assert load(tmp_path, row).pairs[0].prompt.columns == {"output": "x", "response": "y"}


def test_the_first_row_decides_the_names_too(tmp_path):
    message = refusal(tmp_path, {"prompt": "a", "output": "b"}, {"prompt": "a", "response": "b"})
    assert "no column 'output' in this row" in message
    assert "line 2" in message


def test_alpaca_instruction_and_input_are_joined_by_an_empty_line(tmp_path):
    rows = [
        {"instruction": "Name the colour.", "input": "the sky", "output": "Blue."},
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
        {"instruction": "Say no.", "input": None, "output": "No."},
        {"instruction": " ", "input": "", "output": "No."},
    ]
    data = load(tmp_path, *rows)
    assert [row.prompt.text for row in data.demonstrations] == [
        "Name the colour.\n\nthe sky",
        "Name a colour.",
        "Say no.",
    ]
    assert [unused.reason for unused in data.unused] == ["the prompt is empty"]
    (roleplay,) = load(tmp_path, {**rows[0], "output": 1, "response": "Blue!"}).demonstrations
    assert roleplay.completion == "Blue!"


def test_plain_text_is_learnt_from_an_empty_prompt_and_spread_over_the_splits(tmp_path):
    data = load(tmp_path, *({"text": f"Once upon a time there were {i} bears."} for i in range(100)))
    assert {row.prompt.text for row in data.demonstrations} == {""}
    splits = split(data)
    assert 20 < len(splits.demonstrations) < 100
    assert splits.prompts == splits.final_prompts == [], "there is nothing to ask a policy"


def turn(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def test_sharegpt_turns_become_messages(tmp_path):
    row = {"conversations": [turn("system", "Be brief."), turn("human", "Hi"), turn("gpt", "Hello!")]}
    (row,) = load(tmp_path, row).demonstrations
    assert [message["role"] for message in row.prompt.messages] == ["system", "user"]
    assert (row.prompt.text, row.completion) == ("Be brief.\n\nHuman: Hi\n\nAssistant:", "Hello!")


def test_sharegpt_comparison_has_one_turn_on_each_side(tmp_path):
    row = {
        "conversations": [turn("human", "Hi"), turn("gpt", "Hello!"), turn("human", "A colour?")],
        "chosen": turn("gpt", "Blue."),
        "rejected": turn("gpt", "Bus."),
    }
    (pair,) = load(tmp_path, row).pairs
    assert [message["content"] for message in pair.prompt.messages] == ["Hi", "Hello!", "A colour?"]
    assert (pair.chosen, pair.rejected, pair.prompt.split_key) == ("Blue.", "Bus.", "Hi")


def test_a_turn_of_a_tool_makes_the_row_unusable_and_says_so(tmp_path):
    good = {"conversations": [turn("human", "Hi"), turn("gpt", "Hello!")]}
    bad = {"conversations": [turn("human", "Hi"), turn("function_call", "{}"), turn("gpt", "Hello!")]}
    odd = {"conversations": [turn("human", "Hi"), {"from": "gpt", "value": None}]}
    assert [unused.reason for unused in load(tmp_path, good, bad, odd).unused] == [
        "a message whose role is not system, user or assistant",
        "a message without role and content as text",
    ]


def test_messages_beside_whole_conversations_are_a_further_column(tmp_path):
    """UltraFeedback's binarised files repeat the chosen conversation as `messages`."""
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    worse = [said[0], {"role": "assistant", "content": "What?"}]
    (pair,) = load(tmp_path, {"prompt": "Hi", "chosen": said, "rejected": worse, "messages": said}).pairs
    assert (pair.prompt.messages, pair.chosen, pair.rejected) == ((said[0],), "Hello!", "What?")


def test_turns_of_mt_bench_give_the_first_as_prompt(tmp_path):
    (prompt,) = load(tmp_path, {"question_id": 81, "turns": ["Write.", "Rewrite."]}).prompts
    assert (prompt.text, prompt.columns) == ("Write.", {"question_id": 81, "turns": ["Write.", "Rewrite."]})
