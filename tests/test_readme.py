"""What the README shows is what there is: its figures are those of the stored measurement, its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import default_run
import measured
import pytest
from tiny import few

from rlhf_lora import cli, registry
from rlhf_lora.config import compose
from rlhf_lora.records import Sample
from rlhf_lora.sweep.runner import Sweep

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_table_is_the_last_measurement():
    shown = re.search(r"<!-- default_run: .*? -->\n(.*?)\n<!-- /default_run -->", README, flags=re.S)
    assert shown, "the README has no place for the table"
    assert shown[1] == default_run.table(measured.read(default_run.RESULT)), (
        "run python benchmarks/default_run.py --table"
    )


def test_the_reward_in_the_readme_works_as_a_plugin_file(tmp_path: Path):
    code = next(block for block in blocks("python") if "my_reward.py" in block)
    file = tmp_path / "my_reward.py"
    file.write_text(code)
    config = compose(f"plugins=[{file}]", "reward=brevity", "reward.target=5")
    reward = registry.build("reward", config.reward)
    assert reward.score([Sample("p", "one two three"), Sample("p", "one two three four five")]) == [-2, 0]
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 6


@pytest.mark.parametrize(
    "line", few([line for block in blocks("bash") for line in block.splitlines() if "rlhf-lora" in line], 5)
)
def test_every_command_of_the_readme_composes(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names, groups and settings exist; the placeholders FILE and FOLDER are the reader's."""
    monkeypatch.chdir(tmp_path)
    Path("my_reward.py").write_text(next(block for block in blocks("python") if "my_reward.py" in block))
    words = line.split("#")[0].split()[1:]
    assert words[0] in cli.VERBS
    if "-m" in words:
        few = ["dataset.demonstrations=80", "dataset.pairs=120", "dataset.prompts=240"]
        made = Sweep([word for word in words[1:] if word != "-m"] + few)
        said = re.search(r"# (\d+) jobs", line)
        assert said is None or len(made.wanted) == int(said[1])
        return
    compose(*[word for word in words[1:] if "=" in word])
