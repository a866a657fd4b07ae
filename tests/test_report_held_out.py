"""Held-out figures taken within the run: drawn when there are any, with the update that was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_report import Page, page_of

from rlhf_lora.report import held_out
from rlhf_lora.run_folder import RunFolder

TITLE = "Held-out prompts, within the run"


def run(path: Path, wins: list[float], status: str | None = "finished", **evaluation: Any) -> RunFolder:
    """A run that was judged every ten updates."""
    folder = RunFolder.create(path / "run", {"evaluation": {"keep": "last", **evaluation}}, {"os": "x"})
    folder.log("policy", 1, {"objective/kl": 0.0})
    for i, share in enumerate(wins, 1):
        row = {"eval/win_rate_vs_reference": share, "eval/win_rate_ci95_low": share - 0.1, "eval/compared": 40.0}
        folder.log("evaluation", 10 * i, row | {"eval/win_rate_ci95_high": share + 0.1, "eval/kl_to_reference": i})
    if status:
        folder.write_summary({"status": status})
    return folder


def test_without_evaluations_within_the_run_there_is_no_such_plot(tmp_path):
    text = page_of(run(tmp_path, []))
    assert TITLE not in text
    assert held_out.section([], {}, True) == ""


def test_the_best_is_marked_when_the_best_was_kept(tmp_path):
    text = page_of(run(tmp_path, [0.5, 0.75, 0.6, 0.75], keep="best", metric="policy.win_rate_vs_reference"))
    Page(text)
    assert "Kept is the best by policy.win_rate_vs_reference: update 20, 0.750." in text  # the first of equals
    assert text.count(">kept: update 20</text>") == 2  # on the win rate and on the KL
    assert "coin flip" in text


def test_the_last_is_marked_otherwise(tmp_path):
    text = page_of(run(tmp_path, [0.5, 0.75, 0.6]))
    assert "Kept is the last, update 30." in text
    assert ">kept: update 30</text>" in text


def test_a_run_that_goes_on_has_a_best_so_far_or_nothing_kept(tmp_path):
    best = page_of(run(tmp_path / "a", [0.5, 0.75], None, keep="best", metric="policy.win_rate_vs_reference"))
    assert "The best so far is by policy.win_rate_vs_reference: update 20" in best
    assert ">best so far: update 20</text>" in best
    assert ">kept: " not in best
    assert "Kept is" not in page_of(run(tmp_path / "b", [0.5, 0.75], None))


def test_intervals_are_drawn_where_there_are_some(tmp_path):
    drawn = held_out.section(run(tmp_path, [0.5, 0.75, 0.6]).metrics("evaluation"), {}, True)
    assert drawn.count('<line class="line faint policy"') == 3  # of the win rate; a KL has none


@pytest.mark.parametrize("wins", [[0.5], [0.5, 0.5], [1.0, 0.0]])
def test_one_row_and_equal_rows_give_a_plot(tmp_path, wins):
    text = page_of(run(tmp_path, wins))
    Page(text)
    assert "nan" not in text.lower().split("<body>")[1]
    assert TITLE in text


def test_figures_of_the_truth_come_first_and_what_was_not_recorded_is_left_out(tmp_path):
    folder = run(tmp_path, [])
    folder.log("evaluation", 5, {"eval/gold/score_mean": 2.0, "eval/score_mean": 1.0})
    drawn = held_out.section(folder.metrics("evaluation"), folder.config, True)
    assert drawn.index("Mean gold reward") < drawn.index("Mean reward")
    assert "Wins by" not in drawn
