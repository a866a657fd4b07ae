"""The report: one file, nothing from outside, nothing invented, and no text of a model can do anything in it."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_lora.report import plots, write_model_card, write_report
from rlhf_lora.report.headline import duration, lede
from rlhf_lora.report.plots import Series, number, ticks
from rlhf_lora.run_folder import RunFolder

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e\x00</main>"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and ids of a page; fails on a tag that is closed in the wrong place."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = {"model": {"path": "org/tiny"}, "dataset": {"name": "orders"}}
    return RunFolder.create(tmp_path / "run", config, {"os": "x"})


@pytest.fixture
def finished(folder: RunFolder) -> RunFolder:
    """A run with everything in it."""
    for step in range(1, 41):
        folder.log("sft", step, {"loss": 2 / step})
        row = {"objective/scores": step / 40, "objective/kl": step / 10, "loss/value": 1 / step, "policy/clipfrac": 0.1}
        folder.log("policy", step, row)
    rows = [
        {
            "prompt": f"prompt {i}", "reference_text": "before", "policy_text": EVIL if i % 2 else "",
            "reference_score": i / 40, "policy_score": None if i == 5 else i / 20, "policy_kl": 0.5,
            "reference_gold": float(i % 3), "policy_gold": float(i % 4),
        }
        for i in range(40)
    ]  # fmt: skip
    folder.save_samples("evaluation", None, rows)
    folder.write_summary(
        {
            "status": "finished", "optimizer": "ppo", "reward": "learned", "seed": 0,
            "policy": {"score_mean": 1, "score_mean_reference": 0.5, "kl_to_reference": 2.25},
            "gold": {"win_rate_vs_reference": 0.735, "win_rate_ci95": [0.67, 0.79]},
            "reward_model": {"accuracy": 0.79, "length_baseline": 0.56}, "abstained": 1, "errors": 0,
            "reused": ["sft"], "seconds": {"rollout": 12.5, "update": 70, "total": 90},
        }
    )  # fmt: skip
    return folder


def page_of(folder: RunFolder) -> str:
    return write_report(folder).read_text("utf-8")


def test_the_page_is_well_formed_and_its_ids_are_unique(finished: RunFolder) -> None:
    page = Page(page_of(finished))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {f"#{id_}" for id_ in ids} == set(page.all("href"))


def test_the_page_reaches_for_nothing_outside_itself(finished: RunFolder) -> None:
    text = page_of(finished)
    page = Page(text)
    assert not page.all("src")
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text


def test_what_a_model_wrote_is_text_and_nothing_else(finished: RunFolder) -> None:
    text = page_of(finished)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "onerror=alert(1)>" not in text
    assert "\u202e" not in text, "a completion could reverse the text after it"
    assert "\x00" not in text
    assert Page(text).tags.count("main") == 1


def test_metric_stage_and_version_names_are_escaped_too(folder: RunFolder) -> None:
    for step in (1, 2):
        folder.log("<b>", step, {"<i>x": step})
    text = page_of(folder)
    assert "<i>x" not in text
    assert "<b>" not in text


def test_the_figures_of_the_summary_are_told_with_their_intervals(finished: RunFolder) -> None:
    text = page_of(finished)
    assert "The policy beats SFT on 73.5 % of held-out prompts by the gold reward, at a KL of 2.25 nats." in text
    for told in ("67–79 %", "length alone gets 56 %", "1 abstained · 0 failed", "(reused)", "1 min 10 s", "2.25"):
        assert told in text


def test_a_prompt_without_a_score_is_left_out_of_the_distribution_and_not_counted_as_0(finished: RunFolder) -> None:
    # 40 prompts, one unscored: policy i/20 against i/40 ties at i = 0 and wins for the other 38
    assert "38 won · 1 tied · 0 lost" in page_of(finished)


def test_ten_samples_run_from_the_largest_gain_to_the_largest_loss(finished: RunFolder) -> None:
    text = page_of(finished)
    assert text.count('<article class="sample">') == 10
    assert "Ten of 40 held-out prompts, evenly spaced" in text
    assert '<div class="text empty">empty</div>' in text


def test_an_interrupted_run_says_what_is_missing_and_draws_no_zeros(folder: RunFolder) -> None:
    folder.log("sft", 1, {"loss": 1.0})
    text = page_of(folder)
    Page(text)
    assert "not finished" in text
    assert "status finished" not in text
    for sentence in ("No evaluation yet", "No held-out samples", "No times recorded", "too few for a curve"):
        assert sentence in text
    assert '<svg class="plot"' not in text
    assert "0 %" not in re.sub(r"<style>.*</style>", "", text)


def test_an_empty_run_folder_gives_a_page(folder: RunFolder) -> None:
    assert "No metrics recorded yet." in page_of(folder)


def test_a_run_without_rollouts_shows_its_own_curves(folder: RunFolder) -> None:
    for step in range(1, 50):
        folder.log("policy", step, {"rewards/chosen": step, "rewards/rejected": -step, "rewards/margins": 2 * step})
    text = page_of(folder)
    assert "Implicit reward" in text
    assert ">rejected</text>" in text
    assert "KL to the reference" not in text


def test_a_win_rate_that_could_be_chance_is_called_so() -> None:
    gold = {"win_rate_vs_reference": 0.55, "win_rate_ci95": [0.48, 0.62]}
    assert lede({"gold": gold}, "SFT").endswith("not clearly different from a coin flip.")
    assert "yet" in lede({"status": "interrupted"}, "SFT")
    assert "yet" not in lede({"status": "finished"}, "SFT")  # of stages=[labels] nothing more will come


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0.1, 40, [10, 20, 30, 40]), (-3, 3, [-2, 0, 2]), (0, 4e-5, [0, 1e-5, 2e-5, 3e-5, 4e-5])],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2.613, "2.61"), (-0.0812, "−0.0812"), (1250.4, "1,250"), (3.2e-5, "3.20e−05"), (1.5e9, "1.50e+09")],
)
def test_numbers_are_short_and_have_a_true_minus(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    "values", [[1.0, 1.0], [0.0, 0.0], [1e-9, 2e-9], [-1e12, 1e12], [5.0], [1.0] * 500, [math.pi, -3.0, 1e6]]
)
def test_every_figure_stands_whatever_the_numbers_are(values: list[float]) -> None:
    xs = list(range(1, len(values) + 1))
    drawn = [
        plots.lines([Series("a", xs, values), Series("b", xs, values, "reference")], "step", "y", guide=(0.0, "none")),
        plots.histograms([Series("a", (), values), Series("b", (), values, "reference")], "x"),
        plots.path(values, values, "x", "y", "first", "last"),
        plots.sparkline(values),
    ]
    for svg in drawn:
        assert "nan" not in Page(svg).all("points")
        assert "nan" not in svg
        assert "inf" not in svg


def test_a_histogram_counts_every_value_once() -> None:
    for values in ([0.0, 0.5, 1.0, 1.0], [0.0, 3.0, 3.0, 1.0], [2.0, 2.0]):
        whole = all(v.is_integer() for v in values)
        edges = plots._whole_edges(values) if whole else plots._edges(values)
        assert sum(plots._count(values, edges)) == len(values)
    assert plots._count([0.0, 3.0, 3.0, 1.0], plots._whole_edges([0.0, 3.0])) == [1, 1, 0, 2]


def test_a_long_line_is_thinned_to_means() -> None:
    thin = plots._thin(Series("", list(range(1000)), [float(i % 2) for i in range(1000)]))
    assert len(thin.x) <= plots.MOST_POINTS
    assert sum(thin.y) / len(thin.y) == pytest.approx(0.5, abs=0.11)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (41, "41 s"), (215, "3 min 35 s"), (7500, "2 h 05 min")]
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- the model card ---------------------------------------------------------------------------------------------------


def test_the_model_card_names_the_base_the_figures_and_how_to_load(finished: RunFolder) -> None:
    for name in ("reward", "policy", "policy_1", "policy_2", "policy_10"):
        finished.adapter(name).mkdir()
        (finished.adapter(name) / "adapter_config.json").write_text("{}")
    card = write_model_card(finished).read_text("utf-8")
    assert card.startswith("---\nlibrary_name: peft\nbase_model: org/tiny\n")
    for told in ("0.735 (95 % interval 0.67 to 0.79)", "by length alone 0.56", "adapters/policy", "inherit"):
        assert told in card
    assert "AutoPeftModelForSequenceClassification" in card
    (line,) = [line for line in card.splitlines() if "of each round" in line]
    assert line.endswith(": `adapters/policy_1`, `adapters/policy_2`, `adapters/policy_10`")


def test_the_model_card_of_an_interrupted_run_has_no_figures(folder: RunFolder) -> None:
    card = write_model_card(folder).read_text("utf-8")
    assert "The run has not finished" in card
    assert "win rate" not in card
