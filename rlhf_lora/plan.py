"""The plan: a configuration made checked and buildable, before anything heavy is loaded.

`make_plan` builds the plugin objects, reads the data, derives what was left open (`null`), decides which stages run
and which are taken from the cache, and estimates memory. Everything that can be refused is refused here.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from rlhf_lora import __version__, memory, registry
from rlhf_lora.adamw import AdamW, derived_lr
from rlhf_lora.config import PLUGIN_GROUPS
from rlhf_lora.errors import ConfigError, DataError, ModelError, did_you_mean
from rlhf_lora.mini.base import BaseSettings
from rlhf_lora.mini.base import content_hash as mini_hash
from rlhf_lora.model_spec import LoraSpec, ModelSpec, adapter_hash, base_hash, check_model_folder
from rlhf_lora.records import Data
from rlhf_lora.splits import Shares, Splits, split
from rlhf_lora.train_settings import TrainSettings

STAGES = ("sft", "reward_model", "policy")
CACHE = "RLHF_LORA_CACHE"

# Learning rates at width 2048, and the power of 1 / width by which they grow on smaller models (`adamw.derived_lr`).
LEARNING_RATES = {
    "sft.adamw": (2e-4, 2 / 3),
    "reward_model.adamw": (1e-4, 2 / 3),
    "optimizer.adamw": (3e-5, 1.0),
    "optimizer.value_adamw": (6e-5, 1.0),
}
SMALL_WIDTH = 512
"""Models up to this width are small enough for big batches on any machine."""
DEFAULT_NEW_TOKENS = 128
PROMPT_TOKENS = 512
"""Prompt length that the memory estimate assumes: the plan loads no tokenizer."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it reads and writes, and whether the cache has it.

    Attributes:
        key: names the stage by content: everything that decides its result.
        reused: the folder it is taken from, when the cache has it.
    """

    name: str
    reads: str
    writes: str
    rows: int
    key: str
    memory: memory.Memory | None = None
    reused: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What `train` will do. Nothing in it is heavy; `pipeline` makes it happen.

    Attributes:
        config: resolved, with everything derived filled in.
        spec: of the model; `spec.path` is empty while the embedded base is not built (`mini` says which).
    """

    config: DictConfig
    spec: ModelSpec
    mini: BaseSettings | None
    dataset: Any
    reward: Any
    optimizer: Any
    rollout: Any
    tracker: Any
    data: Data
    splits: Splits
    stages: tuple[StagePlan, ...]
    run_dir: Path
    cache_dir: Path
    width: int
    start_adapter: Path | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_on_policy(self) -> bool:
        return not hasattr(self.optimizer, "learns_from")

    def stage(self, name: str) -> StagePlan | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def settings(self, name: Literal["sft", "reward_model"]) -> TrainSettings:
        """Training settings of an off-policy stage."""
        node = self.config[name]
        return _train_settings(node, name, self.config.hardware.micro_batch)


def make_plan(config: DictConfig) -> Plan:
    """Check a composed configuration and make it buildable.

    Raises:
        ConfigError, PluginError, DataError, ModelError: whatever would fail later, with where and what to do.
    """
    config = config.copy()
    _check_scalars(config)
    dataset = registry.build("dataset", config.dataset)
    mini = _mini_settings(config, dataset)
    shape = _shape(config, mini)
    _derive(config, shape.hidden, dataset)
    built = {kind: registry.build(kind, config[kind]) for kind in PLUGIN_GROUPS if kind != "dataset"}
    spec = _spec(config)
    data = dataset.load()
    splits = split(data, Shares(**config.splits))
    start_adapter = _start_adapter(config)
    names = _stage_names(config, built["reward"], built["optimizer"], splits, start_adapter)
    _check_rows(names, splits, built["optimizer"])
    cache_dir = cache_folder()
    stages = _stages(config, names, spec, mini, shape, splits, built, start_adapter, cache_dir)
    return Plan(
        config=config, spec=spec, mini=mini, dataset=dataset, data=data, splits=splits, stages=tuple(stages),
        run_dir=_run_dir(config), cache_dir=cache_dir, width=shape.hidden, start_adapter=start_adapter,
        notes=tuple(_notes(config, splits, stages)), **built,
    )  # fmt: skip


