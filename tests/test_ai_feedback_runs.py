"""Whole runs on a judge's opinion: they learn from it, are watched, resumed, judged again and replayed."""

from __future__ import annotations

import json

import pytest
from tiny import overrides

from rlhf_lora import cli, evaluate, registry
from rlhf_lora.contracts import Context
from rlhf_lora.run_folder import RunFolder

pytestmark = pytest.mark.slow
JUDGE = ("judge=scripted", "judge.truth=orders_gold", "optimizer.updates=2")
WAYS = {
    "reference": (),
    "group": ("reward.against=group", "optimizer=rloo", "optimizer.scale_scores=none"),
    "pointwise": ("reward.mode=pointwise",),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path_factory.getbasetemp() / "ai_feedback_cache"))


def trained(base, folder, *more):
    code = cli.run(["train", *overrides(base, folder, "reward=ai_feedback", *JUDGE, *more)])
    return code, RunFolder(folder)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_learns_from_a_judge(way, tiny_base, tmp_path, capsys):
    code, run = trained(tiny_base, tmp_path / "run", *WAYS[way])
    assert code == 0, capsys.readouterr().err
    rows = run.metrics("policy")
    assert len(rows) == 2
    low, high = (1, 10) if way == "pointwise" else (0, 1)
    assert all(low <= row["objective/scores"] <= high for row in rows)
    assert all(row["judge/asked"] > 0 for row in rows)
    assert ("judge/flip_rate" in rows[0]) == (way != "pointwise")
    assert ["canaries/alarm" in row for row in rows] == [True, False]
    assert run.summary["canaries"]["looks"] == 1
    assert "win_rate_vs_reference" in run.summary["policy"]
    assert "score_mean" in run.summary["gold"]


def test_a_judge_that_can_be_had_for_a_canary_is_told_of_everywhere(tiny_base, tmp_path, capsys):
    code, run = trained(tiny_base, tmp_path / "run", "judge.fooled_by=['Thought process:']")
    out = capsys.readouterr()
    assert code == 0
    assert "the judge gives 'Thought process:', which says nothing" in out.err
    assert run.summary["canaries"] == {"looks": 1, "alarms": 1, "first_alarm": 1}
    assert run.metrics("policy")[0]["canaries/alarm"] == 1.0
    for text in (out.out, (run.path / "report.html").read_text("utf-8")):
        assert "In 1 of 1 looks the judge put an answer that says nothing above the median" in text


def test_it_may_stop_the_run(tiny_base, tmp_path, capsys):
    code, run = trained(tiny_base, tmp_path / "run", "judge.fooled_by=['']", "reward.on_alarm=stop")
    assert code == 3
    assert run.summary["status"] == "stopped"
    assert "the policy would learn to say it" in capsys.readouterr().err


def test_too_many_refusals_stop_the_run_and_are_told_apart(tiny_base, tmp_path, capsys):
    code, _ = trained(tiny_base, tmp_path / "run", "judge.refuses=0.9")
    assert code == 3
    assert "abstain: refusal: I would rather not say" in capsys.readouterr().err


def test_some_are_counted_and_left_out(tiny_base, tmp_path):
    code, run = trained(
        tiny_base, tmp_path / "run", "judge.refuses=0.1", "judge.unreadable=0.1", "scoring.missing_share=0.9"
    )
    assert code == 0
    assert run.summary["abstained"] + run.summary["errors"] > 0
    assert any(row["judge/refusals"] > 0 for row in run.metrics("policy"))


def test_within_a_mix_best_of_n_judged_midway_and_again_and_replayed(tiny_base, tmp_path, capsys):
    more = (
        "reward=mix", "+reward@reward.parts.a=ai_feedback", "+reward@reward.parts.b=length", "+reward.weights.b=0.1",
        "evaluation.every=1", "evaluation.best_of_n=2",
    )  # fmt: skip
    code, run = trained(tiny_base, tmp_path / "run", *more)
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    first = run.metrics("policy")[0]
    assert {"a/judge/asked", "a/canaries/alarm"} <= first.keys()
    assert first["a/judge/asked"] <= 12
    assert {"2"} == run.summary["best_of_n"].keys()
    assert cli.run(["evaluate", str(run.path), "reward=length", "reward.target=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reward"] == "length"
    asked = ["reward=ai_feedback", "judge=scripted", "judge.always=tie", "evaluation.best_of_n=null"]
    assert cli.run(["evaluate", str(run.path), *asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["reward"], told["policy"]["score_mean"]) == ("ai_feedback", 0.5)
    words = ["plugins", "try", "--run", str(run.path), "reward=ai_feedback", "reward.mode=pointwise", "judge=scripted"]
    assert cli.run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 0


def test_the_judge_of_an_evaluation_is_closed(tiny_base, tmp_path, monkeypatch):
    _, run = trained(tiny_base, tmp_path / "run")
    closed = []
    working = registry.build("judge", {"name": "scripted"}).open(Context())
    monkeypatch.setattr(type(working), "close", lambda self: closed.append(self.settings.always))
    found = evaluate(str(run.path), "judge=scripted", "judge.always=first")
    assert found["judge"]["flip_rate"] == 1.0
    assert "first" in closed


def test_a_resumed_run_is_the_run(tiny_base, tmp_path, monkeypatch):
    from rlhf_lora.config import compose
    from rlhf_lora.pipeline import Run
    from rlhf_lora.plan import make_plan

    def plan(name):
        words = overrides(tiny_base, tmp_path / name, "reward=ai_feedback", *JUDGE, "reward.canaries_every=1")
        return make_plan(compose(*words, "evaluation.every=1"))

    whole = Run(plan("whole")).finish()
    broken = Run(plan("broken"))
    assert broken.step() is not None
    broken.close()
    again = Run(plan("broken")).finish()
    kept = [
        [{name: row[name] for name in row if "time" not in name} for row in RunFolder(run.folder).metrics("policy")]
        for run in (whole, again)
    ]
    assert kept[0] == kept[1]
    assert whole.summary["policy"] == again.summary["policy"]
