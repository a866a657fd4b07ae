"""A base from a user's text: it loads, it knows every byte, it keeps off what will be judged, and bad input is told."""

from __future__ import annotations

import gzip
import json

import pytest

from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.mini import __main__ as command
from rlhf_lora.mini import text_base
from rlhf_lora.records import Prompt
from rlhf_lora.splits import bucket

SENTENCES = ("The kettle is on the stove.", "Rain fell on the old roof all night.", "A ferry leaves at noon.")


def transcripts(count: int) -> list[dict[str, str]]:
    """Comparisons in the shape of the HH files, the rejected answer with a word of its own."""
    rows = []
    for i in range(count):
        head = f"\n\nHuman: Question {i}: what happened? {SENTENCES[i % 3]}\n\nAssistant:"
        rows.append({"chosen": f"{head} {SENTENCES[(i + 1) % 3]}", "rejected": f"{head} zyzzyva {i}"})
    return rows


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "pairs.jsonl.gz", transcripts(200))


@pytest.fixture(scope="module", params=text_base.ARCHITECTURES)
def made(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / request.param
    settings = text_base.TextBaseSettings(
        architecture=request.param, params=400_000, vocabulary=384, layers=2, context=32, batch=4, steps=6
    )
    return request.param, folder, text_base.build_text_base([data], folder, settings)


def test_it_loads_with_the_auto_classes_in_the_architecture_asked_for(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    architecture, folder, facts = made
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == architecture
    assert (model.model.layers[0].self_attn.q_proj.bias is not None) == (architecture == "qwen2")
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tied == (architecture == "qwen2")
    assert model.num_parameters() == facts["parameters"]
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert facts["last_loss"] < facts["first_loss"]


def test_any_text_comes_back_as_it_went_in(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made[1])
    for text in ("\n\nHuman: Hi\n\nAssistant: It’s “fine” – 5 €", "  two  spaces\ttab", "漢字 🙂"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rejected_answers_and_held_out_prompts_are_not_read(data):
    texts = text_base.texts_of(data)
    assert not any("zyzzyva" in text for text in texts)
    rows = transcripts(200)
    first_turns = [row["chosen"].removeprefix("\n\nHuman: ").partition("\n\nAssistant:")[0] for row in rows]
    kept = [row["chosen"] for row, turn in zip(rows, first_turns, strict=True) if bucket(turn) < 90]
    assert 150 < len(kept) < 200
    assert texts == kept


def test_rows_with_text_alone_are_read(tmp_path):
    rows = [{"text": f"{SENTENCES[i % 3]} {i}"} for i in range(100)]
    texts = text_base.texts_of(write(tmp_path / "plain.jsonl", rows))
    assert texts == [row["text"] for row in rows if bucket(row["text"]) < 90]


def test_of_demonstrations_the_completion_is_read_too(tmp_path):
    rows = [{"prompt": f"Question {i}?", "completion": "Yes."} for i in range(20)]
    assert "Question 1?\nYes." in text_base.texts_of(write(tmp_path / "d.jsonl", rows))


@pytest.mark.parametrize(
    ("prompt", "reply", "text"),
    [
        ("Hi", "Hello", "Hi\nHello"),
        ("\n\nAssistant:", " Hello", "\n\nAssistant: Hello"),
        ("\n\nAssistant:", "Hello", "\n\nAssistant: Hello"),
        ("Hi\n", "Hello", "Hi\nHello"),
        ("Hi", "", "Hi"),
    ],
)
def test_prompt_and_reply_are_joined_with_one_break(prompt, reply, text):
    assert text_base.joined(Prompt(prompt), reply) == text


@pytest.mark.parametrize("architecture", text_base.ARCHITECTURES)
@pytest.mark.parametrize("params", [3_000_000, 5_000_000, 10_000_000])
def test_width_is_whole_blocks_and_near_the_parameters_asked_for(architecture, params):
    settings = text_base.TextBaseSettings(architecture=architecture, params=params)
    width = text_base.width_for(settings, settings.vocabulary)
    assert width % 64 == 0
    ffn = text_base._feed_forward(width)
    count = 4 * (4 * width**2 + 3 * width * ffn) + (2 if architecture == "llama" else 1) * 2048 * width
    assert 0.6 * params < count < 1.6 * params


# --- the command ------------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    code = command.main(list(arguments))
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--architecture", "lama"), "did you mean 'llama'"),
        (("--params", "many"), "5M"),
        (("--params", "1"), "--params"),
        (("--vocabulary", "10"), "--vocabulary"),
        (("--steps", "0"), "--steps"),
    ],
)
def test_bad_settings_end_with_2_and_one_message(capsys, data, tmp_path, extra, message):
    code, said = run(capsys, "text", "--data", data, "--to", str(tmp_path / "base"), *extra)
    assert code == 2
    assert message in said.err
    assert "to do:" in said.err
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("content", [None, "", '{"chosen": \n', '{"answer": 3}\n', '{"text": "too short"}\n'])
def test_bad_files_end_with_2_and_leave_nothing(capsys, tmp_path, content):
    file = tmp_path / "data.jsonl"
    if content is not None:
        file.write_text(content)
    code, said = run(capsys, "text", "--data", str(file), "--to", str(tmp_path / "base"))
    assert code == 2
    assert "data.jsonl" in said.err
    assert [path.name for path in tmp_path.iterdir()] == (["data.jsonl"] if content is not None else [])


def test_a_folder_that_exists_is_not_touched(capsys, data, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for arguments in (("text", "--data", data, "--to", str(tmp_path)), ("orders", "--to", str(tmp_path))):
        code, said = run(capsys, *arguments)
        assert (code, said.out) == (2, "")
        assert "exists" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failing_build_leaves_no_folder(data, tmp_path, monkeypatch):
    monkeypatch.setattr(text_base, "pretrain", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        text_base.build_text_base([data], tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_too_little_text_is_refused(tmp_path):
    file = write(tmp_path / "few.jsonl", transcripts(3))
    with pytest.raises(DataError, match="too few"):
        text_base.build_text_base([file], tmp_path / "base")


def test_settings_refuse_an_unknown_architecture():
    with pytest.raises(ConfigError, match="no architecture named 'gpt2'"):
        text_base.TextBaseSettings(architecture="gpt2")
