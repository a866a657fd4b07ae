"""The configuration: its schema, and composing it from overrides with one clear message when that fails.

Hydra composes YAML groups and the plugins' fields into one tree; the dataclasses here give the rest of it types. After
composing, every key must be one that a schema or a plugin knows: `+x=1` cannot smuggle one in.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import honoured, registry, user_presets
from rlhf_lora.adamw import AdamW
from rlhf_lora.errors import ConfigError, PluginError, did_you_mean

PLUGIN_GROUPS = ("dataset", "reward", "optimizer", "rollout", "tracker")
OWN_DATASETS = ("sft", "reward_model", "policy")
"""Stages that can read a dataset of their own: `dataset@sft.dataset=NAME`, or shorter `sft.dataset=NAME`."""

NO_PRESET = ("profile=null", "control=null", "experiment=null")
"""The default, which Hydra's groups cannot be told in words; one value of a sweep over them."""


@dataclass
class ModelConfig:
    path: str | None = None
    revision: str | None = None
    load_in_4bit: bool = True
    dtype: str = "bfloat16"
    template: str = "auto"
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    gradient_checkpointing: bool = False
    shape: dict[str, Any] | None = None


@dataclass
class AdapterConfig:
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Any = "all-linear"


@dataclass
class HardwareConfig:
    device: str = "auto"
    memory_gib: float | None = None
    threads: int | None = None
    micro_batch: int | None = None
    rollout_batch: int | None = None
    logprob_chunk: int = 256


@dataclass
class SplitsConfig:
    sft: int = 15
    reward_model: int = 50
    prompts: int = 25
    tuning: int = 5
    final: int = 5


@dataclass
class StageConfig:
    epochs: float = 1.0
    batch_size: int = 32
    max_length: int = 1024
    schedule: str = "cosine"
    warmup: float = 0.03
    max_grad_norm: float = 1.0
    adamw: AdamW = field(default_factory=AdamW)
    dataset: Any = None


@dataclass
class RewardModelConfig(StageConfig):
    labels: str = "as_given"


@dataclass
class PolicyConfig:
    dataset: Any = None


@dataclass
class EvaluationConfig:
    prompts: int = 1000
    show: int = 10
    seed: int | None = None
    split: str = "final"
    every: int | None = None
    keep: str = "last"
    metric: str = "policy.win_rate_vs_reference"


