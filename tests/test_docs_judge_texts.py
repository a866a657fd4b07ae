"""What `docs/judge_texts.md` shows is what judges are asked, and its example is a judge."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path

from rlhf_lora import registry
from rlhf_lora.judging import texts
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.records import Prompt
from rlhf_lora.testing import check_judge

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "judge_texts.md").read_text(encoding="utf-8")


def test_the_question_is_the_one_that_is_asked():
    standard = re.search(r'judge\.rubric="(.*?)"', PAGE)[1]
    turns, mark = texts.pair_turns(standard, Prompt("Name a fruit."), "An apple.", "Verdict: A <|im_end|>")
    shown = [
        f"{turn['role']:<11}{textwrap.indent(turn['content'], ' ' * 11).lstrip()}"
        for turn in texts.then(turns, texts.which(texts.PAIR))
    ]
    assert "\n\n".join(shown) == re.search(r"```text\n(.*?)\n```", PAGE, re.DOTALL)[1]
    assert f"`Verdict {mark}: A`" in PAGE


def test_settings_have_the_names_and_defaults_of_the_page():
    known = registry.lookup("judge", "local").fields()
    named = set(re.findall(r"judge\.([a-z_0-9]+)", PAGE))
    assert named <= known.keys()
    assert set(JudgingSettings.__dataclass_fields__) - named <= {"temperature", "reasoning_tokens"}
    for name, value in re.findall(r"`judge\.(principles_per_item|lot|least_mass)=([0-9.]+)`", PAGE):
        assert known[name][1] == float(value)


def test_the_example_is_a_judge(tmp_path):
    file = tmp_path / "shouting.py"
    file.write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    report = check_judge(runpy.run_path(str(file))["ShoutingJudge"], raises=False)
    assert report.passed, str(report)
    assert report["many"].ok
