"""The plan: a configuration made checked and buildable, before anything heavy is loaded.

`make_plan` builds the plugin objects, reads the data, derives what was left open (`null`), decides which stages run
and which are taken from the cache, and estimates memory. Everything that can be refused is refused here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from rlhf_lora import (
    __version__,
    controls,
    derive,
    evaluation_checks,
    feedback_checks,
    honoured,
    judge_checks,
    memory,
    plan_checks,
    plan_notes,
    plan_stages,
    registry,
    reward_labels,
    round_checks,
    row_source,
    sources,
)
from rlhf_lora.mini import bases
from rlhf_lora.model_spec import ModelSpec, adapter_hash, base_hash
from rlhf_lora.plan_stages import Given, StagePlan, stage_rows
from rlhf_lora.records import Data
from rlhf_lora.reward_tree import every_reward, trained_folders
from rlhf_lora.row_source import RowSource
from rlhf_lora.schema import OWN_DATASETS, PLUGIN_GROUPS
from rlhf_lora.sources import Sources
from rlhf_lora.splits import Splits
from rlhf_lora.train_settings import TrainSettings

CACHE = "RLHF_LORA_CACHE"


@dataclass(frozen=True)
class Plan:
    """What `train` will do. Nothing in it is heavy; `pipeline` makes it happen.

    Attributes:
        config: resolved, with everything derived filled in.
        spec: of the model; `spec.path` is empty while the embedded base is not built (`mini` says which).
        sources: the datasets, one by one; `splits` and `data` are what the stages get of them together.
        inputs: what the settings only point at, by content: name → hash of the base, the adapters, the data, plugins.
    """

    config: DictConfig
    spec: ModelSpec
    mini: bases.AnyBase | None
    dataset: Any
    reward: Any
    judge: Any
    optimizer: Any
    rollout: Any
    tracker: Any
    sources: Sources
    stages: tuple[StagePlan, ...]
    inputs: Mapping[str, str]
    run_dir: Path
    cache_dir: Path
    width: int
    start_adapter: Path | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_on_policy(self) -> bool:
        return not hasattr(self.optimizer, "learns_from")

    @property
    def row_source(self) -> RowSource:
        """Where the policy's optimizer has its rows from."""
        return row_source.of(self.config.optimizer)

    @property
    def data(self) -> Data:
        """The dataset that stages share."""
        return self.sources.data

    @property
    def splits(self) -> Splits:
        """What each stage learns from and is judged on; an off-policy optimizer reads `rows(stage)`."""
        return self.sources.splits

    def rows(self, stage: StagePlan, made: Sequence[Any] | None = None) -> Sequence[Any]:
        """What a stage learns from; labelled as `reward_model.labels` says, where somebody compared or rated answers.

        Args:
            made: what the stage `labels` made, where there is one.
        """
        rows = stage_rows(self.sources, stage.name, stage.reads) if made is None else made
        if stage.name == "reward_model" and made is None:
            rows = reward_labels.asked_for(rows, self.config.reward_model)
        if stage.reads in reward_labels.WANTS:
            rows = controls.relabelled(rows, self.config.reward_model.labels, self.config.seed)
        return row_source.as_labels(rows) if stage.name == "policy" and self.row_source.name == "pairs" else rows

    def stage(self, name: str) -> StagePlan | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def settings(self, name: Literal["sft", "reward_model"]) -> TrainSettings:
        """Training settings of an off-policy stage."""
        node, most = self.config[name], self.config.hardware.micro_batch
        if name == "reward_model":
            most = reward_labels.micro_batch(self.config, self.splits)
        return plan_checks.train_settings(node, name, most)


def make_plan(
    config: DictConfig, load: Callable[[Any], Data] = lambda dataset: dataset.load(), trains: bool = True
) -> Plan:
    """Check a composed configuration and make it buildable.

    Args:
        load: reads a dataset; a sweep gives one that reads each dataset once for all of its jobs.
        trains: False of a plan to judge a finished run by, perhaps with another reward than it was trained on.

    Raises:
        ConfigError, PluginError, DataError, ModelError: whatever would fail later, with where and what to do.
    """
    config = config.copy()
    plan_checks.check_ranges(config)
    honoured.check_config(config)
    if "seed" in config.dataset and config.dataset.seed is None:
        config.dataset.seed = config.seed
    dataset = registry.build("dataset", config.dataset)
    mini = derive.mini_settings(config, dataset)
    shape = derive.shape_of(config, mini)
    datasets = sources.built(config, dataset)
    asked = datasets.get("policy.dataset", dataset)
    derive.derive(config, shape.hidden, derive.max_positions(config, mini), asked)
    reward = registry.build("reward", config.reward)
    read, source = _read(config, datasets, reward, load, trains)
    built = _built(config, reward)
    spec = derive.model_spec(config)
    adapters = _adapters(config, reward, shape)
    names = _checked_stages(config, built, read, source, trains)
    if judge_checks.askers(config, reward):
        judge_checks.check_words(built["judge"], spec, mini, reward)
    inputs = _inputs(config, spec, mini, read, reward, built["judge"], adapters)
    cache_dir = cache_folder()
    stages = plan_stages.stages(Given(config, names, spec, shape, read, built, inputs, cache_dir))
    return Plan(
        config=config, spec=spec, mini=mini, dataset=dataset, sources=read, stages=tuple(stages), inputs=inputs,
        run_dir=_run_dir(config), cache_dir=cache_dir, width=shape.hidden, start_adapter=adapters.get("model.adapter"),
        notes=tuple(plan_notes.notes(config, read.splits, stages, built)), **built,
    )  # fmt: skip


