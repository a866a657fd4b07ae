"""A judge held against labelled pairs: the figures of judges whose faults are known."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import jsonl

from rlhf_lora import cli, judge_measured, tables
from rlhf_lora.errors import ConfigError, ContractError, Stopped
from rlhf_lora.evaluation import evaluate
from rlhf_lora.judge_figures import Judged, figures, kind_of
from rlhf_lora.judge_measured import ask, drawn, measure, write
from rlhf_lora.judging.orders import compare
from rlhf_lora.mini import orders
from rlhf_lora.records import Comparison, Pair, Prompt, Verdict
from rlhf_lora.registry import judge as register

Say = Callable[[Prompt, str, str], Verdict]


class Scripted:
    """A judge that says what a function says."""

    def __init__(self, say: Say):
        self.say = say

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        return self.say(prompt, a, b)


def pairs(count: int = 200) -> list[Pair]:
    """Two good answers of each three are the longer ones."""
    return [
        Pair(Prompt(f"question {i}"), f"good {i}" + " and more of it" * (i % 3 > 0), f"bad {i} of some words")
        for i in range(count)
    ]


def found(say: Say, given: list[Pair] | None = None, **settings: Any) -> dict[str, Any]:
    return figures(ask(Scripted(say), given or pairs(), 0, **settings))


def by_labels(prompt: Prompt, a: str, b: str) -> Verdict:
    return Verdict("A" if a.startswith("good") else "B")


def test_a_judge_that_answers_from_the_labels_agrees_always():
    told = found(by_labels)
    assert told["agreement"] == told["agreement_one_order"] == 1.0
    assert told["agreement_ci95"][0] > 0.98  # Wilson's for 200 of 200: 200 / (200 + 1.96²)
    assert told["position"]["flip_rate"] == 0.0
    assert told["position"]["first_share"] == pytest.approx(0.5)
    assert told["length"]["longer_share"] == told["length"]["longer_share_people"] == pytest.approx(133 / 200)
    assert told["warnings"] == []


def test_a_judge_that_always_names_the_first_is_a_bias_and_nothing_else():
    told = found(lambda *_: Verdict("A"))
    assert told["agreement"] == told["agreement_one_order"] == 0.5
    assert told["position"]["first_share"] == told["position"]["flip_rate"] == told["ties"] == 1.0
    assert told["position"]["flip_rate_averaged"] == 0.0
    assert "100 % of the pairs change their winner with the order" in told["warnings"][0]
    assert "length" not in told  # nothing was decided


def test_a_share_just_above_the_limit_is_not_told_as_the_limit():
    told = found(lambda prompt, a, b: Verdict("A") if int(prompt.text.split()[1]) < 41 else by_labels(prompt, a, b))
    assert told["position"]["flip_rate"] == 41 / 200
    assert "20.5 % of the pairs change their winner with the order (more than 20 %)" in told["warnings"][0]


def test_a_judge_of_length_shows_where_people_took_the_shorter():
    told = found(lambda _, a, b: Verdict("A" if len(a) > len(b) else "B"))["length"]
    assert told["longer_share"] == 1.0
    assert told["agreement_where_shorter_chosen"] == 0.0
    assert told["agreement_where_longer_chosen"] == 1.0
    assert told["pairs_where_shorter_chosen"] + told["pairs_where_longer_chosen"] == 200
    assert told["longer_share_people"] == pytest.approx(133 / 200)


def test_a_place_that_only_tips_the_balance_is_taken_out_by_both_orders():
    def tipped(prompt: Prompt, a: str, b: str) -> Verdict:
        p = 1 / (1 + math.exp(-(1.0 if a.startswith("good") else -1.0) - 1.5))  # 1.5 for the first place
        return Verdict("A" if p > 0.5 else "B", p)

    told = found(tipped)
    assert told["agreement_one_order"] == 0.5  # always the first
    assert told["agreement"] == 1.0
    assert told["position"]["flip_rate"] == 1.0
    p = (1 / (1 + math.exp(-2.5)) + 1 - 1 / (1 + math.exp(-0.5))) / 2
    assert told["calibration"]["brier"] == pytest.approx((1 - p) ** 2)
    assert told["calibration"]["calibration_error"] == pytest.approx(1 - p)


def test_what_could_not_be_read_is_counted_by_kind_and_is_in_no_rate():
    reasons = ["refusal: I cannot", "unreadable: 'maybe'", "error: no answer in 60 s", "what?"]

    def sometimes(prompt: Prompt, a: str, b: str) -> Verdict:
        i = int(prompt.text.split()[1])
        return Verdict(None, reason=reasons[i % 4]) if i < 40 and a.startswith("good") else by_labels(prompt, a, b)

    told = found(sometimes)
    assert told["verdicts"] == {
        "asked": 400, "a": 160, "b": 200, "ties": 0, "refusals": 10, "unreadable": 20, "errors": 10,
    }  # fmt: skip
    assert told["pairs_read"] == 160
    assert told["agreement"] == 1.0  # one order of the 40 pairs said so too, and is left out with the other
    assert told["warnings"] == []  # 40 of 400 is a tenth
    assert (
        "400 of 400 verdicts are missing (400 refusals)"
        in found(lambda *_: Verdict(None, reason="refusal: no"))["warnings"][0]
    )
    (warning,) = found(lambda *_: Verdict(None, reason="refusal: \x1b[2J"))["warnings"]
    assert warning.endswith("; most often: refusal: \\x1b[2J")  # why, and nothing that a terminal would obey
    assert kind_of(Verdict("tie")) is None


def test_ties_are_half_an_agreement_and_no_decision():
    told = found(lambda *_: Verdict("tie"))
    assert told["agreement"] == 0.5
    assert told["ties"] == 1.0
    assert told["verdicts"]["ties"] == 400
    assert told["position"].keys() == {"flip_rate", "flip_rate_ci95", "flip_rate_averaged", "flip_rate_averaged_ci95"}


def test_a_judge_that_says_something_else_each_time_is_asked_again():
    count = [0]

    def fickle(prompt: Prompt, a: str, b: str) -> Verdict:
        count[0] += 1
        p = 0.9 if count[0] <= 128 else 0.2  # of the first 64 pairs both orders, and again begun in the other order
        return Verdict(
            "A" if (p if a.startswith("good") else 1 - p) > 0.5 else "B", p if a.startswith("good") else 1 - p
        )

    told = found(fickle, pairs(64), deterministic=False)
    assert count[0] == 256
    assert told["position"]["flip_rate"] == 0.0
    assert told["position"]["flip_rate_averaged"] == 1.0


@pytest.mark.parametrize(("keeps", "asked"), [(False, 4), (True, 2)])
def test_a_judge_that_would_read_its_own_answers_back_is_not_asked_again(keeps, asked):
    count = [0]

    class Unsure(Scripted):
        deterministic = False
        keeps_answers = keeps

        def __init__(self) -> None:
            pass

        def say(self, prompt: Prompt, a: str, b: str) -> Verdict:
            count[0] += 1
            return Verdict("A")

    register("unsure")(Unsure)
    few = ("dataset.pairs=30", "dataset.demonstrations=1", "dataset.prompts=1")
    told = measure("judge=unsure", "dataset=orders", *few).figures
    assert count[0] == asked * told["pairs"]


def test_probabilities_that_are_frequencies_are_calibrated():
    # Right in three of four pairs, and 0.75 sure of each.
    def sure(prompt: Prompt, a: str, b: str) -> Verdict:
        good_first = a.startswith("good") == (int(prompt.text.split()[1]) % 4 > 0)
        return Verdict("A" if good_first else "B", 0.75 if good_first else 0.25)

    told = found(sure)["calibration"]
    assert told["calibration_error"] == pytest.approx(0.0, abs=1e-9)
    assert told["brier"] == pytest.approx(0.75 * 0.25**2 + 0.25 * 0.75**2)
    assert [row["pairs"] for row in told["bins"]] == [200]
    assert "calibration" not in found(by_labels)


def test_the_truth_is_held_against_the_judge_and_against_people():
    given = pairs(8)
    comparisons = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in given]
    told = compare(Scripted(by_labels), comparisons)
    golds = [2.0, 0.5, -0.5, -2.0, 0.0, None, 1.0, 3.0]
    gold = figures([Judged(p, c, True, g) for p, c, g in zip(given, told, golds, strict=True)])["gold"]
    assert (gold["pairs"], gold["pairs_far"]) == (6, 4)
    assert gold["agreement"] == gold["agreement_of_people"] == pytest.approx(4 / 6)
    assert gold["agreement_far"] == pytest.approx(3 / 4)


def test_pairs_are_drawn_by_the_seed_and_none_twice():
    given = pairs(50)
    assert drawn(given, 50, 0) == given
    some = drawn(given, 20, 1)
    assert some == drawn(given, 20, 1) != drawn(given, 20, 2)
    assert len({pair.prompt.text for pair in some}) == 20


def test_what_a_judge_raises_is_the_judges_fault_but_a_spent_budget_is_not():
    def raises(error: Exception) -> Say:
        def say(prompt: Prompt, a: str, b: str) -> Verdict:
            raise error

        return say

    with pytest.raises(ContractError, match="the judge 'mine' raised KeyError: 'x'"):
        ask(Scripted(raises(KeyError("x"))), pairs(1), 0, "mine")
    with pytest.raises(Stopped, match="max_calls"):
        ask(Scripted(raises(Stopped("max_calls"))), pairs(1), 0, "mine")


# --- the verb ---------------------------------------------------------------------------------------------------------


class Opened:
    """Counts what it is asked; closed in the end."""

    asked, closed = 0, 0

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        self.asked += 1
        return Verdict("A" if a.startswith("good") else "B", 1.0 if a.startswith("good") else 0.0)

    def usage(self) -> Mapping[str, float]:
        return {"calls": self.asked, "tokens": 12_345, "usd": 0.0123, "cache_hits": 0}

    def close(self) -> None:
        Opened.closed += 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    class ByLabels:
        def open(self, ctx: Any) -> Opened:
            return Opened()

        def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
            raise AssertionError("it is asked as it was opened")

    register("by_labels")(ByLabels)
    rows = [{"prompt": pair.prompt.text, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs(60)]
    return jsonl(tmp_path / "pairs.jsonl", rows)


def said(file: Path, *more: str) -> list[str]:
    return ["evaluate", "judge=by_labels", "dataset=jsonl", f"dataset.path={file}", *more]


def test_the_table_says_it_all(file, capsys):
    closed = Opened.closed
    assert cli.run(said(file)) == 0
    out = capsys.readouterr().out
    assert "judge=by_labels on dataset=jsonl: 60 pairs, each asked in both orders" in out
    assert "agrees with people                      1.000  [0.940, 1.000]  60 pairs" in out
    assert "spent                                   calls 120, tokens 12,345, usd 0.0123, cache_hits 0" in out
    assert "Brier score of its probabilities        0.000" in out
    assert Opened.closed == closed + 1


def test_json_and_a_row_for_each_comparison(file, capsys, tmp_path):
    assert cli.run(said(file, "-n", "20", "--to", str(tmp_path / "rows.parquet"), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["pairs_of_dataset"], told["agreement"]) == (20, 60, 1.0)
    assert told["usage"]["calls"] == 40
    rows = tables.read(tmp_path / "rows.parquet")
    assert len(rows) == 20
    assert {row["verdict"] for row in rows} == {"chosen"}
    assert all(row["first"] == ("A" if row["chosen_read_first"] else "B") for row in rows)
    assert {row["chosen_read_first"] for row in rows} == {True, False}
    write(rows, tmp_path / "rows.jsonl")
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows


def test_a_judge_that_needs_no_model_loads_none(tmp_path):
    """A judge behind a server is measured on a machine without a card, in a second."""
    (tmp_path / "mine.py").write_text(
        "from rlhf_lora import Verdict, judge\n@judge('mine')\nclass Mine:\n"
        "    def compare(self, prompt, a, b):\n        return Verdict('A')\n"
    )
    rows = jsonl(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    words = ["evaluate", "judge=mine", "plugins=[mine.py]", "dataset=jsonl", f"dataset.path={rows}"]
    code = f"import sys\nfrom rlhf_lora import cli\nassert cli.run({words}) == 0\nprint({{'torch', 'peft'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_scripted_judge_shows_the_faults_that_it_was_given(tmp_path):
    rows = [
        {
            "prompt": p.prompt.text,
            "chosen": p.chosen,
            "rejected": p.rejected,
            "better": p.chosen if i % 5 else p.rejected,
        }
        for i, p in enumerate(pairs(100))
    ]
    file = jsonl(tmp_path / "pairs.jsonl", rows)
    asked = ["judge=scripted", "judge.truth=null", "judge.column=better", "dataset=jsonl", f"dataset.path={file}"]
    assert measure(*asked).figures["agreement"] == pytest.approx(0.8)
    first = measure(*asked, "judge.always=first").figures
    assert (first["agreement"], first["position"]["first_share"], first["position"]["flip_rate"]) == (0.5, 1.0, 1.0)
    missing = measure(*asked, "judge.refuses=1.0").figures
    assert missing["verdicts"]["refusals"] == 200
    assert "agreement" not in missing


def test_in_python_it_is_evaluate_too(file):
    assert evaluate(*said(file)[1:])["agreement"] == 1.0


def test_the_truth_of_a_generated_dataset_is_asked(tmp_path):
    class Gold:
        def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
            first, second = orders.gold(prompt.text, a).value, orders.gold(prompt.text, b).value
            return Verdict("tie" if first == second else "A" if first > second else "B")

    register("by_gold")(Gold)
    told = measure(
        "judge=by_gold", "dataset=orders", "dataset.pairs=300", "dataset.demonstrations=1", "dataset.prompts=1"
    ).figures
    assert told["gold"]["agreement"] == 1.0
    assert 0.8 < told["gold"]["agreement_of_people"] < 1.0  # the annotator is noisy
    assert told["agreement"] < 0.95


@pytest.mark.parametrize(
    ("words", "said_so"),
    [
        (["evaluate", "judge=by_labels", "dataset=orders", "dataset.pairs=0"], "no compared answers"),
        (["evaluate", "judge=by_lables"], "did you mean 'by_labels'"),
        (["evaluate", "judge=by_labels", "-n", "none"], "-n wants a number of pairs"),
        (["evaluate", "judge=by_labels", "--to", "rows.csv"], "neither JSON lines nor Parquet"),
        (["evaluate", "judge=by_labels", "--to", "nowhere/rows.jsonl"], "there is no folder nowhere"),
        (["evaluate", "runs/mine", "judge=by_labels", "-n", "3"], "-n is for a judge that is measured"),
        (["evaluate", "dataset=orders"], "one run folder, got 0"),
    ],
)
def test_what_cannot_be_measured_is_told_in_words(words, said_so, file, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    captured = capsys.readouterr()
    assert said_so in captured.err
    assert captured.out == ""


def test_measuring_without_a_judge_is_refused():
    with pytest.raises(ConfigError, match="no judge to measure"):
        measure("dataset=orders", "dataset.pairs=1")


def test_a_judge_that_reads_the_base_of_a_run_gets_it(tiny_base):
    class Likelier:
        """The answer that the base finds likelier."""

        needs_backbone = True

        def open(self, ctx: Any) -> Any:
            def say(prompt: Prompt, a: str, b: str) -> Verdict:
                ids = ctx.chat.prompt_ids(prompt)
                replies = [ctx.chat.response_ids(text) for text in (a, b)]
                first, second = (sum(row) for row in ctx.backbone.sequence_logprobs("base", [ids, ids], replies, 1.0))
                return Verdict("A" if first > second else "B")

            ctx.backbone.add_role("base", bare=True)
            return Scripted(say)

        def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
            raise AssertionError("it is asked as it was opened")

    register("likelier")(Likelier)
    few = ("dataset.pairs=30", "dataset.demonstrations=1", "dataset.prompts=1", "hardware.device=cpu")
    told = measure("judge=likelier", f"model.path={tiny_base}", *few).figures
    assert told["pairs_read"] == 30
    assert told["position"]["flip_rate"] == 0.0  # it does not look at the order
    assert "usage" not in told


def test_what_its_listener_spent_is_what_a_judge_spent():
    class Listener:
        def metrics(self) -> dict[str, float]:
            return {"judge/calls": 3, "judge/usd": 0.5}

    asked = Scripted(by_labels)
    asked.listener = Listener()  # type: ignore[attr-defined]
    assert judge_measured._usage(asked) == {"usage": {"calls": 3, "usd": 0.5}}
    assert judge_measured._usage(Scripted(by_labels)) == {}


# --- real files -------------------------------------------------------------------------------------------------------

DATA = Path(os.environ.get("RLHF_LORA_DATA", ""))
real = pytest.mark.skipif("RLHF_LORA_DATA" not in os.environ, reason="RLHF_LORA_DATA names no data folder")


@real
def test_peoples_comparisons_run_through(capsys):
    class Longer:
        def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
            return Verdict("tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B")

    register("longer")(Longer)
    path = DATA / "human-pairs" / "autoj_pairwise.jsonl.gz"
    told = measure("judge=longer", "dataset=jsonl", f"dataset.path={path}").figures
    assert told["pairs"] == told["pairs_of_dataset"]
    assert sum(told["left_out"].values()) + told["pairs"] == 972
    assert told["agreement"] == pytest.approx(told["length"]["longer_share_people"], abs=0.005)  # it is length alone
    assert told["length"]["agreement_where_shorter_chosen"] == 0.0
    labels = [json.loads(line)["label"] for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert told["left_out"]["a tie"] == labels.count(2)


@real
def test_published_judge_prompts_run_through(tmp_path):
    """FastChat's pairwise prompt, filled in and read as its authors do, over MT-Bench's questions with the reference answer
    against that to another question. The model is a script that knows the references: what runs through is the text."""
    folder = DATA / "judge"
    read = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("mt_bench_question", "mt_bench_reference_gpt4", "fastchat_judge_prompts")
    }
    questions = {row["question_id"]: row["turns"][0] for row in read["mt_bench_question"]}
    references = {row["question_id"]: row["choices"][0]["turns"][0] for row in read["mt_bench_reference_gpt4"]}
    asked_for = next(row for row in read["fastchat_judge_prompts"] if row["name"] == "pair-v2")
    ids = sorted(references)
    rows = [
        {"prompt": questions[i], "chosen": references[i], "rejected": references[j]}
        for i, j in zip(ids, ids[1:] + ids[:1], strict=True)
    ]
    right = {(questions[i], references[i]) for i in ids}

    class FastChat:
        def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
            text = asked_for["prompt_template"].format(question=prompt.text, answer_a=a, answer_b=b)
            assert text.index(a) < text.index(b, text.index(a) + len(a))
            answer = "[[A]]" if (prompt.text, a) in right else "[[B]]"
            return Verdict("A" if answer == asked_for["output_format"] else "B")

    register("fastchat")(FastChat)
    told = measure("judge=fastchat", "dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'mt.jsonl', rows)}").figures
    assert told["agreement"] == 1.0
    assert told["pairs"] == len(rows) - sum(told.get("left_out", {}).values())
