"""docs/results.md says what benchmarks/results/t1.json says."""

from __future__ import annotations

from typing import Any

import measured
import pytest
import t1


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return measured.read(t1.RESULT)


def test_the_tables_are_those_of_the_measurement(rows):
    written = t1.PAGE.read_text("utf-8")
    assert t1.page(written, rows) == written, "run python benchmarks/t1.py --page"


def test_every_arm_was_measured_on_the_same_three_seeds_and_a_thousand_prompts(rows):
    seeds = {row["seed"] for row in rows}
    assert len(seeds) >= 3
    assert {(row["seed"], row["arm"]) for row in rows} == {(seed, arm) for seed in seeds for arm in t1.ARMS}
    assert {row["summary"]["gold"]["compared"] for row in rows} == {1000}
    for row in rows:
        asked = [override for override in row["overrides"] if not override.startswith("seed=")]
        assert asked == [*t1.COMMON, *t1.ARMS[row["arm"]]]
