"""Many roles on one base: gradients are those of a model alone, no role touches another, adapters are plain PEFT."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import prompts, spec, stir, token_ids
from torch import Tensor

from rlhf_lora.backbone import Backbone
from rlhf_lora.errors import ModelError
from rlhf_lora.loading import load_base
from rlhf_lora.model_spec import LoraSpec
from rlhf_lora.padding import pad
from rlhf_lora.registry import build


@pytest.fixture(params=["tiny_base", "tiny_qwen2"])
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["tiny_base", pytest.param("tiny_qwen2", marks=pytest.mark.slow)])
def either(request) -> Path:
    """As `folder`, where the second model is hardly another case."""
    return request.getfixturevalue(request.param)


def backbone(folder: Path, **changes: Any) -> Backbone:
    """Policy, reference and value on one base, their adapters different from each other."""
    made = Backbone(spec(folder, **changes), micro_batch=3, logprob_chunk=7)
    for name in ("policy", "reference", "value"):
        made.add_role(name, trained=name != "reference", head=name == "value")
        stir(made, name)
    return made


def rollouts(made: Backbone, role: str = "policy") -> list[Any]:
    return build("rollout", {"name": "native", "max_new_tokens": 6}).generate(made, prompts(3), 1, 5, role=role)


def policy_gradient(made: Backbone) -> dict[str, Tensor]:
    for parameter in made.parameters("policy").values():
        parameter.grad = None
    padded = pad(*token_ids(made.chat, 4), made.chat.fill_id)
    with made.role("policy"):
        logprobs_BT = made.logprobs(made.response_hidden(padded), padded.responses_BT, 0.9)
        (logprobs_BT * padded.response_mask_BT).sum().backward()
    return {name: p.grad.clone() for name, p in made.parameters("policy").items() if p.grad is not None}


def value_gradient(made: Backbone) -> dict[str, Tensor]:
    for parameter in made.parameters("value").values():
        parameter.grad = None
    padded = pad(*token_ids(made.chat, 4), made.chat.fill_id)
    with made.role("value"):
        values_BT = made.read_head("value", made.response_hidden(padded))
        ((values_BT - 1) ** 2 * padded.response_mask_BT).sum().backward()
    return {name: p.grad.clone() for name, p in made.parameters("value").items() if p.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- 4-bit gradients --------------------------------------------------------------------------------------------------


def dequantise(made: Backbone) -> None:
    """Put plain linear layers with the dequantised weights where the 4-bit ones are."""
    import bitsandbytes as bnb

    for module in list(made.base.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, bnb.nn.Linear4bit):
                plain = torch.nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
                with torch.no_grad():
                    plain.weight.copy_(bnb.functional.dequantize_4bit(child.weight.data, child.weight.quant_state))
                    if child.bias is not None:
                        plain.bias.copy_(child.bias)
                plain.requires_grad_(False)
                setattr(module, name, plain)


def test_after_a_rollout_gradients_through_the_4_bit_base_are_those_through_its_dequantised_weights(folder):
    quantised, plain = backbone(folder), backbone(folder)
    dequantise(plain)
    assert (
        len(rollouts(quantised)) == 3
    )  # an eval pass without gradient: after it, repacked weights gave other gradients
    ours, theirs = policy_gradient(quantised), policy_gradient(plain)
    assert ours.keys() == theirs.keys() != set()
    one, other = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (ours, theirs))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999999
    assert one.norm() / other.norm() == pytest.approx(1.0, abs=1e-5)


def test_no_4_bit_layer_may_repack_its_weights(tiny_base, monkeypatch):
    # As on a CPU with AVX512-BF16, which this one may not be.
    import bitsandbytes as bnb

    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    layers = [m for m in load_base(spec(tiny_base)).modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


# --- switching --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_switched_roles_are_those_of_unswitched_ones(folder, checkpointing):
    alone = policy_gradient(backbone(folder)), value_gradient(backbone(folder))
    made = backbone(folder, gradient_checkpointing=checkpointing)
    rollouts(made)
    ids = token_ids(made.chat, 4)
    made.sequence_logprobs("reference", *ids)
    policy = policy_gradient(made)
    value = value_gradient(made)
    made.sequence_logprobs("reference", *ids)
    assert same(policy, alone[0])
    assert same(value, alone[1])
    assert same(policy_gradient(made), alone[0])
    assert len(policy) == 28  # A and B of seven linear layers in two blocks
    assert len(value) == 30  # and the head


def test_a_role_inside_a_role_is_refused(tiny_base):
    made = backbone(tiny_base)
    with (
        made.role("policy"),
        pytest.raises(RuntimeError, match="'value' was asked for inside role 'policy'"),
        made.role("value"),
    ):
        pass
    with made.role("value"):  # and the refusal leaves nothing behind
        pass


def test_after_each_switch_what_is_trained_is_what_the_role_table_says(tiny_base):
    made = backbone(tiny_base)
    for name in ("value", "reference", "policy", "reference"):
        with made.role(name):
            assert {p.requires_grad for p in made.parameters(name).values()} == {name != "reference"}
        trained = {role: {p.requires_grad for p in made.parameters(role).values()} for role in made.roles}
        assert trained == {"policy": {True}, "reference": {False}, "value": {True}}
        learning = {name for name, p in made.base.named_parameters() if p.requires_grad}
        assert all("lora_" in name and ".reference." not in name for name in learning)


def test_a_role_that_raises_gives_the_base_back(tiny_base):
    made = backbone(tiny_base)
    with pytest.raises(KeyError), made.role("policy"):
        raise KeyError
    assert len(policy_gradient(made)) == 28


def test_with_gradient_checkpointing_a_rollout_still_sees_what_it_said(tiny_base):
    # Checkpointed layers in training mode drop the KV cache; each token would then follow from the last one alone.
    made = backbone(tiny_base, gradient_checkpointing=True)
    policy_gradient(made)
    samples = rollouts(made)
    ids = [made.chat.prompt_ids(p) for p in prompts(3)]
    again = made.sequence_logprobs("policy", ids, [list(s.tokens) for s in samples])
    for sample, logprobs in zip(samples, again, strict=True):
        assert sample.logprobs == pytest.approx(logprobs, abs=1e-4)


# --- what stays as it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_keeps_its_dtype_and_is_frozen_and_adapters_are_float32(folder, dtype):
    made = backbone(folder, dtype=dtype)
    wanted = getattr(torch, dtype)
    for name, parameter in made.base.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.float32
        else:
            assert not parameter.requires_grad
            if "embed" in name or "lm_head" in name or "norm" in name:
                assert parameter.dtype == wanted, name
    assert made.heads["value"].weight.dtype == torch.float32
    assert made.head_weight_VD.dtype == wanted


def state_hash(made: Backbone) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(made.base.state_dict().items()):
        if "lora_" not in name and isinstance(tensor, Tensor):
            digest.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_training_the_policy_moves_nobody_else(either):
    made = backbone(either)
    made.add_role("reward", head=True)
    stir(made, "reward")
    ids = token_ids(made.chat, 6)
    probes = [
        lambda: made.sequence_logprobs("reference", *ids), lambda: made.sequence_scores("reward", *ids),
        lambda: made.sequence_scores("value", *ids), lambda: state_hash(made),
    ]  # fmt: skip
    before, policy_before = [probe() for probe in probes], made.sequence_logprobs("policy", *ids)
    adamw = torch.optim.AdamW(made.parameters("policy").values(), lr=1e-2)
    for _ in range(3):
        policy_gradient(made)
        adamw.step()
    assert made.sequence_logprobs("policy", *ids) != policy_before
    assert [probe() for probe in probes] == before


def test_a_fresh_policy_is_the_bare_base_bit_for_bit(either):
    made = Backbone(spec(either), micro_batch=3)
    made.add_role("policy", trained=True)
    made.add_role("reference", bare=True)
    ids = token_ids(made.chat, 6)
    fresh = made.sequence_logprobs("policy", *ids)
    assert fresh == made.sequence_logprobs("reference", *ids)
    stir(made, "policy")
    assert made.sequence_logprobs("policy", *ids) != fresh
    assert made.sequence_logprobs("reference", *ids) == fresh  # a bare reference follows nobody


def test_a_reference_copied_from_an_adapter_is_not_the_bare_base(tiny_base, tmp_path):
    made = backbone(tiny_base)
    made.save_adapter("policy", tmp_path)
    made.add_role("copy", start=tmp_path)
    made.add_role("bare", bare=True)
    ids = token_ids(made.chat, 4)
    assert made.sequence_logprobs("copy", *ids) == made.sequence_logprobs("policy", *ids)
    assert made.sequence_logprobs("bare", *ids) != made.sequence_logprobs("policy", *ids)


# --- padding and batches ----------------------------------------------------------------------------------------------


def test_padding_on_the_left_changes_no_logprob(either):
    made = backbone(either)
    asked, answers = token_ids(made.chat, 6)
    together = made.sequence_logprobs("policy", asked, answers)
    for i in range(6):
        assert together[i] == pytest.approx(made.sequence_logprobs("policy", [asked[i]], [answers[i]])[0], abs=1e-5)
        assert len(together[i]) == len(answers[i])


@pytest.mark.parametrize("size", [1, 2, 6])
def test_micro_batches_change_neither_logprobs_nor_scores_nor_their_order(tiny_base, size):
    made = backbone(tiny_base)
    ids = token_ids(made.chat, 6)
    made.micro_batch = 4
    logprobs, scores = made.sequence_logprobs("policy", *ids), made.sequence_scores("value", *ids)
    made.micro_batch = size
    for one, other in zip(made.sequence_logprobs("policy", *ids), logprobs, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert made.sequence_scores("value", *ids) == pytest.approx(scores, abs=1e-5)


def test_masks_come_from_lengths_whatever_the_filler_is(tiny_base):
    made = backbone(tiny_base)
    ids = token_ids(made.chat, 6)
    expected = made.sequence_logprobs("policy", *ids), made.sequence_scores("value", *ids)
    made.chat.fill_id = made.chat.end_id  # pad = end, as many tokenizers have it
    assert made.sequence_logprobs("policy", *ids) == expected[0]
    assert made.sequence_scores("value", *ids) == expected[1]


def test_logprobs_are_those_of_the_models_own_logits_at_the_temperature(folder):
    made = backbone(folder)
    (asked, *_), (answer, *_) = token_ids(made.chat, 1)
    with torch.no_grad(), made.role("policy"):
        logits_SV = made.base(torch.tensor([asked + answer])).logits[0].float()
    expected = (logits_SV[len(asked) - 1 : -1] / 0.7).log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
    assert made.sequence_logprobs("policy", [asked], [answer], 0.7)[0] == pytest.approx(expected.tolist(), abs=1e-5)


# --- adapters on disk -------------------------------------------------------------------------------------------------


def test_a_saved_adapter_loads_with_plain_peft_and_gives_the_same_logits(folder, tmp_path):
    from peft import PeftModel

    made = backbone(folder)
    made.save_adapter("policy", tmp_path)
    theirs = PeftModel.from_pretrained(load_base(spec(folder)), str(tmp_path)).eval()
    ids_BS = torch.tensor([token_ids(made.chat, 1)[0][0]])
    with torch.no_grad():
        expected = theirs(ids_BS).logits
        with made.role("policy"):
            ours = made.base(ids_BS).logits
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(ids_BS).logits, expected, atol=1e-3)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_saving_one_adapter_does_not_stop_its_training(tiny_base, tmp_path):
    made = backbone(tiny_base)
    before = policy_gradient(made)
    made.save_adapter("policy", tmp_path)
    assert same(policy_gradient(made), before)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_base)


def test_an_adapter_of_another_base_is_refused_and_leaves_no_role(tiny_base, tiny_qwen2, tmp_path):
    backbone(tiny_qwen2).save_adapter("policy", tmp_path)
    made = backbone(tiny_base)
    with pytest.raises(ModelError, match="made for another base"):
        made.add_role("stranger", start=tmp_path)
    assert "stranger" not in made.roles
    assert len(policy_gradient(made)) == 28


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"modules_to_save": ["embed_tokens"]}, {"bias": "all"}, {"peft_type": "IA3"}],
    ids=["dora", "embeddings", "bias", "ia3"],
)  # fmt: skip
def test_an_adapter_that_could_not_share_the_base_is_refused(tiny_base, tmp_path, changes):
    made = backbone(tiny_base)
    made.save_adapter("policy", tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match=r"share a base|parts of its own|IA3"):
        made.add_role("odd", start=tmp_path)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_an_adapter_is_refused_by_the_name_of_what_is_missing(tiny_base, tmp_path, missing):
    made = backbone(tiny_base)
    made.save_adapter("policy", tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        made.add_role("copy", start=tmp_path)


def test_adapters_of_different_ranks_share_a_base(tiny_base, tmp_path):
    large = Backbone(spec(tiny_base, lora=LoraSpec(r=8, alpha=32)))
    large.add_role("policy")
    stir(large, "policy")
    large.save_adapter("policy", tmp_path)
    made = backbone(tiny_base)
    made.add_role("large", start=tmp_path)
    ids = token_ids(made.chat, 4)
    for one, other in zip(made.sequence_logprobs("large", *ids), large.sequence_logprobs("policy", *ids), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_two_roles_of_one_name_are_refused(tiny_base):
    made = backbone(tiny_base)
    with pytest.raises(ModelError, match="'policy' exists already"):
        made.add_role("policy")


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_new_head_gives_zero_everywhere(tiny_base):
    made = Backbone(spec(tiny_base))
    made.add_role("value", trained=True, head=True)
    assert set(made.sequence_scores("value", *token_ids(made.chat, 4))) == {0.0}


@pytest.fixture(scope="module")
def reward_adapter(tiny_base, tmp_path_factory) -> Path:
    from rlhf_lora.contracts import FitContext
    from rlhf_lora.records import Pair
    from rlhf_lora.stages import reward_model
    from rlhf_lora.train_settings import TrainSettings

    out = tmp_path_factory.mktemp("reward") / "adapter"
    pairs = [Pair(p, "certainly tea soup and bread", "ugh whatever") for p in prompts(8)]
    settings = TrainSettings(batch_size=4, micro_batch=4, lr=1e-2, epochs=2)
    reward_model.fit(spec(tiny_base), pairs, settings, FitContext(out=out, seed=0, log=None))
    return out


def test_the_reward_role_scores_as_transformers_does_with_the_same_adapter(tiny_base, reward_adapter):
    from peft import PeftModel

    made = backbone(tiny_base)
    made.add_role("reward", start=reward_adapter, head=True)
    asked, answers = token_ids(made.chat, 6)
    ours = made.sequence_scores("reward", asked, answers)
    model = PeftModel.from_pretrained(load_base(spec(tiny_base), num_labels=1), str(reward_adapter)).eval()
    theirs = []
    for question, answer in zip(asked, answers, strict=True):  # one by one: Transformers pools by padding id
        with torch.no_grad():
            theirs.append(model(input_ids=torch.tensor([question + answer])).logits.item())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert max(ours) - min(ours) > 1e-3


def test_the_reward_adapter_loads_as_a_sequence_classifier_without_us(tiny_base, reward_adapter):
    from peft import AutoPeftModelForSequenceClassification

    settings = json.loads((reward_adapter / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_base)
    model = AutoPeftModelForSequenceClassification.from_pretrained(str(reward_adapter), num_labels=1)
    made = Backbone(spec(tiny_base, load_in_4bit=False))
    made.add_role("reward", start=reward_adapter, head=True)
    asked, answers = token_ids(made.chat, 2)
    with torch.no_grad():
        theirs = [
            model.eval()(input_ids=torch.tensor([q + a])).logits.item() for q, a in zip(asked, answers, strict=True)
        ]
    assert made.sequence_scores("reward", asked, answers) == pytest.approx(theirs, abs=1e-5)


# --- models that cannot be used ---------------------------------------------------------------------------------------


def test_a_model_that_caps_its_logits_is_refused(tiny_base, monkeypatch):
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = 2 * torch.tanh(out.logits / 2)
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", capped)
    with pytest.raises(ModelError, match="soft cap or scale"):
        Backbone(spec(tiny_base))


def test_a_damaged_weight_file_is_refused_in_words(tiny_base, tmp_path):
    import shutil

    shutil.copytree(tiny_base, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_base(spec(tmp_path / "model"))
