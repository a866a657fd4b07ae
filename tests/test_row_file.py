"""Rows that are expensive to make survive a kill."""

import json

import pytest

from rlhf_lora.errors import DataError, Interrupted
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
    # A row is known by its place: without line 2 alone, what is said of the third prompt would be said of the second.
    assert "all lines behind it" in told.value.fix


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_rows_behind_a_whole_portion_are_dropped(tmp_path, count):
    file = RowFile(tmp_path / "rows.jsonl")
    rows = [{"a": i, "text": "ä" * i} for i in range(3)]
    file.append(rows)
    assert file.keep(count) == rows[:count]
    assert file.rows() == rows[:count]


@pytest.mark.parametrize("there", range(8))
def test_portions_that_are_whole_are_not_made_again_and_others_are_made_whole(tmp_path, there):
    file, made = RowFile(tmp_path / "rows.jsonl"), []
    file.append([{"i": i} for i in range(there)])

    def make(portion):
        made.append(portion)
        return [{"i": i} for i in portion]

    assert file.fill(7, 3, make, "rows") == file.rows() == [{"i": i} for i in range(7)]
    assert made == [range(3), range(3, 6), range(6, 7)][3 if there == 7 else there // 3 :]


def test_a_signal_ends_it_between_two_portions_with_what_is_done_on_the_disk(tmp_path):
    file, made = RowFile(tmp_path / "rows.jsonl"), []
    with pytest.raises(Interrupted, match="the rows so far are kept") as left:
        file.fill(9, 3, lambda portion: made.append(1) or [{}] * 3, "rows", lambda: 2 if made else None)
    assert (left.value.exit_code, len(file.rows())) == (130, 3)
