"""The plan: a configuration made checked and buildable, before anything heavy is loaded.

`make_plan` builds the plugin objects, reads the data, derives what was left open (`null`), decides which stages run
and which are taken from the cache, and estimates memory. Everything that can be refused is refused here.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import (
    __version__,
    ai_labels,
    controls,
    derive,
    evaluation_checks,
    feedback_checks,
    feedback_plan,
    honoured,
    judge_checks,
    memory,
    plan_checks,
    plan_notes,
    registry,
    reward_labels,
    round_checks,
    row_source,
    sources,
    stage_cache,
)
from rlhf_lora.mini import bases
from rlhf_lora.model_spec import ModelSpec, adapter_hash, base_hash
from rlhf_lora.records import Data
from rlhf_lora.reward_tree import every_reward, trained_folders
from rlhf_lora.schema import PLUGIN_GROUPS
from rlhf_lora.sources import Sources
from rlhf_lora.splits import Splits
from rlhf_lora.train_settings import TrainSettings

CACHE = "RLHF_LORA_CACHE"


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it reads and writes, and whether the cache has it.

    Attributes:
        key: names the stage by content: everything that decides its result.
        reused: the folder it is taken from, when the cache has it.
        repeatable: it comes out the same again, so that the cache may keep it; what a judge that is asked anew may answer
            otherwise says is not, nor what is learned from it.
    """

    name: str
    reads: str
    writes: str
    rows: int
    key: str
    memory: memory.Memory | None = None
    reused: Path | None = None
    repeatable: bool = True


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
    def row_source(self) -> row_source.RowSource:
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
    source = row_source.choose(config.optimizer, reward)
    needed = plan_checks.stage_names(config, reward, source)
    read = sources.read(config, datasets, load, feedback_checks.readers(needed), source.existing)
    source = row_source.settle(config.optimizer, read.existing)
    data, splits = read.data, read.splits
    derive.derive_updates(config, len(splits.prompts))
    honoured.check_stop_rule(config)
    built = {
        kind: None if config[kind] is None else registry.build(kind, config[kind])
        for kind in PLUGIN_GROUPS
        if kind not in ("dataset", "reward")
    }
    built["reward"] = reward
    spec = derive.model_spec(config)
    start_adapter = plan_checks.start_adapter_of(config)
    if start_adapter is not None:
        plan_checks.check_adapter_fits(start_adapter, shape, "model.adapter")
    reward_adapters = trained_folders(reward)
    for setting, folder in reward_adapters.items():
        plan_checks.check_adapter_fits(folder, shape, setting)
    plan_checks.check_missing(config, built["optimizer"])
    judge_checks.check_judge(config, reward, built["optimizer"], idle=not trains)
    if judge_checks.askers(config, reward):
        judge_checks.check_words(built["judge"], spec, mini)
    has_demonstrations = bool(splits.demonstrations or config.sft.dataset is not None)
    names = plan_checks.stage_names(config, reward, source, has_demonstrations)
    feedback_checks.check_stages(config, names)
    feedback_checks.check_rows(config, names, read)
    if "labels" in names:
        config.reward_model.loss = "pairwise"
    elif "reward_model" in names:
        config.reward_model.loss = reward_labels.loss_for(config.reward_model.loss, splits)
    has_reward_model = bool(reward_adapters) or "reward_model" in names
    policy_reads = row_source.reads(source, read.existing)
    plan_checks.check_rows(names, read, built["optimizer"], has_reward_model, config.reward_model.loss, policy_reads)
    reward_labels.refuse_ties(built["optimizer"], read.existing.pairs)
    controls.check_control(config, names, source.taught_by)
    if "policy" in names:
        if trains:
            row_source.check_reward(source, config, reward)
        relabelled = getattr(read.existing, policy_reads) if source.name == "relabel" else ()
        plan_checks.check_columns(built["reward"], splits, built["optimizer"], relabelled)
        evaluation_checks.check_midway(config, built["optimizer"], splits, data.gold)
        evaluation_checks.check_best_of_n(config, built["reward"], names)
    round_checks.check(config, source, names, built["optimizer"], splits)
    cache_dir = cache_folder()
    inputs = _inputs(
        config, spec, mini, read, reward, built["judge"], {"model.adapter": start_adapter, **reward_adapters}
    )
    stages = _stages(config, names, spec, shape, read, built, inputs, cache_dir)
    return Plan(
        config=config, spec=spec, mini=mini, dataset=dataset, sources=read, stages=tuple(stages), inputs=inputs,
        run_dir=_run_dir(config), cache_dir=cache_dir, width=shape.hidden, start_adapter=start_adapter,
        notes=tuple(plan_notes.notes(config, splits, stages)), **built,
    )  # fmt: skip


