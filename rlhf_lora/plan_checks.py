"""What a plan refuses before anything heavy is loaded: ranges, stages that cannot work, data that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import feedback_checks
from rlhf_lora.adamw import AdamW
from rlhf_lora.controls import LABELS
from rlhf_lora.errors import ConfigError, DataError, ModelError, did_you_mean
from rlhf_lora.evaluation_checks import KEPT_BY
from rlhf_lora.feedback_checks import STAGES
from rlhf_lora.memory import Shape
from rlhf_lora.records import prompt_of
from rlhf_lora.reward_labels import LOSSES, READS, WANTS, refuse_one_kind
from rlhf_lora.reward_tree import every_reward, waiting_for
from rlhf_lora.row_source import RowSource
from rlhf_lora.scores import columns_of
from rlhf_lora.sources import Sources
from rlhf_lora.splits import Splits
from rlhf_lora.train_settings import TrainSettings, micro_batch_within


def check_ranges(config: DictConfig) -> None:
    """Ranges of what no plugin checks for itself."""
    choices = {
        "resume": ("auto", "never", "mended"), "model.dtype": ("float32", "bfloat16"), "model.template": ("auto", "chat", "plain"),
        "reward_model.labels": LABELS, "reward_model.loss": LOSSES,
        "reward_model.half": (None, "first", "second"), "scoring.on_error": ("stop", "missing"),
        "scoring.process": ("auto", "never"), "scoring.missing": ("drop", "group_mean", "stop"),
        "evaluation.split": ("final", "tuning"), "evaluation.keep": ("last", "best"), "evaluation.metric": KEPT_BY,
    }  # fmt: skip
    for place, allowed in choices.items():
        value = OmegaConf.select(config, place)
        if value not in allowed:
            raise ConfigError(
                f"{place} is '{value}'{did_you_mean(str(value), filter(None, allowed))}",
                where=place,
                fix=" or ".join(name or "null" for name in allowed),
            )
    lowest = {
        "adapter.r": 1, "adapter.alpha": 1, "checkpoint_every": 1, "samples_every": 1, "evaluation.prompts": 1,
        "evaluation.every": 1,
        "evaluation.show": 0, "hardware.logprob_chunk": 1, "hardware.micro_batch": 1, "hardware.rollout_batch": 1,
        "hardware.threads": 1, "seed": 0, "max_prompt_tokens": 1, "rollout.max_new_tokens": 1,
        "reward_model.rows": 1, "rounds": 1, "refresh.pairs": 1,
    }  # fmt: skip
    for place, low in lowest.items():
        value = OmegaConf.select(config, place)
        if value is not None and value < low:
            raise ConfigError(f"{place} is {value}", where=place, fix=f"at least {low}")
    if config.seed >= 2**63:
        raise ConfigError(f"seed is {config.seed}", where="seed", fix="below 2 to the power of 63")
    if config.hardware.memory_gib is not None and not config.hardware.memory_gib > 0:
        raise ConfigError(
            f"hardware.memory_gib is {config.hardware.memory_gib}", where="hardware.memory_gib", fix="above 0"
        )
    if config.adapter.dropout != 0:
        raise ConfigError(
            f"adapter.dropout is {config.adapter.dropout}", where="adapter.dropout",
            fix="0: with dropout, rollout and update log-probs differ and the ratio of PPO means nothing",
        )  # fmt: skip
    if not 0 <= config.scoring.missing_share < 1:
        share = config.scoring.missing_share
        raise ConfigError(f"scoring.missing_share is {share}", where="scoring.missing_share", fix="from 0 up to 1")
    if config.scoring.deadline is not None and not config.scoring.deadline > 0:
        raise ConfigError(
            f"scoring.deadline is {config.scoring.deadline}", where="scoring.deadline", fix="seconds above 0, or null"
        )
    for name in ("sft", "reward_model"):
        train_settings(config[name], name, 1)
    feedback_checks.check_ranges(config)


def train_settings(node: Any, where: str, micro_batch: int) -> TrainSettings:
    names = ("epochs", "batch_size", "max_length", "schedule", "warmup", "max_grad_norm", "sort_by_length")
    fields = {k: node[k] for k in names}
    rows = micro_batch_within(node.batch_size, micro_batch)
    try:
        adamw = AdamW.of(OmegaConf.to_container(node.adamw))  # type: ignore[arg-type]
        if adamw.lr is None:
            adamw.lr = 0.0  # only while checking; the plan derives it
        return TrainSettings.of(adamw, micro_batch=rows, **fields)
    except ValueError as error:
        raise ConfigError(str(error), where=where, fix=f"`rlhf-lora plan` shows the settings of {where}") from error


def start_adapter_of(config: DictConfig) -> Path | None:
    """Someone's SFT adapter to start from: a run folder, or an adapter folder."""
    given = config.model.adapter
    if given is None:
        return None
    for folder in (*(Path(given) / "adapters" / name for name in ("revised_sft", "sft")), Path(given)):
        if (folder / "adapter_config.json").is_file() and (folder / "adapter_model.safetensors").is_file():
            return folder
        if (folder / "adapter_model.bin").is_file():
            raise ModelError(
                "the adapter is a pickle, which can run code when it is read", where=str(folder / "adapter_model.bin"),
                fix="save it as adapter_model.safetensors: model.save_pretrained(FOLDER) with a current peft does",
            )  # fmt: skip
    raise ModelError(
        f"no adapter in {given}", where=f"model.adapter={given}",
        fix="give a run folder, or a folder with adapter_config.json and adapter_model.safetensors",
    )  # fmt: skip


