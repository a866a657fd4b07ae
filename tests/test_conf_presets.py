"""Every preset composes; those of `model` and `hardware` have true shapes, and hold what they claim about cards."""

from __future__ import annotations

import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from rlhf_lora.config import compose
from rlhf_lora.memory import ROLES, Shape, estimate
from rlhf_lora.registry import names
from rlhf_lora.schema import HardwareConfig, ModelConfig

CONF = Path(__file__).resolve().parent.parent / "conf"
MODELS = {file.stem: file for file in sorted((CONF / "model").glob("*.yaml"))}
HARDWARE = {file.stem: file for file in sorted((CONF / "hardware").glob("*.yaml"))}
SHAPED = [name for name in MODELS if name != "mini"]


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_model_preset_has_the_keys_and_types_of_the_group(name):
    preset = load(MODELS[name])
    OmegaConf.merge(OmegaConf.structured(ModelConfig), preset)
    assert list(preset) == [f.name for f in fields(ModelConfig)]
    assert preset["dtype"] in ("bfloat16", "float32")
    assert preset["template"] in ("auto", "chat", "plain")


@pytest.mark.parametrize("name", HARDWARE)
def test_hardware_preset_has_the_keys_and_types_of_the_group(name):
    preset = load(HARDWARE[name])
    OmegaConf.merge(OmegaConf.structured(HardwareConfig), preset)
    assert list(preset) == [f.name for f in fields(HardwareConfig)]
    assert preset["device"] in ("auto", "cpu", "cuda")


PRESETS = pytest.mark.parametrize(
    "file",
    # a preset of `sweep` is not part of a run's configuration: tests/sweep/test_sweep.py
    sorted(file for file in CONF.rglob("*.yaml") if file.parent not in (CONF, CONF / "sweep")),
    ids=lambda file: file.relative_to(CONF).with_suffix("").as_posix(),
)


@pytest.mark.slow
@PRESETS
def test_every_preset_composes_into_a_run(file):
    group = file.parent.relative_to(CONF).as_posix()
    node = compose(f"{group}={file.stem}").get(group)
    if group in ("model", "hardware", "adapter"):  # others may write elsewhere, or refine a plugin
        assert {key: node[key] for key in load(file)} == load(file)


@PRESETS
def test_no_preset_bears_the_name_of_a_plugin(file):
    assert file.stem not in names(file.parent.name)


@PRESETS
def test_preset_opens_with_what_it_is_for_and_a_command_that_uses_it(file):
    """The defaults of their groups need not be named in their commands."""
    head = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    command = next(line for line in head[1:] if "rlhf-lora " in line)
    assert file.stem in ("mini", "auto", "lora") or f"{file.parent.name}={file.stem}" in command


# millions of parameters, as published with each model; what a shape leaves out (norms, biases) is below 0.1 %
PUBLISHED = {
    "gemma3_1b_it": 999.9,
    "llama3_1_8b_instruct": 8030.3,
    "llama3_2_1b_instruct": 1235.8,
    "llama3_2_3b_instruct": 3212.7,
    "mistral_7b_instruct_v0_3": 7248.0,
    "phi4_mini_instruct": 3836.0,
    "qwen2_5_0_5b_instruct": 494.0,
    "qwen2_5_1_5b_instruct": 1543.7,
    "qwen2_5_3b_instruct": 3085.9,
    "qwen2_5_7b_instruct": 7615.6,
    "qwen2_5_14b_instruct": 14770.0,
    "qwen3_0_6b": 596.0,
    "qwen3_1_7b": 1720.6,
    "qwen3_4b": 4022.5,
    "qwen3_4b_instruct_2507": 4022.5,
    "qwen3_8b": 8190.7,
    "qwen3_14b": 14768.3,
    "smollm2_135m_instruct": 134.5,
    "smollm2_1_7b_instruct": 1711.4,
    "smollm2_360m_instruct": 361.8,
    "smollm3_3b": 3075.1,
}


@pytest.mark.parametrize("name", SHAPED)
def test_shape_has_the_published_number_of_parameters(name):
    shape = Shape(**load(MODELS[name])["shape"])
    assert shape.parameters / 1e6 == pytest.approx(PUBLISHED[name], rel=0.001)


