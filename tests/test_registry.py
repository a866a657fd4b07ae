"""Plugins: three doors with one effect, typed settings, and messages that say which file."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import few, labels_model

from rlhf_lora import doors, registry
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, ContractError, PluginError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import build, to_config
from rlhf_lora.scores import check_scores, columns_of

SAMPLES = [Sample("p", "one two"), Sample("p", "three")]


def text(name: str, body: str = "return [float(len(s.text)) * self.weight for s in samples]") -> str:
    return f'''\
from rlhf_lora import reward


@reward("{name}")
class Mine:
    """My reward."""

    weight: float = 2.0

    def score(self, samples):
        {body}
'''


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


# --- three doors, one effect ------------------------------------------------------------------------------------------


def by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doors.load_file(write(tmp_path / "by_file.py", text("door")))


def by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine:
        """My reward."""

        weight: float = 2.0

        def score(self, samples: Any) -> list[float]:
            return [float(len(s.text)) * self.weight for s in samples]

    Mine.__annotations__ = {"weight": float}
    registry.reward("door")(Mine)


def by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    write(tmp_path / "their_plugins.py", text("door"))
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("theirs", "their_plugins", doors.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr(doors, "_loaded_entry_points", False)
    doors.load_entry_points()
    sys.modules.pop("their_plugins")


@pytest.mark.parametrize("door", few([by_file, by_class, by_entry_point], 2))
def test_whatever_door_a_plugin_comes_in_by_it_is_composed_and_built_alike(door, tmp_path, monkeypatch):
    door(tmp_path, monkeypatch)
    config = compose("reward=door", "reward.weight=3")
    made = build("reward", config.reward)
    assert made.score(SAMPLES) == [21.0, 15.0]
    assert to_config(made) == {"name": "door", "weight": 3.0}
    assert build("reward", to_config(made)) == made
    assert registry.lookup("reward", "door").summary == "My reward."
    with pytest.raises(ConfigError, match="weight"):
        compose("reward=door", "reward.weight=much")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.weight = 1.0


def test_a_package_whose_plugins_fail_is_told_when_a_name_is_missing_and_stops_nobody(tmp_path, monkeypatch):
    import importlib.metadata

    write(tmp_path / "broken_plugins.py", "import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("broken", "broken_plugins", doors.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    monkeypatch.setattr(doors, "_loaded_entry_points", False)
    compose("reward=length")
    with pytest.raises(PluginError) as error:
        registry.lookup("reward", "theirs")
    assert "plugins of broken failed to import" in str(error.value)
    assert "nowhere_to_be_found" in str(error.value)


# --- functions --------------------------------------------------------------------------------------------------------


def test_a_functions_keywords_are_settings_and_columns_and_it_is_returned_unchanged():
    def near(samples: Any, *, answer: Any, scale: float = 2.0, strict: bool = False) -> list[float]:
        """How near."""
        return [scale * float(a) + strict for a in answer]

    assert registry.reward("near")(near) is near
    made = build("reward", {"name": "near", "scale": 3.0})
    assert columns_of(made) == ("answer",)
    assert made.score(SAMPLES, answer=[1, 2]) == [3.0, 6.0]
    assert {k: d for k, (_, d) in registry.lookup("reward", "near").fields().items()} == {"scale": 2.0, "strict": False}
    assert near(SAMPLES, answer=[1, 2]) == [2.0, 4.0]


def test_a_parameter_before_the_star_is_refused():
    with pytest.raises(PluginError, match="'scale' of reward 'loose' must stand behind a '\\*'"):

        @registry.reward("loose")
        def loose(samples: Any, scale: float = 1.0) -> list[float]:
            return []


def test_a_classs_columns_are_the_keywords_of_score():
    class Mine:
        def score(self, samples: Any, *, answer: Any, hint: Any) -> list[float]:
            return []

    registry.reward("with_columns")(Mine)
    assert columns_of(build("reward", {"name": "with_columns"})) == ("answer", "hint")


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_two_owners_of_a_name_are_refused_naming_both_files(tmp_path):
    one, other = write(tmp_path / "one.py", text("twice")), write(tmp_path / "other.py", text("twice"))
    doors.load_file(one)
    with pytest.raises(PluginError, match="two plugins want the name reward=twice") as error:
        doors.load_file(other)
    assert str(one) in error.value.where
    assert str(other) in error.value.where


def test_a_built_in_name_cannot_be_taken(tmp_path):
    with pytest.raises(PluginError, match="reward=length") as error:
        doors.load_file(write(tmp_path / "mine.py", text("length")))
    assert "rlhf_lora.plugins.rewards.length" in error.value.where


def test_a_file_that_was_edited_replaces_itself_and_an_unchanged_one_is_not_run_again(tmp_path):
    file = write(tmp_path / "edited.py", text("edited"))
    doors.load_file(file)
    first = registry.lookup("reward", "edited").cls
    doors.load_file(file)
    assert registry.lookup("reward", "edited").cls is first
    doors.load_file(write(file, text("edited", "return [7.0 for s in samples]")))
    assert build("reward", {"name": "edited"}).score(SAMPLES) == [7.0, 7.0]


def test_a_file_is_the_same_by_every_path_to_it(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    file = write(tmp_path / "same.py", text("same"))
    doors.load_file(file)
    monkeypatch.chdir(tmp_path / "sub")
    doors.load_file("../same.py")


def test_a_file_that_raises_is_told_by_its_own_line(tmp_path):
    file = write(tmp_path / "raises.py", "import json\n\n\ndef f():\n    json.loads('{')\n\n\nf()\n")
    with pytest.raises(PluginError, match="raised JSONDecodeError") as error:
        doors.load_file(file)
    assert error.value.where == f"{file}, line 5: json.loads('{{')"


def test_a_file_that_exits_does_not_take_us_with_it(tmp_path):
    with pytest.raises(PluginError, match="raised SystemExit"):
        doors.load_file(write(tmp_path / "exits.py", "raise SystemExit(0)\n"))


@pytest.mark.parametrize("name", ["a-b", "a b", "1a", ""])
def test_a_name_that_could_not_be_an_override_is_refused(name):
    with pytest.raises(PluginError, match="cannot name a plugin"):
        registry.reward(name)


def test_fields_that_no_configuration_can_hold_are_refused(tmp_path):
    content = text("odd").replace("weight: float = 2.0", "weight: object = print")
    with pytest.raises(PluginError, match="not a plain value"):
        doors.load_file(write(tmp_path / "odd.py", content))
    with pytest.raises(PluginError, match="'name' is reserved"):
        doors.load_file(write(tmp_path / "named.py", text("named").replace("weight: float = 2.0", "name: str = 'x'")))


def test_unknown_and_missing_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="'length' has no setting 'traget'; did you mean 'target'"):
        build("reward", {"name": "length", "traget": 1})
    with pytest.raises(ConfigError, match="path"):
        build("dataset", {"name": "jsonl", "path": "???"})
    with pytest.raises(ConfigError, match="does not say which reward"):
        build("reward", {"target": 1})
    with pytest.raises(PluginError, match="did you mean 'length'"):
        build("reward", {"name": "lenght"})


# --- every plugin we ship ---------------------------------------------------------------------------------------------

SHIPPED = [(e.kind, e.name) for e in registry.entries() if e.origin.startswith("rlhf_lora.plugins.")]
NEEDED = {
    ("dataset", "jsonl"): ["dataset.path=FILE"],
    ("dataset", "labels"): ["dataset.path=FILE"],
    ("dataset", "hub"): ["dataset.path=NAME"],
    ("judge", "openai_api"): ["judge.model=tiny"],
    ("reward", "mix"): ["reward.parts.a=length"],
    ("reward", "sequence_classifier"): ["reward.path=NAME"],
    ("reward", "regex"): ["reward.pattern=a"],
    ("reward", "rule_model"): ["reward.path={model}", "+reward.rules.polite=be polite"],
    ("reward", "keywords"): ["reward.any=[a]"],
    ("reward", "markdown"): ["reward.all=[list]"],
    ("reward", "unit_tests"): ["reward.run_code=true", "reward.sandbox=none"],
}


def test_all_kinds_are_shipped():
    assert len(SHIPPED) >= 11
    assert {kind for kind, _ in SHIPPED} >= {"reward", "optimizer", "dataset", "rollout", "tracker"}


@pytest.mark.parametrize(("kind", "name"), few(SHIPPED, 6))
def test_every_shipped_plugin_composes_builds_and_is_rebuilt_equal(kind, name, tmp_path):
    model = labels_model(tmp_path)
    config = compose(f"{kind}={name}", *(given.format(model=model) for given in NEEDED.get((kind, name), [])))
    made = build(kind, config[kind])
    again = build(kind, to_config(made))
    assert again == made
    assert to_config(again) == to_config(made)
    assert registry.lookup(kind, name).summary.endswith((".", ":")) or registry.lookup(kind, name).summary


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_held_to_the_contract():
    kinds = [
        (s.value, s.kind) for s in check_scores([1, True, None, float("nan"), -float("inf"), Score(2.0)], 6, "mine")
    ]
    assert kinds == [
        (1.0, "value"),
        (1.0, "value"),
        (None, "abstain"),
        (None, "error"),
        (None, "error"),
        (2.0, "value"),
    ]
    for given, count in (([1.0], 2), ("12", 2), (1.0, 1), (["a"], 1), ([[1.0]], 1), ({"a": 1.0}, 2)):
        with pytest.raises(ContractError, match="'mine'"):
            check_scores(given, count, "mine")
