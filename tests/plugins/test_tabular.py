"""Parquet and CSV: read like the other files, refused with the row."""

from __future__ import annotations

import csv
import datetime
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rlhf_lora.plugins.datasets import tabular

from rlhf_lora.errors import DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import build


def load(file: Path, **settings: Any) -> Data:
    return build("dataset", {"name": "jsonl", "path": str(file), **settings}).load()


def refusal(file: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(file, **settings)
    return str(caught.value)


def parquet(file: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def written(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


PAIR = {"prompt": "The sky is", "chosen": " blue, mostly.", "rejected": " soup."}


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_is_known_by_content_not_by_name(tmp_path):
    for name in ("rows.parquet", "rows.txt", "rows.csv"):
        (pair,) = load(parquet(tmp_path / name, [PAIR])).pairs
        assert (pair.prompt.text, pair.chosen, pair.rejected) == tuple(PAIR.values())


def test_parquet_holds_messages_lists_times_and_numbers_that_are_none(tmp_path):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    when = datetime.datetime(2026, 11, 21, 6, 0)
    (row,) = load(parquet(tmp_path / "a", [{"messages": said, "when": when, "x": float("nan")}])).demonstrations
    assert (row.prompt.messages, row.completion) == ((said[0],), "Hello!")
    assert row.prompt.columns == {"when": "2026-11-21T06:00:00", "x": None}
    scored = {"prompt": "q", "completions": ["a", "b", "c"], "scores": [1.0, float("nan"), 0.0]}
    data = load(parquet(tmp_path / "b", [scored]))
    assert ([(p.chosen, p.rejected) for p in data.pairs], data.left_out) == (
        [("a", "c")],
        {"a reply without a score": 2},
    )


def test_parquet_rows_that_are_not_used_are_named_and_limits_hold(tmp_path):
    file = parquet(tmp_path / "rows.parquet", [PAIR, {**PAIR, "chosen": " "}, PAIR])
    assert [row.where for row in load(file).unused] == [
        "rows.parquet, row 2",
        "rows.parquet, row 3 (as rows.parquet, row 1)",
    ]
    assert load(file, limit=1).unused == []


def test_damaged_and_empty_parquet_are_refused(tmp_path):
    whole = parquet(tmp_path / "rows.parquet", [PAIR] * 50).read_bytes()
    assert "cut off or damaged" in refusal(written(tmp_path / "cut.parquet", whole[:-30]))
    assert "cut off or damaged" in refusal(written(tmp_path / "head.parquet", b"PAR1\x15\x04"))
    assert "holds no rows" in refusal(parquet(tmp_path / "none.parquet", []))


def test_parquet_with_bytes_names_row_and_column(tmp_path):
    message = refusal(parquet(tmp_path / "rows.parquet", [{"prompt": "a", "image": b"\x89PNG"}]))
    assert "the column 'image' holds bytes" in message
    assert "rows.parquet, row 1" in message


# --- CSV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_of_every_common_kind_is_read(tmp_path, separator, end, mark):
    lines = [separator.join(PAIR), separator.join(f'"{value}"' for value in PAIR.values()), ""]
    (pair,) = load(written(tmp_path / "rows.csv", mark + end.join(lines))).pairs
    assert (pair.prompt.text, pair.chosen, pair.rejected) == tuple(PAIR.values())


def test_csv_cells_hold_lines_quotes_and_very_long_texts(tmp_path):
    long = "word " * 60_000
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([["prompt", "completion"], ['Say\n\n“hi”, "hi"', long]])
    packed = written(tmp_path / "rows.csv.gz", gzip.compress(file.read_bytes()))
    for path in (file, packed):
        (row,) = load(path).demonstrations
        assert (row.prompt.text, row.completion) == ('Say\n\n“hi”, "hi"', long)
    assert csv.field_size_limit() < len(long), "the limit of other people's readers is left alone"


def test_csv_labels_scores_and_lists_are_read_as_what_they_mean(tmp_path):
    text = "prompt,completion,label\nHi,Hello!,True\nHi,12,false\n"
    assert [(row.completion, row.good) for row in load(written(tmp_path / "a.csv", text)).labels] == [
        ("Hello!", True),
        ("12", False),
    ]
    text = "instruction,output_1,output_2,preference\nHi,1,2,2\nBye,1,2,0\nYes,1,2,\n"
    data = load(written(tmp_path / "b.csv", text))
    assert [(pair.chosen, pair.rejected) for pair in data.pairs] == [("2", "1")]
    assert [row.reason for row in data.unused] == ["a tie", "no verdict"]
    text = 'prompt,completions,scores\nHi,"[""a"", ""b""]","[0, 1]"\n'
    assert load(written(tmp_path / "c.csv", text)).pairs[0].chosen == "b"
    text = 'messages\n"[{""role"": ""user"", ""content"": ""Hi""}, {""role"": ""assistant"", ""content"": ""{}""}]"\n'
    assert load(written(tmp_path / "d.csv", text)).demonstrations[0].completion == "{}"


@pytest.mark.parametrize("none", ["NaN", "nan", "Infinity", "-inf", "1e999", ""])
def test_csv_cells_that_hold_no_number_are_no_score(tmp_path, none):
    """NaN > 5 is false, so NaN made the reply without a score the winner."""
    for number, lines in enumerate((["Blue.,5", f"Seven.,{none}", "Red.,1"], [f"Seven.,{none}", "Blue.,5", "Red.,1"])):
        text = "prompt,completion,rating\n" + "".join(f"Name a colour.,{line}\n" for line in lines)
        data = load(written(tmp_path / f"{number}.csv", text))
        assert [(pair.chosen, pair.rejected) for pair in data.pairs] == [("Blue.", "Red.")]
        assert [row.reason for row in data.unused] == ["a reply without a score"]


def test_csv_lists_with_nan_have_no_score_there(tmp_path):
    text = 'prompt,completions,scores\nHi,"[""a"", ""b"", ""c""]","[NaN, 1, 0]"\n'
    data = load(written(tmp_path / "rows.csv", text))
    assert [(pair.chosen, pair.rejected) for pair in data.pairs] == [("b", "c")]
    assert data.left_out == {"a reply without a score": 2}
    assert tabular.cell("[NaN, 1, -Infinity]", not_text=True) == [None, 1, None], "as in Parquet"


def test_csv_margins_and_scores_beside_a_pair_are_numbers(tmp_path):
    text = "prompt,chosen,rejected,margin,score_chosen,score_rejected\n"
    text += "a,Blue.,Seven.,2.5,9,1\nb,Blue.,Seven.,,9,1\nc,Blue.,Seven.,NaN,9,1\nd,Blue.,Seven.,1,4,4.0\ne,Blue.,Seven.,much,,\n"
    data = load(written(tmp_path / "rows.csv", text))
    assert [(pair.prompt.text, pair.margin) for pair in data.pairs] == [("a", 2.5), ("b", None), ("c", None)]
    assert [row.reason for row in data.unused] == ["a tie", "a margin that is no number"]
    assert data.pairs[0].prompt.columns == {"margin": 2.5, "score_chosen": 9, "score_rejected": 1}
    (prompt,) = load(written(tmp_path / "prompts.csv", "prompt,margin\nHi,2\n")).prompts
    assert prompt.columns == {"margin": "2"}, "a column of prompts is the reward's"


@pytest.mark.parametrize(
    ("text", "says", "where"),
    [
        ("prompt,completion\na,b\nc,d,e\n", "3 cells, and the header names 2 columns", "row 2 (ends on line 3): c,d,e"),
        ("prompt,completion\na\n", "1 cells, and the header names 2 columns", "row 1 (ends on line 2)"),
        ('prompt,completion\na,"b\nc\n', "malformed CSV: unexpected end of data", "line 3"),
        ('prompt,completion\na,"b"c\n', "malformed CSV: ',' expected after '\"'", "line 2"),
        ("prompt,prompt\na,b\n", "two columns are called 'prompt'", "line 1"),
        ("prompt,\na,b\n", "a column has no name", "line 1"),
        (b"prompt\ncaf\xe9\n", "not UTF-8: byte 0xe9", "line 2"),
        ("ask,say\na,b\n", "the columns fit no format", "row 1"),
        ("prompt\n", "holds no rows", "dataset.path"),
        ("", "holds no rows", "dataset.path"),
    ],
)
def test_bad_csv_names_what_and_where(tmp_path, text, says, where):
    message = refusal(written(tmp_path / "rows.csv", text))
    assert says in message
    assert where in message
    assert "to do:" in message


def test_json_lines_under_a_csv_name_are_still_json(tmp_path):
    assert load(written(tmp_path / "rows.csv", '{"prompt": "a"}\n')).prompts[0].text == "a"
