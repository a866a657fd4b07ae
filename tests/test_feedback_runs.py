"""Whole runs with AI feedback on tiny bases: labels by a judge, constitutional AI, killed and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from feedback_judge import KILL_AT
from test_pipeline import SMALL
from tiny import overrides

from rlhf_lora import cli, compose, evaluate
from rlhf_lora.mini import bases, helpdesk_base, orders
from rlhf_lora.model_spec import adapter_hash
from rlhf_lora.row_file import RowFile
from rlhf_lora.run_folder import RunFolder

pytestmark = pytest.mark.slow
JUDGE = (f"plugins=[{Path(__file__).with_name('feedback_judge.py')}]", "judge=knowing")
PAIRS = "dataset.pairs=400"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def helpdesk_tiny(tmp_path_factory) -> Path:
    """The base that knows the helpdesk's words, hardly trained."""
    folder = tmp_path_factory.mktemp("tiny-helpdesk")
    bases.build(folder, helpdesk_base.HelpdeskBase(steps=10, batch=8))
    return folder


def given(base: Path, run: Path, *more: str) -> list[str]:
    return overrides(base, run, *SMALL, *JUDGE, PAIRS, *more)


def train(base: Path, run: Path, *more: str) -> RunFolder:
    assert cli.run(["train", *given(base, run, *more)]) == 0
    return RunFolder(run)


def on_helpdesk(base: Path, run: Path, *more: str) -> list[str]:
    rows = ("dataset.demonstrations=200", "dataset.pairs=120", "dataset.prompts=240", "dataset.seed=0")
    made = given(base, run, "dataset=helpdesk", "judge.truth=helpdesk_harm", *more)
    return [*(one for one in made if not one.startswith("dataset.")), *rows]


CAI = ("revisions.rounds=2", "revisions.by=judge", "revisions.where={kind: unsafe}", "revisions.measure=[helpdesk_harm]",
       "reward_model.pairs=rollouts")  # fmt: skip


@pytest.mark.parametrize(("how", "needs_base"), [("relabel", "true"), ("rollouts", "false")])
def test_a_reward_model_learns_from_a_judges_labels_and_the_policy_from_it(tiny_base, tmp_path, how, needs_base):
    run = train(
        tiny_base,
        tmp_path / "run",
        f"reward_model.pairs={how}",
        "ai_labels.keep_dataset=0.3",
        "judge.first=1.0",
        f"judge.needs_base={needs_base}",
    )
    figures = run.summary["ai_labels"]
    labels = RowFile(run.path / "labels" / "labels.jsonl").rows()[1:]
    assert (figures["judge"], figures["pairs"], figures["asked"]) == ("knowing", how, len(labels))
    assert figures["asked"] == figures["labels"] + figures["ties"] + figures["unread"]
    assert figures["calls"] == 2 * figures["asked"]
    if how == "relabel":
        assert figures["gold_agreement"] == 1.0  # what it reads first is in both orders, and cancels
    else:
        assert figures["gold_agreement"] < 1  # the truth knows which answers were cut, a judge of words does not
        ended = {
            (row["prompt"], text)
            for row in RowFile(run.path / "labels" / "answers.jsonl").rows()
            for text, finished in zip(row["answers"], row["finished"], strict=True) if finished
        }  # fmt: skip
        both = [row for row in labels if all((row["prompt"], text) in ended for text in row["answers"])]
        values = [[orders.gold(row["prompt"], text).value for text in row["answers"]] for row in both]
        told = [(row["label"], a > b) for row, (a, b) in zip(both, values, strict=True) if a != b]
        assert len(told) > 20
        assert all((label == "A") == a_is_better for label, a_is_better in told)
    assert 0 < figures["flips"] < 1
    assert figures["first_chosen"] > 0.5
    assert figures["kept"] > 0
    trained = run.metrics("reward_model")[-1]
    assert trained["accuracy"] >= 0
    record = json.loads((run.path / "stages.json").read_text())
    assert record["reward_model"]["metrics"]["rows"] == figures["labels"] + figures["kept"]
    assert {"accuracy", "gold_accuracy"} <= run.summary["reward_model"].keys()  # of the data's held-out labels
    assert run.summary["status"] == "finished"
    assert "knowing" in (run.path / "README.md").read_text()
    assert "knowing" in (run.path / "report.html").read_text()


