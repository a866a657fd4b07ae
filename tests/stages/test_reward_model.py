"""The reward model: where it reads, what it starts from, and that its folder is the model that was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import END, make_base, make_pairs

from rlhf_lora import adapters, token_rows
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import DataError, ModelError
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec, base_hash
from rlhf_lora.records import Pair, Prompt
from rlhf_lora.stages import reward_model
from rlhf_lora.train_settings import TrainSettings

QUICK = TrainSettings(batch_size=16, micro_batch=16, lr=1e-2, schedule="constant", warmup=0)


@pytest.fixture(scope="module")
def folder(base: Path, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "reward"
    ctx = FitContext(out, 0, None, start_adapter=sft_adapter)
    reward_model.fit(ModelSpec(str(base)), make_pairs(256), replace(QUICK, epochs=2), ctx)
    return out


def scores(spec: ModelSpec, folder: Path, pairs: list[Pair]) -> tuple[list[float], list[float]]:
    scorer, prompts = reward_model.Scorer(spec, folder), [pair.prompt for pair in pairs]
    return scorer.score(prompts, [p.chosen for p in pairs]), scorer.score(prompts, [p.rejected for p in pairs])


def test_it_learns_what_can_be_learnt_and_says_so_on_new_pairs(base: Path, folder: Path):
    pairs = make_pairs(100, seed=9)
    chosen, rejected = scores(ModelSpec(str(base)), folder, pairs)
    figures = reward_model.accuracy(chosen, rejected, pairs)
    assert figures["accuracy"] > 0.9
    assert figures["length_baseline_ci95"][0] < 0.55


def test_folder_loads_with_plain_peft_and_gives_the_same_scores(base: Path, folder: Path):
    from peft import AutoPeftModelForSequenceClassification

    spec, pairs = ModelSpec(str(base), load_in_4bit=False), make_pairs(20, seed=3)
    stranger = AutoPeftModelForSequenceClassification.from_pretrained(str(folder), num_labels=1).eval()
    chat = load_chat(spec)
    mine, _ = scores(spec, folder, pairs)
    for pair, score in zip(pairs, mine, strict=True):
        ids = torch.tensor([chat.prompt_ids(pair.prompt) + chat.response_ids(pair.chosen)])
        with torch.no_grad():
            assert stranger(ids).logits.item() == pytest.approx(score, abs=1e-5)


def test_folder_is_a_float32_seq_cls_adapter_with_its_head_and_its_reward_json(base: Path, folder: Path):
    spec = ModelSpec(str(base))
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert tensors["base_model.model.score.weight"].shape == (1, 64)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["classifier", "score"]  # what peft calls heads
    assert json.loads((folder / "reward.json").read_text()) == {
        "gain": 1.0,
        "bias": 0.0,
        "template_hash": load_chat(spec).template_hash,
        "base_hash": base_hash(str(base)),
        "pooling": "last",
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("pad", [None, "</s>", "<pad>"])
def test_score_is_read_at_the_last_token_whatever_the_padding_token(tmp_path: Path, architecture: str, pad: str | None):
    spec = ModelSpec(str(make_base(tmp_path / "base", architecture, pad=pad)))
    model = adapters.attach(load_base(spec, num_labels=1), spec, "SEQ_CLS", None).eval()
    torch.nn.init.normal_(adapters.score_head(model).weight)
    # Rows that end in the end token, in the filler itself, and in a word; the filler is what pads.
    fill = load_chat(spec).fill_id
    rows = [[5, 6, 7, END], [5, 6, fill, fill], [5, END], [fill], [9, 8, 7, 6, 5, 4]]
    ids_BS, lengths_B = token_rows.pad(rows, fill)
    with torch.no_grad():
        together = reward_model.pooled_scores(model, ids_BS, lengths_B)
        for row, score in zip(rows, together.tolist(), strict=True):
            alone = model.base_model.model.model(torch.tensor([row])).last_hidden_state[0, -1]
            assert score == pytest.approx((adapters.score_head(model).weight[0] @ alone).item(), abs=1e-5)


def test_it_starts_at_score_0_from_the_sft_adapters_weights(base: Path, sft_adapter: Path, tmp_path: Path):
    spec, pairs = ModelSpec(str(base)), make_pairs(16)
    ctx = FitContext(tmp_path / "out", 0, None, start_adapter=sft_adapter)
    metrics = reward_model.fit(spec, pairs, replace(QUICK, lr=0.0), ctx)
    assert metrics["loss"] == pytest.approx(0.693147, abs=1e-6)  # log 2: all scores are equal
    start, end = (load_file(path / "adapter_model.safetensors") for path in (sft_adapter, tmp_path / "out"))
    assert all(torch.equal(start[name], end[name]) for name in start)
    assert not end["base_model.model.score.weight"].any()


def test_reward_adapter_can_be_trained_further_with_its_head(base: Path, folder: Path, tmp_path: Path):
    spec, pairs = ModelSpec(str(base)), make_pairs(20, seed=4)
    ctx = FitContext(tmp_path / "out", 0, None, start_adapter=folder)
    reward_model.fit(spec, make_pairs(16), replace(QUICK, lr=0.0), ctx)
    assert scores(spec, tmp_path / "out", pairs) == scores(spec, folder, pairs)


def test_margin_and_soft_label_enter_the_loss(base: Path, tmp_path: Path):
    # Scores start at 0, so the loss is -p log sigmoid(-m) - (1-p) log sigmoid(m) with m = 1, p = 0.75:
    # 0.75 * 1.313262 + 0.25 * 0.313262 = 1.063262
    pairs = [replace(pair, margin=1.0, label=0.75) for pair in make_pairs(16)]
    ctx = FitContext(tmp_path / "out", 0, None)
    metrics = reward_model.fit(ModelSpec(str(base)), pairs, replace(QUICK, lr=0.0), ctx)
    assert metrics["loss"] == pytest.approx(1.063262, abs=1e-5)


def test_adapter_without_score_head_is_refused(base: Path, sft_adapter: Path, folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="no score head"):
        reward_model.Scorer(ModelSpec(str(base)), sft_adapter)
    headless = tmp_path / "headless"
    shutil.copytree(folder, headless)
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors["base_model.model.score.weight"]
    save_file(tensors, headless / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="no score head"):
        reward_model.Scorer(ModelSpec(str(base)), headless)


def _template(info: dict[str, object]) -> None:
    info["template_hash"] = "0" * 12


def _base(info: dict[str, object]) -> None:
    info["base_hash"] = "0" * 16


def _pooling(info: dict[str, object]) -> None:
    info["pooling"] = "mean"


@pytest.mark.parametrize(
    ("change", "message"), [(_template, "another template"), (_base, "another base"), (_pooling, "pooling 'mean'")]
)
def test_reward_model_of_other_making_is_refused(
    base: Path, folder: Path, tmp_path: Path, change: Callable[[dict[str, object]], None], message: str
):
    shutil.copytree(folder, tmp_path / "reward")
    file = tmp_path / "reward" / "reward.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))
    with pytest.raises(ModelError, match=message):
        reward_model.Scorer(ModelSpec(str(base)), tmp_path / "reward")


def test_scores_do_not_depend_on_the_batch_and_an_unfinished_text_has_no_end_token(base: Path, folder: Path):
    scorer = reward_model.Scorer(ModelSpec(str(base), load_in_4bit=False), folder)
    prompts, texts = [Prompt("w1 w2"), Prompt("w3"), Prompt("w4 w5 w6")], ["w7", "", "w8 w9 w10 w11"]
    together = scorer.score(prompts, texts)
    alone = [scorer.score([p], [t])[0] for p, t in zip(prompts, texts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    cut = scorer.score(prompts, texts, finished=[False, True, True])
    assert cut[1:] == pytest.approx(together[1:], abs=1e-5)
    assert cut[0] != pytest.approx(together[0], abs=1e-4)
    assert scorer.score([], []) == []


def test_normalised_scores_have_mean_0_and_deviation_1(base: Path, folder: Path, tmp_path: Path):
    # Scores 1, 3, 5: mean 3, population deviation sqrt(8/3) = 1.632993; g = 0.612372, b = -1.837117
    shutil.copytree(folder, tmp_path / "reward")
    gain, bias = reward_model.normalise(tmp_path / "reward", [1.0, 3.0, 5.0])
    assert (gain, bias) == pytest.approx((0.612372, -1.837117), abs=1e-6)
    # What is measured with the new gain and bias needs none: doing it again changes nothing.
    again = reward_model.normalise(tmp_path / "reward", [gain * x + bias for x in (1.0, 3.0, 5.0)])
    assert again == pytest.approx((gain, bias))
    raw, _ = scores(ModelSpec(str(base)), folder, make_pairs(5))
    scaled, _ = scores(ModelSpec(str(base)), tmp_path / "reward", make_pairs(5))
    assert scaled == pytest.approx([gain * x + bias for x in raw], abs=1e-6)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0]])
def test_scores_without_spread_set_no_scale(folder: Path, tmp_path: Path, values: list[float]):
    shutil.copytree(folder, tmp_path / "reward")
    before = (tmp_path / "reward" / "reward.json").read_text()
    with pytest.raises(DataError, match="set no scale"):
        reward_model.normalise(tmp_path / "reward", values)
    assert (tmp_path / "reward" / "reward.json").read_text() == before


def test_a_text_that_stands_in_several_pairs_is_read_once(folder, base, monkeypatch):
    scorer = reward_model.Scorer(ModelSpec(str(base)), folder)
    prompts, texts = [Prompt("w1 w2")] * 4, ["w5", "w6", "w5", "w6"]
    apart = [scorer.score([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]
    read: list[int] = []
    pooled = reward_model.pooled_scores
    monkeypatch.setattr(reward_model, "pooled_scores", lambda m, ids, n: (read.append(len(ids)), pooled(m, ids, n))[1])
    assert scorer.score(prompts, texts) == pytest.approx(apart, abs=1e-6)
    assert sum(read) == 2
    assert len(set(apart)) == 2
