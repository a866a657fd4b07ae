"""Reward against √KL: what is drawn, and when the page speaks of reward hacking."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, page_of

from rlhf_lora.best_of_n import kl_bound
from rlhf_lora.report.overoptimization import at_the_end, figures, hacked, updates, warning
from rlhf_lora.run_folder import RunFolder

RISING = [0.4, 0.9, 1.4, 1.9, 2.3]
TURNING = [0.5, 0.9, 0.8, 0.3, -0.2]


def rows(score: list[float], gold: list[float] | None, half: float = 0.1) -> list[dict[str, Any]]:
    """An evaluation every ten updates, with a KL of 1, 2, … nats; the reference scores 3."""
    found = []
    for i, gain in enumerate(score):
        row: dict[str, Any] = {"stage": "evaluation", "step": 10 * (i + 1), "eval/kl_to_reference": i + 1.0}
        for place, value in (("eval/", gain), ("eval/gold/", gold[i] if gold else None)):
            if value is not None:
                row |= {f"{place}score_mean": 3 + value, f"{place}score_mean_reference": 3.0}
                row |= {f"{place}score_gain_ci95_low": value - half, f"{place}score_gain_ci95_high": value + half}
        found.append(row)
    return found


def best(n: int, gain: float) -> dict[str, Any]:
    scores = {"score_mean": 3 + gain, "score_mean_reference": 3.0, "score_gain_ci95": [gain - 0.1, gain + 0.1]}
    return {str(n): {**scores, "gold": scores, "kl_bound": kl_bound(n)}}


def first_hacked(score: list[float], gold: list[float] | None, half: float = 0.1) -> int | None:
    found = hacked(updates(rows(score, gold, half)))
    return None if found is None else found[1].update


def test_gains_are_over_the_reference_and_kl_stands_under_its_root():
    point = updates(rows([0.5], [0.25]))[0]
    gain, ends = point.gains["gold"]
    assert gain == pytest.approx(0.25)
    assert ends == pytest.approx((0.15, 0.35))
    assert updates(rows([0.1] * 4, None))[3].x == 2.0
    assert updates([rows([0.1], None)[0] | {"eval/kl_to_reference": -1e-6}])[0].x == 0.0


def test_best_of_n_stands_at_the_bound_of_its_kl():
    end, found = at_the_end({"best_of_n": best(4, 0.5), "policy": {"kl_to_reference": 2.0}})
    assert end == []  # no score, no point
    assert found[0].x == pytest.approx(math.sqrt(math.log(4) - 0.75))
    assert found[0].name == "best of 4"


def test_a_reward_that_rises_while_the_truth_falls_is_said_from_the_first_update_on():
    # The peak is update 20 with 0.9 ± 0.1; update 30 with 0.8 ± 0.1 may be chance, update 40 with 0.3 ± 0.1 is not.
    assert first_hacked(RISING, TURNING) == 40
    told = warning(rows(RISING, TURNING))
    assert told.startswith("Reward hacking from update 40 on: ")
    assert "from a gain of 0.900 over the reference at update 20 to 0.300" in told


def test_a_truth_that_never_rose_was_hacked_from_the_start():
    assert first_hacked([0.5, 1.0], [-0.5, -1.0]) == 10
    assert "at the start" in warning(rows([0.5, 1.0], [-0.5, -1.0]))


@pytest.mark.parametrize(
    ("score", "gold", "half"),
    [
        (RISING, RISING, 0.1),  # both rise
        (RISING, TURNING, 2.0),  # within the intervals
        (TURNING, TURNING, 0.1),  # the reward falls as well: a policy that broke, not one that cheats
        (RISING, [0.5, 0.9, -0.5, 0.3, 0.9], 0.1),  # it came back
        (RISING, None, 0.1),  # the truth is not known
        ([], [], 0.1),
    ],
)
def test_otherwise_nothing_is_said(score, gold, half):
    assert first_hacked(score, gold, half) is None
    assert warning(rows(score, gold, half)) == ""


def test_without_intervals_nothing_is_said():
    bare = [{k: v for k, v in row.items() if "ci95" not in k} for row in rows(RISING, TURNING)]
    assert warning(bare) == ""
    assert len(figures(bare, {})) == 1


def test_reward_and_truth_share_a_plane_when_they_are_of_one_size():
    together = figures(rows(RISING, TURNING), {})
    assert len(together) == 1
    assert "Gains against √KL" in together[0]
    assert together[0].count("<polyline") == 2
    assert together[0].count("<circle") == 10
    apart = figures(rows([10 * value for value in RISING], TURNING), {})
    assert [drawn.count("<polyline") for drawn in apart] == [1, 1]


def test_every_line_begins_at_nothing():
    # (0, 0) is the first corner, and the guide at gain 0 has its height.
    drawn = figures(rows([0.5, 1.0], None), {})[0]
    corner = drawn.split('points="')[1].split()[0].split(",")
    assert f'y1="{float(corner[1])}" y2="{float(corner[1])}"' in drawn
    assert float(corner[0]) == 40


def test_best_of_n_is_drawn_as_rings_with_its_name():
    drawn = figures(rows(RISING, TURNING), {"best_of_n": best(4, 0.5) | best(16, 0.8)})[0]
    assert drawn.count('class="kept line') == 4
    assert ">best of 4</text>" in drawn
    assert ">best of 16</text>" in drawn


def test_without_evaluations_within_the_run_best_of_n_stands_beside_the_end():
    end = {"score_mean": 4.0, "score_mean_reference": 3.0, "score_gain_ci95": [0.9, 1.1]}
    summary = {"policy": {**end, "kl_to_reference": 2.0}, "gold": end, "best_of_n": best(4, 0.5)}
    assert figures([], summary)[0].count('class="dot') == 2
    assert figures([], {key: value for key, value in summary.items() if key != "best_of_n"}) == []


def test_the_page_shows_all_of_it(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {"evaluation": {"keep": "last"}}, {"os": "x"})
    folder.log("policy", 1, {"objective/kl": 0.0})
    for row in rows(RISING, TURNING):
        folder.log("evaluation", row["step"], {k: v for k, v in row.items() if "/" in k})
    won = {"win_rate_vs_reference": 0.7, "win_rate_ci95": [0.6, 0.8]}
    equal = {"win_rate_length_controlled": 0.55, "win_rate_length_controlled_ci95": [0.45, 0.65]}
    four = best(4, 0.5)
    four["4"] |= won
    folder.write_summary({"status": "finished", "policy": {**won, **equal}, "best_of_n": four})
    text = page_of(folder)
    Page(text)
    assert "Reward hacking from update 40 on" in text
    assert "against √KL" in text
    assert "at equal length 55 % (45–65 %)" in text
    assert "best of 4" in text