def cache_folder() -> Path:
    """Where finished stages and the embedded base are kept: `RLHF_LORA_CACHE`, else the user's cache folder."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given)
    home = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "rlhf_lora"


# --- stages and their keys --------------------------------------------------------------------------------------------


def _inputs(
    config: DictConfig, spec: ModelSpec, mini: bases.AnyBase | None, read: Sources, reward: Any, judge: Any,
    adapters: Mapping[str, Path | None],
) -> dict[str, str]:  # fmt: skip
    """What decides the result beside the settings, by content: a run is gone on with only while all of it is the same."""
    chosen = [(kind, config[kind].name) for kind in PLUGIN_GROUPS if config[kind] is not None]
    chosen += [("dataset", config[source.stage].dataset.name) for source in read.every if source.stage]
    chosen += [("reward", registry.to_config(part)["name"]) for _, part in every_reward(reward)]
    plugins = {f"{kind}={name}": registry.lookup(kind, name).source for kind, name in chosen}
    return {
        "the kit": __version__,
        "the base": bases.content_hash(mini) if mini is not None else base_hash(spec.path, spec.revision),
        **{name: adapter_hash(folder) for name, folder in adapters.items() if folder is not None},
        **read.fingerprints(),
        **{f"the plugin {name}": source for name, source in plugins.items() if source},
        **{
            f"the plugin judge={config.judge.name}: {what}": of
            for what, of in getattr(judge, "contents", dict)().items()
        },
    }


def _stages(
    config: DictConfig, names: Sequence[str], spec: ModelSpec, shape: memory.Shape, read: Sources,
    built: Mapping[str, Any], inputs: Mapping[str, str], cache_dir: Path,
) -> list[StagePlan]:  # fmt: skip
    model = [
        inputs["the base"],
        spec.load_in_4bit,
        spec.dtype,
        spec.device,
        vars(spec.lora),
        spec.template,
        dict(spec.template_kwargs),
    ]
    common = [stage_cache.code(), config.seed, model, config.hardware.threads]
    first_key = start_key = inputs.get("model.adapter")
    splits, repeatable = read.splits, True
    plans: list[StagePlan] = []

    def add(name: str, reads: str, writes: str, rows: int, of: list[Any], cached: bool = True) -> str:
        key = hashlib.sha256(json.dumps([name, *common, *of], sort_keys=True, default=str).encode()).hexdigest()[:20]
        folder = cache_dir / "stages" / f"{name}-{key}"
        known = cached and repeatable and config.cache and stage_cache.has(folder)
        expected = _stage_memory(name, config, shape, built, splits)
        expected = feedback_plan.with_judge(name, config, expected, built["reward"], built["judge"])
        plans.append(StagePlan(name, reads, writes, rows, key, expected, folder if known else None, repeatable))
        return key

    if "sft" in names:
        of: list[Any] = [start_key, _without_dataset(config.sft), splits.fingerprint("demonstrations")]
        start_key = add("sft", "demonstrations", "adapters/sft", len(splits.demonstrations), of)
    if "revisions" in names:
        repeatable = feedback_plan.is_repeatable(config.revisions.by == "judge", built["judge"])
        of = [start_key, *feedback_plan.revisions_of(config, splits, inputs)]
        revisions_key = add("revisions", "prompts", "revisions", feedback_plan.revised_rows(config, splits), of)
        if "revised_sft" in names:
            of = [first_key, revisions_key, _without_dataset(config.sft), splits.fingerprint("demonstrations")]
            rows = feedback_plan.revised_rows(config, splits, with_helpful_ones=True)
            start_key = add("revised_sft", "demonstrations", "adapters/revised_sft", rows, of)
    label_key: list[Any] = []
    if "labels" in names:
        repeatable = repeatable and feedback_plan.is_repeatable(True, built["judge"])
        of = [start_key, *feedback_plan.labels_of(config, splits, inputs)]
        reads = "prompts" if config.reward_model.pairs == "rollouts" else "pairs"
        label_key = [add("labels", reads, "labels", ai_labels.work_of(config, splits).rows, of)]
    reward_key: Any = [what for name, what in inputs.items() if name.startswith("reward.")]
    if "reward_model" in names:
        of = [
            start_key,
            _without_dataset(config.reward_model),
            config.evaluation.split,
            *label_key,
            splits.fingerprint(
                reward_labels.LISTS.get(reads := reward_labels.READS[config.reward_model.loss], reads),
                "tuning_pairs", "final_pairs", "tuning_ratings", "final_ratings", "tuning_labels", "final_labels",
            ),
        ]  # fmt: skip
        rows = (
            ai_labels.work_of(config, splits).most_pairs(config.ai_labels.samples_per_prompt)
            if label_key
            else len(reward_labels.asked_for(getattr(splits, reads), config.reward_model))
        )
        reward_key += [add("reward_model", reads, "adapters/reward", rows, of)]
    source = row_source.of(config.optimizer)
    if "answers" in names:
        of = [start_key, reward_key, row_source.deciding(source, config, read, inputs)]
        reads = row_source.reads(source, read.existing)
        start_key = add("answers", reads, "answers/", len(stage_rows(read, "policy", reads)), of, config.judge is None)
    if "policy" in names:
        reads = (source.existing or "prompts") if not source.made else f"{source.learns_from} of answers"
        of = [
            start_key,
            reward_key,
            *(OmegaConf.to_container(config[k]) for k in PLUGIN_GROUPS if config[k] is not None),
            [what for name, what in inputs.items() if name.startswith("the plugin")],
            *([inputs["the data"], inputs["the data of policy"]] if "the data of policy" in inputs else []),
            *([config.reward_model.labels] if reads in ("pairs", "labels") else []),
        ]
        rows = 0 if source.made else len(stage_rows(read, "policy", reads))
        add("policy", reads, "adapters/policy", rows, of, cached=False)
    return plans


def stage_rows(read: Sources, stage: str, reads: str) -> Sequence[Any]:
    rows: Sequence[Any] = getattr(read.existing if stage == "policy" and reads != "prompts" else read.splits, reads)
    return rows


def _without_dataset(settings: DictConfig) -> dict[str, Any]:
    """A stage's settings; its dataset counts by what it holds, not by where it lies."""
    return {str(key): value for key, value in OmegaConf.to_container(settings).items() if key != "dataset"}  # type: ignore[union-attr]


