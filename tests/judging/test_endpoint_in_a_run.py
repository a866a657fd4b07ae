"""A run whose judge's server dies in the middle, or whose budget is spent: exit 3 with a checkpoint, and nothing paid again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openai_server import PREFLIGHT, Request, Server
from tiny import overrides

pytestmark = pytest.mark.slow

ASKS = '''
from rlhf_lora import reward
from rlhf_lora.records import Prompt


@reward("asks")
class Asks:
    """Whether a judge prefers an answer to the word tea."""

    needs_judge = True

    def open(self, ctx):
        return Opened(ctx.judge.open(ctx))

    def score(self, samples):
        raise TypeError("open it")


class Opened:
    def __init__(self, judge):
        self.judge = judge

    def score(self, samples):
        verdicts = [self.judge.compare(Prompt.of(sample), sample.text, "tea") for sample in samples]
        return [{"A": 1.0, "B": 0.0, "tie": 0.5, None: None}[verdict.choice] for verdict in verdicts]

    def close(self):
        self.judge.close()
'''


def answer(request: Request) -> str:
    """By the words, so that scores differ."""
    return "AB"[len(json.dumps(request.body["messages"])) % 2]


def train(base: Path, folder: Path, server: Server, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "asks.py").write_text(ASKS)
    given = [
        *overrides(base, folder / "run"), f"plugins=[{folder / 'asks.py'}]", "reward=asks", "judge=openai_api", "judge.model=tiny",
        f"judge.base_url={server.url}", "judge.wait_for_server=0.5", "checkpoint_every=1", *more,
    ]  # fmt: skip
    return subprocess.run([sys.executable, "-m", "rlhf_lora", "train", *given], capture_output=True, text=True)


@pytest.mark.parametrize("how", ["dies", "budget"])
def test_a_run_whose_judge_is_gone_stops_with_a_checkpoint_and_goes_on_without_paying_again(
    tiny_base, tmp_path, monkeypatch, how
):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    enough = 75
    with Server(answer=answer, early=True) as server:
        if how == "dies":
            server.fault = lambda request: "503" if len(server.requests) > enough else None
        stopped = train(tiny_base, tmp_path, server, *([f"judge.max_calls={enough}"] if how == "budget" else []))
        assert stopped.returncode == 3, stopped.stderr
        said = "gives no answers any more" if how == "dies" else "budget is spent"
        assert said in stopped.stderr
        assert "Traceback" not in stopped.stderr
        run = tmp_path / "run"
        assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
        assert list((run / "checkpoints").iterdir())
        server.fault = lambda request: None
        went_on = train(tiny_base, tmp_path, server, *(["judge.max_calls=5000"] if how == "budget" else []))
        assert went_on.returncode == 0, went_on.stderr
        assert "going on after update" in went_on.stderr
    assert {times for question, times in server.paid.items() if question != PREFLIGHT} == {1}
    assert len(server.paid) > enough
    if how == "budget":  # one that is gone is asked the cheap question until it is back
        assert server.paid[PREFLIGHT] == 2  # once a start, however often the judge is opened in it
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["judge_spent"]["calls"] == sum(server.paid.values())  # of both starts
    assert f"{summary['judge_spent']['calls']:,} calls" in (run / "report.html").read_text()


def test_a_server_that_is_not_there_is_told_before_anything_is_left_behind(tiny_base, tmp_path):
    told = train(tiny_base, tmp_path, Server(port=9), f"run_dir={tmp_path / 'runs' / 'today' / 'run'}")
    assert told.returncode == 2, told.stderr
    assert "cannot be reached" in told.stderr
    assert "judge.base_url" in told.stderr
    assert "Traceback" not in told.stderr
    assert "sft" not in told.stderr
    assert not (tmp_path / "runs").exists()
