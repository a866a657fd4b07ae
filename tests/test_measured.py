"""benchmarks/measured.py: arms over seeds, going on where it stopped; flags; places of a page."""

from __future__ import annotations

import json
import re

import measured
import pytest

ARMS = ["plain", "hot"]


def measuring(tmp_path, *flags, fail=()):
    """What it was asked for, the flags as they were read, and what measures when it is called."""
    asked = []

    def one(seed, arm, run_dir, cache, extra):
        asked.append((seed, arm, run_dir.name, cache))
        if (seed, arm) in fail:
            raise RuntimeError(f"{arm}: exit code 1")
        return {"cpu_seconds": 1.0, "overrides": [f"seed={seed}", *extra]}

    made = measured.Benchmark(
        "Doc.", tmp_path / "out.json", tmp_path / "page.md", ARMS, (1, 2), one, lambda row: "done",
        lambda text, rows: text.replace("none", str(len(rows))), lambda rows: f"{len(rows)} rows",
    )  # fmt: skip
    given = made.asked(made.parser(), [*flags])
    return asked, given, lambda: made.over_seeds(given), made


def test_every_arm_of_every_seed_is_measured_once_and_in_the_order_of_the_arms(tmp_path, capsys):
    asked, given, go, _ = measuring(tmp_path, "--jobs", "2", "--", "sft.epochs=1")
    rows = go()
    assert {row["overrides"][-1] for row in rows} == {"sft.epochs=1"}
    assert [(row["seed"], row["arm"]) for row in rows] == [(1, "plain"), (1, "hot"), (2, "plain"), (2, "hot")]
    assert measured.read(given.to) == rows
    assert {name for _, _, name, _ in asked} == {"1-0", "1-1", "2-0", "2-1"}
    assert len({cache for *_, cache in asked}) == 1
    assert "seed 2  hot: done, 1 CPU s" in capsys.readouterr().out


def test_it_goes_on_where_it_stopped(tmp_path):
    flags = ("--cache", str(tmp_path / "kept"))
    asked, given, go, _ = measuring(tmp_path, *flags, fail={(2, "plain")})
    with pytest.raises(RuntimeError, match="exit code 1"):
        go()
    assert [(row["seed"], row["arm"]) for row in measured.read(given.to)] == [(1, "plain"), (1, "hot")]
    asked, given, go, _ = measuring(tmp_path, *flags)
    assert len(go()) == 4
    assert [(seed, arm) for seed, arm, *_ in asked] == [(2, "plain"), (2, "hot")]
    assert asked[0][3] == tmp_path / "kept"


def test_only_the_arms_and_seeds_that_are_asked_for(tmp_path):
    _, _, go, _ = measuring(tmp_path, "--arms", "hot", "--seeds", "7")
    assert [(row["seed"], row["arm"]) for row in go()] == [(7, "hot")]
    with pytest.raises(SystemExit):
        measuring(tmp_path, "--arms", "cold")


def test_the_page_is_filled_and_the_table_shown_from_the_last_measurement(tmp_path, capsys):
    _, _, go, made = measuring(tmp_path)
    go()
    capsys.readouterr()
    made.page.write_text("rows: none")
    made.main(["--page"])
    assert made.page.read_text() == "rows: 4"
    made.main(["--table"])
    assert capsys.readouterr().out == "4 rows\n"


def test_the_file_says_what_it_was_measured_on(tmp_path):
    measured.write(tmp_path / "deep" / "out.json", [], base="tiny")
    assert json.loads((tmp_path / "deep" / "out.json").read_text())["base"] == "tiny"


def test_a_page_without_a_place_for_a_part_is_an_error():
    assert measured.filled("<!-- a -->\nold\n<!-- end -->\n", {"a": "new"}) == "<!-- a -->\nnew\n<!-- end -->\n"
    with pytest.raises(ValueError, match="0 places for 'b'"):
        measured.filled("<!-- a -->\nold\n<!-- end -->\n", {"b": "new"})


def test_no_file_of_figures_names_a_place_on_somebodys_machine():
    for file in measured.RESULTS.glob("*.json"):
        assert not re.search(r"[\"\[=](/tmp|/home|/root|/work|/opt|/Users|[A-Z]:)[/\\]", file.read_text("utf-8")), (
            file.name
        )
