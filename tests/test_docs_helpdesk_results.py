"""docs/results_helpdesk.md says what benchmarks/results/helpdesk.json says."""

from __future__ import annotations

import re
from typing import Any

import helpdesk
import measured
import pytest


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return measured.read(helpdesk.RESULT)


def test_the_tables_are_those_of_the_measurement(rows):
    written = helpdesk.PAGE.read_text("utf-8")
    assert helpdesk.page(written, rows) == written, "run python benchmarks/helpdesk.py --page"
    assert "Not measured yet" not in written


def test_every_arm_was_measured_on_the_same_three_seeds(rows):
    seeds = {row["seed"] for row in rows}
    assert len(seeds) >= 3
    assert sorted((row["seed"], row["arm"]) for row in rows) == sorted((s, arm) for s in seeds for arm in helpdesk.ARMS)


def test_policies_of_a_seed_were_judged_on_the_same_replies_of_sft(rows):
    for seed in {row["seed"] for row in rows}:
        of = [row["judged"]["reference"] for row in rows if row["seed"] == seed and row["arm"] in helpdesk.POLICIES]
        assert len(of) == len(helpdesk.POLICIES)
        assert all(reference == of[0] for reference in of)


def test_the_figures_in_words_are_in_the_tables(rows):
    told = helpdesk.PAGE.read_text("utf-8").partition("## What it says")[2].partition("## Models")[0]
    tables = "".join(table(rows) for table in helpdesk.TABLES.values())
    means = set(re.findall(r"\*\*(\d\.\d{3})\*\*", tables))
    said = set(re.findall(r"\d\.\d{3}", told))
    assert len(said) >= 20
    assert said <= means
