"""What can be set: the types of the configuration, its groups with their options, and every key there is."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from rlhf_lora import registry, user_presets
from rlhf_lora.adamw import AdamW

PLUGIN_GROUPS = ("dataset", "reward", "judge", "optimizer", "rollout", "tracker")
"""Kinds of plugins, one of each in a run; of judges one or none."""
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
    shape: dict[str, Any] = field(default_factory=dict)


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
    sort_by_length: bool = True
    adamw: AdamW = field(default_factory=AdamW)
    dataset: Any = None


@dataclass
class RewardModelConfig(StageConfig):
    loss: str = "auto"
    labels: str = "as_given"
    rows: int | None = None
    half: str | None = None
    pairs: str = "dataset"


@dataclass
class AiLabelsConfig:
    orders: str = "both"
    tie_within: float = 0.0
    hard: bool = False
    keep_dataset: float = 0.0
    samples_per_prompt: int = 2
    prompts: int | None = None


@dataclass
class RevisionsConfig:
    rounds: int = 0
    by: str = "self"
    of: str = "sft"
    where: dict[str, Any] = field(default_factory=dict)
    prompts: int | None = None
    helpful: float = 1.0
    constitution: Any = None
    measure: list[str] = field(default_factory=list)
    max_new_tokens: int = 256


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
    best_of_n: Any = None


@dataclass
class RefreshConfig:
    by: str | None = None
    pairs: int = 512
    tau: float = 0.0


@dataclass
class ScoringConfig:
    deadline: float | None = 120.0
    on_error: str = "stop"
    process: str = "auto"
    missing: str = "drop"
    missing_share: float = 0.5


@dataclass
class TrainConfig:
    """The whole of a run's configuration. Plugin groups are typed by their plugins."""

    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    dataset: Any = None
    reward: Any = None
    judge: Any = None
    optimizer: Any = None
    rollout: Any = None
    tracker: Any = None
    seed: int = 0
    stages: list[str] | None = None
    rounds: int = 1
    run_dir: str | None = None
    resume: str = "auto"
    cache: bool = True
    checkpoint_every: int = 5
    samples_every: int = 10
    max_prompt_tokens: int = 512
    plugins: list[str] = field(default_factory=list)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    sft: StageConfig = field(default_factory=StageConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    ai_labels: AiLabelsConfig = field(default_factory=AiLabelsConfig)
    revisions: RevisionsConfig = field(default_factory=RevisionsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    profile: str | None = None
    profile_overrides: bool = False
    control: str | None = None


def groups() -> list[str]:
    """The groups that an override chooses from: folders of presets, and the kinds of plugins."""
    folders = [f.name for f in resources.files("rlhf_lora.conf").iterdir() if f.is_dir() and not f.name.startswith("_")]
    return sorted({*folders, *PLUGIN_GROUPS})


def is_preset(group: str, name: str) -> bool:
    return resources.files("rlhf_lora.conf").joinpath(group, f"{name}.yaml").is_file()


def options(group: str, own: Path | None = None) -> list[str]:
    """What can be chosen in a group: presets, the user's own ones in `own`, plugins."""
    folder = resources.files("rlhf_lora.conf").joinpath(group)
    presets = (
        [f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")] if folder.is_dir() else []
    )
    return sorted(
        {*presets, *user_presets.names(own, group), *(registry.names(group) if group in registry.KINDS else [])}
    )


def all_keys(overrides: Sequence[str]) -> list[str]:
    """Every setting there is, with those of the plugins that the overrides choose."""
    keys = []
    for name, hint in typing.get_type_hints(TrainConfig).items():
        keys.append(name)
        if dataclasses.is_dataclass(hint):
            keys += [f"{name}.{f.name}" for f in dataclasses.fields(hint)]
    chosen = _chosen(overrides)
    for entry in registry.entries():
        if chosen.get(entry.kind, entry.name) == entry.name:
            for setting, (hint, _) in entry.fields().items():
                inner = dataclasses.fields(hint) if dataclasses.is_dataclass(hint) else ()
                keys += [f"{entry.kind}.{setting}", *(f"{entry.kind}.{setting}.{f.name}" for f in inner)]
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
