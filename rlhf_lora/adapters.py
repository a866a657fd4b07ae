"""LoRA adapters of the off-policy stages: put on a base, started from another adapter, saved in PEFT layout.

Adapters and heads are float32 whatever the base is, and stay so: at RL learning rates a bf16 adapter hardly moves.
A folder on disk is `adapter_config.json` and `adapter_model.safetensors` and loads with plain peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf_lora.atomic import staging
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import ModelError, Stopped
from rlhf_lora.loading import read_adapter, sort_config
from rlhf_lora.model_spec import ModelSpec

Task = Literal["CAUSAL_LM", "SEQ_CLS"]
HEAD = "base_model.model.score.weight"
"""The reward head's key in a saved adapter."""


def attach(base: nn.Module, spec: ModelSpec, task: Task, start: Path | None, trainable: bool = True) -> Any:
    """A base with one float32 LoRA adapter called `default`.

    Without `start` it is new: A random, B = 0, so that nothing changes. With `start` it has that adapter's shape and
    weights; a causal adapter starts a reward model too, whose score head is then zero.

    Raises:
        ModelError: `start` is no LoRA adapter, or belongs to another base.
    """
    from peft import get_peft_model

    config, tensors = (spec.lora.config(task), {}) if start is None else _started(Path(start), task)
    _check_targets(base, config, start)
    config.inference_mode = not trainable
    config.base_model_name_or_path = spec.path  # a base may move; what counts is that the weights fit
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)  # peft's own
        try:
            model = get_peft_model(base, config)
        except ValueError as error:  # no module of that name, or none that can take LoRA
            raise ModelError(
                str(error).splitlines()[0],
                where=str(start or "adapter.target_modules"),
                fix="adapter.target_modules=all-linear",
            ) from error
    if task == "SEQ_CLS":
        torch.nn.init.zeros_(score_head(model).float().weight)
    if tensors:
        _load(model, tensors, Path(str(start)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights that are trained, in float32, by name."""
    return {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}


def restore(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Undo what TRL's constructors do to adapters on a 4-bit base: they round them to bf16.

    Casting back alone would keep the rounding, so the weights themselves come back.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = weights[name].to(parameter.device) if name in weights else parameter.data.float()
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    assert not wrong, f"trained in {wrong[0]} other than float32"


def load_reference(model: Any, ctx: FitContext) -> None:
    """Give `ref`, TRL's frozen copy of what training starts from, the weights of `ctx.reference` where that is another
    adapter, or none (B = 0) with `ctx.bare_reference`; else nothing changes.

    Raises:
        ModelError: the reference belongs to another base.
    """
    if ctx.bare_reference:
        for name, parameter in model.named_parameters():
            if ".lora_B.ref." in name:
                parameter.data.zero_()
    elif ctx.reference is not None:
        _load(model, read_adapter(ctx.reference)[1], ctx.reference, "ref")


def score_head(model: Any) -> Any:
    """The linear layer that turns the last hidden state into a score.

    Raises:
        ModelError: the architecture calls its head something else, so that nobody knows how it is pooled.
    """
    head = getattr(model.get_base_model() if hasattr(model, "get_base_model") else model, "score", None)
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no linear head called 'score'",
            where="config.json: architectures",
            fix="use a decoder-only model, such as Llama, Qwen or Mistral",
        )
    active = getattr(head, "modules_to_save", None)
    return head if active is None else active["default"]


def save(model: Any, out: Path, files: Mapping[str, str] | None = None) -> None:
    """Write the adapter `default` as a folder, whole or not at all.

    Args:
        files: further text files beside it, name → content.

    Raises:
        Stopped: a weight is not finite. Nothing is written.
    """
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not bool(p.isfinite().all())]
    if broken:
        raise Stopped(f"training ended with weights that are not finite ({broken[0]}); lower the learning rate")
    with staging(Path(out)) as folder:
        # "auto" would look on the hub whether the vocabulary grew.
        model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        sort_config(folder / "adapter_config.json")
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")


def _started(start: Path, task: Task) -> tuple[Any, dict[str, Tensor]]:
    """The configuration and weights of an adapter folder, made ready for `task`."""
    from peft import LoraConfig, PeftConfig, TaskType

    settings, tensors = read_adapter(start)
    if settings.get("peft_type") != "LORA":
        what = f"the adapter is of type {settings.get('peft_type')}, not LORA"
        raise ModelError(what, where=str(start), fix="train a LoRA adapter")
    config = PeftConfig.from_pretrained(str(start))
    assert isinstance(config, LoraConfig)
    config.task_type = TaskType(task)
    config.modules_to_save = ["score"] if task == "SEQ_CLS" else None
    config.lora_dropout = 0.0
    extra = sorted(key for key in tensors if "lora_" not in key and key != HEAD)
    if extra:
        raise ModelError(
            f"the adapter holds more than LoRA weights: {extra[0]}",
            where=str(start),
            fix="train it without modules_to_save, or merge it into its base first",
        )
    return config, tensors


def _check_targets(base: Any, config: Any, start: Path | None) -> None:
    """Peft warns of few missing modules and raises of all of them; here neither passes in silence."""
    targets = config.target_modules
    if start is None or isinstance(targets, str) or targets is None:
        return
    names = [name for name, _ in base.named_modules()]
    missing = sorted(t for t in targets if not any(n == t or n.endswith(f".{t}") for n in names))
    if missing:
        raise ModelError(
            f"the adapter belongs to another base: this one has no module '{missing[0]}'",
            where=str(start),
            fix="give the base that the adapter was trained on",
        )


def _load(model: Any, tensors: Mapping[str, Tensor], start: Path, name: str = "default") -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    mine = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    shapes = [{key: tuple(t.shape) for key, t in tensors_.items() if key != HEAD} for tensors_ in (mine, tensors)]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        here, there = (s.get(key, "missing") for s in shapes)
        if here != there:
            raise ModelError(
                f"the adapter belongs to another base: {key} is {there} there and {here} here",
                where=str(start),
                fix="give the base that the adapter was trained on",
            )
    # Float32 first, so that the values stay as they stand in the file; the head is the new one unless the file has one.
    given = {key: t.float() for key, t in tensors.items() if key != HEAD or HEAD in mine}
    set_peft_model_state_dict(model, mine | given, adapter_name=name)
