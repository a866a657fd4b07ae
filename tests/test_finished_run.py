"""A finished run opened without its data: who answers, in what form, and which of several answers is taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from tiny import overrides, spec, stir

from rlhf_lora import answer, cli
from rlhf_lora.backbone import Backbone
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, DataError, PluginError, UserError
from rlhf_lora.finished_run import FinishedRun, open_run
from rlhf_lora.plan import make_plan
from rlhf_lora.records import HUMAN, Prompt, Sample, named_seed
from rlhf_lora.run_folder import RunFolder

ORDER = "please bring tea soup and bread . waiter:"


@pytest.fixture(scope="module")
def folder(tiny_base, tmp_path_factory) -> RunFolder:
    """A run as `train` leaves it, without having trained: an SFT and a policy of random adapters."""
    path = tmp_path_factory.mktemp("finished") / "run"
    config = make_plan(compose(*overrides(tiny_base, path, "reward=length", "reward.target=3"))).config
    config.hardware.threads = None
    made = RunFolder.create(path, OmegaConf.to_container(config), {"os": "x"})  # type: ignore[arg-type]
    for name in ("sft", "policy"):
        backbone = Backbone(spec(tiny_base))
        backbone.add_role(name, trained=True)
        stir(backbone, name, 0.2)
        backbone.save_adapter(name, made.adapter(name))
    return made


@pytest.fixture(scope="module")
def opened(folder) -> Any:
    with open_run(str(folder.path)) as run:
        yield run


def test_the_policy_answers_and_again_the_same(opened):
    first = answer(opened, [ORDER, ORDER])
    assert [sample.prompt for sample in first] == [ORDER, ORDER]
    assert all(isinstance(sample, Sample) and sample.tokens for sample in first)
    assert answer(opened, [ORDER, ORDER]) == first
    assert answer(opened, [ORDER, ORDER], seed=1) != first


def test_it_is_the_policy_and_not_sft(opened, tiny_base, folder):
    """The log-probs that came with the answer are those of the policy's adapter."""
    (sample,) = answer(opened, [ORDER])
    by_role = {
        role: opened.backbone.sequence_logprobs(
            role, [opened.backbone.chat.prompt_ids(Prompt(ORDER))], [sample.tokens], 1.0
        )[0]
        for role in ("policy", "reference")
    }
    assert by_role["policy"] == pytest.approx(list(sample.logprobs), abs=1e-4)
    assert by_role["reference"] != pytest.approx(list(sample.logprobs), abs=1e-2)


def test_the_best_of_many_is_the_one_that_the_reward_likes(opened):
    ((best, score),) = opened.answers([Prompt(ORDER)], best_of=16)
    drawn = opened.engine.generate(opened.backbone, [Prompt(ORDER)], 16, named_seed(0, "answer/0") >> 1)
    values = [one.value for one in opened.scorer(drawn)]
    assert score.value == max(values) > min(values)
    assert best in [sample for sample, value in zip(drawn, values, strict=True) if value == max(values)]


def test_without_a_choice_nobody_is_asked_for_a_score(folder):
    with open_run(str(folder.path)) as run:
        ((_, score),) = run.answers([Prompt(ORDER)])
        assert score.value is None
        assert "scorer" not in vars(run)


def test_the_data_may_be_gone(folder, tiny_base, tmp_path):
    """Its file is on another machine: a run that was trained on it still answers."""
    config = yaml.safe_load((folder.path / "config.yaml").read_text())
    config["dataset"] = {"name": "jsonl", "path": str(tmp_path / "gone.jsonl")}
    made = RunFolder.create(tmp_path / "run", config, {"os": "x"})
    (made.adapters / "policy").symlink_to(folder.adapter("policy"))
    assert len(answer(made.path, [ORDER])) == 1


def test_what_cannot_answer_is_told_in_words(opened, folder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        answer(tmp_path / "nowhere", [ORDER])
    with pytest.raises(DataError, match="the prompt has 80 tokens, and this run takes"):
        answer(opened, ["tea " * 80])
    with pytest.raises(ConfigError, match="one prompt is no list"):
        answer(opened, ORDER)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="open already"):
        answer(opened, [ORDER], "rollout.temperature=0.5")
    with pytest.raises(ConfigError, match="best of 0"):
        answer(opened, [ORDER], best_of=0)
    with pytest.raises(ConfigError, match=r"no setting 'rollout\.temprature'"):
        open_run(str(folder.path), "rollout.temprature=1")
    with pytest.raises(PluginError, match="lenght"):
        open_run(str(folder.path), "reward=lenght")
    with (
        open_run(str(folder.path), "reward=learned") as run,
        pytest.raises(UserError, match="no reward model to choose with"),
    ):
        answer(run, [ORDER], best_of=2)
    empty = RunFolder.create(tmp_path / "empty", folder.config, {"os": "x"})
    with pytest.raises(UserError, match="has no policy yet"):
        answer(empty.path, [ORDER])


