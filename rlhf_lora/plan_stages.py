"""The stages of a plan: what each reads and writes, the key that names its result by content, and the memory it takes.

A key holds the keys of what the stage builds on, so that whatever changes goes on to every stage behind it, and to no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import ai_labels, derive, feedback_plan, memory, reward_labels, row_source, stage_cache
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.reward_tree import asks_judge, every_reward
from rlhf_lora.schema import PLUGIN_GROUPS
from rlhf_lora.sources import Sources

HELD_OUT = ("tuning_pairs", "final_pairs", "tuning_ratings", "final_ratings", "tuning_labels", "final_labels")
"""What a reward model is judged on."""


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
class Given:
    """What a plan knows once everything is checked, and its stages are listed.

    Attributes:
        names: the stages that run, in order.
        built: the plugins, by kind. inputs: see `Plan.inputs`.
    """

    config: DictConfig
    names: Sequence[str]
    spec: ModelSpec
    shape: memory.Shape
    read: Sources
    built: Mapping[str, Any]
    inputs: Mapping[str, str]
    cache_dir: Path


def stages(given: Given) -> list[StagePlan]:
    """The stages that run, in order."""
    listing = _Listing(given)
    for name in given.names:
        LISTED[name](listing)
    return listing.found


def stage_rows(read: Sources, stage: str, reads: str) -> Sequence[Any]:
    """The list called `reads` of what a stage may read."""
    rows: Sequence[Any] = getattr(read.existing if stage == "policy" and reads != "prompts" else read.splits, reads)
    return rows


class _Listing:
    """Lists one stage after another; a method for each (`LISTED`).

    `_start` is the key of the model that the next stage starts from, `_labels` and `_reward` those of what the judge said and
    of the reward model.
    """

    def __init__(self, given: Given):
        self.given, self.config, self.splits, self.inputs = given, given.config, given.read.splits, given.inputs
        self.found: list[StagePlan] = []
        self._repeatable = True
        self._start = given.inputs.get("model.adapter")
        self._revisions = ""
        self._labels: list[str] = []
        self._reward: Any = [what for name, what in given.inputs.items() if name.startswith("reward.")]
        self._common = [stage_cache.code(), given.config.seed, self._model(), given.config.hardware.threads]

    def sft(self) -> None:
        of = [self._start, _without_dataset(self.config.sft), self.splits.fingerprint("demonstrations")]
        self._start = self._add("sft", "demonstrations", "adapters/sft", len(self.splits.demonstrations), of)

    def revisions(self) -> None:
        self._asks_judge(self.config.revisions.by == "judge")
        of = [self._start, *feedback_plan.revisions_of(self.config, self.splits, self.inputs, self._judge), self._gold]
        rows = feedback_plan.revised_rows(self.config, self.splits)
        self._revisions = self._add("revisions", "prompts", "revisions", rows, of)

    def revised_sft(self) -> None:
        start = self.inputs.get("model.adapter")
        fingerprint = self.splits.fingerprint("demonstrations", "tuning_prompts")  # learned from, and measured on
        of = [start, self._revisions, _without_dataset(self.config.sft), fingerprint]
        rows = feedback_plan.revised_rows(self.config, self.splits, with_helpful_ones=True)
        self._start = self._add("revised_sft", "demonstrations", "adapters/revised_sft", rows, of)

    def labels(self) -> None:
        self._asks_judge(True)
        of = [self._start, *feedback_plan.labels_of(self.config, self.splits, self.inputs, self._judge), self._gold]
        reads = "prompts" if self.config.reward_model.pairs == "rollouts" else "pairs"
        self._labels = [self._add("labels", reads, "labels", ai_labels.work_of(self.config, self.splits).rows, of)]

    def reward_model(self) -> None:
        reads = reward_labels.READS[self.config.reward_model.loss]
        fingerprint = self.splits.fingerprint(reward_labels.LISTS.get(reads, reads), *HELD_OUT)
        settings, judged_on = _without_dataset(self.config.reward_model), self.config.evaluation.split
        of = [self._start, settings, judged_on, *self._labels, fingerprint, self._gold]
        if self._labels:
            rows = ai_labels.work_of(self.config, self.splits).most_pairs(self.config.ai_labels.samples_per_prompt)
        else:
            rows = len(reward_labels.asked_for(getattr(self.splits, reads), self.config.reward_model))
        self._reward += [self._add("reward_model", reads, "adapters/reward", rows, of)]

    def answers(self) -> None:
        source, read = row_source.of(self.config.optimizer), self.given.read
        of = [self._start, self._reward, row_source.deciding(source, self.config, read, self.inputs, self._judge)]
        reads = row_source.reads(source, read.existing)
        self._rounds()
        self._start = self._add("answers", reads, "answers/", len(stage_rows(read, "policy", reads)), of)

    def policy(self) -> None:
        self._rounds()
        config, inputs, source = self.config, self.inputs, row_source.of(self.config.optimizer)
        plugins = {kind: OmegaConf.to_container(config[kind]) for kind in PLUGIN_GROUPS if config[kind] is not None}
        reads = (source.existing or "prompts") if not source.made else f"{source.learns_from} of answers"
        of = [
            self._start,
            self._reward,
            plugins | {"judge": feedback_plan.judge_settings(config, self._judge)},
            [what for name, what in inputs.items() if name.startswith("the plugin")],
            *([inputs["the data"], inputs["the data of policy"]] if "the data of policy" in inputs else []),
            *([config.reward_model.labels] if reads in ("pairs", "labels") else []),
        ]
        rows = 0 if source.made else len(stage_rows(self.given.read, "policy", reads))
        self._add("policy", reads, "adapters/policy", rows, of, cached=False)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _judge(self) -> Any:
        return self.given.built["judge"]

    @property
    def _gold(self) -> str | None:
        """The truth that figures are told by; it may be another one of the same rows."""
        return self.given.read.data.gold

    def _rounds(self) -> None:
        """What the policy learns from, in all rounds: scores, and reward models of later rounds."""
        rewards = [one for _, one in every_reward(self.given.built["reward"])]
        self._repeatable &= all(getattr(one, "deterministic", True) for one in rewards)
        self._asks_judge(asks_judge(self.given.built["reward"]) or self.config.refresh.by == "judge")

    def _asks_judge(self, is_asked: bool) -> None:
        """From here on: what a judge says is the same again only where it says so of itself."""
        self._repeatable &= feedback_plan.is_repeatable(is_asked, self._judge)

    def _add(self, name: str, reads: str, writes: str, rows: int, of: list[Any], cached: bool = True) -> str:
        said = json.dumps([name, *self._common, *of], sort_keys=True, default=str)
        key = hashlib.sha256(said.encode()).hexdigest()[:20]
        folder = self.given.cache_dir / "stages" / f"{name}-{key}"
        known = cached and self._repeatable and self.config.cache and stage_cache.has(folder)
        needed = _memory_of(name, self.given)
        expected = feedback_plan.with_judge(
            name, self.config, needed, self.given.built["reward"], self._judge, self.given.shape
        )
        reused = folder if known else None
        self.found.append(StagePlan(name, reads, writes, rows, key, expected, reused, self._repeatable))
        return key

    def _model(self) -> list[Any]:
        spec = self.given.spec
        return [
            self.inputs["the base"],
            spec.load_in_4bit,
            spec.dtype,
            spec.device,
            vars(spec.lora),
            spec.template,
            dict(spec.template_kwargs),
        ]


LISTED: dict[str, Callable[[_Listing], None]] = {
    "sft": _Listing.sft,
    "revisions": _Listing.revisions,
    "revised_sft": _Listing.revised_sft,
    "labels": _Listing.labels,
    "reward_model": _Listing.reward_model,
    "answers": _Listing.answers,
    "policy": _Listing.policy,
}


def _without_dataset(settings: DictConfig) -> dict[str, Any]:
    """A stage's settings; its dataset counts by what it holds, not by where it lies."""
    return {str(key): value for key, value in OmegaConf.to_container(settings).items() if key != "dataset"}  # type: ignore[union-attr]


def _memory_of(name: str, given: Given) -> memory.Memory | None:
    config, shape, splits = given.config, given.shape, given.read.splits
    if name in ("labels", "revisions"):
        return feedback_plan.stage_memory(name, config, shape, given.built["judge"])
    name = "sft" if name == "revised_sft" else name
    on_policy = name == "policy" and not hasattr(given.built["optimizer"], "learns_from")
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
