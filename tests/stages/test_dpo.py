"""DPO on TRL: its reference, its loss with soft labels, its settings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_base, make_pairs

from rlhf_lora import doors, registry
from rlhf_lora.adamw import AdamW
from rlhf_lora.contracts import FitContext, OffPolicyOptimizer
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.records import Pair


def dpo(**settings: object) -> OffPolicyOptimizer:
    adamw = {"lr": settings.pop("lr", 1e-3)}
    config = {"name": "dpo", "batch_size": 8, "micro_batch": 8, "warmup": 0.0, "schedule": "constant"}
    return registry.build("optimizer", config | {"adamw": adamw} | settings)


def sequence_logprob(spec: ModelSpec, adapter: Path | None, pair: Pair, answer: str) -> float:
    """Sum of the answer's log-probs under an adapter, by plain peft."""
    from peft import PeftModel

    chat, model = load_chat(spec), load_base(spec)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    prompt, response = chat.prompt_ids(pair.prompt), chat.response_ids(answer)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([prompt + response])).logits[0].double(), dim=1)
    return sum(logprobs[len(prompt) - 1 + t, token].item() for t, token in enumerate(response))


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("four_bit", [True, False])
def test_reference_is_what_training_starts_from(
    base: Path, sft_adapter: Path, tmp_path: Path, started: bool, four_bit: bool
):
    spec, logged = ModelSpec(str(base), load_in_4bit=four_bit), []
    start = sft_adapter if started else None
    ctx = FitContext(tmp_path / "out", 0, lambda step, metrics: logged.append(metrics), start_adapter=start)
    dpo(micro_batch=4).fit(spec, make_pairs(32), ctx)
    assert logged[0]["rewards/margins"] == 0.0
    assert logged[0]["loss"] == pytest.approx(math.log(2))
    assert logged[-1]["rewards/margins"] > 0
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "epoch"} <= logged[0].keys()