def check_adapter_fits(folder: Path, shape: Shape, where: str) -> None:
    """Refuse an adapter that is cut, no LoRA, or whose sizes are another model's; from its config and header alone.

    Raises:
        ModelError: it cannot be read, or was made for another base.
    """
    _check_adapter_config(folder / "adapter_config.json")
    file = folder / "adapter_model.safetensors"
    try:
        with open(file, "rb") as data:
            size = int.from_bytes(data.read(8), "little")
            header = json.loads(data.read(size))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
            if file.stat().st_size != 8 + size + end:
                raise ValueError(f"the file has {file.stat().st_size} bytes and should have {8 + size + end}")
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise ModelError(
            f"the adapter's weights cannot be read: {error}", where=str(file), fix="copy or save it again"
        ) from error
    widths = {tuple(entry["shape"])[1] for name, entry in header.items() if name.endswith("q_proj.lora_A.weight")}
    layers = {int(match[1]) for name in header if (match := re.search(r"layers\.(\d+)\.", name))}
    if (widths and widths != {shape.hidden}) or (layers and max(layers) >= shape.layers):
        raise ModelError(
            f"the adapter was made for another base: {max(layers) + 1} layers, {', '.join(map(str, sorted(widths)))} wide; "
            f"the model has {shape.layers} layers, {shape.hidden} wide",
            where=f"{where}={folder}",
            fix="give an adapter that was trained on this model",
        )


def _check_adapter_config(file: Path) -> None:
    try:
        kind = json.loads(file.read_text("utf-8")).get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the adapter's configuration cannot be read: {error}", where=str(file), fix="copy or save it again"
        ) from error
    if kind != "LORA":
        raise ModelError(f"the adapter is {kind}, not LoRA", where=str(file), fix="give a LoRA adapter")


