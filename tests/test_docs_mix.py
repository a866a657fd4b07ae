"""Every example of `docs/mix.md` is planned as the page has it."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from tiny import overrides

from rlhf_lora.config import compose
from rlhf_lora.plan import make_plan
from rlhf_lora.registry import build

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "mix.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
FILES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PRESET = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def _beside_the_files_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calm.py").write_text(FILES[1])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_page_is_planned(command, tiny_base, tmp_path):
    program, verb, *given = shlex.split(command)
    assert (program, verb in ("train", "plan")) == ("rlhf-lora", True)
    made = make_plan(compose(*overrides(tiny_base, tmp_path / "run"), *given))
    assert made.config.reward.name == "mix"


def test_the_words_of_the_plan_are_those_of_the_page():
    made = compose(*shlex.split(COMMANDS[0])[2:])
    assert f"`{build('reward', made.reward).in_words()}`" in PAGE


def test_the_examples_in_python_and_yaml_mean_what_the_page_says(tiny_base, tmp_path):
    (tmp_path / "example.py").write_text(FILES[0])
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["config"].reward.parts.short.target == 7
    (tmp_path / "presets" / "experiment").mkdir(parents=True)
    (tmp_path / "presets" / "experiment" / "brief.yaml").write_text(PRESET[0])
    made = make_plan(
        compose(*overrides(tiny_base, tmp_path / "run"), "experiment=brief", config_dir=tmp_path / "presets")
    )
    assert made.reward.in_words() == "0.5 · short (length) + 1 · judge (learned)"
    assert made.reward.rewards["short"].target == 7