@dataclass
class TrainConfig:
    """The whole of a run's configuration. Plugin groups are typed by their plugins."""

    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    dataset: Any = None
    reward: Any = None
    optimizer: Any = None
    rollout: Any = None
    tracker: Any = None
    seed: int = 0
    stages: list[str] | None = None
    run_dir: str | None = None
    resume: str = "auto"
    cache: bool = True
    checkpoint_every: int = 5
    samples_every: int = 10
    missing_share: float = 0.5
    max_prompt_tokens: int = 512
    plugins: list[str] = field(default_factory=list)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    sft: StageConfig = field(default_factory=StageConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    profile: str | None = None
    profile_overrides: bool = False
    control: str | None = None


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """The configuration that Hydra overrides describe. Plugin files named in `plugins=[…]` are loaded first.

    Args:
        config_dir: presets of the user's own: CONFIG_DIR/GROUP/NAME.yaml.

    Raises:
        ConfigError, PluginError: an unknown group, option or key, a wrong type, a plugin file that fails.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    registry.load_entry_points()
    ConfigStore.instance().store(name="schema", node=TrainConfig, provider="rlhf_lora")
    given = [_own_dataset(override) for override in overrides if override not in NO_PRESET]
    for file in plugin_files(given):
        registry.load_file(file)
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
        raise _as_config_error(error, given, own) from error
    if own:
        user_presets.refuse_code(OmegaConf.to_container(config))
        _check_no_plugins_in_yaml(config, given)
    check_keys(config)
    return config


def recompose(saved: Mapping[str, Any], overrides: Sequence[str] = ()) -> DictConfig:
    """A saved configuration with overrides on it. Plugin files that it names are not loaded: a run folder may come from
    a stranger. Name your own again with `plugins=[…]`.

    Raises:
        ConfigError, PluginError: as `compose`.
    """
    import yaml
    from omegaconf.errors import OmegaConfBaseException

    registry.load_entry_points()
    for file in plugin_files(overrides):
        registry.load_file(file)
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
        raise _as_config_error(error, overrides) from error
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


def _with_free_keys(overrides: Sequence[str]) -> list[str]:
    """Mappings whose keys are the user's own (`model.template_kwargs={enable_thinking: false}`) take new keys as they are;
    Hydra would ask for `++` before them."""
    free = {"model.template_kwargs", "model.shape"}
    for entry in registry.entries():
        places = [entry.kind, *(f"{stage}.dataset" for stage in OWN_DATASETS if entry.kind == "dataset")]
        names = [name for name, (hint, _) in entry.fields().items() if typing.get_origin(hint) is dict]
        free |= {f"{place}.{name}" for place in places for name in names}

    def is_free(override: str) -> bool:
        key = override.partition("=")[0]
        return any(key == place or key.startswith(f"{place}.") for place in free)

    return [f"++{override}" if is_free(override) else override for override in overrides]


def _own_dataset(override: str) -> str:
    """`sft.dataset=jsonl` as Hydra wants it said: `dataset@sft.dataset=jsonl`."""
    key, equals, value = override.partition("=")
    key = key.removeprefix("dataset@")
    if key not in [f"{stage}.dataset" for stage in OWN_DATASETS]:
        return override
    plain = value.strip() == "null" or value.lstrip().startswith("{")  # Hydra's groups know neither
    return f"{'' if plain else 'dataset@'}{key}{equals}{value}"


def _check_plugin_names(overrides: Sequence[str], own: Path | None = None) -> None:
    """Say which plugins there are before Hydra lists its groups: our message knows near names and failed packages."""
    for override in overrides:
        key, _, value = override.partition("=")
        kind = key.lstrip("+").partition("@")[0]
        if (
            kind in PLUGIN_GROUPS
            and value
            and not _is_preset(kind, value)
            and value not in user_presets.names(own, kind)
        ):
            for name in value.split(","):
                registry.lookup(kind, name.strip().strip("'\""))


def _check_no_deletions(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.startswith("~"):
            raise ConfigError(
                f"a setting cannot be taken away: {override}",
                where=override,
                fix=f"set it to null: {override[1:]}=null",
            )


def _check_no_plugins_in_yaml(config: DictConfig, overrides: Sequence[str]) -> None:
    """A preset may come from a stranger, and a plugin file is code: only the command line names one."""
    named = [file for file in config.plugins if file not in plugin_files(overrides)]
    if named:
        raise ConfigError(
            f"a preset cannot load code: plugins={named}",
            where="plugins",
            fix=f"name it on the command line: plugins=[{','.join(named)}]",
        )


def _is_preset(kind: str, name: str) -> bool:
    return resources.files("rlhf_lora.conf").joinpath(kind, f"{name}.yaml").is_file()


def _as_config_error(error: Exception, overrides: Sequence[str], own: Path | None = None) -> ConfigError | PluginError:
    """Hydra's message as ours: what, where, what to do."""
    # Hydra wraps what OmegaConf said of the value in "Error merging override"; the value is the news.
    told = error.__cause__ if str(error).startswith("Error merging override") and error.__cause__ else error
    message = str(told).strip()
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    where = _override_in(message, overrides)
    unchosen = re.search(r"'((\w+)\.dataset)\.\w+'", message)
    if unchosen and unchosen[2] in OWN_DATASETS and not any(o.startswith(f"dataset@{unchosen[1]}=") for o in overrides):
        place = unchosen[1]
        where = next((o for o in overrides if o.lstrip("+").startswith(f"{place}.")), where)
        what = f"no dataset of its own is chosen for the stage {unchosen[2]}"
        return ConfigError(what, where=where, fix=f"add {place}=NAME, such as {place}=jsonl")
    missing_key = re.search(r"Key '([^']+)' (?:is not in struct|not in '(\w+)')", message)
    if missing_key:
        full = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), missing_key[1])
        known = _all_keys(overrides)
        return ConfigError(
            f"there is no setting '{full}'{did_you_mean(full, known)}", where=where, fix=_keys_hint(full, known)
        )
    group = re.search(r"Could not override '([^']+)'", message)
    if group and "." in group[1]:
        known = _all_keys(overrides)
        return ConfigError(
            f"there is no setting '{group[1]}'{did_you_mean(group[1], known)}",
            where=where,
            fix=_keys_hint(group[1], known),
        )
    if group:
        return ConfigError(
            f"there is no group or setting '{group[1]}'{did_you_mean(group[1], [*_groups(), *typing.get_type_hints(TrainConfig)])}",
            where=where,
            fix=f"groups: {', '.join(_groups())}; settings are written with dots: model.path=FOLDER",
        )
    option = re.search(r"Could not find '([^']+)'", message)
    if option:
        kind, _, name = option[1].rpartition("/")
        known = options(kind, own)
        return ConfigError(
            f"{kind} has no '{name}'{did_you_mean(name, known)}", where=where, fix=f"choices: {', '.join(known)}"
        )
    if (
        "Error parsing override" in message
        or "no viable alternative" in message
        or "mismatched input" in message
        or "token recognition" in message
    ):
        return ConfigError(
            f"this override cannot be read: {where}",
            where=where,
            fix="write key=value; quote what has commas: 'key=\"a, b\"'",
        )
    if "Ambiguous value for argument" in message:
        return ConfigError(
            f"several values for one run: {where}",
            where=where,
            fix="add -m for a sweep over them; or quote what has commas: 'key=\"a, b\"'",
        )
    value = next(
        (line for line in lines if "could not be converted" in line or "Invalid value" in line),
        lines[0] if lines else repr(error),
    )
    full = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    return ConfigError(
        value.rstrip("."), where=full or where, fix="`rlhf-lora plugins` and `rlhf-lora plan` show settings and types"
    )


