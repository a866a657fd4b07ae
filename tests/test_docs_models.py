"""The page of models and cards is made from the presets, and says of its figures what they are."""

from __future__ import annotations

import json

import draw_models
import pytest
from tiny import jsonl

from rlhf_lora import cli

TEXT = draw_models.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_presets():
    assert draw_models.page(TEXT) == TEXT, "run python tests/draw_models.py"


def test_the_page_says_that_nothing_was_measured():
    assert "**Estimated, not measured**" in TEXT


def test_every_preset_with_a_shape_is_in_both_tables():
    for name in draw_models.models():
        assert TEXT.count(f"\n| `{name}` |") == 2


@pytest.mark.parametrize(
    ("model", "card", "tokens"),
    [("qwen3_4b", "gpu_8gb", 512), ("qwen3_8b", "gpu_8gb", 128), ("qwen3_8b", "gpu_12gb", 512),
     ("qwen3_14b", "gpu_16gb", 128), ("qwen3_14b", "gpu_24gb", 256), ("qwen2_5_14b_instruct", "gpu_24gb", 512)],
)  # fmt: skip
def test_the_plan_comes_to_the_verdict_of_the_table(model, card, tokens, tmp_path, capsys):
    rows = [{"prompt": f"please bring {i}", "chosen": "certainly tea", "rejected": f"no {i}"} for i in range(200)]
    data = jsonl(tmp_path / "pairs.jsonl", rows)
    given = [f"model={model}", f"hardware={card}", "dataset=jsonl", f"dataset.path={data}", "max_prompt_tokens=256"]
    assert cli.run(["plan", "--json", *given, f"rollout.max_new_tokens={tokens}"]) == 0
    hardware, preset = draw_models.preset("hardware", card), draw_models.preset("model", model)
    longest = draw_models.longest(preset, hardware)
    assert json.loads(capsys.readouterr().out)["fits"] is (longest is not None and tokens <= longest)


def test_larger_cards_hold_all_that_smaller_ones_do():
    """With answers of 128 tokens; beyond that, larger cards spend their memory on larger batches."""
    for name in draw_models.models():
        model = draw_models.preset("model", name)
        fits = [
            draw_models.longest(model, draw_models.preset("hardware", card)) is not None for card in draw_models.CARDS
        ]
        assert fits == sorted(fits), name
