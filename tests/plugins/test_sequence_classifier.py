"""Somebody else's reward model: read as its makers read it, and never with a head of our own making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lora.contracts import Context
from rlhf_lora.errors import ModelError
from rlhf_lora.records import Sample
from rlhf_lora.registry import build

SAMPLES = [
    Sample("please bring tea", "certainly tea"), Sample("tea soup and bread", ""), Sample("tea", "ugh ugh ugh ugh"),
    Sample("", "fine", messages=[{"role": "user", "content": "tea"}]),
]  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module", params=["padding token", "padding = end", "no padding token"])
def theirs(request, tiny_base, tmp_path_factory) -> Path:
    """A classifier as transformers saves it, head included."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    pad = {"padding token": 1, "padding = end": tokenizer.eos_token_id, "no padding token": None}[request.param]
    model.config.pad_token_id = pad
    tokenizer.pad_token_id = pad
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def opened(folder: Path, **settings: Any) -> Any:
    return build(
        "reward", {"name": "sequence_classifier", "path": str(folder), "load_in_4bit": False, **settings}
    ).open(Context())


def by_hand(folder: Path, texts: list[str]) -> list[float]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0]) for text in texts]


TEXTS = [
    "please bring teacertainly tea",
    "tea soup and bread",
    "teaugh ugh ugh ugh",
    "\n\nHuman: tea\n\nAssistant: fine",
]


def test_scores_are_those_of_its_own_forward_pass_text_by_text(theirs):
    scores = opened(theirs).score(SAMPLES)
    assert [score.value for score in scores] == pytest.approx(by_hand(theirs, TEXTS), abs=1e-5)


def test_its_own_chat_template_is_used_where_it_has_one(theirs, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(theirs)
    tokenizer.chat_template = TEMPLATE
    for file in theirs.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer.save_pretrained(tmp_path)
    (score,) = opened(tmp_path).score(SAMPLES[:1])
    (plain,) = opened(tmp_path, template="plain").score(SAMPLES[:1])
    assert score.value == pytest.approx(
        by_hand(theirs, ["user please bring tea assistant certainly tea "])[0], abs=1e-5
    )
    assert plain.value == pytest.approx(by_hand(theirs, TEXTS[:1])[0], abs=1e-5)


def test_a_text_that_is_too_long_has_no_score(theirs):
    scores = opened(theirs, max_length=2).score(SAMPLES)
    assert [score.value is None for score in scores].count(True) >= 1
    assert all("more than max_length=2" in score.reason for score in scores if score.value is None)


def test_a_probability_is_one(theirs):
    logits = opened(theirs).score(SAMPLES[:2])
    shares = opened(theirs, probability=True).score(SAMPLES[:2])
    for logit, share in zip(logits, shares, strict=True):
        assert share.value == pytest.approx(float(torch.sigmoid(torch.tensor(logit.value))), abs=1e-6)


def test_a_model_without_a_trained_head_is_refused(tiny_base):
    with pytest.raises(ModelError, match=r"no weights for score.*random"):
        opened(tiny_base)


def test_which_of_several_outputs_is_the_reward_must_be_said(tiny_base, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=3)
    model.config.id2label = {0: "bad", 1: "fine", 2: "good"}
    model.config.pad_token_id = 1
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="3 outputs"):
        opened(tmp_path)
    with pytest.raises(ModelError, match="no output 'best'"):
        opened(tmp_path, label="best")
    by_name, by_number = opened(tmp_path, label="good"), opened(tmp_path, label="2")
    assert by_name.score(SAMPLES) == by_number.score(SAMPLES)
    shares = [
        opened(tmp_path, label=name, probability=True).score(SAMPLES[:1])[0].value for name in ("bad", "fine", "good")
    ]
    assert sum(shares) == pytest.approx(1.0)


def test_an_adapter_brings_its_own_head(tiny_base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=1)
    base.config.pad_token_id = 1
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"], modules_to_save=["score"])
    model = get_peft_model(base, config)
    torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight)
    model.save_pretrained(tmp_path / "adapter")
    ids = opened(tmp_path / "adapter").tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        wanted = float(model.eval()(**ids).logits[0, 0])
    (score,) = opened(tmp_path / "adapter").score(SAMPLES[:1])
    assert score.value == pytest.approx(wanted, abs=1e-5)


def test_an_adapter_without_a_head_is_refused(tiny_base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="no head"):
        opened(tmp_path / "adapter")


def test_no_such_folder_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ModelError, match="no sequence classifier"):
        build("reward", {"name": "sequence_classifier", "path": str(tmp_path / "none")})
