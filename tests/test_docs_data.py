"""The examples of `docs/data.md` are read as the page says, and the page knows every format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rlhf_lora.plugins.datasets.formats import FORMATS

from rlhf_lora.registry import build
from rlhf_lora.splits import Shares

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"\n`(\w+)`\n\n```json\n(.*?)```", PAGE, re.DOTALL))


def test_the_page_shows_every_format_in_order():
    names = [format.name for format in FORMATS]
    assert list(EXAMPLES) == names
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == names


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_line_of_an_example_is_read_as_that_format(tmp_path, name):
    (format,) = (format for format in FORMATS if format.name == name)
    page = EXAMPLES[name]  # ratings say something only together
    for rows in [*([page] if name == "rated" else page.splitlines()), format.example]:
        (tmp_path / "rows.jsonl").write_text(rows)
        data = build("dataset", {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}).load()
        assert data.format.startswith(f"{name} (")
        assert len(getattr(data, format.gives)) == 1


def test_the_shares_on_the_page_are_the_defaults():
    assert [int(share) for share in re.findall(r"\| (\d+) % \|", PAGE)] == list(vars(Shares()).values())
