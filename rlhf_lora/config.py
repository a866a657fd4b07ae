"""Composing the configuration from overrides, with one clear message when that fails.

Hydra composes YAML groups and the plugins' fields into one tree; the dataclasses of `schema` give the rest of it types.
After composing, every key must be one that a schema or a plugin knows: `+x=1` cannot smuggle one in.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import doors, honoured, registry, user_presets
from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.hydra_errors import as_config_error
from rlhf_lora.schema import NO_PRESET, OWN_DATASETS, PLUGIN_GROUPS, TrainConfig, is_preset


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """The configuration that Hydra overrides describe. Plugin files named in `plugins=[…]` are loaded first.

    Args:
        config_dir: presets of the user's own: CONFIG_DIR/GROUP/NAME.yaml.

    Raises:
        ConfigError, PluginError: an unknown group, option or key, a wrong type, a plugin file that fails.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    doors.load_entry_points()
    _store_schema()
    given = [_part(_own_dataset(override)) for override in overrides if override not in NO_PRESET]
    for file in plugin_files(given):
        doors.load_file(file)
    own = user_presets.checked(config_dir) if config_dir is not None else None
    for kind in PLUGIN_GROUPS:
        for name in set(user_presets.names(own, kind)) & set(registry.names(kind)):
            raise ConfigError(
                f"{kind}={name} is a plugin", where=f"{own}/{kind}/{name}.yaml", fix="give the preset another name"
            )
    _check_plugin_names(given, own)
    _check_no_deletions(given)
    honoured.check_typed(given)
    search_path = [user_presets.search_path(own)] if own else []
    GlobalHydra.instance().clear()  # a notebook cell that was interrupted may have left one behind
    try:
        with initialize_config_module("rlhf_lora.conf", version_base="1.3"):
            config = hydra_compose("train", overrides=_with_free_keys(given) + search_path)
            OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise as_config_error(error, given, own) from error
    if own:
        user_presets.refuse_code(OmegaConf.to_container(config))
        _check_no_plugins_in_yaml(config, given)
    check_keys(config)
    return config


@functools.cache
def _store_schema() -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=TrainConfig, provider="rlhf_lora")


def recompose(saved: Mapping[str, Any], overrides: Sequence[str] = ()) -> DictConfig:
    """A saved configuration with overrides on it. Plugin files that it names are not loaded: a run folder may come from
    a stranger. Name your own again with `plugins=[…]`.

    Raises:
        ConfigError, PluginError: as `compose`.
    """
    import yaml
    from omegaconf.errors import OmegaConfBaseException

    doors.load_entry_points()
    for file in plugin_files(overrides):
        doors.load_file(file)
    _check_plugin_names(overrides)
    try:
        config = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), OmegaConf.create(honoured.released(saved) | {"run_dir": None})
        )
        for override in overrides:
            key, _, text = override.partition("=")
            value = {"name": text} if key in PLUGIN_GROUPS else yaml.safe_load(text)
            OmegaConf.update(config, key, value, merge=key not in PLUGIN_GROUPS)
    except yaml.YAMLError as error:
        raise ConfigError(f"this override cannot be read: {override}", where=override, fix="write key=value") from error
    except OmegaConfBaseException as error:
        raise as_config_error(error, overrides) from error
    assert isinstance(config, DictConfig)
    check_keys(config)
    return config


def check_keys(config: DictConfig) -> None:
    """Refuse every key that neither the schema nor a plugin knows.

    Raises:
        ConfigError: with the nearest key that is known.
    """
    plain = OmegaConf.to_container(config, throw_on_missing=False)
    assert isinstance(plain, dict)
    _check_node(plain, TrainConfig, "")
    places = {kind: (kind, plain.get(kind)) for kind in PLUGIN_GROUPS}
    places |= {f"{stage}.dataset": ("dataset", plain.get(stage, {}).get("dataset")) for stage in OWN_DATASETS}
    for place, (kind, node) in places.items():
        if isinstance(node, dict):
            fields = {name: hint for name, (hint, _) in registry.lookup(kind, str(node.get("name"))).fields().items()}
            _check_fields(node, {"name": str, **fields}, place)
        elif node is not None and place not in PLUGIN_GROUPS:
            raise ConfigError(f"{place} is {node!r}, no dataset", where=place, fix=f"{place}=jsonl {place}.path=FILE")


