"""Files of labels: what is written is read again, kills lose nothing that was written, and what is wrong is told with its line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from label_examples import comparison, drawn

from rlhf_lora.errors import DataError
from rlhf_lora.labels import files
from rlhf_lora.labels.conversion import record_of, row_of, rows_of
from rlhf_lora.labels.rows import LabelRow, as_json, from_json
from rlhf_lora.records import Data, Label, Pair, Prompt, Ranking, Rating

HEAD = '{"format": "labels/1"}'


# --- written and read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read_again(tmp_path, seed):
    rng = random.Random(seed)
    rows = [drawn(rng) for _ in range(200)]
    files.write(tmp_path / "whole.jsonl", rows)
    for row in rows[:20]:
        files.append(tmp_path / "by_row.jsonl", [row])
    files.append(tmp_path / "by_row.jsonl", rows[20:])
    for name in ("whole.jsonl", "by_row.jsonl"):
        found = files.read(tmp_path / name)
        assert found.labels == rows
        assert not found.unused
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "by_row.jsonl").read_bytes()
    assert [from_json(json.loads(json.dumps(as_json(row)))) for row in rows] == rows


def test_mark_windows_line_ends_and_blank_lines_are_no_matter(tmp_path):
    rows = [comparison(rater="ann"), comparison("tie", rater="bob")]
    files.write(tmp_path / "l.jsonl", rows)
    content = (tmp_path / "l.jsonl").read_bytes()
    odd = b"\xef\xbb\xbf\r\n" + content.replace(b"\n", b"\r\n\r\n \r\n")
    found = files.parse(odd, "l.jsonl")
    assert found.labels == rows
    assert [where for where, _ in found.rows] == ["l.jsonl, line 5", "l.jsonl, line 8"]
    (tmp_path / "l.jsonl").write_bytes(odd)
    files.append(tmp_path / "l.jsonl", [comparison("B")])
    assert files.read(tmp_path / "l.jsonl").labels == [*rows, comparison("B")]


def test_files_joined_by_cat_are_a_file_and_the_first_label_may_name_the_format():
    row = as_json(comparison())
    joined = "\n".join([HEAD, json.dumps(row), HEAD, json.dumps({"format": "labels/1", **row})])
    assert files.parse(joined.encode(), "f").labels == [comparison()] * 2
    assert files.parse(json.dumps({"format": "labels/1", **row}).encode(), "f").labels == [comparison()]


def test_row_as_an_ai_labeller_writes_it_keeps_everything():
    said = {
        "kind": "comparison", "id": "77", "prompt": "Hi", "answers": ["a", "b"], "rater": "scripted", "source": "ai",
        "order": "both", "label": "B", "p": 0.3, "p_orders": [0.4, 0.2], "rationale": "b is shorter",
        "principle": "be brief", "more": {"flipped": False, "calls": 2},
    }  # fmt: skip
    row = from_json(said)
    assert as_json(row) == said
    assert record_of(row) == Pair(Prompt("Hi"), "b", "a", label=0.7)
    skipped = {name: said[name] for name in ("kind", "id", "prompt", "answers", "rater", "source", "order")}
    assert from_json({**skipped, "skipped": "no verdict", "p": None}).label is None


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [0, 3])
def test_wherever_a_line_was_cut_the_next_label_follows_whole_ones(tmp_path, whole):
    file, rows = tmp_path / "l.jsonl", [comparison(rater=f"räter {i}") for i in range(whole + 1)]
    files.write(file, rows)
    content = file.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1 if whole else 0
    for cut in {*range(start, len(content), 5), *range(len(content) - 3, len(content) + 1)}:
        file.write_bytes(content[:cut])
        torn = files.read(file) if whole else None
        files.append(file, [comparison("tie")])
        found = files.read(file)
        kept = rows if cut >= len(content) - 1 else rows[:-1]
        assert found.labels == [*kept, comparison("tie")], content[:cut]
        assert not found.unused
        if torn:
            assert torn.labels == kept
            assert len(torn.unused) == (start < cut < len(content) - 1)
            assert all("half a line" in row.reason for row in torn.unused)


def test_half_a_line_is_set_aside_and_not_lost(tmp_path):
    file = tmp_path / "l.jsonl"
    files.append(file, [comparison()])
    with open(file, "ab") as torn:
        torn.write(b'{"kind": "compar\x00\x00')
    files.append(file, [comparison("B")])
    assert (tmp_path / "l.jsonl.torn").read_bytes() == b'{"kind": "compar\x00\x00\n'
    assert files.read(file).labels == [comparison(), comparison("B")]


def test_disk_that_refuses_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "l.jsonl"
    files.append(file, [comparison()])
    before = file.read_bytes()

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        files.append(file, [comparison("B")])
    assert file.read_bytes() == before


WRITER = """
import sys
from rlhf_lora.labels import files
from rlhf_lora.labels.rows import LabelRow
from rlhf_lora.records import Prompt
for i in range(int(sys.argv[3])):
    row = LabelRow(kind="verdict", prompt=Prompt(f"{sys.argv[2]} {i}"), answers=("x" * 5000,), label="good")
    files.append(sys.argv[1], [row])
    print(i, flush=True)
