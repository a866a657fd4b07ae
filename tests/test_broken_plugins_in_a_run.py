"""The same broken rewards as a run calls them: each is told by name, costs samples their score, or ends the run. None becomes 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tiny import overrides

from rlhf_lora import cli, doors
from rlhf_lora.errors import ContractError, DataError
from rlhf_lora.records import Sample
from rlhf_lora.registry import build
from rlhf_lora.reward_calls import in_worker
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.stages.scoring import Scorer
from rlhf_lora.testing import samples

FOLDER = Path(__file__).with_name("broken_plugins")

FAILS = {
    "hangs", "killed", "os_exit", "raises", "raises_on_empty_text", "raises_on_long_text", "raises_on_unicode", "sys_exit",
}  # fmt: skip
"""A call fails: it raises, ends the process or does not come back."""
NO_SCORES = {"one_string", "scalar", "strings", "wrong_count", "none_always"}
"""What it returns is no list of scores: no setting lets a run go on."""
NOT_FINITE = {"nan", "plus_inf", "minus_inf"}
QUICK = {"nan", "scalar"}


@pytest.fixture
def scorer(tmp_path: Path) -> Iterator[Callable[[str, str], Scorer]]:
    """A broken reward as a run calls it: in a process of its own."""
    made: list[Scorer] = []

    def make(name: str, on_error: str) -> Scorer:
        doors.load_file(FOLDER / f"{name}.py")
        reward = build("reward", {"name": name})
        worker = in_worker(reward, name, 3.0, {"seed": 0, "cache_dir": str(tmp_path), "run_dir": str(tmp_path)})
        made.append(Scorer(reward, name, on_error=on_error, worker=worker))
        return made[-1]

    yield make
    for one in made:
        one.close()


GIVEN = [
    *samples.ordinary(), Sample("p", ""), Sample("p", "naïve \U0001f600"), Sample("p", "x " * 5000),
]  # fmt: skip
"""The kit's samples, with some on which the broken ones break."""


def each(names: set[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in sorted(names)]


@pytest.mark.parametrize("name", each(FAILS))
def test_a_call_that_fails_costs_the_samples_it_fails_for_their_score_or_ends_the_run(name, scorer):
    asked = scorer(name, "missing")
    scores = asked(GIVEN)
    missing = [score for score in scores if score.value is None]
    assert missing
    assert all(score.kind == "error" and score.reason for score in missing)
    asked.on_error = "stop"
    with pytest.raises(ContractError, match=f"the reward '{name}'") as told:
        asked(GIVEN)
    assert "where: sample " in str(told.value) or "a batch of" in str(told.value)


@pytest.mark.parametrize("name", each(NO_SCORES))
def test_what_is_no_list_of_scores_ends_the_run_whatever_is_configured(name, scorer):
    with pytest.raises(ContractError, match=f"'{name}'"):
        scorer(name, "missing")(GIVEN)


@pytest.mark.parametrize("name", each(NOT_FINITE))
def test_what_is_not_finite_is_an_error_and_no_number(name, scorer):
    scores = scorer(name, "stop")(GIVEN)
    missing = [score for score in scores if score.value is None]
    assert missing
    assert all(score.kind == "error" and "the reward gave" in score.reason for score in missing)
    assert all(math.isfinite(score.value) for score in scores if score.value is not None)


@pytest.mark.slow
def test_declining_for_every_sample_is_no_failure_of_the_call(scorer):
    assert {score.kind for score in scorer("nones", "stop")(GIVEN)} == {"abstain"}


@pytest.mark.slow
def test_a_column_that_the_data_does_not_have_is_named(scorer):
    with pytest.raises(DataError, match="solution_xyz"):
        scorer("unknown_column", "stop")(GIVEN)


SOMETIMES = """
import os
from rlhf_lora import reward

@reward("sometimes")
def sometimes(samples):
    for sample in samples:
        if len(sample.text) % 4 == 1:
            {does}
    return [float(len(sample.text)) for sample in samples]
"""


@pytest.mark.slow
@pytest.mark.parametrize("does", ["raise ValueError('odd')", "os._exit(9)"])
def test_a_run_goes_on_without_the_samples_or_stops_with_a_checkpoint(does, tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "sometimes.py"
    file.write_text(SOMETIMES.format(does=does))
    more = (
        "reward=sometimes", f"plugins=[{file}]", "optimizer.updates=2", "optimizer.prompts_per_update=16",
        "optimizer.minibatch_size=4", "rollout.max_new_tokens=5", "evaluation.prompts=12", "scoring.missing_share=0.9",
    )  # fmt: skip
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "on", *more, "scoring.on_error=missing")]) == 0
    run = RunFolder(tmp_path / "on")
    assert run.summary["errors"] > 0
    rows = [row for step in run.sample_steps("policy") for row in run.read_samples("policy", step)]
    for row in rows:
        breaks = len(row["text"]) % 4 == 1
        assert (row["score"] is None) == breaks
        assert breaks or row["score"] == len(row["text"])
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "stop", *more)]) == 3
    assert "the reward 'sometimes'" in capsys.readouterr().err
    assert RunFolder(tmp_path / "stop").summary["status"] == "stopped"
    mended = SOMETIMES.format(does="pass")
    file.write_text(mended)
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "stop", *more)]) == 2
    assert "resume=mended" in capsys.readouterr().err
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "stop", *more, "resume=mended")]) == 0
    run = RunFolder(tmp_path / "stop")
    (noted,) = run.summary["mended"]
    assert (noted["what"], noted["after_update"]) == ("the plugin reward=sometimes", 0)
    assert (
        noted["since"] == run.versions["inputs"]["the plugin reward=sometimes"] == sha256(mended.encode()).hexdigest()
    )
    assert "the plugin reward=sometimes was another file up to update 0" in capsys.readouterr().out
    assert "was another file" in (run.path / "report.html").read_text()
    assert "was another file" in (run.path / "README.md").read_text()
    file.write_text(mended + "# once more\n")
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "stop", *more, "resume=mended")]) == 2  # it is finished
