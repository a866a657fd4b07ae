"""What a reply of `chat/completions` says, whatever it holds."""

from __future__ import annotations

import math
import random

import pytest

from rlhf_lora.judging.endpoint.completions import Usage, estimate, read, shared_out, usage
from rlhf_lora.judging.questions import Question

WORD = Question("q", ({"role": "user", "content": "which?"},), ("A", "B", "tie"), 4)
FREE = Question("q", ({"role": "user", "content": "which?"},))


def reply(text="A", top=None, before=(), **choice):
    told = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}
    if top is not None:
        places = [{"token": token, "logprob": 0.0, "top_logprobs": []} for token in before]
        first = [{"token": token, "logprob": math.log(p)} for token, p in top.items()]
        told["logprobs"] = {"content": [*places, {"token": text, "logprob": -0.1, "top_logprobs": first}]}
    return {"choices": [told]}


def test_probabilities_of_the_choices_sum_to_one():
    found = read(reply(top={"A": 0.6, " A": 0.1, "B": 0.2, "The": 0.1}), WORD).probabilities
    assert found == pytest.approx({"A": 0.7 / 0.9, "B": 0.2 / 0.9, "tie": 0.0})


def test_they_are_read_at_the_first_token_that_is_not_white_space():
    found = read(reply(top={"A": 0.9, "B": 0.1}, before=["\n", " "]), WORD).probabilities
    assert found == pytest.approx({"A": 0.9, "B": 0.1, "tie": 0.0})


def test_a_token_that_begins_one_choice_alone_counts_for_it():
    assert shared_out([("t", 0.5), ("A", 0.5)], ("A", "B", "tie")) == {"A": 0.5, "B": 0.0, "tie": 0.5}
    assert (
        shared_out([("t", 0.6), ("A", 0.4)], ("A", "tie", "table")) is None
    )  # it may be either; A alone is too little


def test_a_digit_that_may_be_the_beginning_of_ten_says_nothing():
    numbers = tuple(str(n) for n in range(1, 11))
    assert shared_out([("1", 0.9), ("2", 0.1)], numbers) is None
    whole = shared_out([("1", 0.5), ("10", 0.4), ("2", 0.1)], numbers)
    assert whole is not None
    assert whole["10"] == pytest.approx(0.4)
    assert whole["1"] == pytest.approx(0.5)


def test_a_model_that_was_about_to_say_something_else_gives_no_probabilities():
    assert read(reply("Well", top={"Well": 0.7, "A": 0.2, "B": 0.1}), WORD).probabilities is None
    assert read(reply("A", top={"A": 1.0}), FREE).probabilities is None
    assert read(reply("A"), WORD).probabilities is None


@pytest.mark.parametrize(
    "logprobs",
    [
        {},
        {"content": None},
        {"content": []},
        {"content": [None]},
        {"content": [{"token": "A"}]},
        {"content": [{"token": "A", "top_logprobs": [None]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": "0"}]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": True}]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": math.nan}]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": 5.0}]}]},
    ],
)
def test_probabilities_that_are_none_leave_the_text(logprobs):
    found = read(reply("A", logprobs=logprobs), WORD)
    assert (found.kind, found.text, found.probabilities) == ("text", "A", None)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({}, "broken"),
        ({"choices": []}, "broken"),
        ({"choices": {}}, "broken"),
        ({"choices": [None]}, "broken"),
        ({"choices": [{}]}, "broken"),
        ({"choices": [{"message": "A"}]}, "broken"),
        (reply(None), "unreadable"),
        (reply(""), "unreadable"),
        (reply(" \n"), "unreadable"),
        (reply(["A"]), "unreadable"),
        (reply("half a", finish_reason="length"), "unreadable"),
        (reply("x", finish_reason="content_filter"), "refusal"),
        (reply(message={"refusal": "no", "content": None}), "refusal"),
        (reply(message={"refusal": None, "content": "A"}), "text"),
        (reply("A", finish_reason=None), "text"),
    ],
)
def test_kinds(told, kind):
    found = read(told, FREE)
    assert found.kind == kind
    assert bool(found.reason) is (kind != "text")


@pytest.mark.parametrize("question", [FREE, WORD])
def test_a_model_that_thinks_too_long_is_told_as_such(question):
    assert "thinks first" in read(reply("", finish_reason="length"), question).reason


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": 3}, Usage(3, 0)),
        (None, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": 1.5}, None),
        ({"prompt_tokens": 10**30}, None),
        ({"prompt_tokens": "3"}, None),
    ],
)
def test_usage(told, expected):
    assert usage({"usage": told}) == expected


def test_the_estimate_is_what_may_be_written_and_more_than_most_texts_are():
    assert estimate(FREE, {"max_completion_tokens": 99}).tokens_out == 99
    assert estimate(FREE, {}).tokens_out == FREE.max_tokens
    assert estimate(FREE, {"max_tokens": 5}).tokens_in == 2 + 8


def scrambled(value, draw: random.Random):
    """The same with something of another kind somewhere in it."""
    if draw.random() < 0.15:
        return draw.choice([None, True, -1, 1e308, math.nan, "", "A", [], {}, [[]], {"a": {}}])
    if isinstance(value, dict):
        return {key: scrambled(inner, draw) for key, inner in value.items() if draw.random() > 0.05}
    return [scrambled(inner, draw) for inner in value] if isinstance(value, list) else value


def test_whatever_comes_nothing_is_raised():
    draw = random.Random(0)
    whole = reply("A", top={"A": 0.6, "B": 0.4}) | {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    kinds = set()
    for _ in range(2000):
        told = scrambled(whole, draw)
        if isinstance(told, dict):
            found = read(told, WORD)
            kinds.add(found.kind)
            usage(told)
            if found.probabilities is not None:
                assert math.fsum(found.probabilities.values()) == pytest.approx(1)
    assert kinds >= {"text", "unreadable", "broken"}
