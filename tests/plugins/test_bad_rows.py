"""Encodings, line ends and odd texts: what simply works, what makes a row unusable, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lora.errors import DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import build

ROW = {"prompt": "Name a colour, “please”.", "completion": "Blau: ä, 蓝, 🟦"}
LINE = json.dumps(ROW, ensure_ascii=False)


def load(folder: Path, content: bytes | str, **settings: Any) -> Data:
    file = folder / "rows.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return build("dataset", {"name": "jsonl", "path": str(file), **settings}).load()


def refusal(folder: Path, content: bytes | str) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, content)
    message = str(caught.value)
    assert "where:" in message
    assert "to do:" in message
    return message


@pytest.mark.parametrize(
    "content",
    [
        LINE,
        LINE + "\n",
        "\ufeff" + LINE + "\n",
        LINE + "\r\n",
        "\ufeff" + LINE + "\r\n\r\n",
        json.dumps(ROW),
        f"\r\n  [{LINE}]\r\n",
        "\ufeff[" + LINE + "]",
        json.dumps([ROW], indent=2).replace("\n", "\r\n"),
    ],
)
def test_marks_line_ends_and_escapes_do_not_change_what_is_read(tmp_path, content):
    (row,) = load(tmp_path, content).demonstrations
    assert (row.prompt.text, row.completion) == tuple(ROW.values())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
def test_other_encodings_are_refused(tmp_path, encoding):
    text = '{"prompt": "café", "completion": "crème"}\n'
    message = refusal(tmp_path, text.encode(encoding))
    assert any(words in message for words in ("UTF-16", "not UTF-8", "malformed JSON"))


def test_utf16_is_called_by_its_name(tmp_path):
    assert "rows.jsonl is UTF-16 text" in refusal(tmp_path, LINE.encode("utf-16"))


def test_bare_nul_is_malformed_and_an_escaped_one_makes_its_row_unusable(tmp_path):
    assert "rows.jsonl, line 2" in refusal(tmp_path, LINE + '\n{"prompt": "a\0b", "completion": "c"}\n')
    assert "malformed JSON" in refusal(tmp_path, b"\0" * 64)
    rows = [ROW, {"prompt": "a\0b", "completion": "c"}, {"prompt": r"C:\u0000 is a path", "completion": "\\\\u0000"}]
    data = load(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert [(row.where, row.reason) for row in data.unused] == [("rows.jsonl, line 2", "text with a NUL character")]
    assert len(data.demonstrations) == 2, "a backslash before u0000 is text like any other"


def test_huge_lines_are_read_whole(tmp_path):
    row = {"prompt": "p" * 2_000_000, "completion": "c" * 2_000_000}
    (found,) = load(tmp_path, json.dumps(row)).demonstrations
    assert (len(found.prompt.text), len(found.completion)) == (2_000_000, 2_000_000)


def test_a_huge_malformed_line_gives_a_short_message(tmp_path):
    message = refusal(tmp_path, '{"prompt": "' + "x" * 2_000_000)
    assert "line 1" in message
    assert len(message) < 600


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00", r"a\udfffb"])
def test_half_a_surrogate_pair_makes_its_row_unusable(tmp_path, half):
    data = load(tmp_path, LINE + "\n" + f'{{"prompt": "{half}", "completion": "b"}}\n')
    assert [row.reason for row in data.unused] == ["text that is no Unicode (half of a surrogate pair)"]
    whole = load(tmp_path, '{"prompt": "\\ud83d\\ude00", "completion": "b"}\n')
    assert whole.demonstrations[0].prompt.text == "😀"


def test_special_tokens_in_text_are_kept_as_they_stand(tmp_path):
    text = "<|im_end|><s>[INST] <|endoftext|> </s>"
    (row,) = load(tmp_path, json.dumps({"prompt": text, "completion": text})).demonstrations
    assert (row.prompt.text, row.completion) == (text, text)


@pytest.mark.parametrize(
    "bad",
    [
        [[{"role": "user", "content": "Hi"}], {"role": "assistant", "content": "Hello!"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Hello!"}],
        [{"role": "user", "content": {"role": "user", "content": "Hi"}}, {"role": "assistant", "content": "Hello!"}],
        [{"role": 1, "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
        [{"content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
        ["Hi", "Hello!"],
    ],
)
def test_nested_and_odd_messages_are_listed_beside_good_ones_and_refused_as_first(tmp_path, bad):
    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    data = load(tmp_path, json.dumps(good) + "\n" + json.dumps({"messages": bad}))
    assert [row.reason for row in data.unused] == ["a message without role and content as text"]
    assert "messages (list)" in refusal(tmp_path, json.dumps({"messages": bad}))


def test_the_same_id_on_different_rows_decides_nothing(tmp_path):
    rows = [{"id": 7, "prompt": "a"}, {"id": 7, "prompt": "b"}, {"id": 7, "prompt": "a"}]
    data = load(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert [prompt.text for prompt in data.prompts] == ["a", "b"]
    assert [row.where for row in data.unused] == ["rows.jsonl, line 3 (as rows.jsonl, line 1)"]


@pytest.mark.parametrize("content", ["", "\ufeff", "\r\n\r\n", "[]", "\ufeff[]", " [ ] "])
def test_no_row_is_refused_and_one_is_enough(tmp_path, content):
    assert "rows.jsonl holds no rows" in refusal(tmp_path, content)
    assert load(tmp_path, LINE).rows == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "no columns"),
        ("null", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{'prompt': 'a'}", "malformed JSON"),
        ('{"prompt": "a",}', "malformed JSON"),
        ('{"prompt": "a"} {"prompt": "b"}', "malformed JSON: Extra data"),
        ('{"prompt": "a"},\n{"prompt": "b"}', "malformed JSON: Extra data"),
        ('{"prompt": "a"\n', "malformed JSON"),
        ('{"prompt": "a"}\r{"prompt": "b"}', "malformed JSON: Extra data"),
        ('{"prompt": Infinity}', "malformed JSON"),
        ('{"prompt": 3}', "prompt (number) 3"),
        ('{"prompt": null, "chosen": "a", "rejected": "b"}', "prompt (null) null"),
        ('{"prompt": "a", "chosen": ["b"], "rejected": ["c"]}', "chosen (list)"),
        ('{"Prompt": "a", "Completion": "b"}', "Prompt (text)"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x28\xb5\x2f\xfd\0\0", "a zstandard file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"BZh91AY", "a bzip2 file"),
        ("prompt,completion\na,b\n", "malformed JSON"),
        ("<html>404</html>", "malformed JSON"),
    ],
)
def test_content_that_is_not_rows_is_refused_in_words(tmp_path, content, says):
    assert says in refusal(tmp_path, content)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.jsonl"], "nothing is written"
