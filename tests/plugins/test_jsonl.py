"""What `dataset=jsonl` reads, what it does not use and says so, and what it refuses."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rlhf_lora.plugins.datasets.formats import FORMATS

from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.records import Data, Demonstration, Label, Pair
from rlhf_lora.registry import build, to_config

HH_PROMPT = "\n\nHuman: I lost my key.\n\nAssistant: Where?\n\nHuman: In the park.\n\nAssistant:"
HH_ROW = {"chosen": HH_PROMPT + " Look under the bench.", "rejected": HH_PROMPT + " Loud music helps."}
"""Both replies begin with ` Lo`: splitting by the longest common beginning would cut inside the first word."""


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> str:
    """Rows as JSONL; a string is written as it stands."""
    file = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(file)


def load(path: str, **settings: Any) -> Data:
    return build("dataset", {"name": "jsonl", "path": path, **settings}).load()


def refusal(path: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **settings)
    return str(caught.value)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_preference_with_a_prompt_keeps_the_text_as_it_stands(tmp_path):
    data = load(write(tmp_path, {"prompt": "The sky is", "chosen": " blue.", "rejected": " soup."}))
    (pair,) = data.pairs
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("The sky is", " blue.", " soup.")
    assert pair.prompt.messages is None
    assert data.format == "preference (prompt, chosen, rejected: text)"


def test_conversational_preference_becomes_messages_and_a_transcript(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    row = {"prompt": [system, user("Hi")], "chosen": [assistant("Hello!")], "rejected": [assistant("What?")]}
    (pair,) = load(write(tmp_path, row)).pairs
    assert pair.prompt.text == "Be brief.\n\nHuman: Hi\n\nAssistant:"
    assert pair.prompt.messages == (system, user("Hi"))
    assert (pair.chosen, pair.rejected, pair.prompt.split_key) == ("Hello!", "What?", "Hi")


def test_whole_conversations_are_split_before_the_last_message(tmp_path):
    before = [user("Hi"), assistant("Hello!"), user("A colour?")]
    (pair,) = load(
        write(tmp_path, {"chosen": [*before, assistant("Blue")], "rejected": [*before, assistant("Bus")]})
    ).pairs
    assert pair.prompt.messages == tuple(before)
    assert pair.prompt.text == "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A colour?\n\nAssistant:"
    assert (pair.chosen, pair.rejected) == ("Blue", "Bus")


def test_whole_conversations_beside_the_prompt_as_text(tmp_path):
    rows = [
        {"prompt": "Hi", "chosen": [user("Hi"), assistant("Hello!")], "rejected": [user("Hi"), assistant("What?")]},
        {"prompt": "Bye", "chosen": [assistant("See you!")], "rejected": [assistant("No.")]},
    ]
    pairs = load(write(tmp_path, *rows)).pairs
    assert [pair.prompt.messages for pair in pairs] == [(user("Hi"),), (user("Bye"),)]


def test_hh_transcript_is_split_at_the_last_assistant_mark(tmp_path):
    """Trap 5 of the design: not at the longest common beginning, which here ends inside the reply's first word."""
    (pair,) = load(write(tmp_path, HH_ROW)).pairs
    assert pair.prompt.text == HH_PROMPT
    assert (pair.chosen, pair.rejected) == (" Look under the bench.", " Loud music helps.")
    assert pair.prompt.messages == (user("I lost my key."), assistant("Where?"), user("In the park."))
    assert pair.prompt.split_key == "I lost my key."


def test_hh_turns_of_one_speaker_in_a_row_become_one_message(tmp_path):
    prompt = "\n\nHuman: Hi\n\nAssistant: One.\n\nAssistant: Two.\n\nHuman: Three?\n\nAssistant:"
    (pair,) = load(write(tmp_path, {"chosen": prompt + " Four.", "rejected": prompt + " Five."})).pairs
    assert pair.prompt.messages == (user("Hi"), assistant("One.\n\nTwo."), user("Three?"))
    assert pair.prompt.text == prompt, "plain text stays as the file has it"


def test_a_prompt_column_that_is_a_transcript_gets_its_messages_too(tmp_path):
    (pair,) = load(write(tmp_path, {"prompt": HH_PROMPT, "chosen": " A.", "rejected": " B."})).pairs
    assert pair.prompt.messages == (user("I lost my key."), assistant("Where?"), user("In the park."))


