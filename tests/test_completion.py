"""Completion: what is offered after which words, by bash itself, quickly, and without running anybody's code."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tiny import few

from rlhf_lora import cli, completion, completion_index, registry
from rlhf_lora.config import compose
from rlhf_lora.plan import cache_folder
from rlhf_lora.plan_checks import check_ranges

VERBS = {verb: cli.flags_of(verb) for verb in cli.VERBS}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))


def offered(line: str) -> list[str]:
    return completion.candidates(line, VERBS)


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("", ["train", "plan", "completion", "--help"]),
        ("tr", ["train"]),
        ("train ", ["optimizer=", "optimizer.", "seed=", "model=", "sweep=", "hardware="]),
        ("train --", ["--multirun", "--config-dir", "--help"]),
        ("plan --j", ["--json"]),
        ("env --", ["--gpu"]),
        ("train optimizer=", ["optimizer=ppo", "optimizer=dpo"]),
        ("train model=qwen3_4", ["model=qwen3_4b"]),
        ("train hardware=gpu_1", ["hardware=gpu_12gb", "hardware=gpu_16gb"]),
        ("train dataset=js", ["dataset=jsonl"]),
        ("train -m sweep=", ["sweep=beta", "sweep=seeds"]),
        ("train sweep.sampler=", ["sweep.sampler=grid", "sweep.sampler=optuna"]),
        ("train optimizer=ppo,", ["optimizer=ppo,dpo"]),
        ("train optimizer.b", ["optimizer.beta="]),
        ("train optimizer.adamw.l", ["optimizer.adamw.lr="]),
        ("train optimizer=dpo optimizer.lab", ["optimizer.label_smoothing="]),
        ("train reward=length reward.", ["reward.target="]),
        ("train cache=", ["cache=true", "cache=false"]),
        ("train model.load_in_4bit=f", ["model.load_in_4bit=false"]),
        ("evaluate runs/mine evaluation.s", ["evaluation.seed=", "evaluation.show=", "evaluation.split="]),
        ("train judge=", ["judge=local", "judge=openai_api", "judge=scripted"]),
        ("evaluate judge=openai_api judge.max_", ["judge.max_calls=", "judge.max_tokens=", "judge.max_usd="]),
        ("plugins r", ["reward", "rollout"]),
        ("plugins ", ["new", "check", "try", "judge"]),
        ("plugins new j", ["judge"]),
        ("plugins check le", ["length", "learned"]),
        ("plugins check length --d", ["--data", "--deadline"]),
        ("plugins try reward=le", ["reward=length", "reward=learned"]),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_may_come_next_is_offered(line, some):
    assert set(some) <= set(offered(line))


@pytest.mark.parametrize(
    "line",
    [
        "train dataset.path=",
        "train run_dir=",
        "report ",
        "evaluate ",
        "evaluate runs/m",
        "train --config-dir ",
        "plugins check ",
        "plugins try --data ",
        "plugins new reward ",
        "nothing x",
    ],
)
def test_where_a_file_is_wanted_or_nothing_is_known_nothing_is_offered(line):
    assert offered(line) == []


def test_settings_of_a_plugin_that_is_not_chosen_are_not_offered():
    assert "optimizer.label_smoothing=" not in offered("train optimizer.l")  # DPO's
    assert "optimizer.label_smoothing=" in offered("train optimizer=ppo,dpo optimizer.l")


def test_every_choice_offered_for_a_setting_is_one():
    made = compose()
    for key, values in completion.CHOICES.items():
        for value in values if not key.startswith("sweep.") else ():
            OmegaConf.update(made, key, yaml.safe_load(value))
            check_ranges(made)


def test_presets_of_ones_own_are_offered(tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "house_model.yaml").write_text("path: x\n")
    for given in (f"--config-dir {tmp_path / 'mine'}", f"--config-dir={tmp_path / 'mine'}"):
        assert offered(f"train {given} model=house") == ["model=house_model"]
    assert offered(f"train --config-dir={tmp_path / 'nowhere'} model=house") == []


def test_names_and_settings_of_a_plugin_file_are_offered_and_it_is_not_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "raise SystemExit('run!')\nfrom rlhf_lora import reward\n@reward('polite')\nclass Polite:\n    words: int = 3\n"
        "@reward('terse')\ndef terse(samples, *, answer, share: float = 0.5): ...\n"
    )
    assert offered(f"train plugins=[{file}] reward=p") == ["reward=polite"]
    assert offered(f"train plugins=[{file}] reward=polite reward.") == ["reward.words="]
    assert offered(f"train plugins=[{file}] reward=terse reward.") == ["reward.share="]  # `answer` is a column


# --- the file that makes it quick -------------------------------------------------------------------------------------


def test_the_file_lies_in_the_cache_folder(monkeypatch):
    for name in (None, "XDG_CACHE_HOME", "RLHF_LORA_CACHE"):
        monkeypatch.delenv("RLHF_LORA_CACHE", raising=False)
        if name:
            monkeypatch.setenv(name, "/somewhere")
        assert completion_index.cache_file() == cache_folder() / "completion.json"


def test_a_file_that_is_broken_or_of_other_sources_is_made_anew(monkeypatch):
    first = completion_index.index()
    file = completion_index.cache_file()
    for text in ("{", "[]", json.dumps({"version": 0}), file.read_text().replace('"ppo"', '"qqq"', 1)[:-9]):
        file.write_text(text)
        assert completion_index.index() == first
    made: list[int] = []
    monkeypatch.setattr(completion_index, "make", lambda: (made.append(1), (first, []))[1])
    monkeypatch.setattr(completion_index, "_changed", lambda path: 5)
    assert (completion_index.index(), made) == (first, [1])


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "file"))
    assert "optimizer=ppo" in offered("train optimizer=")


def test_the_index_has_every_built_in_plugin():
    found = completion_index.index()["plugins"]
    for kind in registry.KINDS:
        assert set(registry.names(kind)) <= set(found.get(kind, {}))


def ask(line: str, check: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys\nfrom rlhf_lora import cli\ncode = cli.run(['__complete', {line!r}])\n{check}\nsys.exit(code)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_key_press_takes_under_a_third_of_a_second_and_loads_nothing_heavy():
    heavy = "print(sorted({'torch', 'transformers', 'hydra', 'omegaconf'} & sys.modules.keys()))"
    assert ask("train optimizer.b").stdout == "optimizer.beta=\n"  # makes the file
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = ask("train optimizer.b", heavy)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == "optimizer.beta=\n[]\n"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3  # CPU time: others use it too


def test_whatever_goes_wrong_a_key_press_prints_nothing(monkeypatch, capsys):
    def broken(*given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(completion, "candidates", broken)
    assert cli.run(["__complete", "train "]) == 1
    assert capsys.readouterr() == ("", "")


# --- the shells -------------------------------------------------------------------------------------------------------

BASH = """
eval "$(rlhf-lora completion bash)"
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(rlhf-lora)
[[ -n "$2" ]] && COMP_WORDBREAKS="$2"
_rlhf_lora
printf '%s\\n' "${COMPREPLY[@]}"
complete -p rlhf-lora
"""


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """A `rlhf-lora` on the path, whatever the environment is called."""
    program = tmp_path / "bin" / "rlhf-lora"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rlhf_lora "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "breaks", "expected"),
    few(
        [
            ("rlhf-lora tr", "", ["train"]),
            ("rlhf-lora  train optimizer.be", "", ["optimizer.beta="]),
            ("rlhf-lora train optimizer=d", "", ["dpo"]),  # bash itself has kept `optimizer=`
            ("rlhf-lora train optimizer=d", " \t", ["optimizer=dpo"]),
            ("rlhf-lora train seed=1 --mul", "", ["--multirun"]),
            ("rlhf-lora train dataset.path=", "", [""]),  # files, by bash
        ],
        2,
    ),
)
def test_bash_completes_with_the_script_that_is_printed(path, line, breaks, expected):
    done = subprocess.run(["bash", "-c", BASH, "bash", line, breaks], capture_output=True, text=True, timeout=60)
    *found, registered = done.stdout.splitlines()
    assert (found, done.stderr) == (expected, "")
    assert registered == "complete -o bashdefault -o default -F _rlhf_lora rlhf-lora"


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_is_one_that_its_shell_can_read(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "-n"], input=completion.script(shell), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_script_asks_us_and_says_how_it_is_installed(shell, capsys):
    assert cli.run(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert "__complete" in out
    assert f"rlhf-lora completion {shell}" in out


@pytest.mark.parametrize(
    ("given", "told"), [(["bsh"], "did you mean 'bash'"), ([], "wants a shell"), (["a", "b"], "wants")]
)
def test_other_shells_are_refused(given, told, capsys):
    assert cli.run(["completion", *given]) == 2
    assert told in capsys.readouterr().err
