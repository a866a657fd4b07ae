"""What must hold on a CUDA card. Run with `pytest -m gpu`; without a card every test here is skipped and counts as such."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Context
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.records import Prompt
from rlhf_lora.registry import build
from rlhf_lora.stages.on_policy import OnPolicy
from rlhf_lora.stages.scoring import Scorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]
PROMPTS = [Prompt(f"table two : {a} , eggs , rice . waiter:") for a in ("apple", "tea", "soup", "fish")]


@pytest.fixture
def spec(tiny_base: Path) -> ModelSpec:
    return ModelSpec(str(tiny_base), device="cuda", dtype="bfloat16")


def opened(spec: ModelSpec) -> Backbone:
    backbone = Backbone(spec)
    backbone.add_role("policy", trained=True)
    backbone.add_role("reference", bare=True)
    backbone.add_role("value", trained=True, head=True)
    return backbone


def loop_on(backbone: Backbone, lr: float = 1e-3) -> OnPolicy:
    ppo = build(
        "optimizer",
        {
            "name": "ppo",
            "updates": 4,
            "prompts_per_update": 16,
            "minibatch_size": 8,
            "adamw": {"lr": lr},
            "value_adamw": {"lr": lr},
        },
    )
    engine = build("rollout", {"name": "native", "max_new_tokens": 12})
    reward = Scorer(build("reward", {"name": "length", "target": 3}), "length")
    return OnPolicy(backbone, engine, reward, ppo.open(Context()), PROMPTS, seed=0, micro_batch=8)


def test_nf4_on_the_card_gives_the_logprobs_of_the_cpu(spec: ModelSpec) -> None:
    ids, responses = [[5, 6, 7], [8, 9]], [[10, 11, 12], [13, 14]]
    cpu = opened(replace(spec, device="cpu", dtype="float32")).sequence_logprobs("policy", ids, responses)
    card = opened(replace(spec, dtype="float32")).sequence_logprobs("policy", ids, responses)
    for ours, theirs in zip(card, cpu, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-2)


def test_first_minibatch_ratio_is_one_in_bfloat16(spec: ModelSpec) -> None:
    metrics = loop_on(opened(spec)).step()
    assert metrics["policy/first_ratio_error"] < 2e-2
    assert abs(metrics["objective/kl"]) < 1e-1


def test_training_the_policy_leaves_the_other_roles_as_they_were(spec: ModelSpec) -> None:
    backbone = opened(spec)
    ids, responses = [[5, 6, 7]], [[10, 11, 12]]
    before = backbone.sequence_logprobs("reference", ids, responses)
    loop = loop_on(backbone)
    for _ in range(3):
        loop.step()
    assert backbone.sequence_logprobs("reference", ids, responses) == before
    assert backbone.sequence_logprobs("policy", ids, responses) != before


def test_memory_stays_flat_over_updates(spec: ModelSpec) -> None:
    loop = loop_on(opened(spec))
    loop.step()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        loop.step()
    assert torch.cuda.memory_allocated() <= before + 2**20
