"""Loading: a frozen base in 4 bits or not, its tokenizer, and adapters on disk. Every stage loads through here.

Two rules that cost others days, each held by a test:

- bitsandbytes repacks 4-bit weights in place on AVX512-BF16 CPUs, after which LoRA gradients are wrong and the loss is
  not: switched off on every layer.
- `prepare_model_for_kbit_training` makes embeddings and lm_head fp32 (gigabytes at 7B): frozen by hand instead.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lora.chat import Chat
from rlhf_lora.errors import ConfigError, ModelError
from rlhf_lora.model_spec import ModelSpec, check_model_folder


def load_tokenizer(spec: ModelSpec) -> Any:
    """The tokenizer of a model folder or hub id."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(spec.path, revision=spec.revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer could be loaded: {_first_line(error)}",
            where=f"model.path={spec.path}",
            fix="the folder needs tokenizer.json and tokenizer_config.json"
            if Path(spec.path).is_dir()
            else "look at the hub id and at the network, or give a folder in Transformers layout",
        ) from error


def load_chat(spec: ModelSpec) -> Chat:
    return Chat(load_tokenizer(spec), spec.template, spec.template_kwargs, stop_ids(spec))


def stop_ids(spec: ModelSpec) -> list[int]:
    """What ends a reply according to `generation_config.json`: chat models often list more than their end token."""
    from transformers import GenerationConfig

    try:
        given = GenerationConfig.from_pretrained(spec.path, revision=spec.revision).eos_token_id
    except OSError:  # many models have none
        return []
    return [given] if isinstance(given, int) else list(given or [])


def load_base(spec: ModelSpec, num_labels: int | None = None) -> Any:
    """The frozen base: a causal language model, or with `num_labels` a sequence classifier.

    4-bit is NF4 with double quantisation (QLoRA, Dettmers et al. 2023), on CUDA and on the CPU.

    Raises:
        ModelError: no weights, an unknown architecture, or sizes that 4-bit blocks do not fit.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

    check_model_folder(spec.path)
    options: dict[str, Any] = {"revision": spec.revision, "dtype": spec.torch_dtype, "attn_implementation": "sdpa"}
    if spec.load_in_4bit:
        options["quantization_config"] = quantisation(spec)
        options["device_map"] = {"": spec.device}
    kind = AutoModelForCausalLM
    if num_labels is not None:
        kind, options["num_labels"] = AutoModelForSequenceClassification, num_labels
    try:
        with quiet_transformers():
            model = kind.from_pretrained(spec.path, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the model could not be loaded: {_first_line(error)}",
            where=f"model.path={spec.path}",
            fix="a folder in Transformers layout (config.json, *.safetensors) or a hub id",
        ) from error
    model = model if spec.load_in_4bit else model.to(spec.device)
    # Sampling is the rollout's business: a repetition penalty of generation_config.json would change what is drawn.
    if getattr(model, "generation_config", None) is not None:
        model.generation_config = GenerationConfig()
    _check_targets(model, spec)
    _no_repacking(model)
    model.requires_grad_(False)
    disable_dropout(model)
    return model


def _check_targets(model: nn.Module, spec: ModelSpec) -> None:
    """Peft would take those that exist, and leave out without a word those that do not. A string is a pattern for it."""
    asked = spec.lora.target_modules
    if asked == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if isinstance(asked, str):
        wrong = [] if any(re.fullmatch(asked, name) for name in names) else [asked]
    else:
        wrong = [target for target in asked if not any(f".{name}".endswith(f".{target}") for name in names)]
    if wrong:
        raise ModelError(
            f"the model has no layer called {', '.join(wrong)}", where="adapter.target_modules",
            fix=f"all-linear, or some of: {', '.join(sorted(known - {'lm_head', 'score'}))}",
        )  # fmt: skip


def quantisation(spec: ModelSpec) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=spec.torch_dtype,
        llm_int8_skip_modules=["lm_head", "score"],
    )


def _no_repacking(model: nn.Module) -> None:
    """bitsandbytes on CPUs with AVX512-BF16: keep the weights as they are, else gradients are silently wrong."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def disable_dropout(model: nn.Module) -> None:
    """Dropout makes rollout and training log-probs differ (ratio ≠ 1 on the first minibatch).

    It stands in modules, and in attention layers as a plain number (`attention_dropout`).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in [name for name in vars(module) if name.endswith("dropout")]:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)


def take_hardware(device: str, threads: int | None) -> None:
    """Before anything is loaded: look for the card and count its peak memory from here on, and set the threads of a CPU.

    Raises:
        ConfigError: there is no card.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "torch finds no CUDA card",
            where="hardware.device=cuda",
            fix="hardware=cpu, or install a CUDA build of torch",
        )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of this run, not of one before it in the same process
    if threads:
        torch.set_num_threads(threads)


def free() -> None:
    """Give back the memory of what nobody refers to any more, before the next model is loaded: models with adapters, and those
    that TRL patched, are cycles that only the collector sees."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where no card is in use


@contextmanager
def quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- adapters on disk ---------------------------------------------------------------------------------------------


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of an adapter folder in PEFT layout.

    Raises:
        ModelError: not an adapter folder, or its weights cannot be read.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        return config, load_file(str(folder / "adapter_model.safetensors"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} is not an adapter folder: {Path(str(error.filename)).name} is missing",
            where=str(folder),
            fix="an adapter folder in PEFT layout has adapter_config.json and adapter_model.safetensors",
        ) from error
    except Exception as error:
        raise ModelError(
            f"the adapter cannot be read: {_first_line(error)}", where=str(folder), fix="save it again"
        ) from error


def sort_config(file: Path) -> None:
    """Peft writes sets in an order that changes from run to run; the folder's hash must not."""
    config = json.loads(file.read_text("utf-8"))
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(set(config[key]))
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