def test_labels_are_taken_from_the_cache_where_the_judge_repeats_itself(tiny_base, tmp_path):
    log = tmp_path / "calls"
    more = ("reward_model.pairs=relabel", f"judge.log={log}")
    first = train(tiny_base, tmp_path / "one", *more)
    calls = log.read_text()
    second = train(tiny_base, tmp_path / "two", *more, "optimizer.beta=0.1")
    assert log.read_text() == calls
    assert {"sft", "labels", "reward_model"} <= set(second.summary["reused"])
    assert second.summary["ai_labels"] == first.summary["ai_labels"]
    unsure = train(tiny_base, tmp_path / "three", *more, "judge.deterministic=false")
    assert unsure.summary["reused"] == ["sft"]
    assert len(log.read_text()) > len(calls)


def test_a_judge_without_a_verdict_stops_the_run_with_what_it_has(tiny_base, tmp_path, capsys):
    more = ("reward_model.pairs=relabel", "judge.unread=2", "scoring.missing_share=0.3")
    assert cli.run(["train", *given(tiny_base, tmp_path / "run", *more)]) == 3
    assert "scoring.missing_share" in capsys.readouterr().err
    assert RunFolder(tmp_path / "run").summary["status"] == "stopped"
    assert len(RowFile(tmp_path / "run" / "labels" / "labels.jsonl").rows()) > 60


def test_constitutional_ai_as_stages_of_one_run(helpdesk_tiny, tmp_path):
    made = on_helpdesk(helpdesk_tiny, tmp_path / "run", *CAI)
    assert cli.run(["train", *made]) == 0
    run = RunFolder(tmp_path / "run")
    stages = list(json.loads((run.path / "stages.json").read_text()))
    assert [name for name in stages if name != "base"] == [
        "sft", "revisions", "revised_sft", "labels", "reward_model", "evaluation",
    ]  # fmt: skip
    figures = run.summary["revisions"]
    assert (figures["rounds"], figures["by"], figures["unread"]) == (2, "knowing", 0)
    assert {"helpdesk_harm", "helpdesk_gold"} == figures["measures"].keys()
    violations = figures["measures"]["helpdesk_harm"]["violations"]
    assert violations[0] >= violations[1] >= violations[2]
    assert {"before", "after"} == run.summary["revised_sft"]["helpdesk_harm"].keys()
    assert run.summary["revised_sft"]["others"]["prompts"] > 0
    # policy and reference begin as the model on revisions: with no update, nothing is between them
    revised = run.adapter("revised_sft")
    assert adapter_hash(revised) != adapter_hash(run.adapter("sft"))
    assert RowFile(run.path / "revisions" / "demonstrations.jsonl").rows()
    assert run.summary["status"] == "finished"
    again = evaluate(str(run.path), JUDGE[0])  # against the model on revisions, as the run itself was judged
    assert again["policy"]["score_mean_reference"] == pytest.approx(run.summary["policy"]["score_mean_reference"])
    assert again["policy"]["kl_to_reference"] == pytest.approx(run.summary["policy"]["kl_to_reference"], rel=1e-4)
    from rlhf_lora.plan_checks import start_adapter_of

    assert start_adapter_of(compose(f"model.adapter={run.path}")) == revised


