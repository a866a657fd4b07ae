"""The boxes of `docs/rules.md` are run, and its tables are the settings."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rlhf_lora.plugins.rewards.rules.rule import RULES

from rlhf_lora.config import compose
from rlhf_lora.records import Sample
from rlhf_lora.registry import build, lookup
from rlhf_lora.stages.scoring import Scorer

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
BOXES = re.findall(r"^```text\n\$ ([^\n]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
LINE = re.compile(r'(?P<value>none|\d\.\d\d)  (?P<cut>cut )?(?P<text>"(?:[^"\\]|\\.)*")(?: (?P<row>\{.*?\}))?(?:  .*)?')
SECTIONS = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]


def written(command: str, line: str) -> str:
    """The line as the page ought to have it."""
    match = LINE.fullmatch(line)
    assert match, f"cannot be read: {line}"
    sample = Sample(
        "asked", json.loads(match["text"]), columns=json.loads(match["row"] or "{}"), finished=not match["cut"]
    )
    (score,) = Scorer(build("reward", compose(*shlex.split(command)).reward), "docs")([sample])
    value = "none" if score.value is None else f"{score.value:.2f}"
    row = f" {match['row']}" if match["row"] else ""
    return f"{value}  {match['cut'] or ''}{match['text']}{row}" + (f"  {score.reason}" if score.reason else "")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "lines"), BOXES, ids=[command[:40] for command, _ in BOXES])
def test_a_box_shows_what_the_reward_gives(command, lines):
    assert lines.splitlines() == [written(command, line) for line in lines.splitlines()]


def settings_of(title: str) -> type | None:
    name = title.partition("`")[2].partition("`")[0].removeprefix("reward=")
    return RULES.get(name) or (lookup("reward", name).cls if name else None)


@pytest.mark.parametrize("section", [s for s in SECTIONS if "`" in s.split("\n")[0]], ids=lambda s: s.split("\n")[0])
def test_a_table_has_every_setting_and_its_default(section):
    cls = settings_of(section.split("\n")[0])
    assert cls is not None
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section, re.MULTILINE))
    made = OmegaConf.to_container(OmegaConf.structured(cls))
    assert isinstance(made, dict)
    assert rows == {field.name: said(made[field.name]) for field in dataclasses.fields(cls)}


def said(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def test_every_rule_has_a_section_and_a_box():
    titles = set(re.findall(r"^### `(\w+)`", PAGE, re.MULTILINE))
    assert titles == set(RULES)
    assert all("```text\n$ " in section for section in SECTIONS if "`" in section.split("\n")[0])