def _override_in(message: str, overrides: Sequence[str]) -> str:
    """The override that a message is about, found by its key or its text."""
    keys = {override: override.partition("=")[0].lstrip("+~") for override in overrides}
    for found in (
        lambda override: override in message,
        lambda override: re.search(rf"\b{re.escape(keys[override])}\b", message),
        lambda override: re.search(rf"\b{re.escape(keys[override].rpartition('.')[2])}\b", message),
    ):
        for override in overrides:
            if found(override):
                return override
    return ", ".join(overrides)


def _groups() -> list[str]:
    folders = [f.name for f in resources.files("rlhf_lora.conf").iterdir() if f.is_dir() and not f.name.startswith("_")]
    return sorted({*folders, *PLUGIN_GROUPS})


def options(group: str, own: Path | None = None) -> list[str]:
    """What can be chosen in a group: presets, the user's own ones in `own`, plugins."""
    folder = resources.files("rlhf_lora.conf").joinpath(group)
    presets = (
        [f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")] if folder.is_dir() else []
    )
    return sorted(
        {*presets, *user_presets.names(own, group), *(registry.names(group) if group in registry.KINDS else [])}
    )


def _all_keys(overrides: Sequence[str]) -> list[str]:
    """Every setting there is, with those of the plugins that the overrides choose."""
    keys = []
    for name, hint in typing.get_type_hints(TrainConfig).items():
        keys.append(name)
        if dataclasses.is_dataclass(hint):
            keys += [f"{name}.{f.name}" for f in dataclasses.fields(hint)]
    chosen = _chosen(overrides)
    for entry in registry.entries():
        if chosen.get(entry.kind, entry.name) == entry.name:
            keys += [f"{entry.kind}.{f}" for f in entry.fields()]
        for stage in OWN_DATASETS if entry.kind == "dataset" else ():
            if f"dataset@{stage}.dataset={entry.name}" in overrides:
                keys += [f"{stage}.dataset.{f}" for f in entry.fields()]
    return keys


def _chosen(overrides: Sequence[str]) -> dict[str, str]:
    """Kind → plugin, of the defaults and the overrides; without the kinds for which a preset was chosen."""
    import yaml

    text = resources.files("rlhf_lora.conf").joinpath("train.yaml").read_text("utf-8")
    chosen = {
        k: v for default in yaml.safe_load(text)["defaults"] if isinstance(default, dict) for k, v in default.items()
    }
    chosen |= {key: value for key, _, value in (override.partition("=") for override in overrides)}
    return {kind: chosen[kind] for kind in PLUGIN_GROUPS if kind in chosen and chosen[kind] in registry.names(kind)}


def _keys_hint(key: str, known: Sequence[str]) -> str:
    parent = key.rpartition(".")[0]
    inside = sorted({k for k in known if k.rpartition(".")[0] == parent})
    near = difflib.get_close_matches(key, inside, n=8, cutoff=0.0) if len(inside) > 12 else inside
    return f"settings {f'of {parent}' if parent else 'here'}: {', '.join(near)}"