def lora_line(name: str) -> tuple[str, set[str]]:
    """(architecture, layers that LoRA stands beside), as the preset says in its head."""
    found = re.search(r"^# LoRA on all of (\w+)'s linear layers: (.*)$", MODELS[name].read_text("utf-8"), re.MULTILINE)
    assert found, f"{name} does not say which layers LoRA stands beside"
    return found[1], set(found[2].split())


def of_architecture(name: str, layers: int) -> Any:
    """The model of a preset with fewer layers, of Transformers' class for its architecture, without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = Shape(**load(MODELS[name])["shape"])
    config = AutoConfig.for_model(
        lora_line(name)[0], vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        intermediate_size=shape.mlp, tie_word_embeddings=shape.tied,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,  # Phi's own default lies outside a small vocabulary
    )  # fmt: skip
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", SHAPED)
def test_model_of_that_architecture_and_shape_has_the_published_number_of_parameters(name):
    """Norms and biases counted too: an architecture that is not this model's shows here."""
    one, two = (sum(p.numel() for p in of_architecture(name, layers).parameters()) for layers in (1, 2))
    total = one + (Shape(**load(MODELS[name])["shape"]).layers - 1) * (two - one)
    assert total / 1e6 == pytest.approx(PUBLISHED[name], abs=0.06)


@pytest.mark.parametrize("name", SHAPED)
def test_lora_stands_beside_the_layers_that_the_preset_names(name):
    from peft import LoraConfig, inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Transformers', of its own deprecations
        model = inject_adapter_in_model(
            LoraConfig(r=2, target_modules=load(CONF / "adapter" / "lora.yaml")["target_modules"]),
            of_architecture(name, 1),
        )
    found = {place.rpartition(".")[2] for place, module in model.named_modules() if hasattr(module, "lora_A")}
    assert found == lora_line(name)[1]  # and not beside lm_head


@pytest.mark.parametrize("name", SHAPED)
def test_preset_says_against_what_its_shape_was_checked(name):
    assert "\n# Shape checked against " in MODELS[name].read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in SHAPED if name.startswith(("qwen3", "smollm3"))])
def test_models_that_think_first_are_told_not_to(name):
    thinks = "2507" not in name  # that version cannot
    assert load(MODELS[name])["template_kwargs"] == ({"enable_thinking": False} if thinks else {})


def test_mini_has_no_shape_of_its_own():
    mini = load(MODELS["mini"])
    assert mini["path"] is None
    assert mini["shape"] == {}


# the largest presets that each card's first line promises, with the answers it promises
PROMISED = [
    ("gpu_8gb", "qwen3_4b", 256),
    ("gpu_12gb", "qwen3_8b", 256),
    ("gpu_16gb", "qwen3_8b", 512),
    ("gpu_24gb", "qwen3_8b", 1024),
    ("gpu_24gb", "qwen3_14b", 256),
    ("gpu_24gb", "qwen2_5_14b_instruct", 256),
]


def test_every_card_has_a_promise():
    assert {card for card, _, _ in PROMISED} == {name for name in HARDWARE if name.startswith("gpu_")}


@pytest.mark.parametrize("stage", ROLES)
@pytest.mark.parametrize(("card", "name", "response_tokens"), PROMISED)
def test_card_holds_the_largest_model_it_promises(card, name, response_tokens, stage):
    hardware, model = load(HARDWARE[card]), load(MODELS[name])
    memory = estimate(
        Shape(**model["shape"]),
        stage=stage,
        load_in_4bit=model["load_in_4bit"],
        prompt_tokens=256,
        response_tokens=response_tokens,
        rollout_batch=hardware["rollout_batch"],
        micro_batch=hardware["micro_batch"],
        chunk=hardware["logprob_chunk"],
        gradient_checkpointing=model["gradient_checkpointing"],
    )
    assert memory.fits(hardware["memory_gib"]), memory.rows()


def test_seven_billion_do_not_fit_a_card_of_eight():
    hardware, model = load(HARDWARE["gpu_8gb"]), load(MODELS["qwen2_5_7b_instruct"])
    memory = estimate(Shape(**model["shape"]), prompt_tokens=256, response_tokens=256, rollout_batch=1)
    assert not memory.fits(hardware["memory_gib"])
