"""The wheel works where the source tree is not: another folder, another environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tiny import overrides

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel alone; what it depends on is borrowed from this one by path."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True)
    return python


def run(python: Path, *arguments: str, cwd: Path | None = None) -> str:
    environment = os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
    done = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd or python.parent,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_package_plugins_and_conf_come_from_the_wheel(elsewhere):
    code = "import rlhf_lora, rlhf_lora.plugins, rlhf_lora.conf; print(rlhf_lora.plugins.__file__, rlhf_lora.__file__)"
    for file in run(elsewhere, "-c", code).split():
        assert str(elsewhere.parent.parent) in file


def test_built_in_plugins_and_their_names_are_found(elsewhere):
    code = "from rlhf_lora.registry import names; print(*names('dataset'))"
    assert "orders" in run(elsewhere, "-c", code).split()


def test_presets_are_found_by_hydra(elsewhere):
    code = """
from hydra import compose, initialize_config_module
with initialize_config_module("rlhf_lora.conf", version_base="1.3"):
    print(compose("hardware/gpu_12gb").hardware.memory_gib)
"""
    assert float(run(elsewhere, "-c", code)) == 12


def test_a_reward_of_ones_own_trains_from_another_folder(elsewhere, tiny_base, tmp_path):
    (tmp_path / "my_reward.py").write_text(
        """from rlhf_lora import reward


@reward("my_reward")
class Brevity:
    \"\"\"As many words as asked for.\"\"\"

    words: int = 5

    def score(self, samples):
        return [-abs(len(s.text.split()) - self.words) for s in samples]
"""
    )
    said = overrides(tiny_base, Path("run"), "plugins=[my_reward.py]", "reward=my_reward", "reward.words=2")
    out = run(elsewhere, "-m", "rlhf_lora", "train", *said, cwd=tmp_path)
    assert out.splitlines()[-1] == "run"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["reward"]) == ("finished", "my_reward")
