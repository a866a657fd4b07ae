"""Composing: overrides in, one typed tree out; saved configurations give the same run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tiny import overrides

from rlhf_lora.config import compose, plugin_files, recompose
from rlhf_lora.errors import ConfigError, PluginError
from rlhf_lora.registry import build
from rlhf_lora.schema import PLUGIN_GROUPS, TrainConfig

CONF = Path(__file__).resolve().parent.parent / "conf"
YAMLS = sorted(CONF.rglob("*.yaml"))


def plain(config):
    return OmegaConf.to_container(config)


def test_composing_twice_in_a_process_gives_the_same():
    first = plain(compose("reward=length", "reward.target=3"))
    assert plain(compose("optimizer=dpo"))["optimizer"]["name"] == "dpo"
    assert plain(compose("reward=length", "reward.target=3")) == first


def test_there_are_as_many_presets_as_we_count():
    # 15 models, 6 kinds of hardware, one adapter, and the run itself: a new one wants a look at its tests.
    assert len(YAMLS) >= 23
    assert {p.parent.name for p in YAMLS} >= {"conf", "model", "hardware", "adapter"}


@pytest.mark.parametrize("file", YAMLS, ids=lambda f: f.relative_to(CONF).as_posix())
def test_every_yaml_opens_with_what_it_is_for_and_the_command_that_uses_it(file):
    content = file.read_text()  # that every one composes: test_conf_presets
    assert content.startswith("# ")
    assert "rlhf-lora" in content.split("\n\n")[0]


def test_every_setting_has_a_line_in_the_yaml_that_people_read():
    shown = yaml.safe_load((CONF / "train.yaml").read_text())
    groups = {"model", "adapter", "hardware", "profile", "control", *PLUGIN_GROUPS}
    missing = set(OmegaConf.structured(TrainConfig)) - set(shown) - groups
    assert not missing


def test_the_default_run_is_ppo_against_a_learned_reward_on_orders():
    config = compose()
    chosen = [config[kind] and config[kind].name for kind in PLUGIN_GROUPS]
    assert chosen == ["orders", "learned", None, "ppo", "native", "local"]
    assert (config.model.path, config.adapter.r, config.seed) == (None, 16, 0)


def test_overrides_are_typed_and_nested_adamw_too():
    config = compose(
        "optimizer.beta=1", "optimizer.adamw.lr=1e-4", "optimizer.kl_target=null", "model.template_kwargs={a: 1}"
    )
    assert config.optimizer.beta == 1.0
    assert config.optimizer.adamw.lr == 1e-4
    assert config.model.template_kwargs.a == 1
    with pytest.raises(ConfigError, match="lr"):
        compose("optimizer.adamw.lr=fast")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("optimizer.bata=1", "did you mean 'optimizer.beta'"),
        ("rewardd=length", "did you mean 'reward'"),
        ("model=mini2", "did you mean 'mini'"),
        ("reward=lenth", "did you mean 'length'"),
        ("sft.epoch=1", "did you mean 'sft.epochs'"),
        ("adapter.rank=1", "adapter.r"),
    ],
)
def test_near_names_are_offered_with_where(given, told):
    with pytest.raises((ConfigError, PluginError)) as error:
        compose("seed=1", given, "cache=true")
    assert told in str(error.value)
    assert given.partition("=")[0] in error.value.where


def test_a_saved_configuration_rebuilds_equal_plugins(tmp_path):
    config = compose(
        "reward=length", "reward.target=7", "optimizer.adamw.lr=1e-3", "tracker=wandb", "tracker.tags=[a,b]"
    )
    saved = yaml.safe_load(yaml.safe_dump(plain(config)))
    again = recompose(saved)
    for kind in PLUGIN_GROUPS:
        assert (again[kind] is None) == (config[kind] is None) == (kind == "judge")
        if kind == "judge":
            continue
        assert build(kind, again[kind]) == build(kind, config[kind])


def test_a_saved_configuration_takes_overrides_and_refuses_what_there_is_not():
    saved = plain(compose("reward=length"))
    again = recompose(saved, ["reward=orders_gold", "evaluation.prompts=5"])
    assert plain(again.reward) == {"name": "orders_gold"}
    assert again.evaluation.prompts == 5
    with pytest.raises(ConfigError, match="evaluation"):
        recompose(saved, ["evaluation.promts=5"])
    with pytest.raises(ConfigError, match="many"):
        recompose(saved, ["evaluation.prompts=many"])


def test_a_saved_configuration_loads_no_plugin_file_by_itself(tmp_path):
    (tmp_path / "stranger.py").write_text("raise RuntimeError('ran')\n")
    recompose({**plain(compose()), "plugins": [str(tmp_path / "stranger.py")]})


@pytest.mark.parametrize(
    ("given", "files"),
    [
        (["plugins=[a.py,b.py]"], ["a.py", "b.py"]),
        (["+plugins=[a.py]"], ["a.py"]),
        (["plugins=['a b.py', \"c.py\"]"], ["a b.py", "c.py"]),
        (["plugins=a.py"], ["a.py"]),
        (["plugins=[]"], []),
        (["seed=1"], []),
    ],
)
def test_plugin_files_are_read_off_the_override(given, files):
    assert plugin_files(given) == files


def test_an_override_list_of_the_tests_composes(tiny_base, tmp_path):
    assert compose(*overrides(tiny_base, tmp_path)).optimizer.updates == 3


@pytest.mark.slow
def test_mappings_take_keys_of_the_users_own():
    config = compose(
        "model=qwen3_0_6b", "model.template_kwargs={style: short}", "model.template_kwargs.enable_thinking=true"
    )
    assert plain(config.model.template_kwargs) == {"enable_thinking": True, "style": "short"}
    columns = compose("dataset=jsonl", "dataset.path=x", "dataset.columns={prompt: question}").dataset.columns
    assert (columns.prompt, columns.chosen) == ("question", None)
    with pytest.raises(ConfigError):
        build("dataset", compose("dataset=jsonl", "dataset.path=x", "dataset.columns={promt: question}").dataset)