def stage_names(
    config: DictConfig, reward: Any, source: RowSource, has_demonstrations: bool = True
) -> list[str]:  # fmt: skip
    """The stages that run, in order: those asked for, or those that reward and optimizer need.

    Args:
        source: where the optimizer's rows come from. Where the reward makes them, `answers` goes before the policy.
        has_demonstrations: whether there is anything that SFT could learn from; it is not run unasked without. True
            while the data are still to be read.

    Raises:
        ConfigError: what was asked for is no list of stages, or leaves out one that the reward needs.
    """
    needed = [name for name in getattr(reward, "stages", ()) if source.asks_reward]
    answers = ["answers"] if source.made else []
    if config.stages is None:
        sft = ["sft"] if config.model.adapter is None and has_demonstrations else []
        return feedback_checks.unasked(config, [*sft, *needed, *answers, "policy"])
    names = [str(name) for name in config.stages]
    _check_stages_asked(names)
    if "answers" in names and ("policy" not in names or not source.made):
        raise ConfigError(
            "the stage answers makes rows for a policy's optimizer, and none here asks for them", where=_stages(names),
            fix="leave it out; optimizer=dpo optimizer.pairs=rollouts would ask for them",
        )  # fmt: skip
    names += answers if "policy" in names and not {*answers} & {*names} else []
    missing = [name for name in needed if name not in names and "policy" in names]
    if missing:
        raise ConfigError(
            f"reward={config.reward.name} needs the stage {missing[0]}", where=_stages(names),
            fix=f"add it to stages, or give {waiting_for(reward, missing[0])}.path=RUN of a trained reward model",
        )  # fmt: skip
    return [name for name in STAGES if name in names]  # in the order in which they run


def _check_stages_asked(names: Sequence[str]) -> None:
    """At least one, each of them known, and none twice."""
    if not names:
        raise ConfigError(
            "stages is an empty list: nothing would run", where="stages=[]",
            fix=f"name some of {', '.join(STAGES)}; stages=null = those that reward and optimizer need",
        )  # fmt: skip
    for name in names:
        if name not in STAGES:
            raise ConfigError(
                f"there is no stage '{name}'{did_you_mean(name, STAGES)}",
                where=_stages(names),
                fix=f"stages: {', '.join(STAGES)}",
            )
    twice = [name for name in STAGES if names.count(name) > 1]
    if twice:
        once = [name for name in STAGES if name in names]
        raise ConfigError(
            f"the stage {twice[0]} is there {names.count(twice[0])} times, and runs once", where=_stages(names),
            fix=f"{_stages(once)}; how long a stage trains is a setting of its own, such as sft.epochs",
        )  # fmt: skip


def _stages(names: Sequence[str]) -> str:
    return f"stages=[{','.join(names)}]"


def check_missing(config: DictConfig, optimizer: Any) -> None:
    """A missing score can be its group's mean only where there are groups."""
    if config.scoring.missing != "group_mean":
        return
    if hasattr(optimizer, "learns_from"):
        raise ConfigError(
            f"optimizer={config.optimizer.name} learns from which answer is better: an answer without a score is in no row",
            where="scoring.missing=group_mean", fix="scoring.missing=drop, or stop",
        )  # fmt: skip
    if getattr(optimizer, "samples_per_prompt", 1) < 2:
        raise ConfigError(
            "a missing score cannot be its group's mean: every prompt is answered once", where="scoring.missing=group_mean",
            fix="optimizer.samples_per_prompt=2 or more (rloo and grpo have 4), or scoring.missing=drop",
        )  # fmt: skip


def check_columns(reward: Any, splits: Splits, optimizer: Any = None, relabelled: Sequence[Any] = ()) -> None:
    """The data has every column that the reward asks for, demonstrations too where the optimizer has them scored, and rows
    whose answers the reward is to order."""
    scored = [*splits.prompts, *splits.final_prompts, *(row.prompt for row in relabelled)]
    if getattr(optimizer, "scale_scores", "none") == "demonstrations":
        scored += [demonstration.prompt for demonstration in splits.demonstrations]
    wanted = {name: place for place, one in [("reward", reward), *every_reward(reward)] for name in columns_of(one)}
    for name, place in wanted.items():
        without = [p for p in scored if name not in p.columns]
        if without:
            have = ", ".join(sorted(without[0].columns)) or "none"
            raise DataError(
                f"the reward wants the column '{name}', which the data does not have", where=place,
                fix=f"columns of this data: {have}",
            )  # fmt: skip
    if callable(look := getattr(reward, "check_prompts", None)):
        look(scored)


