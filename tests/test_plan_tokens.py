"""What the plan says of tokens is what `Chat` does when training: the same prompts, the same lengths."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_chat import tokenizer
from tiny import prompts, spec

from rlhf_lora.loading import load_chat
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.plan_tokens import LONGEST, TemplateRefuses, plan_tokens
from rlhf_lora.records import Prompt

SAID = (("user", "tea please"), ("assistant", "sure"), ("user", "soup"))
TALK = tuple({"role": role, "content": content} for role, content in SAID)
ASKED = [*prompts(4), Prompt("tea please"), Prompt("user: tea", messages=TALK), Prompt("Grüße 你好 <|im_end|> tea")]
CHATML = (
    "{%- for m in messages %}\n    {%- if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + eos_token + '\\n' }}\n{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- if thinking is defined and not thinking %}"
    "{{ '<think>' + ({'a': ['ö']} | tojson) }}{%- endif %}{%- endif %}"
)


def agree(model: ModelSpec) -> None:
    chat, ours = load_chat(model), plan_tokens(model)
    assert ours.exact
    assert [ours.prompt(p) for p in ASKED] == [chat.rendered(p) for p in ASKED]
    assert ours.prompt_lengths(ASKED) == [len(chat.prompt_ids(p)) for p in ASKED]
    replies = [(p, reply) for p in ASKED for reply in (" sure, tea", "", "soup\n\nand bread ")]
    assert ours.reply_lengths(replies) == [len(chat.response_ids(reply, prompt=p)) for p, reply in replies]
    for prompt, reply in replies:
        assert ours.reply(prompt, reply) == chat.tokenizer.decode(chat.response_ids(reply, prompt=prompt))


@pytest.fixture
def with_template(tiny_qwen2, tmp_path) -> Path:
    folder = tmp_path / "chatty"
    shutil.copytree(tiny_qwen2, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": CHATML}))
    return folder


def test_a_folder_without_template(tiny_base, tiny_qwen2):
    agree(spec(tiny_base))
    agree(spec(tiny_qwen2))


@pytest.mark.parametrize("mode", ["auto", "chat", "plain"])
def test_a_chat_template_and_its_arguments(mode, with_template):
    agree(spec(with_template, template=mode))
    agree(spec(with_template, template=mode, template_kwargs={"thinking": False}))


def test_a_template_file_wins_and_a_begin_token_is_not_doubled(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    for mode in ("auto", "chat", "plain"):
        agree(spec(tmp_path, template=mode))
    loop = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %} <end>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(f"<s>{loop}")
    agree(spec(tmp_path, template="chat"))


def test_the_embedded_base_is_counted_before_it_is_built(tiny_base):
    from rlhf_lora.mini.base import make_tokenizer

    words = make_tokenizer()
    embedded = plan_tokens(replace(spec(tiny_base), path=""))
    assert embedded.exact
    assert embedded.prompt_lengths(ASKED) == [len(words(p.text)["input_ids"]) for p in ASKED]
    assert embedded.reply(ASKED[0], "tea") == f"tea {words.eos_token}"


def test_a_template_that_refuses_a_conversation_says_why(with_template):
    tool = Prompt("x", messages=({"role": "tool", "content": "x"},))
    ours = plan_tokens(spec(with_template))
    with pytest.raises(TemplateRefuses, match=r"^no tools$"):
        ours.prompt(tool)
    assert ours.prompt_lengths([tool, ASKED[0]])[0] is None


def test_templates_cannot_reach_out_of_their_sandbox(with_template):
    (with_template / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    ours = plan_tokens(spec(with_template))
    with pytest.raises(TemplateRefuses, match="unsafe"):
        ours.prompt(ASKED[5])


def test_chat_without_a_template_is_counted_as_text_and_it_is_said(tiny_qwen2):
    ours, plain = plan_tokens(spec(tiny_qwen2, template="chat")), plan_tokens(spec(tiny_qwen2))
    assert ours.exact
    assert "no chat template" in ours.said
    assert "no chat template" not in plain.said
    assert ours.prompt_lengths(ASKED) == plain.prompt_lengths(ASKED)


@pytest.mark.parametrize("mode", ["auto", "plain"])
def test_very_long_conversations_count_in_proportion(mode, with_template):
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": "tea " * (30_000 if i == 2 else 9_000)}
             for i in range(5)]  # fmt: skip
    long = Prompt("".join(turn["content"] for turn in turns), messages=tuple(turns))
    model = spec(with_template, template=mode)
    seen: list[int] = []
    ours = plan_tokens(model)
    encode = ours.chat._encode
    ours.chat._encode = lambda text, meant=False: seen.append(len(text)) or encode(text, meant)  # type: ignore
    (found,) = ours.prompt_lengths([long])
    assert found == pytest.approx(len(load_chat(model).prompt_ids(long)), rel=0.01)
    assert sum(seen) < 1.01 * LONGEST, "the rest is never tokenised"
    seen.clear()
    (found,) = ours.reply_lengths([(long, reply := "sure " * 40_000)])
    assert found == pytest.approx(len(load_chat(model).response_ids(reply, prompt=long)), rel=0.01)
    assert sum(seen) <= LONGEST


@pytest.mark.parametrize("path", ["somebody/a-model-nobody-has", "no model at all!"])
def test_without_a_tokenizer_lengths_are_estimated_and_it_is_said(path):
    ours = plan_tokens(ModelSpec(path))
    assert not ours.exact
    assert "estimated" in ours.said
    assert ours.prompt_lengths([Prompt("x" * 400)]) == [100]
    assert ours.prompt(Prompt("tea")) == "tea"


def test_a_tokenizer_in_the_hubs_cache_is_used(tiny_qwen2, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name, revision: str(tiny_qwen2 / name))
    assert plan_tokens(ModelSpec("somebody/model")).exact


def test_damaged_tokenizer_files_are_no_crash(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{")
    assert not plan_tokens(ModelSpec(str(tmp_path))).exact
