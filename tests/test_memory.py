"""The memory estimate against the worked table it comes from, published parameter counts, and its own promises."""

from __future__ import annotations

import pytest

from rlhf_lora.errors import ModelError
from rlhf_lora.memory import Shape, estimate, from_config_json, usable

SHAPES = {
    "0.5B": Shape(896, 24, 14, 2, 64, 4864, 151936, True),
    "1.5B": Shape(1536, 28, 12, 2, 128, 8960, 151936, True),
    "3B": Shape(2048, 36, 16, 2, 128, 11008, 151936, True),
    "7B": Shape(3584, 28, 28, 4, 128, 18944, 152064, False),
    "8B": Shape(4096, 32, 32, 8, 128, 14336, 128256, False),
    "14B": Shape(5120, 48, 40, 8, 128, 13824, 152064, False),
}
# GB (1e9): r 16, 256-token chunks, policy and value trained with 8-bit Adam, a frozen reward, reference = adapters off.
# A: 512 tokens, 64 samples at once, micro-batch 2 · A': 16 samples · B: 1536 tokens, 16 samples, micro-batch 1
SETTINGS = {"A": (512, 64, 2), "A'": (512, 16, 2), "B": (1536, 16, 1)}
TABLE = {
    "0.5B": (2.1, 2.1, 2.2),
    "1.5B": (3.7, 3.3, 3.4),
    "3B": (5.2, 4.7, 4.9),
    "7B": (10.0, 9.0, 9.4),
    "8B": (12.7, 9.2, 11.5),
    "14B": (20.2, 15.0, 18.4),
}


@pytest.mark.parametrize(
    ("model", "setting", "gigabytes"),
    [(model, name, value) for model, row in TABLE.items() for name, value in zip(SETTINGS, row, strict=True)],
)
def test_on_policy_estimate_equals_the_worked_table(model, setting, gigabytes):
    tokens, rollout_batch, micro_batch = SETTINGS[setting]
    memory = estimate(
        SHAPES[model],
        prompt_tokens=256,
        response_tokens=tokens - 256,
        rollout_batch=rollout_batch,
        micro_batch=micro_batch,
        frozen_adapters=1,
        moment_bytes=2,
    )
    assert memory.total / 1e9 == pytest.approx(gigabytes, rel=0.03)


def seven_b(**changes):
    settings = {"prompt_tokens": 256, "response_tokens": 256, "rollout_batch": 64, "micro_batch": 2} | changes
    return estimate(SHAPES["7B"], **settings)


def test_seven_billion_weights_in_four_bits_take_a_quarter_of_bf16_but_for_the_vocabulary():
    # 6.525e9 projection weights at 0.5159 bytes + 2 x 152064 x 3584 at 2 bytes = 3.366e9 + 2.180e9
    assert seven_b().base == pytest.approx(5.546e9, rel=1e-3)
    assert seven_b(load_in_4bit=False).base == pytest.approx(2 * 7.615e9, rel=1e-3)


def test_both_phases_of_seven_billion_worked_out_by_hand():
    memory = seven_b()
    # 1024 tokens in a micro-batch: inputs of 28 layers in bf16; one layer in full, with PEFT's fp32 casts
    inputs = 2 * 28 * 1024 * 3584
    layer = 1024 * (2 * (6 * 3584 + 2 * 512 + 6 * 18944) + 4 * (6 * 3584 + 18944))
    unpacked = 2 * 3584 * 18944  # one MLP matrix in bf16
    assert memory.training == inputs + layer + unpacked + 256 * 152064 * 10
    # bf16 keys and values, 512 wide, of 64 sequences of 512 tokens
    assert memory.rollout == 4 * 28 * 512 * 512 * 64 + unpacked + 10 * 64 * 152064


def test_peak_counts_the_larger_phase_only():
    long_rollout, long_training = seven_b(), seven_b(rollout_batch=1)
    assert long_rollout.peak_phase == "rollout"
    assert long_training.peak_phase == "training"
    assert long_training.total < long_rollout.total
    assert seven_b(rollout_batch=2).total == long_training.total  # still under the training peak


def test_rows_add_up_to_the_total():
    rows = seven_b().rows()
    added = sum(gib for name, gib, note in rows if name != "total" and not note.startswith("takes turns"))
    assert added == pytest.approx(rows[-1][1])
    assert rows[-1][0] == "total"


def test_cpu_has_no_device_context():
    assert seven_b(device_context=False).context == 0


def test_off_policy_stages_have_no_rollout_and_pairs_are_two_sequences():
    sft, pairs = seven_b(stage="sft"), seven_b(stage="preference")
    assert sft.rollout == pairs.rollout == 0
    assert pairs.training == seven_b(stage="sft", micro_batch=4).training  # two pairs are four sequences
    assert pairs.adapters == 2 * sft.adapters  # the reference's frozen copy
    assert seven_b(stage="reward_model").training < pairs.training  # no logits


def test_without_checkpointing_every_layer_is_kept():
    kept = seven_b(gradient_checkpointing=False)
    assert kept.training > 5 * seven_b().training


def test_every_adapter_costs_and_every_setting_turns_the_right_way():
    total = seven_b(rollout_batch=1).total
    for more in ({"r": 32}, {"micro_batch": 4}, {"response_tokens": 512}, {"chunk": 512}, {"frozen_adapters": 3}):
        assert seven_b(rollout_batch=1, **more).total > total, more
    assert seven_b(dtype="float32").total > seven_b().total


def test_cards_hold_what_the_table_says_they_hold():
    # 95 % of the card less half a gigabyte of desktop: 12 GiB leave 11.74 GB, 8 GiB leave 7.66 GB
    assert usable(12) / 1e9 == pytest.approx(11.74, abs=0.01)
    assert usable(8) / 1e9 == pytest.approx(7.66, abs=0.01)
    memory = seven_b(moment_bytes=2, frozen_adapters=1)
    assert memory.fits(12)
    assert not memory.fits(8)


def test_shape_is_read_from_a_config_json_as_each_family_writes_it():
    llama = {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
    }
    assert from_config_json({**llama, "tie_word_embeddings": True}) == Shape(2048, 16, 32, 8, 64, 8192, 128256, True)
    assert not from_config_json(llama).tied
    assert from_config_json({**llama, "model_type": "gemma2", "head_dim": 256}) == Shape(
        2048, 16, 32, 8, 256, 8192, 128256, True
    )
    old = {key: value for key, value in llama.items() if key != "num_key_value_heads"}
    assert from_config_json(old).kv_heads == 32
    inner = {key: value for key, value in llama.items() if key != "model_type"}
    assert from_config_json({"model_type": "gemma3", "text_config": inner}).tied


def test_what_cannot_be_estimated_says_what_to_do():
    with pytest.raises(ModelError, match=r"no hidden_size, num_hidden_layers"):
        from_config_json({"model_type": "gpt2", "n_embd": 768, "vocab_size": 50257})
    with pytest.raises(ModelError, match="mixture of experts"):
        from_config_json({"model_type": "qwen3_moe", "num_experts": 128})
    with pytest.raises(ModelError, match="'layers', got 0"):
        Shape(896, 0, 14, 2, 64, 4864, 151936, True)
