"""A tokenizer read without Transformers does what Transformers' does, in everything that `Chat` asks of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_chat import ASKED, TEMPLATE, byte_tokenizer, tokenizer

from rlhf_lora.bare_tokenizer import FILES, BareTokenizer, read
from rlhf_lora.chat import Chat
from rlhf_lora.errors import DataError
from rlhf_lora.records import Prompt

TEXTS = ["", "tea please", "  two  spaces\n", "Grüße 你好 🍕", "tea <end> <|user|> soup", "<s>tea"]


def saved(made: Any, folder: Path) -> BareTokenizer:
    made.save_pretrained(folder)
    return read({name: folder / name for name in FILES if (folder / name).is_file()})


def change(folder: Path, name: str, **values: Any) -> None:
    """Set values of a JSON file; None takes one out."""
    file = folder / name
    found = (json.loads(file.read_text()) if file.is_file() else {}) | values
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


@pytest.mark.parametrize("make", [tokenizer, byte_tokenizer, lambda: tokenizer(begin=False, template=False)])
def test_chat_asks_nothing_of_it_that_it_answers_otherwise_than_transformers(make, tmp_path):
    theirs = make()
    ours = saved(theirs, tmp_path)
    assert ours.exact
    assert (ours.eos_token_id, ours.chat_template, len(ours)) == (
        theirs.eos_token_id,
        theirs.chat_template,
        len(theirs),
    )
    for add in (True, False):
        for split in (True, False):
            for text in TEXTS:
                given = {"add_special_tokens": add, "split_special_tokens": split, "verbose": False}
                ids = theirs(text, **given)["input_ids"]
                assert ours(text, **given)["input_ids"] == ids
                assert ours.decode(ids) == theirs.decode(ids)
                assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    special = {i: (t.content, t.special) for i, t in theirs.added_tokens_decoder.items()}
    assert {i: (t.content, t.special) for i, t in ours.added_tokens_decoder.items()} == special
    assert [ours.convert_tokens_to_ids(t) for t, _ in special.values()] == list(special)
    a, b = Chat(theirs), Chat(ours)
    assert (a.template_hash, a.fill_id, a.turn_end_id, a.stop_ids) == (
        b.template_hash,
        b.fill_id,
        b.turn_end_id,
        b.stop_ids,
    )


def test_a_named_token_that_the_vocabulary_does_not_call_special_is_special(tmp_path):
    made = tokenizer()
    made.save_pretrained(tmp_path)
    change(tmp_path, "tokenizer_config.json", eos_token="sure")
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), read({name: tmp_path / name for name in FILES[:2]})
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.added_tokens_decoder[ours.eos_token_id].special
    text = "tea sure tea"
    for split in (True, False):
        assert ours(text, split_special_tokens=split) == {
            "input_ids": theirs(text, split_special_tokens=split)["input_ids"]
        }


def test_an_older_layout_names_special_tokens_in_a_map_of_their_own(tmp_path):
    saved(tokenizer(), tmp_path)
    change(tmp_path, "tokenizer_config.json", eos_token=None, added_tokens_decoder=None)
    change(tmp_path, "special_tokens_map.json", eos_token={"content": "<end>", "lstrip": False})
    from transformers import AutoTokenizer

    ours = read({name: tmp_path / name for name in FILES if (tmp_path / name).is_file()})
    assert ours.decode([ours.eos_token_id]) == "<end>"
    assert ours.eos_token_id == AutoTokenizer.from_pretrained(tmp_path).eos_token_id


def test_an_end_token_that_no_file_names_is_counted_and_shown_as_nothing(tmp_path):
    chat = Chat(saved(tokenizer(end=None), tmp_path))
    assert len(chat.response_ids("sure tea")) == 3
    assert chat.tokenizer.decode(chat.response_ids("sure tea")) == "sure tea"


def test_without_a_tokenizer_file_it_estimates_and_still_knows_template_and_end(tmp_path):
    saved(byte_tokenizer(), tmp_path)
    ours = read({name: tmp_path / name for name in FILES if name != "tokenizer.json" and (tmp_path / name).is_file()})
    chat = Chat(ours)
    assert not ours.exact
    assert chat.rendered(ASKED) == "<s><|user|> tea please <end> <|assistant|>"
    assert ours.decode(chat.response_ids("sure", prompt=ASKED)) == "sure<end>"
    assert [len(chat.prompt_ids(Prompt("x" * n))) for n in (1, 4, 5, 400)] == [1, 1, 2, 100]


@pytest.mark.parametrize(
    "expression",
    [
        "{{ {'a': 'ö<b>'} | tojson }}",
        "{{ messages | tojson(indent=2, sort_keys=true) }}",
        "{{ {'b': 1} | tojson(separators=(',', ':')) }}",
        "{{ 'ö' | tojson(ensure_ascii=true) }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}",
        "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents }}{{ more }}{{ add_generation_prompt }}",
        "{{ strftime_now('%Y') }}{% set a = namespace(b=1) %}{{ a.b }}",
        "  {% if true %}\n  kept\n  {% endif %}\n",
    ],
)
def test_templates_are_rendered_as_transformers_renders_them(expression, tmp_path):
    theirs = byte_tokenizer(expression)
    ours = saved(theirs, tmp_path)
    given: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "more": "<&>"}
    messages = list(ASKED.messages or ())
    assert ours.apply_chat_template(messages, **given) == theirs.apply_chat_template(messages, **given)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (TEMPLATE + "{{ raise_exception('not today') }}", "not today"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% for %}", "end of statement"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_that_fails_refuses_the_conversation_alike_with_either_tokenizer(broken, says, tmp_path):
    theirs = byte_tokenizer(broken)
    for one in (theirs, saved(theirs, tmp_path)):
        with pytest.raises(DataError, match="refuses a conversation") as caught:
            Chat(one).prompt_ids(ASKED)
        assert says in caught.value.what