"""


def writer(file: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), name, str(count)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_killed_writer_has_lost_nothing_that_it_was_told_is_written(tmp_path):
    file = tmp_path / "l.jsonl"
    for kill in range(4):
        with writer(file, str(kill), 100_000) as child:
            assert child.stdout is not None
            said = [child.stdout.readline() for _ in range(20 + 7 * kill)]
            child.send_signal(signal.SIGKILL)
            said += child.stdout.read().splitlines()
        prompts = [row.prompt.text for row in files.read(file).labels]
        mine = [prompt for prompt in prompts if prompt.startswith(f"{kill} ")]
        assert mine[: len(said)] == [f"{kill} {i}" for i in range(len(said))]
        assert len(said) <= len(mine) <= len(said) + 1


@pytest.mark.slow
def test_two_writers_take_turns(tmp_path):
    file = tmp_path / "l.jsonl"
    with writer(file, "a", 60) as one, writer(file, "b", 60) as other:
        assert [child.communicate() and child.returncode for child in (one, other)] == [0, 0]
    found = files.read(file)
    assert not found.unused
    for name in "ab":
        prompts = [row.prompt.text for row in found.labels if row.prompt.text.startswith(name)]
        assert prompts == [f"{name} {i}" for i in range(60)]


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"kind": "comparison", "prompt": "Hi", "answers": ["a", "b"], "label": "A"}
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "malformed": ('{"kind": "comparison",', "malformed JSON"),
    "two objects on a line": ("{} {}", "malformed JSON"),
    "NaN": ('{"kind": NaN}', "NaN is no JSON value"),
    "a list": ("[1]", "not a JSON object"),
    "not UTF-8": (b'{"kind": "\xff"}', "not UTF-8"),
    "a name twice": ('{"rater": "ann", "rater": "bob"}', "the name 'rater' stands twice"),
    "another version": ('{"format": "labels/2"}', 'the format "labels/2" is none'),
    "no kind": ('{"prompt": "Hi"}', "does not say its kind"),
    "another kind": ('{"kind": "comparision"}', "did you mean 'comparison'"),
    "another field": (json.dumps(GOOD | {"creterion": "x"}), "no field 'creterion'; did you mean 'criterion'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_row_is_refused_with_its_line(name):
    line, words = REFUSED[name]
    raw = line if isinstance(line, bytes) else line.encode()
    content = b"\n".join([HEAD.encode(), json.dumps(GOOD).encode(), b"", raw, json.dumps(GOOD).encode(), b""])
    with pytest.raises(DataError) as caught:
        files.parse(content, "l.jsonl")
    assert words in str(caught.value)
    assert "l.jsonl, line 4" in caught.value.where
    assert caught.value.fix


UNUSED: dict[str, tuple[dict[str, Any], str]] = {
    "off the menu": ({"label": "C"}, 'the label "C"; it is A, B or tie'),
    "small letter": ({"label": "a"}, "it is A, B or tie"),
    "no label": ({"label": None}, "it is A, B or tie"),
    "index in place of a letter": ({"label": 1}, "it is A, B or tie"),
    "three answers": ({"answers": ["a", "b", "c"]}, "a comparison of 3 answers; it is of two answers"),
    "no answers": ({"answers": None}, "no answers"),
    "an answer that is no text": ({"answers": ["a", 2]}, "answers that are not a list of texts"),
    "no prompt": ({"prompt": None}, "no prompt"),
    "prompt of messages": ({"prompt": [{"role": "user", "content": "Hi"}]}, "goes into messages"),
    "messages without end": ({"messages": [{"role": "assistant", "content": "Hi"}]}, "user's turn"),
    "a role": ({"messages": [{"role": "tool", "content": "Hi"}]}, "role is not system, user or assistant"),
    "label and skipped": ({"skipped": True}, "a label and skipped at once"),
    "strength off the menu": ({"strength": "much"}, 'the strength "much"; it is one of negligibly'),
    "strength that is true": ({"strength": True}, "the strength true"),
    "strength of a tie": ({"label": "tie", "strength": "slightly"}, "a strength beside a tie"),
    "probability": ({"p": 1.5}, "not between 0 and 1"),
    "probability of the other": ({"p": 0.2}, "p = 0.2 that A is better"),
    "seconds": ({"seconds": -1}, "-1 seconds"),
    "time": ({"time": "yesterday"}, 'the time "yesterday"'),
    "source": ({"source": "robot"}, "it is one of human, ai, program"),
    "order": ({"order": "AA"}, "it is one of AB, BA, both"),
    "rater": ({"rater": 7}, "rater that is no text"),
    "NUL": ({"answers": ["a\0", "b"]}, "NUL"),
    "surrogate": ({"prompt": "\ud800"}, "surrogate"),
    "columns": ({"columns": [1]}, "columns that are no object"),
    "ranking": ({"kind": "ranking", "label": [1]}, "a rank for each of 2 answers"),
    "ranking of words": ({"kind": "ranking", "label": ["1", "2"]}, "a rank for each of 2 answers"),
    "choice": ({"kind": "choice", "label": 2}, "the index of the best answer, 0 to 1"),
    "choice of true": ({"kind": "choice", "label": True}, "the index of the best answer"),
    "rating": ({"kind": "rating", "answers": ["a"], "label": 8, "scale": [1, 7]}, "a number from 1 to 7"),
    "no scale": ({"kind": "rating", "answers": ["a"], "label": 8}, "a rating without its scale"),
    "scale": ({"kind": "rating", "answers": ["a"], "label": 8, "scale": [7, 1]}, "the lowest and the highest value"),
    "infinite": ({"kind": "rating", "answers": ["a"], "label": float("inf"), "scale": [1, 7]}, "a number from 1 to 7"),
    "verdict": ({"kind": "verdict", "answers": ["a"], "label": True}, "it is good or bad"),
    "p of a verdict": ({"kind": "verdict", "answers": ["a"], "label": "good", "p": 0.5}, "beside no comparison"),
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_cannot_be_used_is_listed_with_line_and_reason(name):
    change, words = UNUSED[name]
    line = json.dumps(GOOD | change).replace("Infinity", "1e999")
    found = files.parse("\n".join([HEAD, json.dumps(GOOD), line, ""]).encode(), "l.jsonl")
    assert len(found.rows) == 1
    (unused,) = found.unused
    assert unused.where == "l.jsonl, line 3"
    assert words in unused.reason


def test_file_of_something_else_is_neither_read_nor_written_to(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"prompt": "Hi", "chosen": "a", "rejected": "b"}\n{"prompt": "Ho", "chosen": "a", "rejected": "b"}\n'
    )
    before = file.read_bytes()
    for act in (lambda: files.read(file), lambda: files.append(file, [comparison()])):
        with pytest.raises(DataError, match="does not name the format") as caught:
            act()
        assert "dataset=jsonl" in caught.value.fix
    assert file.read_bytes() == before
    with pytest.raises(DataError, match="cannot be read"):
        files.read(tmp_path / "none.jsonl")


# --- records ----------------------------------------------------------------------------------------------------------

CHAT = Prompt("in other words", ({"role": "user", "content": "Hi"},), {"answer": 4}, "a group")
RECORDS = [
    Pair(Prompt("Hi"), "a", "b"),
    Pair(CHAT, "a", "b", margin=2.5, label=0.7),
    Pair(CHAT, "b", "a", margin=-0.5),
    Pair(CHAT, "b", "a", label=0.5),
    Ranking(CHAT, ("a", "b", "c"), (2.0, 1.0, 2.0)),
    Ranking.choice(Prompt("Hi", group="g"), ("a", "b", "c"), 2),
    Rating(CHAT, "a", 4.0),
    Label(CHAT, "a", good=True),
    Label(CHAT, "b", good=False),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_that_went_through_a_file_is_the_same_record(tmp_path, record):
    scale = {"scale": (1, 5)} if isinstance(record, Rating) else {}
    files.append(tmp_path / "l.jsonl", [row_of(record, rater="ann", **scale)])
    (row,) = files.read(tmp_path / "l.jsonl").labels
    assert record_of(row) == record
    assert row.rater == "ann"


def test_dataset_as_rows_has_no_pair_twice():
    ranking = Ranking(Prompt("Hi"), ("a", "b", "c"), (1.0, 2.0, 3.0))
    data = Data(
        pairs=[*ranking.pairs(), Pair(Prompt("Ho"), "a", "b")], rankings=[ranking],
        ratings=[Rating(Prompt("Hi"), "a", 1.0), Rating(Prompt("Hi"), "b", 3.0)], labels=[Label(Prompt("Hi"), "a", True)],
    )  # fmt: skip
    rows = rows_of(data, rater="ann", time="2026-11-22T04:00:00Z")
    assert [row.kind for row in rows] == ["comparison", "ranking", "rating", "rating", "verdict"]
    assert [record_of(row) for row in rows] == [data.pairs[-1], ranking, *data.ratings, *data.labels]
    assert rows[2].scale == (1.0, 3.0)


def test_item_is_the_same_for_every_rater_and_order():
    one = comparison(rater="ann")
    assert one.item == comparison("B", rater="bob", answers=("no", "yes")).item
    others = [comparison(criterion="harmless"), comparison(answers=("yes", "yes")), comparison(prompt="Was it?")]
    assert one.item not in {row.item for row in others}


def test_off_the_menu_cannot_be_written():
    with pytest.raises(ValueError, match="it is A, B or tie"):
        comparison("C")
    with pytest.raises(ValueError, match="Out of range float"):
        files.line_of(comparison(more={"x": float("nan")}))
    assert isinstance(comparison(), LabelRow)