def cache_folder() -> Path:
    """Where finished stages and the embedded base are kept: `RLHF_LORA_CACHE`, else the user's cache folder."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given)
    home = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "rlhf_lora"


# --- what a plan is made of -------------------------------------------------------------------------------------------


def _read(
    config: DictConfig, datasets: Mapping[str, Any], reward: Any, load: Callable[[Any], Data], trains: bool
) -> tuple[Sources, RowSource]:
    """The data, split; where the policy's rows come from; and as many updates as there are prompts for."""
    source = row_source.choose(config.optimizer, reward)
    needed = plan_checks.stage_names(config, reward, source)
    if not trains:  # by whatever it is judged, what it was trained on is held out still
        needed += [stage for stage in OWN_DATASETS if config[stage].dataset is not None]
    read = sources.read(config, datasets, load, feedback_checks.readers(needed), source.existing)
    source = row_source.settle(config.optimizer, read.existing)
    derive.derive_updates(config, len(read.splits.prompts))
    honoured.check_stop_rule(config)
    return read, source


def _built(config: DictConfig, reward: Any) -> dict[str, Any]:
    """The plugins beside the dataset, by kind; None where the configuration names none."""
    others = [kind for kind in PLUGIN_GROUPS if kind not in ("dataset", "reward")]
    built = {kind: None if config[kind] is None else registry.build(kind, config[kind]) for kind in others}
    return built | {"reward": reward}


def _adapters(config: DictConfig, reward: Any, shape: memory.Shape) -> dict[str, Path]:
    """Setting → the adapter folder that it names; each is this base's."""
    start = plan_checks.start_adapter_of(config)
    found = ({} if start is None else {"model.adapter": start}) | trained_folders(reward)
    for setting, folder in found.items():
        plan_checks.check_adapter_fits(folder, shape, setting)
    return found


def _checked_stages(
    config: DictConfig, built: Mapping[str, Any], read: Sources, source: RowSource, trains: bool
) -> list[str]:
    """The stages that run. What they need is there, and what the settings ask for is what they do."""
    reward, optimizer, splits = built["reward"], built["optimizer"], read.splits
    plan_checks.check_missing(config, optimizer)
    judge_checks.check_judge(config, reward, optimizer, built["judge"], idle=not trains)
    has_demonstrations = bool(splits.demonstrations or config.sft.dataset is not None)
    names = plan_checks.stage_names(config, reward, source, has_demonstrations)
    if trains:  # another reward, to judge by, does without stages that the run had
        feedback_checks.check_stages(config, names)
        feedback_checks.check_rows(config, names, read)
    if "labels" in names:
        config.reward_model.loss = "pairwise"
    elif "reward_model" in names:
        config.reward_model.loss = reward_labels.loss_for(config.reward_model.loss, splits)
    has_reward_model = bool(trained_folders(reward)) or "reward_model" in names or not trains
    policy_reads = row_source.reads(source, read.existing)
    plan_checks.check_rows(names, read, optimizer, has_reward_model, config.reward_model.loss, policy_reads)
    reward_labels.refuse_ties(optimizer, read.existing.pairs)
    controls.check_control(config, names, source.taught_by)
    if "policy" in names:
        _check_policy(config, built, read, source, names, trains)
    if trains:
        round_checks.check(config, source, names, optimizer, splits)
    return names


def _check_policy(
    config: DictConfig, built: Mapping[str, Any], read: Sources, source: RowSource, names: Sequence[str], trains: bool
) -> None:
    """What teaches the policy was chosen to, finds the columns that it wants, and can judge."""
    reward, optimizer, splits = built["reward"], built["optimizer"], read.splits
    if trains:
        row_source.check_reward(source, config, reward)
    relabelled = getattr(read.existing, row_source.reads(source, read.existing)) if source.name == "relabel" else ()
    plan_checks.check_columns(reward, splits, optimizer, relabelled)
    evaluation_checks.check_midway(config, optimizer, splits, read.data.gold)
    evaluation_checks.check_best_of_n(config, reward, names)


def _inputs(
    config: DictConfig, spec: ModelSpec, mini: bases.AnyBase | None, read: Sources, reward: Any, judge: Any,
    adapters: Mapping[str, Path],
) -> dict[str, str]:  # fmt: skip
    """What decides the result beside the settings, by content: a run is gone on with only while all of it is the same."""
    chosen = [(kind, config[kind].name) for kind in PLUGIN_GROUPS if config[kind] is not None]
    chosen += [("dataset", config[source.stage].dataset.name) for source in read.every if source.stage]
    chosen += [("reward", registry.to_config(part)["name"]) for _, part in every_reward(reward)]
    chosen += [("reward", name) for name in _rewards_by_name(config)]
    plugins = {f"{kind}={name}": registry.lookup(kind, name).source for kind, name in chosen}
    return {
        "the kit": __version__,
        "the base": bases.content_hash(mini) if mini is not None else base_hash(spec.path, spec.revision),
        **{name: adapter_hash(folder) for name, folder in adapters.items()},
        **read.fingerprints(),
        **{f"the plugin {name}": source for name, source in plugins.items() if source},
        **{
            f"the plugin judge={config.judge.name}: {what}": of
            for what, of in getattr(judge, "contents", dict)().items()
        },
    }


def _rewards_by_name(config: DictConfig) -> list[str]:
    """Rewards that do not teach the policy: of simulated people, and of what measures revisions."""
    people = [config.refresh.by] if config.refresh.by not in (None, "judge") else []
    return [*people, *(config.revisions.measure if config.revisions.rounds else [])]


def _run_dir(config: DictConfig) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir)
    now = datetime.now()
    return Path("runs") / now.strftime("%Y-%m-%d") / f"{now:%H-%M-%S}-{config.optimizer.name}-{config.reward.name}"