def test_prompt_completion_gives_demonstrations(tmp_path):
    data = load(write(tmp_path, {"prompt": "Hi", "completion": "Hello!"}, {"prompt": "Bye", "completion": "See you!"}))
    assert [(row.prompt.text, row.completion) for row in data.demonstrations] == [("Hi", "Hello!"), ("Bye", "See you!")]
    (chat,) = load(write(tmp_path, {"prompt": [user("Hi")], "completion": [assistant("Hello!")]})).demonstrations
    assert (chat.prompt.messages, chat.completion) == ((user("Hi"),), "Hello!")


def test_answers_called_bad_never_become_demonstrations(tmp_path):
    data = load(write(tmp_path, {"prompt": "Hi", "completion": "What?", "label": False}))
    (label,) = data.labels
    assert isinstance(label, Label)
    assert (label.completion, label.good, list(data.demonstrations)) == ("What?", False, [])
    assert "fit no format" in refusal(write(tmp_path, {"prompt": "Hi", "completion": "What?", "label": 0}))
    topic = load(write(tmp_path, {"prompt": "Hi", "completion": "Hello!", "label": "greeting"}))
    assert topic.demonstrations[0].prompt.columns == {"label": "greeting"}


def test_conversations_with_and_without_a_verdict(tmp_path):
    turns = [user("Hi"), assistant("Hello!")]
    (demonstration,) = load(write(tmp_path, {"messages": turns, "source": "me"})).demonstrations
    assert (demonstration.prompt.messages, demonstration.completion) == ((user("Hi"),), "Hello!")
    (label,) = load(write(tmp_path, {"messages": turns, "label": True})).labels
    assert label.good is True


def test_prompts_alone_and_their_further_columns(tmp_path):
    rows = [{"prompt": "2 + 2?", "answer": 4, "steps": ["add"]}, {"prompt": [user("Hi")], "answer": None, "steps": []}]
    (prompt,) = load(write(tmp_path, rows[0])).prompts
    assert (prompt.text, prompt.columns) == ("2 + 2?", {"answer": 4, "steps": ["add"]})
    (prompt,) = load(write(tmp_path, rows[1])).prompts
    assert prompt.messages == (user("Hi"),)


def test_columns_are_named_and_everything_else_is_kept(tmp_path):
    row = {"question": "2 + 2?", "response 1": "4", "response 2": "5", "prompt": "an older one"}
    data = load(write(tmp_path, row), columns={"prompt": "question", "chosen": "response 1", "rejected": "response 2"})
    (pair,) = data.pairs
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("2 + 2?", "4", "5")
    assert pair.prompt.columns == {"prompt": "an older one"}
    assert "question, response 1, response 2" in data.format


def test_chosen_and_rejected_can_be_swapped(tmp_path):
    path = write(tmp_path, {"prompt": "Hi", "chosen": "worse", "rejected": "better"})
    (pair,) = load(path, columns={"chosen": "rejected", "rejected": "chosen"}).pairs
    assert (pair.chosen, pair.rejected) == ("better", "worse")


def test_format_can_be_asked_for(tmp_path):
    path = write(tmp_path, {"prompt": "Hi", "completion": "Hello!", "chosen": "x", "rejected": "y"})
    assert isinstance(load(path).pairs[0], Pair)
    assert isinstance(load(path, format="prompt_completion").demonstrations[0], Demonstration)
    assert "does not have the format hh" in refusal(write(tmp_path, {"prompt": "Hi"}), format="hh")


# --- files ------------------------------------------------------------------------------------------------------------


def test_gzip_is_known_by_content_not_by_name(tmp_path):
    plain = write(tmp_path, HH_ROW)
    packed = tmp_path / "rows.txt"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    misnamed = write(tmp_path, HH_ROW, name="rows.jsonl.gz")
    assert load(plain).pairs == load(str(packed)).pairs == load(misnamed).pairs


def test_json_array_is_read_like_lines(tmp_path):
    rows = [{"prompt": "Hi"}, {"prompt": " "}]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows, indent=1))
    data = load(str(file))
    assert [prompt.text for prompt in data.prompts] == ["Hi"]
    assert [(row.where, row.reason) for row in data.unused] == [("rows.json, row 2", "the prompt is empty")]


