"""Filling in what a configuration leaves open (`null`) because it follows from the rest: device, sizes, learning rates.

A setting that was derived is written back into the configuration, so the saved one says what was really used.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf_lora import memory, registry
from rlhf_lora.adamw import derived_lr
from rlhf_lora.errors import ConfigError, ModelError
from rlhf_lora.mini import bases
from rlhf_lora.mini.base import MAX_POSITIONS, BaseSettings
from rlhf_lora.mini.helpdesk_base import HelpdeskBase
from rlhf_lora.model_spec import LoraSpec, ModelSpec, check_model_folder
from rlhf_lora.train_settings import micro_batch_within

# Learning rates at width 2048, and the power of 1 / width by which they grow on smaller models (`adamw.derived_lr`).
LEARNING_RATES = {
    "sft.adamw": (2e-4, 2 / 3),
    "reward_model.adamw": (1e-4, 2 / 3),
}
RL_POWER = 1.0  # of optimizers, which say their rates themselves (`learning_rates`)
SMALL_WIDTH = 512
"""Models up to this width are small: batches follow from the lengths alone."""
MICRO_BATCH_TOKENS, ROLLOUT_TOKENS = 8_192, 65_536
"""For such models: tokens of one forward and backward, and of the sequences sampled at once."""
PASSES, MOST_UPDATES = 8, 60
DEFAULT_NEW_TOKENS = 128


def derive(config: DictConfig, width: int, positions: int | None, dataset: Any) -> None:
    """Fill in what is `null` because it follows from the rest, and keep lengths within what the model takes.

    Args:
        width: hidden size. positions: longest sequence the model was made for, when it is known.
    """
    hardware = config.hardware
    hardware.device = _device(hardware.device)
    if "max_new_tokens" in config.rollout and config.rollout.max_new_tokens is None:
        config.rollout.max_new_tokens = getattr(dataset, "max_new_tokens", None) or DEFAULT_NEW_TOKENS
    new_tokens = config.rollout.get("max_new_tokens") or DEFAULT_NEW_TOKENS
    if positions is not None:
        _check_positions(positions, new_tokens)
        config.max_prompt_tokens = min(config.max_prompt_tokens, positions - new_tokens)
        for stage in (config.sft, config.reward_model, config.optimizer):
            if "max_length" in stage:
                stage.max_length = min(stage.max_length, positions)
    small, longest = width <= SMALL_WIDTH, config.max_prompt_tokens + new_tokens
    if hardware.micro_batch is None:
        hardware.micro_batch = max(1, min(64, MICRO_BATCH_TOKENS // longest)) if small else 8
    if hardware.rollout_batch is None:
        hardware.rollout_batch = max(1, min(256, ROLLOUT_TOKENS // longest)) if small else 32
    if hardware.threads is None and hardware.device == "cpu" and small:
        hardware.threads = 1  # for tiny models more threads only wait for each other
    if "value" in config.optimizer and config.optimizer.value is None:
        config.optimizer.value = "trunk" if small else "adapter"
    if "micro_batch" in config.optimizer and config.optimizer.micro_batch is None:
        config.optimizer.micro_batch = micro_batch_within(config.optimizer.batch_size, hardware.micro_batch)
    own = getattr(registry.lookup("optimizer", config.optimizer.name).cls, "learning_rates", {})
    rates = LEARNING_RATES | {f"optimizer.{name}": (rate, RL_POWER) for name, rate in own.items()}
    for place, (rate, power) in rates.items():
        node = OmegaConf.select(config, place)
        if node is not None and node.lr is None:
            node.lr = derived_lr(rate, width, power)


def derive_updates(config: DictConfig, prompts: int) -> None:
    """How many rollouts: eight passes over the prompts, `MOST_UPDATES` at most."""
    if "updates" in config.optimizer and config.optimizer.updates is None:
        passes = -(-PASSES * prompts // max(1, config.optimizer.prompts_per_update))
        config.optimizer.updates = max(1, min(MOST_UPDATES, passes))


def max_positions(config: DictConfig, mini: bases.AnyBase | None) -> int | None:
    """The longest sequence the model was made for; None when only the hub knows."""
    if mini is not None:
        return MAX_POSITIONS
    file = Path(config.model.path) / "config.json"
    found = json.loads(file.read_text("utf-8")).get("max_position_embeddings") if file.is_file() else None
    return None if found is None else int(found)


def _check_positions(positions: int, new_tokens: int) -> None:
    if new_tokens >= positions:
        raise ConfigError(
            f"{new_tokens} new tokens leave no room for a prompt: the model takes {positions}",
            where="rollout.max_new_tokens",
            fix=f"below {positions}",
        )


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


def shape_of(config: DictConfig, mini: bases.AnyBase | None) -> memory.Shape:
    """The model's shape: a folder's config.json wins, then the preset's, then the hub's."""
    model = config.model
    if mini is not None:
        return memory.Shape(
            mini.hidden, mini.layers, mini.heads, mini.heads, mini.hidden // mini.heads, mini.feed_forward, 96, False
        )
    check_model_folder(model.path)
    file = Path(model.path) / "config.json"
    if not file.is_file():
        if model.shape:
            return memory.Shape.of(model.shape)
        file = _hub_config(model.path, model.revision)
    try:
        return memory.from_config_json(json.loads(file.read_text("utf-8")))
    except ModelError:
        if not model.shape:
            raise
        return memory.Shape.of(model.shape)  # given because config.json does not say it
    except json.JSONDecodeError as error:
        raise ModelError(
            f"config.json is not JSON: {error}", where=str(file), fix="copy the model folder again"
        ) from error


def _hub_config(path: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(path, "config.json", revision=revision))
    except Exception as error:
        raise ModelError(
            f"the model '{path}' is no folder here, and its config.json cannot be had from the hub ({type(error).__name__})",
            where=f"model.path={path}",
            fix="give a local folder, a preset (model=qwen3_4b), or every number of model.shape; check the name and the network",
        ) from error


def mini_settings(config: DictConfig, dataset: Any) -> bases.AnyBase | None:
    """The embedded base that knows the dataset's words, when no model is given."""
    if config.model.path is not None:
        return None
    task = bases.task_of(dataset)
    if task is None:
        raise ConfigError(
            f"the embedded base knows only the words of the generated datasets, not those of dataset={config.dataset.name}",
            where="model.path=null",
            fix="give a model: model.path=FOLDER, or a preset such as model=qwen3_0_6b; "
            "`python -m rlhf_lora.mini text --data FILE --to FOLDER` makes a small one from your text"
            + (
                "; dataset.mini_task=orders where the answers are of that task" if hasattr(dataset, "mini_task") else ""
            ),
        )
    if task == "helpdesk":
        return HelpdeskBase(seed=config.seed)
    return BaseSettings(items=getattr(dataset, "items", BaseSettings().items), seed=config.seed)


def model_spec(config: DictConfig) -> ModelSpec:
    model, adapter = config.model, config.adapter
    targets = adapter.target_modules
    names = [targets] if isinstance(targets, str) else list(targets) if isinstance(targets, ListConfig) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f"adapter.target_modules is {targets}", where="adapter.target_modules",
            fix="all-linear, or names of linear layers: adapter.target_modules=[q_proj,v_proj]",
        )  # fmt: skip
    return ModelSpec(
        path=model.path or "", revision=model.revision, load_in_4bit=model.load_in_4bit, dtype=model.dtype,
        device=config.hardware.device, template=model.template,
        template_kwargs=OmegaConf.to_container(model.template_kwargs) or {},  # type: ignore[arg-type]
        gradient_checkpointing=model.gradient_checkpointing,
        lora=LoraSpec(adapter.r, adapter.alpha, adapter.dropout, targets if isinstance(targets, str) else tuple(names)),
    )  # fmt: skip
