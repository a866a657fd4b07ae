"""Every preset of `model` and `hardware`: the right keys and types, true shapes, and claims about cards that hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from rlhf_lora.memory import ROLES, Shape, estimate

CONF = Path(__file__).resolve().parent.parent / "conf"
MODELS = {file.stem: file for file in sorted((CONF / "model").glob("*.yaml"))}
HARDWARE = {file.stem: file for file in sorted((CONF / "hardware").glob("*.yaml"))}
SHAPED = [name for name in MODELS if name != "mini"]


@dataclass
class Model:
    path: str | None
    revision: str | None
    load_in_4bit: bool
    dtype: str
    template: str
    template_kwargs: dict[str, Any]
    adapter: str | None
    gradient_checkpointing: bool
    shape: dict[str, Any] | None = field(default_factory=dict)


@dataclass
class Hardware:
    device: str
    memory_gib: float | None
    threads: int | None
    micro_batch: int
    rollout_batch: int
    logprob_chunk: int


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_model_preset_has_the_keys_and_types_of_the_group(name):
    preset = load(MODELS[name])
    OmegaConf.merge(OmegaConf.structured(Model), preset)
    assert preset.keys() == Model.__dataclass_fields__.keys()
    assert preset["dtype"] in ("bfloat16", "float32")
    assert preset["template"] in ("auto", "chat", "plain")


@pytest.mark.parametrize("name", HARDWARE)
def test_hardware_preset_has_the_keys_and_types_of_the_group(name):
    preset = load(HARDWARE[name])
    OmegaConf.merge(OmegaConf.structured(Hardware), preset)
    assert preset.keys() == Hardware.__dataclass_fields__.keys()
    assert preset["device"] in ("auto", "cpu", "cuda")


@pytest.mark.parametrize(
    "file", [*MODELS.values(), *HARDWARE.values()], ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_preset_opens_with_what_it_is_for_and_a_command_that_uses_it(file):
    head = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    command = next(line for line in head[1:] if "rlhf-lora " in line)
    assert file.stem in ("mini", "auto") or f"{file.parent.name}={file.stem}" in command


# millions of parameters, as published with each model; what a shape leaves out (norms, biases) is below 0.1 %
PUBLISHED = {
    "llama3_1_8b_instruct": 8030.3,
    "llama3_2_1b_instruct": 1235.8,
    "llama3_2_3b_instruct": 3212.7,
    "qwen2_5_0_5b_instruct": 494.0,
    "qwen2_5_1_5b_instruct": 1543.7,
    "qwen2_5_3b_instruct": 3085.9,
    "qwen2_5_7b_instruct": 7615.6,
    "qwen3_0_6b": 596.0,
    "qwen3_1_7b": 1720.6,
    "qwen3_4b": 4022.5,
    "qwen3_8b": 8190.7,
    "smollm2_135m_instruct": 134.5,
    "smollm2_1_7b_instruct": 1711.4,
    "smollm2_360m_instruct": 361.8,
}


@pytest.mark.parametrize("name", SHAPED)
def test_shape_has_the_published_number_of_parameters(name):
    shape = Shape(**load(MODELS[name])["shape"])
    assert shape.parameters / 1e6 == pytest.approx(PUBLISHED[name], rel=0.001)


def test_mini_has_no_shape_of_its_own():
    mini = load(MODELS["mini"])
    assert mini["path"] is None
    assert mini["shape"] is None


# the largest preset that each card's first line promises, with the answers it promises
PROMISED = {
    "gpu_8gb": ("qwen3_4b", 256),
    "gpu_12gb": ("qwen3_8b", 256),
    "gpu_16gb": ("qwen3_8b", 512),
    "gpu_24gb": ("qwen3_8b", 1024),
}


def test_every_card_has_a_promise():
    assert PROMISED.keys() == {name for name in HARDWARE if name.startswith("gpu_")}


@pytest.mark.parametrize("stage", ROLES)
@pytest.mark.parametrize("card", PROMISED)
def test_card_holds_the_largest_model_it_promises(card, stage):
    name, response_tokens = PROMISED[card]
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