def cache_folder() -> Path:
    """Where finished stages and the embedded base are kept: `RLHF_LORA_CACHE`, else the user's cache folder."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given)
    home = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "rlhf_lora"


# --- deriving what was left open --------------------------------------------------------------------------------------


def _derive(config: DictConfig, width: int, dataset: Any) -> None:
    """Fill in what is `null` because it follows from the rest."""
    hardware = config.hardware
    hardware.device = _device(hardware.device)
    small = width <= SMALL_WIDTH
    if hardware.micro_batch is None:
        hardware.micro_batch = 64 if small else 8
    if hardware.rollout_batch is None:
        hardware.rollout_batch = 256 if small else 32
    if hardware.threads is None and hardware.device == "cpu" and small:
        hardware.threads = 1  # for tiny models more threads only wait for each other
    for place, (rate, power) in LEARNING_RATES.items():
        node = OmegaConf.select(config, place)
        if node is not None and node.lr is None:
            node.lr = derived_lr(rate, width, power)
    if "max_new_tokens" in config.rollout and config.rollout.max_new_tokens is None:
        config.rollout.max_new_tokens = getattr(dataset, "max_new_tokens", DEFAULT_NEW_TOKENS)


def _device(asked: str) -> str:
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"there is no device '{asked}'", where="hardware.device", fix="auto, cpu or cuda")
    if asked == "cpu":
        return "cpu"
    # Asked for, it stays: the plan may be for another machine, and `train` refuses when torch finds no card.
    return "cuda" if asked == "cuda" or has_cuda() else "cpu"


def has_cuda() -> bool:
    """Whether the NVIDIA driver is here and has a card, asked without torch."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False