def _stage_memory(
    name: str, config: DictConfig, shape: memory.Shape, built: Mapping[str, Any], splits: Splits
) -> memory.Memory | None:
    if name in ("labels", "revisions"):
        return feedback_plan.stage_memory(name, config, shape, built["judge"])
    name = "sft" if name == "revised_sft" else name
    on_policy = name == "policy" and not hasattr(built["optimizer"], "learns_from")
    stage: Any = name if name != "policy" else ("on_policy" if on_policy else "preference")
    stage, on_policy = ("labelling", True) if name == "answers" else (stage, on_policy)
    reply = config.rollout.get("max_new_tokens") or derive.DEFAULT_NEW_TOKENS
    longest = (
        config.max_prompt_tokens + reply
        if on_policy
        else (config.optimizer if name == "policy" else config[name]).max_length
    )
    is_reward_model = name == "reward_model"
    rows = reward_labels.micro_batch(config, splits) if is_reward_model else config.hardware.micro_batch
    sequences = reward_labels.answers_in_a_row(config.reward_model.loss, splits) if is_reward_model else None
    if stage == "preference" and row_source.of(config.optimizer).learns_from != "pairs":
        sequences = 1
    return memory.estimate(
        shape, stage=stage, load_in_4bit=config.model.load_in_4bit, dtype=config.model.dtype, r=config.adapter.r,
        prompt_tokens=longest - min(reply, longest - 1), response_tokens=min(reply, longest - 1),
        rollout_batch=config.hardware.rollout_batch, micro_batch=rows, sequences=sequences, chunk=config.hardware.logprob_chunk,
        gradient_checkpointing=config.model.gradient_checkpointing, device_context=config.hardware.device == "cuda",
    )  # fmt: skip


def _run_dir(config: DictConfig) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir)
    now = datetime.now()
    return Path("runs") / now.strftime("%Y-%m-%d") / f"{now:%H-%M-%S}-{config.optimizer.name}-{config.reward.name}"