def test_line_ends_inside_strings_do_not_end_rows(tmp_path):
    """U+2028 and U+0085 are line ends to `str.splitlines` and plain characters to JSON."""
    row = '{"prompt": "one\u2028two\u0085three"}'
    (prompt,) = load(write(tmp_path, "\ufeff" + row, "", "  ")).prompts
    assert prompt.text == "one\u2028two\u0085three"


def test_limit_reads_the_first_rows(tmp_path):
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "b"}, "not JSON at all")
    data = load(path, limit=2)
    assert [prompt.text for prompt in data.prompts] == ["a", "b"]
    assert "first 2 rows" in data.format


def test_test_file_is_the_test_data(tmp_path):
    test = write(tmp_path, {"prompt": "b"}, name="test.jsonl")
    data = load(write(tmp_path, {"prompt": "a"}), test_path=test)
    assert data.test is not None
    assert [prompt.text for prompt in data.test.prompts] == ["b"]


def test_fingerprint_follows_contents_and_settings_but_not_the_place(tmp_path):
    def of(path: str, **settings: Any) -> str:
        return build("dataset", {"name": "jsonl", "path": path, **settings}).fingerprint()

    (tmp_path / "elsewhere").mkdir()
    here, there = write(tmp_path, {"prompt": "a"}), write(tmp_path / "elsewhere", {"prompt": "a"}, name="other.jsonl")
    other = write(tmp_path, {"prompt": "b"}, name="b.jsonl")
    assert of(here) == of(there)
    assert (
        len({of(here), of(other), of(here, limit=3), of(here, test_path=other), of(here, columns={"prompt": "p"})}) == 5
    )


def test_saved_settings_build_the_same_dataset(tmp_path):
    dataset = build("dataset", {"name": "jsonl", "path": "x.jsonl", "columns": {"prompt": "question"}, "limit": 5})
    assert build("dataset", to_config(dataset)) == dataset


# --- rows that are not used -------------------------------------------------------------------------------------------


def test_every_row_is_used_or_listed_with_its_place_and_reason(tmp_path):
    other = HH_PROMPT.replace("park", "car")
    rows = [
        HH_ROW,
        {"chosen": HH_PROMPT + " A.", "rejected": other + " B."},
        {"chosen": HH_PROMPT + "  ", "rejected": HH_PROMPT + " B."},
        {"chosen": HH_PROMPT + " A.", "rejected": HH_PROMPT},
        {"chosen": HH_PROMPT + " A.", "rejected": HH_PROMPT + " A. "},
        HH_ROW,
        {"chosen": HH_PROMPT + " A.\n\nHuman: And?", "rejected": HH_PROMPT + " B."},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nAssistant: B",
            "rejected": "\n\nHuman: Hi\n\nAssistant: A\n\nAssistant: C",
        },
        {"chosen": "Hello", "rejected": "What"},
        {"chosen": "\n\nHuman:\n\nAssistant: A", "rejected": "\n\nHuman:\n\nAssistant: B"},
        '{"chosen": "\\ud83d", "rejected": "b"}',
    ]
    data = load(write(tmp_path, *rows))
    assert len(data.pairs) == 1
    assert [(row.where, row.reason) for row in data.unused] == [
        ("rows.jsonl, line 2", "chosen and rejected have different prompts"),
        ("rows.jsonl, line 3", "the chosen reply is empty"),
        ("rows.jsonl, line 4", "the rejected reply is empty"),
        ("rows.jsonl, line 5", "chosen and rejected are the same"),
        ("rows.jsonl, line 6 (as rows.jsonl, line 1)", "the same row stands before"),
        ("rows.jsonl, line 7", "the transcript does not end with an Assistant turn"),
        ("rows.jsonl, line 8", "no user turn right before the reply"),
        ("rows.jsonl, line 9", "no transcript of Human and Assistant turns"),
        ("rows.jsonl, line 10", "the prompt is empty"),
        ("rows.jsonl, line 11", "text that is no Unicode (half of a surrogate pair)"),
    ]


