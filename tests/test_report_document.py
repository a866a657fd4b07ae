"""What all pages share: one skeleton, one policy, one table; and drawings that reach for no private part of another file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_report import EVIL, Page

import rlhf_lora.report
from rlhf_lora.report.document import document, table
from rlhf_lora.report.frontier import write_sweep_page
from rlhf_lora.report.page import render
from rlhf_lora.run_folder import RunFolder

FILES = sorted(Path(rlhf_lora.report.__file__).parent.glob("*.py"))


def test_a_page_forbids_scripts_and_network_and_escapes_its_title_and_status():
    text = document(EVIL, EVIL, "<p>lede</p>", "<p>body</p>")
    page = Page(text)
    assert "script" not in page.tags
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.all("content")
    assert text.index("<p>lede</p>") < text.index("</header><p>body</p></main>")


@pytest.mark.parametrize(("status", "tone"), [("finished", "status finished"), ("failed", "status")])
def test_only_finished_looks_finished(status, tone):
    assert f'<span class="{tone}">{status}</span>' in document("run", status, "", "")


def test_the_report_and_the_sweeps_page_are_the_same_document(tmp_path):
    folder = RunFolder.create(tmp_path / "same", {"model": {"path": "x"}}, {})
    sweep = write_sweep_page(tmp_path / "sweep.html", "same", "not finished", ["job"], [], []).read_text()
    head = render(folder).partition('<p class="lede">')[0]
    assert sweep.startswith(head)
    assert "<title>same · rlhf_lora</title>" in head
    assert [file.name for file in FILES if "<!doctype" in file.read_text("utf-8")] == ["document.py"]


def test_a_table_escapes_its_text_and_heads_a_row_where_it_is_told_to():
    plain = table(["a", "<b>"], [["1", "<i>"]])
    assert "<tr><th>a</th><th>&lt;b&gt;</th></tr>" in plain
    assert "<tr><td>1</td><td>&lt;i&gt;</td></tr>" in plain
    headed = table(["a", "b"], [["1", "2"]], ['<a href="1">1</a>'])
    assert '<tr><th scope="row"><a href="1">1</a></th><td>2</td></tr>' in headed
    with pytest.raises(ValueError, match="zip"):
        table(["a"], [["1"], ["2"]], ["1"])


def test_only_a_finished_job_has_a_link_to_its_report(tmp_path):
    rows = [{"job": 0, "status": "finished"}, {"job": 1, "status": "failed"}]
    page = write_sweep_page(tmp_path / "s.html", "s", "failed", ["job"], [["0"], ["1"]], rows).read_text()
    assert re.findall(r'href="([^"]*)"', page) == ["0/report.html"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_file_of_the_report_uses_a_private_name_of_another(file):
    tree = ast.parse(file.read_text("utf-8"))
    siblings = {one.stem for one in FILES}
    reached = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and ast.unparse(node.value) in siblings
    ]
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf_lora.report")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert reached + imported == []