def _shape(config: DictConfig, mini: BaseSettings | None) -> memory.Shape:
    """The model's shape: a folder's config.json wins, then the preset's, then the hub's."""
    model = config.model
    if mini is not None:
        return memory.Shape(mini.hidden, mini.layers, mini.heads, mini.heads, mini.hidden // mini.heads, mini.feed_forward, 96, False)
    check_model_folder(model.path)
    file = Path(model.path) / "config.json"
    if not file.is_file() and model.shape is not None:
        return memory.Shape(**model.shape)
    if not file.is_file():
        file = _hub_config(model.path, model.revision)
    try:
        return memory.from_config_json(json.loads(file.read_text()))
    except json.JSONDecodeError as error:
        raise ModelError(f"config.json is not JSON: {error}", where=str(file), fix="copy the model folder again") from error


def _hub_config(path: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(path, "config.json", revision=revision))
    except Exception as error:
        raise ModelError(
            f"the model '{path}' is no folder here, and its config.json cannot be had from the hub ({type(error).__name__})",
            where=f"model.path={path}",
            fix="give a local folder, a preset (model=qwen3_4b), or model.shape={hidden: …}; check the name and the network",
        ) from error


def _mini_settings(config: DictConfig, dataset: Any) -> BaseSettings | None:
    """The embedded base that goes with `dataset=orders`, when no model is given."""
    if config.model.path is not None:
        return None
    items = getattr(dataset, "items", None)
    if items is None:
        raise ConfigError(
            f"the embedded base knows only the words of dataset=orders, not those of dataset={config.dataset.name}",
            where="model.path=null",
            fix="give a model: model.path=FOLDER, or a preset such as model=qwen3_0_6b; "
            "`python -m rlhf_lora.mini text --data FILE --to FOLDER` makes a small one from your text",
        )
    return BaseSettings(items=items, seed=config.seed)


def _spec(config: DictConfig) -> ModelSpec:
    model, adapter = config.model, config.adapter
    targets = adapter.target_modules
    return ModelSpec(
        path=model.path or "", revision=model.revision, load_in_4bit=model.load_in_4bit, dtype=model.dtype,
        device=config.hardware.device, template=model.template,
        template_kwargs=OmegaConf.to_container(model.template_kwargs) or {},  # type: ignore[arg-type]
        gradient_checkpointing=model.gradient_checkpointing,
        lora=LoraSpec(adapter.r, adapter.alpha, adapter.dropout, targets if isinstance(targets, str) else tuple(targets)),
    )  # fmt: skip


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_scalars(config: DictConfig) -> None:
    """Ranges of what no plugin checks for itself."""
    choices = {
        "resume": ("auto", "never"), "model.dtype": ("float32", "bfloat16"), "model.template": ("auto", "chat", "plain")
    }  # fmt: skip
    for place, allowed in choices.items():
        value = OmegaConf.select(config, place)
        if value not in allowed:
            raise ConfigError(f"{place} is '{value}'{did_you_mean(str(value), allowed)}", where=place, fix=" or ".join(allowed))
    lowest = {
        "adapter.r": 1, "adapter.alpha": 1, "checkpoint_every": 1, "samples_every": 1, "evaluation.prompts": 1,
        "evaluation.show": 0, "hardware.logprob_chunk": 1, "hardware.micro_batch": 1, "hardware.rollout_batch": 1,
        "hardware.threads": 1, "seed": 0,
    }  # fmt: skip
    for place, low in lowest.items():
        value = OmegaConf.select(config, place)
        if value is not None and value < low:
            raise ConfigError(f"{place} is {value}", where=place, fix=f"at least {low}")
    if config.adapter.dropout != 0:
        raise ConfigError(
            f"adapter.dropout is {config.adapter.dropout}", where="adapter.dropout",
            fix="0: with dropout, rollout and update log-probs differ and the ratio of PPO means nothing",
        )  # fmt: skip
    if not 0 <= config.missing_share < 1:
        raise ConfigError(f"missing_share is {config.missing_share}", where="missing_share", fix="from 0 up to 1")
    for name in ("sft", "reward_model"):
        _train_settings(config[name], name, 1)


def _train_settings(node: Any, where: str, micro_batch: int) -> TrainSettings:
    adamw = AdamW.of(OmegaConf.to_container(node.adamw))  # type: ignore[arg-type]
    if adamw.lr is None:
        adamw.lr = 0.0  # only while checking; the plan derives it
    fields = {k: node[k] for k in ("epochs", "batch_size", "max_length", "schedule", "warmup", "max_grad_norm")}
    rows = next((m for m in range(min(micro_batch, max(1, node.batch_size)), 0, -1) if node.batch_size % m == 0), 1)
    try:
        return TrainSettings.of(adamw, micro_batch=rows, **fields)
    except ValueError as error:
        raise ConfigError(str(error), where=where, fix=f"`rlhf-lora plan` shows the settings of {where}") from error


def _start_adapter(config: DictConfig) -> Path | None:
    """Someone's SFT adapter to start from: a run folder, or an adapter folder."""
    given = config.model.adapter
    if given is None:
        return None
    for folder in (Path(given) / "adapters" / "sft", Path(given)):
        if (folder / "adapter_config.json").is_file() and (folder / "adapter_model.safetensors").is_file():
            return folder
    raise ModelError(
        f"no adapter in {given}", where=f"model.adapter={given}",
        fix="give a run folder, or a folder with adapter_config.json and adapter_model.safetensors",
    )  # fmt: skip


def _stage_names(config: DictConfig, reward: Any, optimizer: Any, splits: Splits, start: Path | None) -> list[str]:
    """The stages that run, in order: those asked for, or those that reward and optimizer need."""
    on_policy = not hasattr(optimizer, "learns_from")
    needed = [name for name in getattr(reward, "stages", ()) if on_policy]
    if getattr(optimizer, "pairs", "dataset") != "dataset":
        raise ConfigError(
            f"optimizer.pairs={optimizer.pairs} is not there yet", where="optimizer.pairs", fix="pairs=dataset"
        )
    if config.stages is None:
        sft = ["sft"] if start is None and splits.demonstrations else []
        return [*sft, *needed, "policy"]
    names = list(config.stages)
    for name in names:
        if name not in STAGES:
            raise ConfigError(f"there is no stage '{name}'{did_you_mean(name, STAGES)}", where="stages", fix=f"stages: {', '.join(STAGES)}")
    missing = [name for name in needed if name not in names and "policy" in names]
    if missing or not names:
        raise ConfigError(
            f"reward={config.reward.name} needs the stage {missing[0] if missing else '…'}", where=f"stages={names}",
            fix="add it to stages, or give reward.path=RUN of a trained reward model",
        )  # fmt: skip
    return [name for name in STAGES if name in names]


def _check_rows(names: Sequence[str], splits: Splits, optimizer: Any) -> None:
    """Every stage has rows to learn from, and the end has prompts to judge on."""
    wants = {"sft": ("demonstrations", "demonstrations"), "reward_model": ("pairs", "pairs (chosen and rejected)")}
    learns_from = getattr(optimizer, "learns_from", None)
    wants["policy"] = (learns_from, learns_from) if learns_from else ("prompts", "prompts")
    for name in names:
        attribute, what = wants[name]
        if not getattr(splits, attribute):
            raise DataError(
                f"the stage {name} needs {what}, and this data has none for it", where="dataset",
                fix="give data that has them, other `splits`, or leave the stage out (stages=[…])",
            )  # fmt: skip
    if "policy" in names and not splits.final_prompts:
        raise DataError(
            "no prompt is left for the final evaluation", where="splits.final",
            fix="give more rows, a larger splits.final, or a test file (dataset.test_path=FILE)",
        )  # fmt: skip


# --- stages and their keys --------------------------------------------------------------------------------------------


def _stages(
    config: DictConfig, names: Sequence[str], spec: ModelSpec, mini: BaseSettings | None, shape: memory.Shape, splits: Splits,
    built: Mapping[str, Any], start: Path | None, cache_dir: Path,
) -> list[StagePlan]:  # fmt: skip
    base = mini_hash(mini) if mini is not None else base_hash(spec.path, spec.revision)
    model = [base, spec.load_in_4bit, spec.dtype, spec.device, vars(spec.lora), spec.template, dict(spec.template_kwargs)]
    common = [__version__, config.seed, model, config.hardware.threads]
    start_key = adapter_hash(start) if start else None
    plans: list[StagePlan] = []

    def add(name: str, reads: str, writes: str, rows: int, inputs: list[Any], cached: bool = True) -> str:
        key = hashlib.sha256(json.dumps([name, *common, *inputs], sort_keys=True, default=str).encode()).hexdigest()[:20]
        folder = cache_dir / "stages" / f"{name}-{key}"
        reused = folder if cached and config.cache and (folder / "adapter" / "adapter_config.json").is_file() else None
        plans.append(StagePlan(name, reads, writes, rows, key, _stage_memory(name, config, shape, built), reused))
        return key

    if "sft" in names:
        inputs = [start_key, OmegaConf.to_container(config.sft), splits.fingerprint("demonstrations")]
        start_key = add("sft", "demonstrations", "adapters/sft", len(splits.demonstrations), inputs)
    reward_key = None
    if "reward_model" in names:
        inputs = [start_key, OmegaConf.to_container(config.reward_model), splits.fingerprint("pairs", "tuning_pairs", "final_pairs")]
        reward_key = add("reward_model", "pairs", "adapters/reward", len(splits.pairs), inputs)
    if "policy" in names:
        learns_from = getattr(built["optimizer"], "learns_from", None)
        reads = learns_from or "prompts"
        inputs = [start_key, reward_key, *(OmegaConf.to_container(config[k]) for k in PLUGIN_GROUPS), registry.source_hashes()]
        add("policy", reads, "adapters/policy", len(getattr(splits, reads)), inputs, cached=False)
    return plans


def _stage_memory(name: str, config: DictConfig, shape: memory.Shape, built: Mapping[str, Any]) -> memory.Memory:
    on_policy = name == "policy" and not hasattr(built["optimizer"], "learns_from")
    stage: Any = name if name != "policy" else ("on_policy" if on_policy else "preference")
    return memory.estimate(
        shape, stage=stage, load_in_4bit=config.model.load_in_4bit, dtype=config.model.dtype, r=config.adapter.r,
        prompt_tokens=PROMPT_TOKENS, response_tokens=config.rollout.get("max_new_tokens") or DEFAULT_NEW_TOKENS,
        rollout_batch=config.hardware.rollout_batch, micro_batch=config.hardware.micro_batch, chunk=config.hardware.logprob_chunk,
        gradient_checkpointing=config.model.gradient_checkpointing, device_context=config.hardware.device == "cuda",
    )  # fmt: skip


def _run_dir(config: DictConfig) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir)
    now = datetime.now()
    return Path("runs") / now.strftime("%Y-%m-%d") / f"{now:%H-%M-%S}-{config.optimizer.name}-{config.reward.name}"


def _notes(config: DictConfig, splits: Splits, stages: Sequence[StagePlan]) -> list[str]:
    """What a user would want to know before starting."""
    notes = []
    final, prompts = len(splits.final_prompts), len(splits.prompts)
    if any(s.name == "policy" for s in stages) and final < 100:
        notes.append(f"only {final} held-out prompts: a win rate will be ± {98 / final**0.5:.0f} points")
    if any(s.name == "policy" and s.reads == "prompts" for s in stages) and prompts < config.optimizer.prompts_per_update:
        notes.append(f"{prompts} prompts for {config.optimizer.prompts_per_update} a rollout: prompts repeat within one")
    if config.hardware.memory_gib:
        for stage in stages:
            if stage.memory and not stage.memory.fits(config.hardware.memory_gib):
                notes.append(f"{stage.name} is estimated at {stage.memory.total_gib:.1f} GiB: too much for {config.hardware.memory_gib} GiB")
    return notes
