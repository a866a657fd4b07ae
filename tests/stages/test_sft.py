"""SFT on TRL: what gets loss, what is trained, and what lies in the folder afterwards."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import few
from tiny_models import END, make_base, make_demonstrations

from rlhf_lora import adapters, trainers
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import DataError, ModelError, Stopped
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.records import Demonstration, Prompt
from rlhf_lora.stages import sft
from rlhf_lora.train_settings import TrainSettings

QUICK = TrainSettings(batch_size=8, micro_batch=8, lr=1e-2, schedule="constant", warmup=0)
IDS = torch.tensor([[3, 9, 14, 10, 11, 7]])


def logits(spec: ModelSpec, adapter: Path | None) -> torch.Tensor:
    """By plain peft, as a stranger would load it."""
    from peft import PeftModel

    model = load_base(spec)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    with torch.no_grad():
        return model(IDS).logits


def test_training_lowers_the_loss_and_reports_in_trls_names(base: Path, tmp_path: Path):
    logged: list[dict[str, float]] = []
    ctx = FitContext(tmp_path / "sft", 0, lambda step, metrics: logged.append({"step": step, **metrics}))
    metrics = sft.fit(ModelSpec(str(base)), make_demonstrations(160), QUICK, ctx)
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.5
    assert {"loss", "learning_rate", "grad_norm", "epoch", "mean_token_accuracy"} <= logged[0].keys()
    assert [entry["step"] for entry in logged] == list(range(1, 21))
    assert metrics["rows"] == 160
    assert metrics["steps"] == 20
    assert metrics["rows_too_long"] == 0


@pytest.mark.parametrize(
    ("architecture", "four_bit"), few([("llama", True), ("qwen2", True), ("llama", False), ("qwen2", False)], 1)
)
def test_learning_rate_0_changes_no_logit_and_weights_stay_float32(tmp_path: Path, architecture: str, four_bit: bool):
    spec = ModelSpec(str(make_base(tmp_path / "base", architecture)), load_in_4bit=four_bit)
    sft.fit(spec, make_demonstrations(16), QUICK, FitContext(tmp_path / "one", 0, None))
    ctx = FitContext(tmp_path / "two", 0, None, start_adapter=tmp_path / "one")
    sft.fit(spec, make_demonstrations(16), replace(QUICK, lr=0.0), ctx)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    # TRL rounds adapters on a 4-bit base to bf16: then neither would the dtype be this, nor the values.
    assert {tensor.dtype for tensor in second.values()} == {torch.float32}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(logits(spec, tmp_path / "one"), logits(spec, tmp_path / "two"))
    assert not torch.equal(logits(spec, None), logits(spec, tmp_path / "one"))


def test_only_the_response_has_loss_and_the_end_token_is_part_of_it(base: Path):
    chat = load_chat(ModelSpec(str(base)))
    demonstration = Demonstration(Prompt("w0 w1 w2"), "w5 w6")
    [(row, length)] = sft.tokenised(chat, [demonstration])
    assert row["input_ids"] == [3, 4, 5, 8, 9, END]
    assert row["labels"] == [-100, -100, -100, 8, 9, END]
    assert length == 6


def test_loss_is_that_of_the_response_tokens_alone_worked_out_by_hand(base: Path, tmp_path: Path):
    spec = ModelSpec(str(base), load_in_4bit=False)
    logged: list[float] = []
    rows = [Demonstration(Prompt("w0 w1 w2"), "w5 w6"), Demonstration(Prompt("w9"), "w4")]
    ctx = FitContext(tmp_path / "out", 0, lambda step, metrics: logged.append(metrics["loss"]))
    sft.fit(spec, rows, replace(QUICK, batch_size=2, micro_batch=1, lr=0.0), ctx)
    model, total, count = load_base(spec), 0.0, 0
    for ids, start in (([3, 4, 5, 8, 9, END], 3), ([12, 7, END], 1)):
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=1)
        for t in range(start, len(ids)):
            total, count = total - logprobs[t - 1, ids[t]].item(), count + 1
    assert count == 5
    assert logged == [pytest.approx(total / count, rel=1e-5)]


@pytest.mark.parametrize("pad", few(["</s>", None, "<pad>"], 1))
def test_end_token_is_learnt_whatever_the_padding_token(tmp_path: Path, pad: str | None):
    spec = ModelSpec(str(make_base(tmp_path / "base", pad=pad)))
    rows = [Demonstration(Prompt("w0 w1"), text) for text in ("w5", "w5 w5 w5 w5 w5")] * 16
    sft.fit(spec, rows, replace(QUICK, epochs=6, lr=3e-2), FitContext(tmp_path / "out", 0, None))
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_base(spec), str(tmp_path / "out")).eval()
    with torch.no_grad():
        next_p = model(torch.tensor([[3, 4, 8]])).logits[0, -1].softmax(0)
    assert next_p[END] > 0.25  # after one w5, half of the demonstrations end


def test_padding_does_not_decide_the_loss(base: Path, tmp_path: Path):
    """Rows of different length in one batch, or one at a time: the same weights come out."""
    spec, rows = ModelSpec(str(base), load_in_4bit=False), make_demonstrations(16)
    for name, micro in (("whole", 8), ("single", 1)):
        sft.fit(spec, rows, replace(QUICK, micro_batch=micro, lr=1e-3), FitContext(tmp_path / name, 0, None))
    whole, single = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "single"))
    assert all(torch.allclose(whole[name], single[name], atol=2e-5) for name in whole)


def test_same_seed_same_bytes_and_the_callers_random_streams_are_left_alone(base: Path, tmp_path: Path):
    spec, rows = ModelSpec(str(base)), make_demonstrations(24)

    def streams() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), float(np.random.rand())

    def seed_all() -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)

    seed_all()
    expected = streams()
    seed_all()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sft.fit(spec, rows, QUICK, FitContext(tmp_path / name, seed, None))
    assert streams() == expected
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert a["adapter_model.safetensors"] != c["adapter_model.safetensors"]


def test_loss_that_is_not_finite_stops_and_leaves_no_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = adapters.attach

    def poisoned(*args: object) -> torch.nn.Module:
        model = real(*args)
        weight = next(p for name, p in model.named_parameters() if "down_proj.lora_B" in name)
        torch.nn.init.constant_(weight, float("nan"))
        return model

    monkeypatch.setattr(adapters, "attach", poisoned)
    often = replace(QUICK, batch_size=1, micro_batch=1)  # 150 steps: every third is logged, each is looked at
    with pytest.raises(Stopped, match="loss is nan at step 1"):
        sft.fit(ModelSpec(str(base)), make_demonstrations(150), often, FitContext(tmp_path / "out", 0, None))
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_never_saved(base: Path, tmp_path: Path):
    """The last step may break the weights after its loss was fine."""
    spec = ModelSpec(str(base))
    model = adapters.attach(load_base(spec), spec, "CAUSAL_LM", None)
    torch.nn.init.constant_(next(p for p in model.parameters() if p.requires_grad), float("inf"))
    with pytest.raises(Stopped, match="not finite"):
        adapters.save(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_too_long_are_counted_and_more_than_half_is_an_error(base: Path, tmp_path: Path):
    spec, settings = ModelSpec(str(base)), replace(QUICK, max_length=6)
    short, long = Demonstration(Prompt("w1"), "w2 w3"), Demonstration(Prompt("w1 w1 w1"), "w2 w3 w4 w5")
    metrics = sft.fit(spec, [short] * 8 + [long] * 3, settings, FitContext(tmp_path / "out", 0, None))
    assert metrics["rows"] == 8
    assert metrics["rows_too_long"] == 3
    with pytest.raises(DataError, match="9 of 17 demonstrations are longer than 6 tokens"):
        sft.fit(spec, [short] * 8 + [long] * 9, settings, FitContext(tmp_path / "no", 0, None))
    with pytest.raises(DataError, match="no demonstrations"):
        sft.fit(spec, [], settings, FitContext(tmp_path / "no", 0, None))
    assert not (tmp_path / "no").exists()


def test_folder_replaces_an_older_one_whole(base: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    sft.fit(ModelSpec(str(base)), make_demonstrations(8), QUICK, FitContext(tmp_path / "out", 0, None))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_adapter_of_another_base_is_refused_in_words(sft_adapter: Path, tmp_path: Path):
    other = ModelSpec(str(make_base(tmp_path / "other", wide=128)))
    ctx = FitContext(tmp_path / "out", 0, None, start_adapter=sft_adapter)
    with pytest.raises(ModelError, match="another base"):
        sft.fit(other, make_demonstrations(8), QUICK, ctx)
    config = json.loads((sft_adapter / "adapter_config.json").read_text()) | {"target_modules": ["c_attn"]}
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "adapter_config.json").write_text(json.dumps(config))
    (strange / "adapter_model.safetensors").write_bytes((sft_adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="no module 'c_attn'"):
        sft.fit(other, make_demonstrations(8), QUICK, replace(ctx, start_adapter=strange))


def test_gradient_checkpointing_gives_the_same_adapter(base: Path, tmp_path: Path):
    for name, on in (("off", False), ("on", True)):
        spec = ModelSpec(str(base), gradient_checkpointing=on)
        sft.fit(spec, make_demonstrations(16), replace(QUICK, lr=1e-3), FitContext(tmp_path / name, 0, None))
    off, on_ = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("off", "on"))
    assert all(torch.allclose(off[name], on_[name], atol=1e-6) for name in off)


def test_nothing_is_printed_and_nothing_warns(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
):
    sft.fit(ModelSpec(str(base)), make_demonstrations(16), QUICK, FitContext(tmp_path / "out", 0, None))
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "{'loss'" not in err
    assert [str(w.message) for w in recwarn if "gradient_checkpointing" in str(w.message)] == []


def test_trainer_sends_no_telemetry(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", refuse)
    monkeypatch.delenv("CI", raising=False)
    sft.fit(ModelSpec(str(base)), make_demonstrations(8), QUICK, FitContext(tmp_path / "out", 0, None))


def test_learning_rate_that_was_never_given_is_an_error(base: Path, tmp_path: Path):
    with pytest.raises(trainers.ConfigError, match="learning rate"):
        sft.fit(
            ModelSpec(str(base)), make_demonstrations(8), replace(QUICK, lr=None), FitContext(tmp_path / "o", 0, None)
        )


# --- conversations ----------------------------------------------------------------------------------------------------

TALK = (
    {"role": "user", "content": "w0"},
    {"role": "assistant", "content": "w1"},
    {"role": "user", "content": "w2"},
)
TURNS = "{% for m in messages %}{{ m['content'] }} </s> {% endfor %}"


def conversation(every_turn: bool = True) -> Demonstration:
    return Demonstration(Prompt("\n\nHuman: w0\n\nAssistant: w1\n\nHuman: w2\n\nAssistant:", TALK), "w3", every_turn)


def test_every_reply_of_a_conversation_has_loss_and_nobody_elses_words(base: Path):
    chat = load_chat(ModelSpec(str(base)))
    chat.tokenizer.chat_template = TURNS
    [(row, length)] = sft.tokenised(chat, [conversation()])
    assert row["input_ids"] == [3, END, 4, END, 5, END, 6, END]
    assert row["labels"] == [-100, -100, 4, END, -100, -100, 6, END]
    assert length == 8


def test_only_the_last_reply_has_loss_where_only_it_was_chosen(base: Path):
    chat = load_chat(ModelSpec(str(base)))
    chat.tokenizer.chat_template = TURNS
    [(row, _)] = sft.tokenised(chat, [conversation(every_turn=False)])
    assert row["labels"] == [-100, -100, -100, -100, -100, -100, 6, END]


@pytest.mark.parametrize("template", [None, "{% for m in messages[-1:] %}{{ m['content'] }} {% endfor %}"])
def test_replies_whose_prompts_do_not_continue_each_other_are_rows_of_their_own(base: Path, template: str | None):
    chat = load_chat(ModelSpec(str(base)))
    chat.tokenizer.chat_template = template
    rows = [row for row, _ in sft.tokenised(chat, [conversation()])]
    assert [[token for token in row["labels"] if token != -100] for row in rows] == [[4, END], [6, END]]
    last = chat.prompt_ids(conversation().prompt)
    assert rows[1]["input_ids"] == [*last, 6, END]  # what a rollout would put before it
    assert all(len(row["input_ids"]) == len(row["labels"]) for row in rows)


def test_an_assistant_that_speaks_first_is_not_imitated(base: Path):
    chat = load_chat(ModelSpec(str(base)))
    chat.tokenizer.chat_template = TURNS
    talk = ({"role": "assistant", "content": "w9"}, {"role": "user", "content": "w0"})
    [(row, _)] = sft.tokenised(chat, [Demonstration(Prompt("-", talk), "w3", every_turn=True)])
    assert row["labels"] == [-100, -100, -100, -100, 6, END]