def _check_node(node: Mapping[Any, Any], schema: type, where: str) -> None:
    _check_fields(node, typing.get_type_hints(schema), where)


def _check_fields(node: Mapping[Any, Any], hints: Mapping[str, Any], where: str) -> None:
    for key, value in node.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ConfigError(
                f"there is no setting '{place}'{did_you_mean(str(key), hints)}",
                where=place,
                fix=f"settings {f'of {where}' if where else 'here'}: {', '.join(hints)}",
            )
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            _check_node(value, typing.cast(type, hints[key]), place)


def plugin_files(overrides: Sequence[str]) -> list[str]:
    """Files of `plugins=[…]`, the one override that is read before Hydra composes."""
    files: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "plugins":
            files = [item.strip().strip("'\"") for item in value.strip().strip("[]").split(",") if item.strip()]
    return files


def _own_dataset(override: str) -> str:
    """`sft.dataset=jsonl` as Hydra wants it said: `dataset@sft.dataset=jsonl`."""
    key, equals, value = override.partition("=")
    key = key.removeprefix("dataset@")
    if key not in [f"{stage}.dataset" for stage in OWN_DATASETS]:
        return override
    plain = value.strip() == "null" or value.lstrip().startswith("{")  # Hydra's groups know neither
    return f"{'' if plain else 'dataset@'}{key}{equals}{value}"


def _part(override: str) -> str:
    """`reward.parts.a=length` as Hydra wants it said, so that the part's settings have types: `+reward@reward.parts.a=length`.
    A mapping, or null, is a value like any other."""
    found = re.fullmatch(r"\+?(?:reward@)?(reward(?:\.parts\.\w+)+)=(\w+(?:,\w+)*)", override.strip())
    return override if found is None or found[2] == "null" else f"+reward@{found[1]}={found[2]}"


def _with_free_keys(overrides: Sequence[str]) -> list[str]:
    """Mappings whose keys are the user's own (`model.template_kwargs={enable_thinking: false}`) take new keys as they are;
    Hydra would ask for `++` before them."""
    free = {"model.template_kwargs", "model.shape", "revisions.where"}
    for entry in registry.entries():
        places = [entry.kind, *(f"{stage}.dataset" for stage in OWN_DATASETS if entry.kind == "dataset")]
        names = [name for name, (hint, _) in entry.fields().items() if typing.get_origin(hint) is dict]
        free |= {f"{place}.{name}" for place in places for name in names}

    def is_free(override: str) -> bool:
        key = override.partition("=")[0]
        return any(key == place or key.startswith(f"{place}.") for place in free)

    return [f"++{override}" if is_free(override) else override for override in overrides]


def _check_no_deletions(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.startswith("~"):
            raise ConfigError(
                f"a setting cannot be taken away: {override}",
                where=override,
                fix=f"set it to null: {override[1:]}=null",
            )


def _check_plugin_names(overrides: Sequence[str], own: Path | None = None) -> None:
    """Say which plugins there are before Hydra lists its groups: our message knows near names and failed packages."""
    for override in overrides:
        key, _, value = override.partition("=")
        kind = key.lstrip("+").partition("@")[0]
        if (
            kind in PLUGIN_GROUPS
            and value
            and not is_preset(kind, value)
            and value not in user_presets.names(own, kind)
        ):
            for name in value.split(","):
                registry.lookup(kind, name.strip().strip("'\""))


def _check_no_plugins_in_yaml(config: DictConfig, overrides: Sequence[str]) -> None:
    """A preset may come from a stranger, and a plugin file is code: only the command line names one."""
    named = [file for file in config.plugins if file not in plugin_files(overrides)]
    if named:
        raise ConfigError(
            f"a preset cannot load code: plugins={named}",
            where="plugins",
            fix=f"name it on the command line: plugins=[{','.join(named)}]",
        )
