"""KTO on TRL: its loss is TRL's, its reference, the mismatched answers of its KL estimate, its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_pairs

from rlhf_lora import registry
from rlhf_lora.contracts import FitContext, OffPolicyOptimizer
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.records import Label, Prompt
from rlhf_lora.row_source import as_labels


def kto(**settings: object) -> OffPolicyOptimizer:
    adamw = {"lr": settings.pop("lr", 1e-3)}
    config = {"name": "kto", "batch_size": 8, "micro_batch": 8, "warmup": 0.0, "schedule": "constant"}
    return registry.build("optimizer", config | {"adamw": adamw} | settings)


def labels(pairs: int) -> list[Label]:
    return as_labels(make_pairs(pairs))


def test_at_the_reference_every_answer_loses_one_half(base: Path, sft_adapter: Path, tmp_path: Path):
    logged: list[dict[str, float]] = []
    ctx = FitContext(tmp_path / "out", 0, lambda step, metrics: logged.append(metrics), start_adapter=sft_adapter)
    found = kto(micro_batch=4).fit(ModelSpec(str(base)), labels(24), ctx)
    assert logged[0]["loss"] == pytest.approx(0.5)
    assert logged[0]["kl"] == 0.0
    assert logged[-1]["rewards/margins"] > 0
    assert {"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"} <= logged[-1].keys()
    assert (found["rows"], found["rows_good"], found["undesirable_weight"]) == (48, 24, 1)


def test_the_loss_and_its_gradient_are_trls(base: Path, sft_adapter: Path, tmp_path: Path):
    """Three steps with the one, three with the other, from the same start, far from the reference: the same adapter."""
    from trl import KTOTrainer

    from rlhf_lora import kto_trainer

    spec, given = ModelSpec(str(base), load_in_4bit=False), labels(12)
    settings = {"beta": 0.7, "lr": 1e-2, "desirable_weight": 1.3, "undesirable_weight": 0.8}
    logged: dict[str, list[float]] = {"ours": [], "trl": []}

    def train(name: str) -> dict[str, torch.Tensor]:
        note = lambda step, metrics: logged[name].append(metrics["kl"])  # noqa: E731
        ctx = FitContext(tmp_path / name, 0, note, start_adapter=sft_adapter, bare_reference=True)
        kto(**settings).fit(spec, given, ctx)
        return load_file(tmp_path / name / "adapter_model.safetensors")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kto_trainer.Trainer, "compute_loss", lambda self, *args, **kw: KTOTrainer.compute_loss(self, *args, **kw)
        )
        theirs = train("trl")
    ours = train("ours")
    assert max(logged["trl"]) > 0  # the KL estimate has a say
    assert logged["ours"] == pytest.approx(logged["trl"], abs=1e-5)
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-5) for name in ours)
    start = load_file(sft_adapter / "adapter_model.safetensors")
    assert not all(torch.allclose(ours[name], start[name], atol=1e-3) for name in ours)


def test_learning_rate_0_leaves_the_adapter_as_it_was_bit_for_bit(base: Path, sft_adapter: Path, tmp_path: Path):
    ctx = FitContext(tmp_path / "out", 0, None, start_adapter=sft_adapter)
    kto(lr=0.0).fit(ModelSpec(str(base)), labels(8), ctx)
    start, end = (load_file(path / "adapter_model.safetensors") for path in (sft_adapter, tmp_path / "out"))
    assert all(torch.equal(start[name], end[name]) and end[name].dtype == torch.float32 for name in start)


@pytest.mark.parametrize("name", ["kto", "dpo"])
def test_a_reference_that_is_not_the_start_is_what_gains_are_told_from(
    base: Path, sft_adapter: Path, tmp_path: Path, name: str
):
    """Started from SFT with the bare base as reference, answers have gained something before the first step."""
    adamw = {"name": name, "batch_size": 8, "micro_batch": 8, "adamw": {"lr": 0.0}}
    optimizer, rows = registry.build("optimizer", adamw), labels(8) if name == "kto" else make_pairs(8)
    first: dict[str, float] = {}
    contexts = {
        "start": FitContext(tmp_path / "a", 0, None, start_adapter=sft_adapter),
        "bare": FitContext(tmp_path / "b", 0, None, start_adapter=sft_adapter, bare_reference=True),
        "itself": FitContext(tmp_path / "c", 0, None, start_adapter=sft_adapter, reference=sft_adapter),
    }
    for which, ctx in contexts.items():
        found = optimizer.fit(ModelSpec(str(base), load_in_4bit=False), rows, ctx)
        first[which] = found["rewards/chosen"]
    assert first["start"] == first["itself"] == 0.0
    assert abs(first["bare"]) > 0.1


def test_bad_answers_weigh_as_much_as_good_ones_unless_told_otherwise(base: Path, tmp_path: Path):
    given = [label for i, label in enumerate(labels(8)) if label.good or i % 4 == 1]  # 8 good, 4 bad
    found = kto(desirable_weight=0.5).fit(ModelSpec(str(base)), given, FitContext(tmp_path / "out", 0, None))
    assert found["undesirable_weight"] == 1.0


def test_a_mismatched_answer_is_to_another_prompt_of_the_micro_batch():
    from rlhf_lora.kto_trainer import mismatch
    from rlhf_lora.token_rows import Rows

    def row(prompt: int, answer: int) -> dict[str, Any]:
        return {"prompt_ids": [prompt], "completion_ids": [answer] * 9}

    rows = Rows([row(0, 10), row(0, 11), row(1, 12), row(2, 13), row(2, 14)], [10] * 5)
    mismatch(rows, [[0, 1, 2], [3, 4]], longest=6)
    assert [r["KL_completion_ids"][0] for r in rows.items] == [12, 12, 10, 10, 10]  # the last two: of the rows behind
    assert {len(r["KL_completion_ids"]) for r in rows.items} == {5}


def test_an_answer_that_was_cut_has_no_end_to_learn(base: Path):
    from rlhf_lora.kto_trainer import tokenised
    from rlhf_lora.loading import load_chat

    chat = load_chat(ModelSpec(str(base)))
    (whole, _), (cut, _) = tokenised(chat, [Label(Prompt("w1"), "w2", True), Label(Prompt("w1"), "w2", True, False)])
    assert whole["completion_ids"] == [*cut["completion_ids"], chat.end_id]


def test_labels_of_one_kind_are_refused(base: Path, tmp_path: Path):
    with pytest.raises(DataError, match="are all good"):
        kto().fit(ModelSpec(str(base)), [x for x in labels(4) if x.good], FitContext(tmp_path / "out", 0, None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be > 0"),
        ({"labels": "mine"}, "labels must be one of auto"),
        ({"threshold": "best"}, "threshold must be median or mean"),
        ({"threshold": True}, "threshold must be"),
        ({"desirable_weight": 0.0}, "desirable_weight must be > 0"),
        ({"micro_batch": 1}, "at least 2 for KTO"),
        ({"samples_per_prompt": 1}, "of one there is no choice"),
        ({"prompts": 0}, "prompts must be at least 1"),
    ],
)
def test_setting_out_of_range_is_refused_before_anything_is_loaded(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        kto(**settings)
