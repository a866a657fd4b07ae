"""The help teaches: what each verb reads and writes, and examples that run. They are read off the help itself."""

from __future__ import annotations

import importlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_chat_verb import FakeRun
from tiny import few, jsonl

from rlhf_lora import cli, config, schema
from rlhf_lora.config import compose
from rlhf_lora.help_texts import HELP, USAGE
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.sweep.runner import Sweep

JUDGE = (
    "from rlhf_lora import Verdict, judge\n@judge('my_judge')\nclass MyJudge:\n"
    "    def compare(self, prompt, a, b):\n        return Verdict('A' if len(a) > len(b) else 'B')\n"
)
PLUGIN = (
    "from rlhf_lora import reward\n@reward('my_reward')\ndef my_reward(samples):\n    return [0.0 for _ in samples]\n"
)


FEW = ("dataset.items=16", "dataset.demonstrations=80", "dataset.pairs=120", "dataset.prompts=240")


def examples(text: str) -> list[str]:
    """The lines of each `Examples:` part."""
    found = []
    for part in re.findall(r"^Examples:\n((?:  .*\n)+)", text, flags=re.MULTILINE):
        found += [line.strip() for line in part.splitlines()]
    return found


ALL = [line for text in (USAGE, *HELP.values()) for line in examples(text)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The files that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(200)]
    jsonl(tmp_path / "pairs.jsonl", rows)
    Path("my_reward.py").write_text(PLUGIN)
    Path("my_judge.py").write_text(JUDGE)


def test_every_verb_has_help_with_examples():
    assert HELP.keys() == cli.VERBS.keys()
    for verb, text in HELP.items():
        assert 2 <= len(examples(text)) <= 7, verb
        assert all(f"rlhf-lora {verb}" in line for line in examples(text))
        assert text.startswith(f"rlhf-lora {verb}")


def test_every_verb_says_what_it_reads_and_writes():
    for verb, text in HELP.items():
        assert verb == "env" or ("Reads" in text and "rites" in text), verb


def test_the_overview_names_every_verb_and_lines_are_not_too_long():
    for verb in cli.VERBS:
        assert f"  rlhf-lora {verb}" in USAGE
    assert max(len(line) for text in (USAGE, *HELP.values()) for line in text.splitlines()) <= 120


@pytest.mark.parametrize("line", few([line for line in ALL if line.split()[1] in ("train", "plan")], 4))
def test_each_example_of_train_and_plan_is_planned(line, capsys):
    _, _, *words = shlex.split(line, comments=True)
    words += [] if "dataset=jsonl" in words else FEW  # the same task, with fewer rows to make
    if "-m" in words:
        assert len(Sweep([word for word in words if word != "-m"]).wanted) >= 3  # every job was checked
        return
    assert cli.run(["plan", *words]) == 0
    assert "stages" in capsys.readouterr().out or "--json" in words


@pytest.mark.parametrize("line", examples(HELP["evaluate"]))
def test_each_example_of_evaluate_is_one_that_it_takes(line, monkeypatch, capsys):
    saved: Any = config.OmegaConf.to_container(compose("reward=orders_gold"))
    asked: list[str] = []

    def judge(run: str, *overrides: str) -> dict[str, Any]:
        config.recompose(saved, overrides)
        asked.append(run)
        return {}

    monkeypatch.setattr(importlib.import_module("rlhf_lora.evaluation"), "evaluate", judge)
    assert cli.run(shlex.split(line)[1:]) == 0
    assert asked == (["runs/mine"] if "runs/mine" in line else [])
    assert "agree" in capsys.readouterr().out or asked


@pytest.mark.parametrize("line", examples(HELP["chat"]))
def test_each_example_of_chat_is_one_that_it_takes(line, monkeypatch, capsys):
    saved: Any = config.OmegaConf.to_container(compose("reward=orders_gold"))

    def open_run(run: str, *overrides: str) -> FakeRun:
        assert run == "runs/mine"
        config.recompose(saved, overrides)
        return FakeRun()

    monkeypatch.setattr(importlib.import_module("rlhf_lora.finished_run"), "open_run", open_run)
    monkeypatch.setattr("sys.stdin", io.StringIO("tea please\n"))
    assert cli.run(shlex.split(line)[1:]) == 0
    assert "certainly" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", few([x for verb in ("report", "plugins", "env", "completion") for x in examples(HELP[verb])], 5)
)
def test_each_other_example_runs(line, capsys):
    for name in ("mine", "other"):
        folder = RunFolder.create(
            Path("runs") / name, {"model": {"path": "org/tiny"}, "dataset": {"name": "orders"}}, {"os": "x"}
        )
        folder.save_samples("policy", 1, [{"prompt": "p", "text": "an answer", "score": 0.5, "parts": {}}])
    assert cli.run(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "key", sorted(set(re.findall(r"\b([a-z_]+(?:\.[a-z_0-9]+)*)=", "".join([USAGE, *HELP.values()]))))
)
def test_every_setting_that_the_help_names_is_one(key):
    """Also in running text: `evaluation.keep=best`."""
    known = {"group", "key.sub", "reward.target", "reward.path", "dataset.path", "dataset.test_path", "judge"}
    top = key.partition(".")[0]
    assert key in known or top in ("sweep", "tag") or key in schema.all_keys(()) or key in schema.groups()
