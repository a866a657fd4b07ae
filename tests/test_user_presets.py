"""Presets of a user's own: they join the kit's, hide none of them, and name no code."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lora import cli
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError


def preset(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return folder


def test_an_experiment_of_ones_own_wins_over_defaults_and_loses_to_the_command_line(tmp_path):
    own = preset(
        tmp_path / "it's mine, all", "experiment/mine.yaml", "# @package _global_\nsft: {epochs: 7}\nseed: 5\n"
    )
    config = compose("experiment=mine", "seed=6", config_dir=own)
    assert (config.sft.epochs, config.seed) == (7, 6)


def test_a_preset_refines_a_plugin(tmp_path):
    own = preset(tmp_path, "reward/short.yaml", "defaults: [length]\ntarget: 3\n")
    config = compose("reward=short", config_dir=own)
    assert (config.reward.name, config.reward.target) == ("length", 3)


def test_plan_takes_the_folder_anywhere(tmp_path, capsys):
    own = preset(tmp_path, "model/mine.yaml", "path: null\nload_in_4bit: false\n")
    small = ["dataset.pairs=100", "dataset.demonstrations=100", "dataset.prompts=100"]
    for words in (["--config-dir", str(own), "model=mine"], ["model=mine", f"--config-dir={own}"]):
        assert cli.run(["plan", "--json", *words, *small]) == 0
        assert '"load_in_4bit": false' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "override", "told"),
    [
        ("model/mine.yaml", "path: null\n_target_: os.system\n", "model=mine", "_target_"),
        ("reward/brief.yaml", "defaults: [length]\n_target_: os.system\n", "reward=brief", "_target_"),
        ("model/mine.yaml", "template_kwargs: {a: {_target_: os.system}}\n", "model=mine", "_target_ is refused"),
        ("experiment/mine.yaml", "# @package _global_\nplugins: [evil.py]\n", "experiment=mine", "cannot load code"),
        ("model/mini.yaml", "path: null\n", "seed=1", "the kit has a model/mini.yaml of its own"),
        ("model/my_own.yaml", "path: null\n", "model=my_onw", "did you mean 'my_own'"),
        ("model/mine.yaml", "pth: null\n", "model=mine", "pth"),
    ],
)
def test_what_a_preset_may_not_do(name, text, override, told, tmp_path):
    own = preset(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        compose(override, config_dir=own)
    assert told in str(caught.value)


def test_a_preset_does_not_take_a_plugins_name(tmp_path):
    own = preset(tmp_path, "reward/length.yaml", "name: length\n")
    with pytest.raises(ConfigError, match="is a plugin"):
        compose("seed=1", config_dir=own)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--config-dir"], "wants a folder"),
        (["train", "--config-dir", "-m"], "wants a folder"),
        (["plan", "--config-dir", "nowhere"], "nowhere is no folder"),
        (["report", "--config-dir", "x", "run"], "no flag '--config-dir'"),
    ],
)
def test_a_folder_that_is_none_is_refused(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    assert told in capsys.readouterr().err
