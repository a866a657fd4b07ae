"""Rows that are expensive to make survive a kill."""

import json

import pytest

from rlhf_lora.errors import DataError
from rlhf_lora.row_file import RowFile


def test_what_was_appended_is_read_back_in_order(tmp_path):
    file = RowFile(tmp_path / "new" / "rows.jsonl")
    assert file.rows() == []
    file.append([{"a": 1}, {"a": "ü\n\u2028"}])
    file.append([])
    file.append([{"a": None}])
    assert file.rows() == [{"a": 1}, {"a": "ü\n\u2028"}, {"a": None}]


@pytest.mark.parametrize("torn", [b'{"a": 2', b'{"a": 2}', b"{", b"\xc3"])
def test_a_line_that_a_kill_cut_is_taken_off_before_the_next_is_written(tmp_path, torn):
    file = RowFile(tmp_path / "rows.jsonl")
    file.append([{"a": 1}])
    with open(file.path, "ab") as half:
        half.write(torn)
    assert file.rows() == [{"a": 1}]
    file.append([{"a": 3}])
    assert [json.loads(line) for line in file.path.read_bytes().splitlines()] == [{"a": 1}, {"a": 3}]


def test_a_broken_line_in_the_middle_is_told_with_its_number(tmp_path):
    file = RowFile(tmp_path / "rows.jsonl")
    file.path.write_text('{"a": 1}\n[1]\n{"a": 2}\n')
    with pytest.raises(DataError) as told:
        file.rows()
    assert told.value.where.endswith("line 2")


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_rows_behind_a_whole_portion_are_dropped(tmp_path, count):
    file = RowFile(tmp_path / "rows.jsonl")
    rows = [{"a": i, "text": "ä" * i} for i in range(3)]
    file.append(rows)
    assert file.keep(count) == rows[:count]
    assert file.rows() == rows[:count]
