"""L1 to L6: what adapters and a 4-bit base add to PPO's list. `docs/conformance.md` has the table."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_loop import backbone, length, loop, weights
from tiny import few, prompts, spec, stir, token_ids

from rlhf_lora import adapters, checkpoints
from rlhf_lora.assembly import Assembly
from rlhf_lora.backbone import Backbone
from rlhf_lora.errors import ModelError
from rlhf_lora.loading import load_base
from rlhf_lora.records import Demonstration, Sample
from rlhf_lora.registry import build


def test_L1_a_new_adapter_is_the_base(tiny_base):
    """With B = 0 the policy's log-probs are those of the bare base, bit for bit, so that KL is 0 before any update.

    Source: Hu et al. 2021: B = 0 at the start
    Profile: oai2019, tldr2024, kit
    """
    made = backbone(tiny_base, "policy", stirred=False)
    made.add_role("reference", bare=True)
    ids = token_ids(made.chat, 6)
    assert made.sequence_logprobs("policy", *ids) == made.sequence_logprobs("reference", *ids)
    stir(made, "policy")
    assert made.sequence_logprobs("policy", *ids) != made.sequence_logprobs("reference", *ids)


def test_L2_the_declared_reference(tiny_base, tmp_path):
    """KL is measured against the model that is declared: a frozen copy of SFT where there is one, else the bare base.

    Source: trl issue 495: adapters off measures KL from the base
    Profile: oai2019, tldr2024, kit
    """
    backbone(tiny_base, "policy").save_adapter("policy", tmp_path)
    hardware = SimpleNamespace(micro_batch=4, rollout_batch=4, logprob_chunk=64)
    plan: Any = SimpleNamespace(
        config=SimpleNamespace(hardware=hardware), spec=spec(tiny_base), stage=lambda name: None, start_adapter=tmp_path
    )
    made = Assembly(plan, None).backbone(tmp_path, trained=True)
    ids = token_ids(made.chat, 6)
    made.add_role("bare", bare=True)
    reference, bare = made.sequence_logprobs("reference", *ids), made.sequence_logprobs("bare", *ids)
    assert made.sequence_logprobs("policy", *ids) == reference != bare
    stir(made, "policy", 0.1)
    assert made.sequence_logprobs("reference", *ids) == reference
    plan.start_adapter = None
    assert Assembly(plan, None).backbone(None).sequence_logprobs("reference", *ids) == bare


def test_L3_nobody_else_moves(tiny_base):
    """After updates of the policy, reward scores and reference log-probs are the same bits; neither can be trained.

    Source: seed-systems checklist 19: adapters are never mixed
    Profile: oai2019, tldr2024, kit
    """
    made = loop(tiny_base, reward_role=True)
    ids = token_ids(made.backbone.chat, 6)
    probes = [
        lambda: made.backbone.sequence_scores("reward", *ids),
        lambda: made.backbone.sequence_logprobs("reference", *ids),
    ]
    before, policy = [probe() for probe in probes], made.backbone.sequence_logprobs("policy", *ids)
    for _ in range(2):
        made.step()
    assert made.backbone.sequence_logprobs("policy", *ids) != policy
    assert [probe() for probe in probes] == before
    for name in ("policy", "reference", "value", "reward"):
        with made.backbone.role(name):
            assert not any(p.requires_grad for p in made.backbone.parameters("reward").values())
    trainable = {name for name, p in made.backbone.base.named_parameters() if p.requires_grad}
    assert trainable
    assert all(".policy." in name or ".value." in name for name in trainable)


def test_L4_actor_and_critic_apart(tiny_base):
    """Policy and value have adapters of their own: the loss of one gives no gradient to the other.

    Source: Hydra-RLHF, arXiv 2309.00754: separate 55.5, joined 46.5
    Profile: oai2019, tldr2024, kit
    """
    default = build("optimizer", {"name": "ppo"})
    assert (default.roles, default.shared_trunk) == (("policy", "value"), False)
    made = loop(tiny_base)
    sets = [{id(p) for p in made.backbone.parameters(name).values()} for name in ("policy", "value")]
    assert sets[0]
    assert not sets[0] & sets[1]
    samples, _ = made._roll_out(made._prompts_of(1), 1)
    rollout = made._look_back(samples, made.scorer(samples))
    rollout.batch, _ = made.optimizer.advantages(rollout.batch)
    for role, other in (("policy", "value"), ("value", "policy")):
        made.updater.adamw.zero_grad(set_to_none=True)
        with made.backbone.role(role):
            for index, padded in made.backbone.micro_batches(rollout.prompt_ids, rollout.response_ids):
                made.optimizer.loss(made.updater._minibatch(role, rollout.batch, index, padded))[0].backward()
        assert any(p.grad is not None and p.grad.any() for p in made.backbone.parameters(role).values())
        assert all(p.grad is None for p in made.backbone.parameters(other).values())


def drawing(sample: Sample) -> float:
    """A reward that draws from every global stream there is."""
    return length(sample) + random.random() + float(numpy.random.rand()) + float(torch.rand(()))


@pytest.mark.parametrize("scale", few(["reference", "demonstrations"], 1))
def test_L5_going_on_from_a_checkpoint(tiny_base, tmp_path, scale):
    """A checkpoint on disk has all that decides what comes next: 3 updates = 1, saved and loaded, and 2, bit for bit.

    Source: design: resume is bit-exact on a CPU
    Profile: oai2019, tldr2024, kit
    """
    settings = {"kl_target": 0.5, "kl_horizon": 100.0, "prompts_per_update": 8, "asked": 12, "scale_scores": scale,
                "shown": [Demonstration(p, "tea and soup") for p in prompts(5)]}  # fmt: skip
    one = loop(tiny_base, drawing, **settings)
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)
    one.step()
    checkpoints.save(tmp_path, 1, *one.checkpoint())
    rest = [one.step() for _ in range(2)]
    other = loop(tiny_base, drawing, **settings)
    torch.manual_seed(2)
    random.seed(2)
    numpy.random.seed(2)
    found = checkpoints.latest(tmp_path)
    assert found is not None
    other.resume(found.tensors, found.state)
    assert [other.step() for _ in range(2)] == rest
    assert all(torch.equal(weights(other)[name], value) for name, value in weights(one).items())
    kinds = {name.split("/")[0] + "/" + name.split("/")[1] for name in found.tensors}
    assert {
        "weights/policy",
        "weights/value",
        "adamw/exp_avg",
        "adamw/exp_avg_sq",
        "adamw/step",
        "random/torch",
    } <= kinds
    assert "weights/value/head.weight" in found.tensors
    assert found.state["optimizer"]["beta"] != 0.08
    assert found.state["loop"]["update"] == 1


@pytest.fixture(scope="module")
def reward_folder(tiny_base, tmp_path_factory) -> Path:
    """A reward adapter with a head that no initialisation would give."""
    from rlhf_lora.loading import load_chat
    from rlhf_lora.stages.reward_model import INFO, new_info

    settings = spec(tiny_base)
    model = adapters.attach(load_base(settings, num_labels=1), settings, "SEQ_CLS", None)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
    out = tmp_path_factory.mktemp("adapters") / "reward"
    info = new_info(load_chat(settings), settings) | {"gain": 2.0, "bias": -0.5}
    adapters.save(model, out, {INFO: json.dumps(info)})
    return out


def _copy(folder: Path, out: Path, tensors: dict[str, torch.Tensor]) -> Path:
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    save_file(tensors, str(out / "adapter_model.safetensors"))
    return out


def test_L6_the_reward_head_comes_back(tiny_base, reward_folder, tmp_path):
    """The reward head is read as it was saved, its bias with it; a folder without one is an error, never a new head.

    Source: trl issues 1379 and 1783; OpenRLHF issue 643
    Profile: oai2019, tldr2024, kit
    """
    from rlhf_lora.plugins.rewards.learned import OpenLearned

    from rlhf_lora.stages.reward_model import Scorer

    tensors = load_file(str(reward_folder / "adapter_model.safetensors"))
    made, scorer = Backbone(spec(tiny_base)), Scorer(spec(tiny_base), reward_folder)
    opened = OpenLearned(made, reward_folder)
    assert torch.equal(made.heads["reward"].weight, tensors[adapters.HEAD])
    assert torch.equal(adapters.score_head(scorer.model).weight, tensors[adapters.HEAD])
    asked, texts = prompts(3), ["tea", "certainly soup", "milk milk cake"]
    here = opened.score([Sample(p.text, text) for p, text in zip(asked, texts, strict=True)])
    assert here == pytest.approx(scorer.score(asked, texts), abs=1e-4)
    assert max(here) - min(here) > 1e-3

    biased = _copy(
        reward_folder, tmp_path / "biased", tensors | {adapters.HEAD.replace("weight", "bias"): torch.ones(1)}
    )
    made = Backbone(spec(tiny_base))
    made.add_role("reward", start=biased, head=True)
    assert made.heads["reward"].bias.item() == 1.0
    with pytest.raises(ModelError, match=r"score\.bias"):  # the other reader knows no bias: refused, not dropped
        Scorer(spec(tiny_base), biased)

    headless = _copy(reward_folder, tmp_path / "headless", {k: v for k, v in tensors.items() if k != adapters.HEAD})
    with pytest.raises(ModelError, match="no score head"):
        Scorer(spec(tiny_base), headless)
    with pytest.raises(ModelError, match="no score head"):
        Backbone(spec(tiny_base)).add_role("reward", start=headless, head=True)