def test_log_probs_are_those_of_whole_answers_under_the_start_adapter(base: Path, sft_adapter: Path, tmp_path: Path):
    spec, pairs, logged = ModelSpec(str(base)), make_pairs(4), []
    ctx = FitContext(tmp_path / "out", 0, lambda step, metrics: logged.append(metrics), start_adapter=sft_adapter)
    dpo(lr=0.0).fit(spec, pairs, ctx)
    expected = sum(sequence_logprob(spec, sft_adapter, pair, pair.chosen) for pair in pairs) / 4
    assert logged[0]["logps/chosen"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_second_step_is_measured_against_the_start_and_not_against_the_first(base: Path, tmp_path: Path):
    """One pair, two epochs: after one step its margin is beta times what that step gained over the start."""
    spec, [pair], logged = ModelSpec(str(base), load_in_4bit=False), make_pairs(1), []
    optimizer = dpo(batch_size=1, micro_batch=1, beta=0.3)
    optimizer.fit(spec, [pair], FitContext(tmp_path / "one", 0, None))
    ctx = FitContext(tmp_path / "two", 0, lambda step, metrics: logged.append(metrics))
    replace(optimizer, epochs=2.0).fit(spec, [pair], ctx)
    gains = [
        sequence_logprob(spec, tmp_path / "one", pair, answer) - sequence_logprob(spec, None, pair, answer)
        for answer in (pair.chosen, pair.rejected)
    ]
    assert logged[1]["rewards/margins"] == pytest.approx(0.3 * (gains[0] - gains[1]), abs=2e-5)


def test_learning_rate_0_leaves_the_adapter_as_it_was_bit_for_bit(base: Path, sft_adapter: Path, tmp_path: Path):
    ctx = FitContext(tmp_path / "out", 0, None, start_adapter=sft_adapter)
    dpo(lr=0.0).fit(ModelSpec(str(base)), make_pairs(16), ctx)
    start, end = (load_file(path / "adapter_model.safetensors") for path in (sft_adapter, tmp_path / "out"))
    assert start.keys() == end.keys()
    assert all(torch.equal(start[name], end[name]) and end[name].dtype == torch.float32 for name in start)


def test_only_the_trained_adapter_is_in_the_folder(base: Path, sft_adapter: Path, tmp_path: Path):
    ctx = FitContext(tmp_path / "out", 0, None, start_adapter=sft_adapter)
    dpo().fit(ModelSpec(str(base)), make_pairs(16), ctx)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def first_loss_after_a_step(base: Path, out: Path, pairs: list[Pair], **settings: object) -> float:
    logged: list[float] = []
    ctx = FitContext(out, 0, lambda step, metrics: logged.append(metrics["loss"]))
    dpo(batch_size=len(pairs), micro_batch=len(pairs), epochs=2, lr=1e-2, **settings).fit(
        ModelSpec(str(base)), pairs, ctx
    )
    return logged[1]


def test_soft_labels_and_smoothing_reach_the_loss(base: Path, tmp_path: Path):
    """TRL's sigmoid loss takes `label_smoothing` and ignores it."""
    hard = make_pairs(8)
    soft = [replace(pair, label=0.9) for pair in hard]
    losses = {
        "hard": first_loss_after_a_step(base, tmp_path / "a", hard),
        "soft": first_loss_after_a_step(base, tmp_path / "b", soft),
        "smoothed": first_loss_after_a_step(base, tmp_path / "c", hard, label_smoothing=0.1),
    }
    assert losses["soft"] == losses["smoothed"]
    assert losses["soft"] > losses["hard"] + 0.01


@pytest.mark.parametrize("loss", ["hinge", "ipo", "robust"])
def test_other_losses_are_trls(base: Path, tmp_path: Path, loss: str):
    logged: list[dict[str, float]] = []
    ctx = FitContext(tmp_path / "out", 0, lambda step, metrics: logged.append(metrics))
    dpo(loss=loss, beta=0.1, batch_size=4, micro_batch=2).fit(ModelSpec(str(base)), make_pairs(8), ctx)
    # At margin 0: hinge 1, IPO (1 / 2 beta)^2 = 25, robust log 2.
    assert logged[0]["loss"] == pytest.approx({"hinge": 1.0, "ipo": 25.0, "robust": math.log(2)}[loss], rel=1e-5)
    assert logged[0]["rewards/margins"] == 0.0


@pytest.mark.slow
def test_qwen2_with_biases_and_tied_embeddings_works(tmp_path: Path):
    spec = ModelSpec(str(make_base(tmp_path / "base", "qwen2", pad="</s>")))
    metrics = dpo().fit(spec, make_pairs(32), FitContext(tmp_path / "out", 0, None))
    assert metrics["rewards/accuracies"] > 0.5


def test_no_pairs_is_an_error_in_words(base: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no pairs"):
        dpo().fit(ModelSpec(str(base)), [], FitContext(tmp_path / "out", 0, None))


# --- settings, which load no model ------------------------------------------------------------------------------------


def test_it_is_an_off_policy_optimizer_that_learns_from_pairs():
    assert isinstance(dpo(), OffPolicyOptimizer)
    assert dpo().learns_from == "pairs"


def test_saved_config_rebuilds_the_same_object_with_its_adamw():
    optimizer = dpo(beta=0.2, adamw={"lr": 3e-4, "beta2": 0.95})
    assert optimizer.adamw == AdamW(lr=3e-4, beta2=0.95)
    assert registry.build("optimizer", registry.to_config(optimizer)) == optimizer


def test_hydra_composes_adamw_inside_the_optimizer_typed():
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, ValidationError

    doors.load_entry_points()
    node = OmegaConf.structured(ConfigStore.instance().repo["optimizer"]["dpo.yaml"].node)
    node.adamw.lr = 2e-4
    assert registry.build("optimizer", node).adamw.lr == 2e-4
    with pytest.raises(ValidationError):
        node.adamw.lr = "fast"
    with pytest.raises((ConfigKeyError, AttributeError)):
        node.adamw.speed = 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be > 0"),
        ({"loss": "sigmoidal"}, "loss must be one of sigmoid"),
        ({"pairs": "mine"}, "pairs must be one of auto, dataset"),
        ({"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\)"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "knows no label_smoothing"),
        ({"loss": "exo_pair"}, "needs label_smoothing"),
        ({"batch_size": 8, "micro_batch": 3}, "micro_batch=3 must divide batch_size=8"),
        ({"schedule": "step"}, "schedule must be"),
        ({"lr": -1.0}, "adamw.lr must be finite"),
        ({"adamw": {"speed": 1}}, "adamw has no setting 'speed'"),
    ],
)
def test_setting_out_of_range_is_refused_before_anything_is_loaded(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        dpo(**settings)
