"""Every command of `docs/pairs.md` and `docs/rounds.md` is planned as the pages have it, and no setting is made up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny import STEPS

from rlhf_lora.config import compose
from rlhf_lora.plan import make_plan

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("pairs", "rounds")}
COMMANDS = [
    line
    for page in PAGES.values()
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
]
DATA = [step for step in STEPS if step.startswith(("dataset.", "splits"))]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_pages_is_planned(command, tiny_base, tmp_path):
    program, verb, *given = shlex.split(command)
    assert (program, verb) == ("rlhf-lora", "train")
    made = make_plan(compose(f"model.path={tiny_base}", f"run_dir={tmp_path / 'run'}", *DATA, *given))
    assert (made.stage("answers") is not None) == made.row_source.made


@pytest.mark.parametrize("page", PAGES)
def test_each_setting_that_a_page_names_is_there(page):
    keys = {f"optimizer.{name}" for given in ("dpo", "kto", "rejection_sampling", "ppo")
            for name in compose(f"optimizer={given}").optimizer}  # fmt: skip
    config = compose()
    keys |= {f"{part}.{name}" for part in ("refresh", "scoring", "rollout", "evaluation") for name in config[part]}
    named = set(re.findall(r"\b(?:optimizer|refresh|scoring|rollout|evaluation)\.[a-z_]+", PAGES[page]))
    assert named <= keys
