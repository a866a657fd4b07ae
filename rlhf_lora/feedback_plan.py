"""The stages of AI feedback in a plan: what decides their result, whether it can be repeated, and their memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import derive, feedback_checks, memory
from rlhf_lora.feedback_checks import settings
from rlhf_lora.principles import principles_of
from rlhf_lora.records import Demonstration
from rlhf_lora.revised_rows import revised_prompts, with_helpful
from rlhf_lora.reward_tree import every_reward
from rlhf_lora.splits import Splits

SAMPLING = ("rollout", "max_prompt_tokens", "hardware.rollout_batch")
"""What decides a model's answers beside the model: one stream of random numbers goes through all batches."""


def is_repeatable(by_judge: bool, judge: Any) -> bool:
    """Whether the same questions are answered the same again. A judge says so of itself (`deterministic`); the run's own
    model is sampled with the run's seed."""
    return not by_judge or bool(getattr(judge, "deterministic", False))


def judge_settings(config: DictConfig, judge: Any) -> dict[str, Any] | None:
    """What decides what a judge says: its settings without those that only change how it is asked (`not_compared`), so that
    another budget or deadline does not ask for anything anew."""
    if config.judge is None:
        return None
    free = getattr(judge, "not_compared", ())
    found: dict[str, Any] = settings(config, "judge")[0]
    return {name: value for name, value in found.items() if name not in free}


def labels_of(config: DictConfig, splits: Splits, inputs: Mapping[str, str], judge: Any) -> list[Any]:
    """What decides a judge's labels, beside the SFT model and what all stages share."""
    reads = ["pairs", *(["prompts"] if config.reward_model.pairs == "rollouts" and not splits.pairs else [])]
    places = [
        "reward_model.pairs",
        "reward_model.rows",
        "reward_model.half",
        "ai_labels",
        "scoring.missing_share",
    ]
    if config.reward_model.pairs == "rollouts":
        places += SAMPLING
    asked = [judge_settings(config, judge), *_plugins(inputs, "judge", "rollout")]
    return [*settings(config, *places), splits.fingerprint(*reads), *asked]


def revisions_of(config: DictConfig, splits: Splits, inputs: Mapping[str, str], judge: Any) -> list[Any]:
    """What decides revisions, beside the SFT model and what all stages share."""
    places = ["revisions", *SAMPLING, "scoring.missing_share"]
    asked: list[Any] = _plugins(inputs, "rollout", "reward")
    if config.revisions.by == "judge":
        asked = [judge_settings(config, judge), *_plugins(inputs, "judge"), *asked]
    reads = "demonstrations" if config.revisions.of == "sft" else "prompts"
    said = [[p.id, p.text, p.critique, p.revision] for p in principles_of(config.revisions)]
    return [*settings(config, *places), said, splits.fingerprint(reads), *asked]


def revised_rows(config: DictConfig, splits: Splits, with_helpful_ones: bool = False) -> int:
    """How many prompts are revised; and how many demonstrations are then learned from."""
    prompts = revised_prompts(config, splits)
    if not with_helpful_ones:
        return len(prompts)
    revised = [Demonstration(prompt, "") for prompt in prompts]
    return len(with_helpful(revised, splits.demonstrations, config.revisions))


def stage_memory(name: str, config: DictConfig, shape: memory.Shape, judge: Any) -> memory.Memory | None:
    """Of sampling, where the base is loaded; None for labels that need no model here."""
    if name == "labels" and config.reward_model.pairs != "rollouts" and not getattr(judge, "needs_backbone", False):
        return None
    reply = config.rollout.get("max_new_tokens") or derive.DEFAULT_NEW_TOKENS
    if name == "revisions":
        reply = max(reply, config.revisions.max_new_tokens)
    return memory.estimate(
        shape, stage="labelling", frozen_adapters=1, load_in_4bit=config.model.load_in_4bit, dtype=config.model.dtype,
        r=config.adapter.r,
        prompt_tokens=config.max_prompt_tokens, response_tokens=reply, rollout_batch=config.hardware.rollout_batch,
        micro_batch=config.hardware.micro_batch, chunk=config.hardware.logprob_chunk,
        gradient_checkpointing=config.model.gradient_checkpointing, device_context=config.hardware.device == "cuda",
    )  # fmt: skip


def with_judge(
    name: str, config: DictConfig, expected: memory.Memory | None, reward: Any, judge: Any, shape: memory.Shape
) -> memory.Memory | None:
    """A stage's memory with that of a judge that brings a model of its own, where the stage asks it. Of a policy whose reward
    model it refreshes, that of the refresh where it is the larger one."""
    if not (weights := _own_bytes(config, judge)):
        return expected
    if name in _asking(config, reward):
        context = memory.CUDA_CONTEXT if config.hardware.device == "cuda" else 0
        return (expected or memory.Memory(0, 0, 0, 0, context, 0, 0, 0)).with_judge(weights)
    if name == "policy" and config.refresh.by == "judge" and expected is not None:
        sampling = stage_memory("refresh", config, shape, judge)
        assert sampling is not None
        return max(expected, sampling.with_judge(weights), key=lambda one: one.total)
    return expected


def notes(config: DictConfig, stages: Sequence[str], reward: Any, judge: Any) -> list[str]:
    """A judge's own model that stages ask and nobody counted."""
    asking = {*_asking(config, reward), *(["policy"] if config.refresh.by == "judge" else [])}
    if not set(stages) & asking or _own_bytes(config, judge) is not None:
        return []
    model = config.judge.get("path") or f"the model of judge={config.judge.name}"
    return [f"the memory of the judge is not counted: no config.json on this machine says how large {model} is"]


def _asking(config: DictConfig, reward: Any) -> list[str]:
    """The stages that ask the judge, if they run."""
    by_reward = any(getattr(one, "needs_judge", False) for _, one in every_reward(reward))
    return [*feedback_checks.asking_stages(config), *(["answers", "policy"] if by_reward else [])]


def _own_bytes(config: DictConfig, judge: Any) -> int | None:
    """Memory of a model that the judge brings; None where it has one and nothing here says how large it is."""
    told = getattr(judge, "own_bytes", None)
    weights = told(config.model.dtype) if callable(told) else 0
    return None if weights is None else int(weights)


def _plugins(inputs: Mapping[str, str], *kinds: str) -> list[Any]:
    starts = tuple(f"the plugin {kind}=" for kind in kinds)
    return [what for name, what in inputs.items() if name.startswith(starts)]
