"""The pages on AI feedback: their settings are there, their example is what the kit writes, their tables what was measured."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import cai
import judge_base
import measured
import pytest
import rlaif
import rounds

from rlhf_lora import feedback_text
from rlhf_lora.comparison_rows import row_of
from rlhf_lora.judging.orders import compare
from rlhf_lora.mini.judge_base import JudgeBaseSettings
from rlhf_lora.records import Comparison, Prompt, Verdict
from rlhf_lora.schema import AiLabelsConfig, RevisionsConfig

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    ("page", "group", "settings"),
    [("ai_labels.md", "ai_labels", AiLabelsConfig), ("constitutional_ai.md", "revisions", RevisionsConfig)],
)
def test_every_setting_stands_on_its_page(page, group, settings):
    told = set(re.findall(rf"^\| `{group}\.(\w+)`", (DOCS / page).read_text("utf-8"), re.M))
    assert told == set(settings.__dataclass_fields__)


def test_the_example_of_a_row_has_the_fields_that_are_written():
    text = (DOCS / "ai_labels.md").read_text("utf-8")
    shown = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])

    class Judge:
        def compare(self, prompt, a, b):
            return Verdict("A", 0.95) if a == "a" else Verdict("B", 0.20)

    (said,) = compare(Judge(), [one := Comparison(Prompt("…"), "a", "b")])
    row = row_of(one, said, "scripted")
    assert shown.keys() == row.keys()
    assert {name: shown[name] for name in ("p", "order", "label", "more")} == {
        name: pytest.approx(row[name]) if name == "p" else row[name] for name in ("p", "order", "label", "more")
    }
    assert shown["p_orders"] == pytest.approx(row["p_orders"])


def test_figures_in_words_name_who_labelled_and_leave_out_what_there_is_not():
    labels = {
        "judge": "j",
        "pairs": "relabel",
        "orders": "once",
        "kept": 0,
        "labels": 3,
        "ties": 1,
        "unread": 2,
        "calls": 6,
    }
    (line,) = feedback_text.lines({"ai_labels": labels})
    assert "judge=j" in line
    assert "in one order" in line
    assert "beside" not in line
    more = {
        "kept": 4,
        "orders": "both",
        "flips": 0.25,
        "first_chosen": 0.75,
        "gold_agreement": 0.9,
        "gold_agreement_of": 3,
        "gold_agreement_ci95": [0.5, 0.95],
    }
    first, agree, order = feedback_text.lines({"ai_labels": labels | more})
    assert "beside 4" in first
    assert "0.900 [0.500, 0.950] with the truth (3 comparisons)" in agree
    assert "25 %" in order
    assert "75 %" in order
    assert feedback_text.lines({"policy": {}}) == []
    (spent,) = feedback_text.lines({"judge_spent": {"calls": 1200, "tokens": 30000, "usd": 0.5}})
    assert "1,200 calls, 30,000 tokens, 0.5000 US dollars" in spent


BENCHMARKS = [rlaif, cai, rounds]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_tables_are_those_of_the_measurement(benchmark):
    written = benchmark.PAGE.read_text("utf-8")
    rows = measured.read(benchmark.RESULT)
    assert benchmark.page(written, rows) == written
    assert "ot measured yet" not in written


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_arm_was_measured_as_it_is_written_on_the_same_three_seeds(benchmark):
    rows = measured.read(benchmark.RESULT)
    seeds = {row["seed"] for row in rows}
    assert len(seeds) >= 3
    assert {(row["seed"], row["arm"]) for row in rows} == {(seed, arm) for seed in seeds for arm in benchmark.ARMS}
    for row in rows:
        given = [one.format(model="MODEL") if "{model}" in one else one for one in benchmark.ARMS[row["arm"]]]
        assert set(given) <= set(row["overrides"])


def test_the_tiny_judge_is_as_good_as_its_page_says():
    written, rows = judge_base.PAGE.read_text("utf-8"), measured.read(judge_base.RESULT)
    assert judge_base.page(written, rows) == written, "run python benchmarks/judge_base.py --page"
    made = json.loads(judge_base.RESULT.read_text("utf-8"))["base"]
    assert made["settings"] == dataclasses.asdict(JudgeBaseSettings())


def test_what_is_said_of_constitutional_ai_in_words_was_measured():
    rows = measured.read(cai.RESULT)
    kept = []
    for run in (row for row in rows if row["arm"] == cai.SL):
        shares = run["summary"]["revisions"]["measures"][cai.HARM]["violations"]
        assert all(after < before for before, after in itertools.pairwise(shares))
        assert shares[-1] < 0.12 * shares[0]
        figures = run["summary"]["revised_sft"]
        kept.append(figures[cai.HARM]["after"]["violations"] / figures[cai.HARM]["before"]["violations"])
        helped = figures["others"][cai.HELP]
        assert helped["after"]["mean"] == pytest.approx(helped["before"]["mean"], rel=0.05)
    assert (f"{sum(kept) / len(kept):.2f}", f"{max(kept):.2f}") == ("0.49", "0.59")
    told = cai.PAGE.read_text("utf-8")
    of = {arm: [row for row in rows if row["arm"] == arm] for arm in (cai.AI, cai.GOLD)}
    for runs in of.values():
        assert all(run["answers"][f"unsafe/policy/{cai.HARM}"]["violations"] <= 0.005 for run in runs)
        assert f"{sum(run['summary']['gold']['win_rate_vs_reference'] for run in runs) / len(runs):.3f}" in told
    for ai, gold in zip(of[cai.AI], of[cai.GOLD], strict=True):
        assert ai["summary"]["gold"]["win_rate_ci95"][1] > gold["summary"]["gold"]["win_rate_ci95"][0]


def test_what_is_said_of_rounds_in_words_was_measured():
    rows = measured.read(rounds.RESULT)
    plain, pool, weak, frozen, fresh = (rounds.by_round(rows, arm) for arm in rounds.ARMS)

    def wins(of):
        return [sum(one["gold"]["win_rate_vs_reference"] for one in these) / len(these) for these in of]

    told = rounds.PAGE.read_text("utf-8").partition("## What came out")[2].partition("### Rejection")[0]
    means = {f"{rate:.3f}" for of in (plain, pool, weak, frozen, fresh) for rate in wins(of)}
    assert set(re.findall(r"0\.\d{3}", told)) <= means
    for of in (plain, pool, weak):
        for before, after in itertools.pairwise(of):
            for one, other in zip(before, after, strict=True):
                assert other["gold"]["win_rate_ci95"][1] > one["gold"]["win_rate_vs_reference"]
    far, near = (sum(one["policy"]["kl_to_reference"] for one in of[-1]) / len(of[-1]) for of in (plain, pool))
    assert near < 0.55 * far
    assert wins(fresh) == sorted(wins(fresh))
    assert max(wins(frozen)) - min(wins(frozen)) < 0.01
    for round_of_fresh, round_of_frozen in zip(fresh, frozen, strict=True):
        for one, other in zip(round_of_fresh, round_of_frozen, strict=True):
            assert one["gold"]["win_rate_vs_reference"] < other["gold"]["win_rate_vs_reference"]
    for one, other in zip(fresh[-1], frozen[-1], strict=True):
        assert one["gold"]["win_rate_ci95"][1] > other["gold"]["win_rate_ci95"][0]
    stale = [one["reward_model"]["new"]["accuracy_before"] for of in fresh[1:] for one in of]
    assert (f"{min(stale):.2f}", f"{max(stale):.2f}") == ("0.49", "0.55")


def test_what_is_said_of_a_judges_labels_in_words_was_measured():
    rows = measured.read(rlaif.RESULT)
    of = {arm: [row["summary"] for row in rows if row["arm"] == arm] for arm in rlaif.ARMS}
    _people, once, both, hard, rollouts, _, model = of.values()

    def mean(runs, part, figure):
        return sum(run[part][figure] for run in runs) / len(runs)

    named = {f"{mean(runs, 'gold', 'win_rate_vs_reference'):.3f}" for runs in of.values()}
    named |= {f"{mean(runs, 'reward_model', 'gold_accuracy'):.3f}" for runs in (once, both)}
    named |= {f"{mean(runs, 'ai_labels', 'gold_agreement'):.3f}" for runs in (once, both)}
    told = rlaif.PAGE.read_text("utf-8").partition("<!-- rlaif -->")[0]
    said = set(re.findall(r"0\.\d{3}", told))
    assert len(said) >= 9
    assert said <= named
    assert f"{mean(model, 'ai_labels', 'gold_agreement'):.2f}" == "0.93"
    below = [h["gold"]["win_rate_ci95"][1] < s["gold"]["win_rate_ci95"][0] for h, s in zip(hard, both, strict=True)]
    assert below.count(True) == 1
    changed = [row["order"]["once"] for row in rows if row["arm"].startswith("judge with")]
    assert 1 / 3 < min(changed) < max(changed) < 0.4
    assert mean(rollouts, "ai_labels", "calls") == pytest.approx(mean(both, "ai_labels", "calls") / 4, rel=0.05)
