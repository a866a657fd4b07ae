"""What a tracker is told by a run: every stage, the samples, and that it is over, however it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import overrides

from rlhf_lora import cli

TRACKER = """
import json
from rlhf_lora import reward
from rlhf_lora.registry import tracker

@tracker("{name}")
class Told:
    path: str
    def _tell(self, **what):
        with open(self.path, "a") as file:
            file.write(json.dumps(what) + "\\n")
    def open(self, ctx):
        self._tell(opened=ctx.run_dir.name)
        return self
    def log(self, step, metrics):
        self._tell(step=step, names=sorted(metrics))
    {samples}
    def close(self):
        self._tell(closed=True)

calls = []
@reward("{name}_fails")
def fails(samples):
    calls.append(1)
    if len(calls) > 2:
        raise ValueError("no more")
    return [float(len(s.text)) for s in samples]
"""
SAMPLES = "def samples(self, step, rows): self._tell(samples=step, rows=len(rows), keys=sorted(rows[0]))"


def told(base: Path, folder: Path, name: str, code: int, *more: str, samples: str = SAMPLES) -> list[dict[str, Any]]:
    (folder / f"{name}.py").write_text(TRACKER.format(name=name, samples=samples))
    given = overrides(base, folder / "run", "reward=length", f"plugins=[{folder / f'{name}.py'}]", f"tracker={name}",
                      f"tracker.path={folder / 'told'}", "optimizer.updates=2", "samples_every=2", *more)  # fmt: skip
    assert cli.run(["train", *given]) == code
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


@pytest.mark.slow
def test_a_tracker_sees_every_stage_and_the_samples_and_the_end(tiny_base, tmp_path):
    found = told(tiny_base, tmp_path, "whole_run", 0, "evaluation.every=2", "cache=false")
    assert (found[0], found[-1]) == ({"opened": "run"}, {"closed": True})
    names = {name for row in found for name in row.get("names", [])}
    assert {"sft/loss", "objective/kl", "eval/win_rate_vs_reference"} <= names
    shown = [row for row in found if "samples" in row]
    assert [(row["samples"], row["rows"]) for row in shown] == [(1, 12), (2, 12)]
    assert {"prompt", "text", "score", "reason"} <= set(shown[0]["keys"])


@pytest.mark.slow
def test_a_tracker_without_samples_is_fine(tiny_base, tmp_path):
    assert told(tiny_base, tmp_path, "without", 0, samples="")[-1] == {"closed": True}


@pytest.mark.slow
def test_a_run_that_fails_closes_its_tracker_once(tiny_base, tmp_path):
    found = told(tiny_base, tmp_path, "failing", 3, "reward=failing_fails")
    assert [row for row in found if "closed" in row] == [{"closed": True}]


def test_a_run_that_leaves_nothing_behind_closes_its_tracker_first(tiny_base, tmp_path, monkeypatch):
    from rlhf_lora import adapter_stages
    from rlhf_lora.errors import DataError

    def refuse(self: Any, *_: Any) -> None:
        raise DataError("all prompts are too long", where="…", fix="…")

    monkeypatch.setattr(adapter_stages.AdapterStages, "run", refuse)
    found = told(tiny_base, tmp_path, "refused", 2)
    assert found[-1] == {"closed": True}
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_dpo_is_tracked_too(tiny_base, tmp_path):
    given = ("optimizer=dpo", "optimizer.epochs=1", "stages=[sft,policy]")
    (tmp_path / "dpo.py").write_text(TRACKER.format(name="dpo_run", samples=SAMPLES))
    command = overrides(tiny_base, tmp_path / "run", *given, f"plugins=[{tmp_path / 'dpo.py'}]", "tracker=dpo_run",
                        f"tracker.path={tmp_path / 'told'}")  # fmt: skip
    assert cli.run(["train", *command]) == 0
    names = {
        name for line in (tmp_path / "told").read_text().splitlines() for name in json.loads(line).get("names", [])
    }
    assert "rewards/margins" in names