def test_conversations_that_cannot_be_used_are_listed(tmp_path):
    good = {"messages": [user("Hi"), assistant("Hello!")]}
    bad = {
        "the conversation does not end with an assistant's message": [user("Hi")],
        "no user turn right before the reply": [assistant("Hello!")],
        "a message whose role is not system, user or assistant": [{"role": "tool", "content": "4"}, assistant("4")],
        "a message without role and content as text": [{"role": "user", "content": None}, assistant("4")],
        "the completion is empty": [user("Hi"), assistant("")],
    }
    data = load(write(tmp_path, good, *({"messages": turns} for turns in bad.values())))
    assert [row.reason for row in data.unused] == list(bad)


def test_a_file_without_one_usable_row_is_refused_with_counted_reasons(tmp_path):
    same = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "yes"} for i in range(3)]
    message = refusal(write(tmp_path, *same, {"prompt": "", "chosen": "a", "rejected": "b"}))
    assert "none of the 4 rows of rows.jsonl can be used" in message
    assert "chosen and rejected are the same: 3; the prompt is empty: 1" in message


# --- refused ----------------------------------------------------------------------------------------------------------


def test_missing_file_names_near_ones(tmp_path):
    write(tmp_path, HH_ROW, name="train.jsonl.gz")
    message = refusal(str(tmp_path / "train.jsonl"))
    assert "did you mean 'train.jsonl.gz'?" in message
    assert "dataset.path=" in message
    assert "there is no folder" in refusal(str(tmp_path / "nowhere" / "train.jsonl"))


def test_missing_test_file_is_named_by_its_own_setting(tmp_path):
    assert "dataset.test_path=" in refusal(write(tmp_path, HH_ROW), test_path=str(tmp_path / "none.jsonl"))


def test_folder_is_refused_and_its_files_are_shown(tmp_path):
    write(tmp_path, HH_ROW)
    message = refusal(str(tmp_path))
    assert "is a folder" in message
    assert "rows.jsonl" in message


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", gzip.compress(b"", mtime=0)])
def test_empty_file_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert "rows.jsonl holds no rows" in refusal(str(tmp_path / "rows.jsonl"))


def test_malformed_json_names_line_and_text(tmp_path):
    message = refusal(write(tmp_path, HH_ROW, '{"chosen": "a", "rejected": b}'))
    assert "malformed JSON: Expecting value at character 29" in message
    assert 'rows.jsonl, line 2, near: {"chosen": "a", "rejected": b}' in message
    (tmp_path / "rows.json").write_text('[{"prompt": "a"},\n {"prompt" "b"}]')
    assert "rows.json, line 2" in refusal(str(tmp_path / "rows.json"))


@pytest.mark.parametrize("line", ['{"prompt": "a", "x": NaN}', "[" * 100_000, '{"prompt": ' + "1" * 5_000 + "}"])
def test_json_that_python_takes_or_chokes_on_is_refused(tmp_path, line):
    assert "malformed JSON" in refusal(write(tmp_path, {"prompt": "a"}, line))


def test_row_that_is_no_object_is_shown(tmp_path):
    assert "rows.jsonl, line 2: [1, 2]" in refusal(write(tmp_path, {"prompt": "a"}, [1, 2]))
    assert "rows.jsonl, line 1: [1]" in refusal(write(tmp_path, [1], [2]))


def test_columns_that_fit_no_format_show_the_row_and_the_formats(tmp_path):
    message = refusal(write(tmp_path, {"ask": "2 + 2?", "say": "4 " * 100, "n": 1}))
    assert 'ask (text) "2 + 2?"; say (text) "4 4 4' in message
    assert "n (number) 1" in message
    for format in FORMATS:
        assert f"\n      {format.described()}" in message
    assert max(len(line) for line in message.splitlines()) < 200


def test_half_a_comparison_is_not_taken_for_a_prompt(tmp_path):
    assert "chosen (null) null" in refusal(write(tmp_path, {"prompt": "Hi", "chosen": None, "rejected": "b"}))