def test_a_run_that_stopped_after_sft_answers_with_that_and_says_so(folder, tmp_path, capsys):
    made = RunFolder.create(tmp_path / "run", folder.config, {"os": "x"})
    (made.adapters / "sft").symlink_to(folder.adapter("sft"))
    assert len(answer(made.path, [ORDER])) == 1
    assert "answers of the SFT model" in capsys.readouterr().err
    (made.adapters / "revised_sft").symlink_to(folder.adapter("sft"))
    assert len(answer(made.path, [ORDER])) == 1
    assert "answers of the model trained on revisions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "conversational"), [("tea please", False), (f"{HUMAN} tea please\n\nAssistant:", True)]
)
def test_prompts_have_the_form_that_the_run_was_trained_on(stored, conversational, folder, opened, tmp_path):
    made = RunFolder.create(tmp_path / "run", folder.config, {"os": "x"})
    made.save_samples("evaluation", None, [{"prompt": stored, "policy_text": "certainly"}])
    run = FinishedRun.__new__(FinishedRun)
    run.folder, run.backbone = made, opened.backbone
    before = ({"role": "user", "content": "tea"}, {"role": "assistant", "content": "certainly"})
    asked = run.prompt("bread", before)
    assert run.conversational is conversational
    expected = f"{HUMAN} tea\n\nAssistant: certainly{HUMAN} bread\n\nAssistant:" if conversational else "bread"
    assert asked.text == expected
    assert (asked.messages is not None) is conversational


@pytest.mark.slow
def test_a_trained_run_talks_through_a_pipe_on_the_command_line(tiny_base, tmp_path):
    small = (
        "optimizer.updates=1",
        "optimizer.prompts_per_update=6",
        "optimizer.minibatch_size=3",
        "rollout.max_new_tokens=5",
    )
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run", *small, "reward=orders_gold")]) == 0
    command = [sys.executable, "-m", "rlhf_lora", "chat", str(tmp_path / "run"), "--json", "--best-of", "3"]
    given = f"{ORDER}\n/reset\n{ORDER}\n/quit\n"
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == [ORDER, ORDER]
    assert all(isinstance(row["score"], float) and row["best_of"] == 3 for row in rows)
    assert "Traceback" not in done.stderr
    bad = subprocess.run(
        [*command[:5], "--prompt", "no order at all", "--best-of", "2"], capture_output=True, text=True
    )
    assert bad.returncode == 0
    assert "no score (abstain" in bad.stderr


def test_it_is_found_at_the_front_door():
    import rlhf_lora

    assert rlhf_lora.answer is answer
    assert Path(rlhf_lora.__file__).name == "__init__.py"


def test_of_a_run_with_revisions_the_reference_is_the_model_trained_on_them(folder, tmp_path):
    for names, answers in ((("sft", "revised_sft", "policy"), "policy"), (("sft", "revised_sft"), "revised_sft")):
        path = tmp_path / answers
        for name in ("config.yaml", "versions.json"):
            path.mkdir(exist_ok=True)
            shutil.copy(folder.path / name, path / name)
        for name in names:
            shutil.copytree(folder.adapter("policy" if name == "revised_sft" else "sft"), path / "adapters" / name)
        with open_run(str(path)) as run:
            assert run.parts.sft_adapter == path / "adapters" / "revised_sft"
            weights = run.backbone.parameters("reference")
            theirs = Backbone(run.plan.spec)
            theirs.add_role("revised", start=path / "adapters" / "revised_sft")
            assert all(
                one.equal(other)
                for one, other in zip(weights.values(), theirs.parameters("revised").values(), strict=True)
            )
            same = run.backbone.parameters("policy").values()
            assert all(a.equal(b) for a, b in zip(same, weights.values(), strict=True)) == (answers == "revised_sft")