def check_rows(
    names: Sequence[str], read: Sources, optimizer: Any, has_reward_model: bool, loss: str, policy_reads: str
) -> None:  # fmt: skip
    """Every stage has rows to learn from, and the end has prompts to judge on. `loss`: of the reward model."""
    reads = READS.get(loss, "pairs")
    wants = {"sft": ("demonstrations", "demonstrations"), "reward_model": (reads, WANTS[reads])}
    wants["policy"] = (policy_reads, policy_reads)
    if "labels" in names:
        del wants["reward_model"]  # it learns from what the stage labels makes, which has checks of its own
    for name in [name for name in names if name in wants]:  # `answers` reads what the policy is said to read here
        attribute, what = wants[name]
        if not getattr(read.existing if name == "policy" and attribute != "prompts" else read.splits, attribute):
            setting, other = read.named(name), ""
            if name == "reward_model" and loss != "pairwise":
                what, other = f"{what} for reward_model.loss={loss}", "reward_model.loss=auto; or "
            raise DataError(
                f"the stage {name} needs {what}, and {_has(read, setting)}", where=setting,
                fix=f"{other}{_by_name(read, setting)}give data that has them ({name}.dataset=jsonl "
                f"{name}.dataset.path=FILE for this stage alone), other `splits`, or leave the stage out (stages=[…])",
            )  # fmt: skip
    if "reward_model" in names and reads == "labels":
        refuse_one_kind(read.splits.labels)
    if "policy" in names and not read.splits.demonstrations:
        _check_wants_no_demonstrations(optimizer)
    if getattr(optimizer, "value_init", "zero") == "reward" and "policy" in names and not has_reward_model:
        raise ConfigError(
            "the value function is to begin as the reward model, and there is none",
            where="optimizer.value_init=reward", fix="reward=learned, or optimizer.value_init=zero",
        )  # fmt: skip
    if "policy" in names and not read.splits.final_prompts:
        setting = read.named("policy")
        raise DataError(
            "no prompt is left for the final evaluation", where="splits.final",
            fix=f"give more rows, a larger splits.final, or a test file ({setting}.test_path=FILE)",
        )  # fmt: skip


def _check_wants_no_demonstrations(optimizer: Any) -> None:
    """For data that has no demonstrations."""
    other = "data with demonstrations (sft.dataset=jsonl sft.dataset.path=FILE)"
    if getattr(optimizer, "ptx", 0.0) > 0:
        raise DataError(
            "PPO-ptx keeps the policy close to demonstrations, and there are none",
            where=f"optimizer.ptx={optimizer.ptx}", fix=f"optimizer.ptx=0, or {other}",
        )  # fmt: skip
    if getattr(optimizer, "scale_scores", "none") == "demonstrations":
        raise DataError(
            "scores are to be measured against demonstrations, and there are none",
            where="optimizer.scale_scores=demonstrations", fix=f"optimizer.scale_scores=reference, or {other}",
        )  # fmt: skip


def _by_name(read: Sources, setting: str) -> str:
    """How columns of a dataset that went into nothing could be named."""
    source = next(source for source in read.every if source.setting == setting)
    rows = [*source.data.prompts, *source.data.demonstrations] if hasattr(source.dataset, "columns") else []
    if not (unread := sorted({column for row in rows for column in prompt_of(row).columns})):
        return ""
    return f"say which columns are what, {setting}.columns={{OURS: YOURS}} (not read: {', '.join(unread[:8])}); or "


def _has(read: Sources, setting: str) -> str:
    """What a dataset has instead of what was wanted."""
    source = next(source for source in read.every if source.setting == setting)
    counts = {
        name: len(getattr(source.data, name))
        for name in ("demonstrations", "pairs", "labels", "rankings", "ratings", "prompts")
    }
    holds = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing"
    return f"{setting} has none (it holds {holds})" if source.stage else f"this data has none for it (it holds {holds})"