def test_a_judge_that_is_not_there_is_told_before_anything_is_trained(tiny_base, tmp_path, capsys):
    more = ("reward_model.pairs=relabel", "judge.gone=true")
    assert cli.run(["train", *given(tiny_base, tmp_path / "run", *more)]) == 2
    said = capsys.readouterr().err
    assert "nobody answers" in said
    assert "sft" not in said
    assert not (tmp_path / "run").exists()


def test_the_policy_begins_as_the_model_on_revisions(helpdesk_tiny, tmp_path):
    made = on_helpdesk(helpdesk_tiny, tmp_path / "run", *CAI[:-1], "reward=length", "optimizer.adamw.lr=0")
    assert cli.run(["train", *made]) == 0
    run = RunFolder(tmp_path / "run")
    assert run.summary["policy"]["kl_to_reference"] == 0
    weights = [(run.adapter(name) / "adapter_model.safetensors") for name in ("policy", "revised_sft", "sft")]
    from safetensors.torch import load_file

    policy, revised, sft = map(load_file, weights)
    assert all((policy[name] == revised[name]).all() for name in revised)
    assert not all((policy[name] == sft[name]).all() for name in sft)


def test_a_model_revises_its_own_answers_by_its_own_words(tiny_qwen2, tmp_path):
    """A tiny model's critiques are nonsense: what is looked at is the way they go."""
    base = tmp_path / "base"
    shutil.copytree(tiny_qwen2, base)
    config = json.loads((base / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (base / "config.json").write_text(json.dumps(config))
    more = (
        "revisions.rounds=2",
        "revisions.prompts=6",
        "revisions.max_new_tokens=6",
        "stages=[sft,revisions,revised_sft]",
    )
    made = [one for one in given(base, tmp_path / "run", *more) if not one.startswith(("judge", "plugins"))]
    assert cli.run(["train", *made]) == 0
    rows = RowFile(tmp_path / "run" / "revisions" / "steps.jsonl").rows()
    assert [row["round"] for row in rows] == [1] * 6 + [2] * 6
    assert sum(bool(row["text"] and row["critique"]) for row in rows) >= 6
    summary = RunFolder(tmp_path / "run").summary
    assert summary["revisions"]["by"] == "self"
    assert summary["revised_sft"]["orders_gold"].keys() == {"before", "after"}


@pytest.mark.parametrize("kill_at", [1, 3, 5])
def test_killed_in_a_stage_of_ai_feedback_a_run_goes_on_to_the_same_end(helpdesk_tiny, tmp_path, kill_at):
    """Calls 1 and 2 are revisions, the others comparisons."""

    def run(name: str, **environment: str) -> int:
        log = tmp_path / f"{name}.calls"
        more = (*CAI, "revisions.prompts=20", "ai_labels.samples_per_prompt=3", f"judge.log={log}")
        made = on_helpdesk(helpdesk_tiny, tmp_path / name, *more)
        own = {"RLHF_LORA_CACHE": str(tmp_path / f"{name}.cache"), **environment}
        done = subprocess.run(
            [sys.executable, "-m", "rlhf_lora", "train", *made],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )
        return done.returncode

    assert run("whole") == 0
    assert run("killed", **{KILL_AT: str(kill_at)}) == -signal.SIGKILL
    assert run("killed") == 0
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    for file in (
        "revisions/steps.jsonl",
        "revisions/demonstrations.jsonl",
        "labels/answers.jsonl",
        "labels/labels.jsonl",
    ):
        assert (killed.path / file).read_bytes() == (whole.path / file).read_bytes(), file
    for name in ("revised_sft", "reward", "policy"):
        assert adapter_hash(killed.adapter(name)) == adapter_hash(whole.adapter(name)), name
    for part in ("revisions", "revised_sft", "ai_labels", "reward_model", "policy", "gold"):
        assert killed.summary[part] == whole.summary[part], part
    # one call was begun and not answered; nothing else was asked twice
    calls = [len((tmp_path / f"{name}.calls").read_text().splitlines()) for name in ("whole", "killed")]
    assert calls[1] == calls[0] + 1
