"""What `docs/labels.md` shows is read, said and done as it says."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from rlhf_lora.plugins.datasets.labels import Labels

from rlhf_lora.labels import conversion, files
from rlhf_lora.labels.rows import KINDS, PLAIN, PROMPT
from rlhf_lora.registry import build

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "labels.md").read_text(encoding="utf-8")
(FILE,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PAIRS = '{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}\n'


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.jsonl").write_text(FILE, encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(PAIRS, encoding="utf-8")
    return tmp_path


def test_the_file_on_the_page_is_read_whole(here):
    found = files.read("labels.jsonl")
    assert not found.unused
    assert {row.kind for row in found.labels} == set(KINDS)
    data = build("dataset", {"name": "labels", "path": "labels.jsonl"}).load()
    assert [row.reason for row in data.unused] == [
        "skipped by its rater",
        "a tie, and others decided (dataset.ties=drop)",
    ]
    assert (len(data.rankings), len(data.ratings), len(data.labels)) == (2, 1, 1)


def test_the_page_has_every_field_and_setting():
    shown = set(re.findall(r"`(\w+)`", PAGE)) | set(re.findall(r'"(\w+)":', FILE))
    assert {*PLAIN, *PROMPT, "kind"} <= shown
    settings = set(re.findall(r"`dataset\.(\w+)=", PAGE))
    assert {f.name for f in fields(Labels)} - {"test_path"} <= settings | {"path"}  # type: ignore[arg-type]


@pytest.mark.parametrize("at", range(len(PROGRAMS)))
def test_programs_on_the_page_run(here, at, capsys):
    before = files.read("labels.jsonl").labels
    exec_page(PROGRAMS[at], here)
    labels = files.read("labels.jsonl").labels
    if "append" in PROGRAMS[at]:
        assert labels[:-1] == before
    elif "rows_of" in PROGRAMS[at]:
        (row,) = labels
        (pair,) = build("dataset", {"name": "jsonl", "path": "pairs.jsonl"}).load().pairs
        assert conversion.record_of(row) == pair
    else:
        said = capsys.readouterr().out
        assert said.startswith("comparisons on overall: 2 raters, 1 things labelled by two or more; the same 0.00")


def test_the_slip_on_the_page_is_refused(here):
    row = json.loads(FILE.splitlines()[1]) | {"creterion": "x"}
    with pytest.raises(ValueError, match="did you mean 'criterion'"):
        files.parse((FILE + json.dumps(row) + "\n").encode(), "labels.jsonl")


def exec_page(program: str, folder: Path) -> None:
    import runpy

    (folder / "program.py").write_text(program, encoding="utf-8")
    runpy.run_path(str(folder / "program.py"))
