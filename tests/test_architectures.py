"""Every architecture that a preset names goes through the loop: sampled with a cache, read again without, learned from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import prompts, spec

from rlhf_lora.backbone import Backbone
from rlhf_lora.padding import pad
from rlhf_lora.registry import build

CONF = Path(__file__).resolve().parent.parent / "conf" / "model"
HEAD = re.compile(r"^# LoRA on all of (\w+)'s linear layers", re.MULTILINE)
ARCHITECTURES = sorted({name for file in CONF.glob("*.yaml") for name in HEAD.findall(file.read_text("utf-8"))})
MORE: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"sliding_window": 64},  # longer than anything here, as in Phi-4-mini
    "smollm3": {"no_rope_layers": [1, 0]},
}


@pytest.fixture
def folder(architecture: str, tiny_qwen2: Path, tmp_path: Path) -> Path:
    """A model of that architecture, 2 layers of 64, with the tokenizer of another tiny model."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    end = AutoTokenizer.from_pretrained(tiny_qwen2).eos_token_id
    size = AutoConfig.from_pretrained(tiny_qwen2).vocab_size
    config = AutoConfig.for_model(
        architecture, vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
        bos_token_id=None, eos_token_id=end, pad_token_id=end, initializer_range=0.1, **MORE.get(architecture, {}),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    for file in tiny_qwen2.glob("*token*"):
        shutil.copy(file, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_was_sampled_is_read_again_with_the_same_log_probs_and_can_be_learned_from(folder):
    made = Backbone(spec(folder), micro_batch=3, logprob_chunk=7)
    made.add_role("policy", trained=True)
    with torch.no_grad():
        for parameter in made.parameters("policy").values():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    asked = prompts(5)
    samples = build("rollout", {"name": "native", "max_new_tokens": 12}).generate(made, asked, 1, 5)
    padded = pad([made.chat.prompt_ids(p) for p in asked], [list(s.tokens) for s in samples], made.chat.fill_id)
    with made.role("policy"):
        again_BT = made.logprobs(made.response_hidden(padded), padded.responses_BT, 1.0)
        (again_BT * padded.response_mask_BT).sum().backward()
    for row, sample in zip(again_BT.detach(), samples, strict=True):
        assert row[: len(sample.tokens)].tolist() == pytest.approx(list(sample.logprobs), abs=2e-5)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters("policy").values())
