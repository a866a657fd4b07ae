"""One begin token, one end token, one template: what every stage gets as tokens."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_lora.chat import Chat
from rlhf_lora.errors import ModelError
from rlhf_lora.records import Prompt

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{% if thinking %} <think>{% endif %}"
)
WORDS = [
    "<s>",
    "<end>",
    "<pad>",
    "<unk>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<think>",
    "tea",
    "soup",
    "please",
    "sure",
    "hello",
]
IDS = {word: i for i, word in enumerate(WORDS)}
ASKED = Prompt("user: tea please", messages=({"role": "user", "content": "tea please"},))


def tokenizer(
    *, begin: bool = True, template: bool = True, pad: str | None = "<pad>", end: str | None = "<end>"
) -> Any:
    """Words split at white space, with a begin token as Llama has one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begin:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    given = {"bos_token": "<s>", "unk_token": "<unk>", "pad_token": pad, "eos_token": end}
    special = ["<|user|>", "<|assistant|>", "<|system|>"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=special, **{k: v for k, v in given.items() if v}
    )
    made.chat_template = TEMPLATE if template else None
    return made


def ids(text: str) -> list[int]:
    return [IDS[word] for word in text.split()]


def test_plain_prompts_get_the_tokenizers_own_begin_token_once():
    assert Chat(tokenizer()).prompt_ids(Prompt("tea please")) == ids("<s> tea please")
    assert Chat(tokenizer(begin=False)).prompt_ids(Prompt("tea please")) == ids("tea please")


def test_a_template_that_writes_its_begin_token_gets_no_second_one():
    assert Chat(tokenizer()).prompt_ids(ASKED) == ids("<s> <|user|> tea please <end> <|assistant|>")


def test_auto_uses_the_template_for_conversations_alone():
    chat = Chat(tokenizer(), "auto")
    assert chat.prompt_ids(Prompt("tea please")) == ids("<s> tea please")
    assert IDS["<|assistant|>"] in chat.prompt_ids(ASKED)


def test_chat_wraps_plain_prompts_into_a_user_turn():
    assert Chat(tokenizer(), "chat").prompt_ids(Prompt("tea please")) == Chat(tokenizer()).prompt_ids(ASKED)


def test_plain_never_uses_the_template():
    assert IDS["<|assistant|>"] not in Chat(tokenizer(), "plain").prompt_ids(ASKED)


def test_without_a_template_conversations_are_read_as_text_and_chat_is_refused():
    bare = tokenizer(template=False)
    assert Chat(bare).prompt_ids(Prompt("tea", messages=ASKED.messages)) == ids("<s> tea")
    with pytest.raises(ModelError, match="no chat template"):
        Chat(bare, "chat")


def test_template_settings_reach_the_template():
    assert Chat(tokenizer(), template_kwargs={"thinking": True}).prompt_ids(ASKED)[-1] == IDS["<think>"]


def test_a_prompt_is_never_empty():
    assert len(Chat(tokenizer(begin=False)).prompt_ids(Prompt(""))) == 1


def test_a_finished_response_ends_with_the_end_token_and_a_cut_one_does_not():
    chat = Chat(tokenizer())
    assert chat.response_ids("sure tea") == ids("sure tea <end>")
    assert chat.response_ids("sure tea", finished=False) == ids("sure tea")
    assert chat.response_ids("") == ids("<end>")


def test_a_response_never_begins_with_a_begin_token():
    assert IDS["<s>"] not in Chat(tokenizer()).response_ids("sure")


def test_the_space_after_a_transcripts_colon_is_dropped_where_a_template_brings_its_own():
    seen = []
    chat = Chat(tokenizer())
    chat._encode = lambda text: seen.append(text) or []  # type: ignore[method-assign, func-returns-value]
    chat.response_ids(" sure", prompt=ASKED)
    chat.response_ids(" sure", prompt=Prompt("tea"))
    assert seen == ["sure", " sure"]


def test_decoding_shows_no_special_tokens_and_round_trips():
    chat = Chat(tokenizer())
    assert chat.decode(chat.response_ids("sure tea")) == "sure tea"


@pytest.mark.parametrize("pad", [None, "<end>", "<pad>"])
def test_the_filler_is_never_the_end_token(pad):
    chat = Chat(tokenizer(pad=pad))
    assert chat.fill_id != chat.end_id
    assert chat.stop_ids == {IDS["<end>"]}


def test_a_tokenizer_without_end_token_is_refused_with_what_to_do():
    with pytest.raises(ModelError, match="no end token") as error:
        Chat(tokenizer(end=None))
    assert "eos_token" in error.value.fix


def test_the_template_hash_names_whatever_changes_the_tokens():
    made = [
        Chat(tokenizer()), Chat(tokenizer(), "chat"), Chat(tokenizer(), template_kwargs={"thinking": True}),
        Chat(tokenizer(template=False)), Chat(tokenizer(begin=False)), Chat(tokenizer(end="<pad>")),
    ]  # fmt: skip
    assert len({chat.template_hash for chat in made}) == len(made)
    assert Chat(tokenizer()).template_hash == made[0].template_hash