def test_implicit_prompt_in_plain_text_is_refused_and_not_guessed(tmp_path):
    message = refusal(write(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is green."}))
    assert "nothing says where the prompt ends" in message


def test_wrong_type_in_a_later_row_names_line_and_column(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    message = refusal(write(tmp_path, good, {**good, "chosen": 3}))
    assert "the column 'chosen' is number here" in message
    assert "rows.jsonl, line 2" in message
    message = refusal(write(tmp_path, {"p": "a"}, {"q": "b"}), columns={"prompt": "p"})
    assert "no column 'p'" in message
    assert "no column 'rejected' in this row" in refusal(write(tmp_path, good, {"prompt": "a", "chosen": "b"}))


@pytest.mark.parametrize(
    "second",
    [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": 1},
        {"prompt": [user("a")]},
        {"prompt": "a", "completion": "b", "label": True},
    ],
)
def test_rows_of_different_formats_in_one_file_are_refused(tmp_path, second):
    message = refusal(write(tmp_path, {"prompt": "first"}, second))
    assert "rows.jsonl, line 2; the first row: rows.jsonl, line 1" in message


def test_text_that_is_not_utf8_names_line_and_byte(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')
    message = refusal(str(tmp_path / "rows.jsonl"))
    assert "not UTF-8: byte 0xe9" in message
    assert "rows.jsonl, line 2, byte 16" in message
    (tmp_path / "rows.json").write_bytes(b'[{"prompt": "a"},\n{"prompt": "caf\xe9"}]\n')
    assert "rows.json, line 2, byte 16" in refusal(str(tmp_path / "rows.json"))


def test_cut_and_damaged_gzip_are_refused(tmp_path):
    packed = bytearray(gzip.compress(json.dumps(HH_ROW).encode() * 50))
    (tmp_path / "cut.gz").write_bytes(packed[:-20])
    assert "a gzip file that is cut off" in refusal(str(tmp_path / "cut.gz"))
    packed[30] ^= 0xFF
    (tmp_path / "damaged.gz").write_bytes(packed)
    assert "a damaged gzip file" in refusal(str(tmp_path / "damaged.gz"))


def test_other_kinds_of_file_are_named(tmp_path):
    (tmp_path / "rows.zip").write_bytes(b"PK\x03\x04\x14")
    assert "rows.zip is a zip archive" in refusal(str(tmp_path / "rows.zip"))


def test_column_that_is_not_there_is_refused(tmp_path):
    message = refusal(write(tmp_path, {"question": "a"}), columns={"prompt": "questoin"})
    assert "no column 'questoin'; did you mean 'question'?" in message
    assert "dataset.columns.prompt=questoin" in message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": ""}, "no data file is given"),
        ({"limit": 0}, "limit is 0"),
        ({"format": "preferences"}, "did you mean 'preference'?"),
        ({"columns": {"promt": "question"}}, "did you mean 'prompt'?"),
        ({"columns": {"chosen": "a", "rejected": "a"}}, "the column 'a' is named twice"),
        ({"test_path": "./rows.jsonl"}, "the test file is the file itself"),
    ],
)
def test_settings_out_of_range_are_refused_before_the_file_is_read(settings, says):
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        build("dataset", {"name": "jsonl", "path": "rows.jsonl", **settings})


def test_overrides_compose(tmp_path):
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore

    build("dataset", {"name": "jsonl", "path": "x"})  # the built-ins are in the store
    ConfigStore.instance().store(name="jsonl_test", node={"defaults": ["_self_", {"dataset": "jsonl"}]})
    overrides = [
        "dataset.path=a b.jsonl",
        "dataset.columns={prompt: question, chosen: 'response 1'}",
        "dataset.columns.rejected=other",
        "dataset.limit=3",
    ]
    with initialize(version_base=None, config_path=None):
        config = compose("jsonl_test", overrides)
    built = build("dataset", config.dataset)
    columns = {"prompt": "question", "chosen": "response 1", "rejected": "other"}
    wanted = build("dataset", {"name": "jsonl", "path": "a b.jsonl", "columns": columns, "limit": 3})
    assert {name: theirs for name, theirs in built.columns.items() if theirs} == columns
    assert dataclasses.replace(built, columns=columns) == wanted


def test_reasons_are_the_same_words_for_the_same_trouble(tmp_path):
    """They are counted in the plan: a reason with a line number in it would make every row a kind of its own."""
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    data = load(write(tmp_path, *[row] * 4))
    assert Counter(unused.reason for unused in data.unused) == {"the same row stands before": 3}
    assert dataclasses.replace(data, unused=()).pairs == data.pairs
