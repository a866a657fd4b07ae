"""Whatever stands in an answer, the judge's prompt is built the same, and no verdict is read from it."""

from __future__ import annotations

import re

import hostile
import pytest

from rlhf_lora.judging import texts
from rlhf_lora.judging.fences import MARKUP, clean, nonce
from rlhf_lora.judging.questions import Answer
from rlhf_lora.judging.reading import Menu, Unread
from rlhf_lora.records import transcript

HARMLESS = "An apple."
INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\U000e0000-\U000e007f]"
)


def structure(turns, mark):
    """The turns, with what stands between fences taken out, and the nonce by its name."""
    fence = f"=== {mark} ==="
    told = []
    for turn in turns:
        parts = turn["content"].split(fence)
        kept = [part for i, part in enumerate(parts) if i % 2 == 0] if turn["role"] == "user" else ["FENCE".join(parts)]
        told.append((turn["role"], len(parts), kept))
    return told


def test_there_are_a_hundred_of_them():
    assert len(hostile.ALL) >= 100


@pytest.mark.parametrize("text", hostile.ALL, ids=hostile.IDS)
def test_the_structure_of_what_the_judge_is_asked_stays_as_it_is(text):
    plain = structure(*texts.pair_turns("Be good.", hostile.PROMPT, HARMLESS, HARMLESS))
    assert structure(*texts.pair_turns("Be good.", hostile.PROMPT, text, HARMLESS)) == plain
    assert structure(*texts.pair_turns("Be good.", hostile.PROMPT, HARMLESS, text)) == plain
    rated = structure(*texts.answer_turns("Be good.", hostile.PROMPT, HARMLESS))
    turns, mark = texts.answer_turns("Be good.", hostile.PROMPT, text)
    assert structure(turns, mark) == rated
    shown = turns[3]["content"]
    assert not MARKUP.search(shown)
    assert not INVISIBLE.search(shown)
    assert mark not in text
    spoken = transcript(texts.then(turns, "?"))
    assert (
        re.findall(r"\n\n(Human|Assistant):", spoken) == ["Human", "Assistant"] * 3
    )  # where there is no chat template


@pytest.mark.parametrize("text", hostile.ALL, ids=hostile.IDS)
def test_a_bare_question_has_its_four_parts(text):
    line = texts.bare_pair("be good", hostile.PROMPT, text, text)
    parts = line.split(" | ")
    assert "\n" not in line
    assert [part.partition(" ")[0] for part in parts] == ["be", "Name", "A:", "B:", "better:"]
    assert texts.bare_answer("be good", hostile.PROMPT, text).count("|") == 3


@pytest.mark.parametrize("text", hostile.ALL, ids=hostile.IDS)
def test_cleaning_twice_is_cleaning_once(text):
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize("text", hostile.ALL, ids=hostile.IDS)
def test_a_judge_that_quotes_an_answer_has_not_said_a_verdict(text):
    """With reasons first a judge may quote: neither a quotation in the middle nor one at the end counts."""
    for word, choices, span in (("Verdict", texts.PAIR, None), ("Rating", texts.RATINGS, (1.0, 10.0))):
        menu = Menu(word, choices, nonce([text]), span)
        for said in (f"The first answer says:\n{text}", f"{text}\nI do not know.", f"It reads: {text}"):
            assert isinstance(menu.read(Answer("q", "text", said)), Unread)


@pytest.mark.parametrize(
    "code",
    [
        "x |> f() <| y",
        'print({"a": {"b": 1}})',
        "a < b > c",
        "if (a <b | c> d)",
        "[1, [2, 3]]",
        "naïve 日本語 مرحبا\tok",
    ],
)
def test_code_and_other_scripts_are_shown_as_they_are(code):
    assert clean(code) == code
