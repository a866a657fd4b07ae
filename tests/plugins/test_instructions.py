"""`reward=instructions`: every id keeps and breaks as it should, and what cannot be judged is never 0."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from instruction_answers import ANSWERS, LEAST, LESS
from rlhf_lora.plugins.rewards.constraints import pieces
from rlhf_lora.plugins.rewards.constraints.registry import CONSTRAINTS, NotUnderstood, kept

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import build


def score(text: str, ids: Any, given: Any, **settings: str) -> Score:
    reward = build("reward", {"name": "instructions", **settings})
    (found,) = reward.score([Sample("p", text)], instruction_id_list=[ids], kwargs=[given])
    return found


def test_every_id_has_an_answer_that_keeps_it_and_one_that_breaks_it():
    assert set(ANSWERS) == set(CONSTRAINTS)
    assert all(broken for _, _, broken in ANSWERS.values())


@pytest.mark.parametrize("name", ANSWERS)
def test_kept_and_broken(name):
    settings, good, bad = ANSWERS[name]
    assert kept(name, good, settings), good
    assert [text for text in bad if kept(name, text, settings)] == []


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_answer_keeps_nothing(name, text):
    assert not kept(name, text, ANSWERS[name][0])


@pytest.mark.parametrize("name", [name for name in ANSWERS if ANSWERS[name][0]])
def test_setting_that_is_not_given_makes_the_instruction_unknown(name):
    settings = ANSWERS[name][0]
    for left_out in settings:
        with pytest.raises(NotUnderstood, match=f"without {left_out}"):
            kept(name, "An answer.", {**settings, left_out: None})


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(
    "text", ["(" * 5000, "a" * 20000, "* " * 5000, '"' * 5000, "a. " * 3000, "<i>" * 3000, "[" * 5000, "\n" * 5000]
)
def test_odd_answers_are_judged_and_do_not_take_long(name, text):
    assert kept(name, text, ANSWERS[name][0]) in (True, False)


def test_relations():
    more = {"keyword": "tea", "frequency": 2}
    assert kept("keywords:frequency", "tea", {**more, "relation": LESS})
    assert not kept("keywords:frequency", "tea tea", {**more, "relation": LESS})
    assert kept("keywords:frequency", "tea tea", {**more, "relation": LEAST})
    with pytest.raises(NotUnderstood, match="around"):
        kept("keywords:frequency", "tea tea", {**more, "relation": "around"})


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [("a), b), c), d)", ["a)", "B", "(c)"], ["e", "a) b)"]), ("I know or I don't know", ["I\ndon’t\nknow"], ["I"])],
)
def test_options_are_read_in_the_three_ways_they_are_written(options, good, bad):
    assert all(kept("format:options", text, {"options": options}) for text in good)
    assert not any(kept("format:options", text, {"options": options}) for text in bad)


def test_an_empty_option_is_no_option():
    assert [kept("format:options", text, {"options": "yes, no,"}) for text in ("No.", "...", "yes, no,")] == [
        True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "phrase", "keeps"),
    [
        ('He said "bye"', 'said "bye"', True),
        ('He said "bye"', "bye", True),
        ("He said “bye”\n", "said “bye”", True),
        ('"He said bye"', "said bye", True),
        ('He said "bye" twice', 'said "bye"', False),
    ],
)
def test_an_end_phrase_may_end_in_a_quotation_mark(text, phrase, keeps):
    assert kept("startend:end_checker", text, {"end_phrase": phrase}) is keeps


def test_json_has_no_infinity():
    texts = ("[1e400]", "[Infinity]", "[NaN]", "[1e40]")
    assert [kept("detectable_format:json_format", text, {}) for text in texts] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sentence:increment", "." * 20000 + "x"),
        ("sentence:increment", "Dr. " * 5000),
        ("ratio:sentence_type", "a" + "." * 20000 + "x"),
        ("format:emoji", "\U0001f600" * 20000 + "x"),
        ("format:emoji", "\U0001f600\u200d" * 10000 + "x"),
        ("format:emoji", "." * 20000 + "x"),
        ("format:emoji", "\U0001f600" + " " * 20000 + "x"),
        ("format:thesis", "<i>" + "a" * 20000),
        ("format:thesis", "<h1\n" * 5000),
        ("custom:csv_special_character", "\n" * 20000),
    ],
)
def test_a_policy_cannot_make_an_instruction_slow(name, text):
    started = time.process_time()
    kept(name, text, ANSWERS[name][0])
    assert time.process_time() - started < 0.3  # they took 1 to 30 s


def test_emoji_stand_before_the_mark_or_after_it_with_joints():
    family = "\U0001f469\u200d\U0001f467"
    good = [f"Tea {family}. Soup! {family}", f"Tea {family}{family}", "Tea \u2600\ufe0f!"]
    assert all(kept("format:emoji", text, {}) for text in good)
    assert not any(kept("format:emoji", text, {}) for text in ["Tea. Soup \u2600", f"Tea {family}x", f"{family} Tea."])


def test_sentences_are_cut_at_marks_and_line_ends_but_not_at_abbreviations():
    text = 'Dr. Lee, i.e. Ann B. Lee, paid 3.50! "Why?" he asked.\nA list\n* item one...\n--\nI am I. So is he'
    assert pieces.sentences(text) == [
        "Dr. Lee, i.e. Ann B. Lee, paid 3.50!", '"Why?"', "he asked.", "A list", "* item one...", "I am I.", "So is he",
    ]  # fmt: skip


def test_words_keep_contractions_and_hyphens_together():
    assert pieces.words("It's a well-known (fact): snake_case, 3,5") == [
        "It's", "a", "well-known", "fact", "snake", "case", "3", "5",
    ]  # fmt: skip


# --- the reward -------------------------------------------------------------------------------------------------------

COMMA, LOWER, STRANGE = "punctuation:no_comma", "change_case:english_lowercase", "words:start_verb"


def test_all_or_share():
    both, none = [COMMA, LOWER], [{}, None]
    assert score("fine", both, none).value == 1
    assert score("Fine", both, none).value == 0
    half = score("Fine", both, none, strict="share")
    assert (half.value, half.parts, half.reason) == (0.5, {COMMA: 1, LOWER: 0}, f"broken: {LOWER}")
    assert score("Fi,ne", both, none, strict="share").value == 0


def test_same_instruction_twice_has_two_parts():
    found = score("tea", ["keywords:existence"] * 2, [{"keywords": ["tea"]}, {"keywords": ["milk"]}], strict="share")
    assert found.parts == {"keywords:existence": 1, "keywords:existence (2)": 0}


@pytest.mark.parametrize("unknown", ["skip", "none"])
@pytest.mark.parametrize(
    ("ids", "given", "why"),
    [
        (["no:such_id"], [{}], "unknown instruction id no:such_id"),
        ([STRANGE], [{}], f"unknown instruction id {STRANGE}"),
        (["keywords:existence"], [{"keywords": None}], "without keywords"),
        (["keywords:existence"], [{"keywords": "tea"}], "keywords='tea'"),
        (["count:numbers"], [{"N": 2.5}], "N=2.5"),
        (["count:numbers"], [{"N": True}], "N=True"),
        (["count:numbers"], [{"N": 10**400}], "too large"),
        (["count:numbers"], [{"N": 10**5000}], "too large"),
        (["count:numbers"], [{1: 2, "N": 1, None: 3}], "unknown setting"),
        (["ratio:stop_words"], [{"percentage": float("nan")}], "not finite"),
        (["ratio:stop_words"], [{"percentage": float("inf")}], "not finite"),
        (["format:options"], [{"options": ", ..."}], "options="),
        ([COMMA], [{"new_setting": 1}], "unknown setting new_setting"),
        ([], [], "no instruction"),
        (COMMA, [{}], "no list of ids"),
        (None, [{}], "no list of ids"),
        ([COMMA], [{}, {}], "list of 1 mappings"),
        ([COMMA], None, "list of 1 mappings"),
        ([COMMA], ["{}"], "something else"),
    ],
)
def test_what_cannot_be_judged_is_no_score_and_never_zero(ids, given, why, unknown):
    for text in ("An answer.", ""):
        found = score(text, ids, given, unknown=unknown)
        assert (found.value, found.kind) == (None, "unreadable")
        assert why in found.reason


def test_half_a_judgement_is_none_unless_told_to_skip():
    ids, given = [COMMA, STRANGE], [{}, {}]
    assert score("Fine", ids, given).value is None
    skipped = score("Fine", ids, given, unknown="skip")
    assert (skipped.value, skipped.parts) == (1, {COMMA: 1})
    assert STRANGE in skipped.reason


@pytest.mark.parametrize("settings", [{"strict": "half"}, {"unknown": "zero"}])
def test_settings_that_are_not_known_are_refused(settings):
    with pytest.raises(ConfigError, match=" or "):
        build("reward", {"name": "instructions", **settings})


# --- the real file ----------------------------------------------------------------------------------------------------

with_data = pytest.mark.skipif("RLHF_LORA_DATA" not in os.environ, reason="RLHF_LORA_DATA names no data folder")


@with_data
def test_ninety_four_percent_of_ifbench_is_known_and_every_setting_understood(capsys):
    path = Path(os.environ["RLHF_LORA_DATA"]) / "ifbench/prompts.jsonl.gz"
    prompts = build("dataset", {"name": "jsonl", "path": str(path)}).load().prompts
    instances = known = whole = 0
    unknown: Counter[str] = Counter()
    for prompt in prompts:
        ids, given = prompt.columns["instruction_id_list"], prompt.columns["kwargs"]
        instances += len(ids)
        for name, settings in zip(ids, given, strict=True):
            if name in CONSTRAINTS:
                assert kept(name, "An answer.", settings) in (True, False)
                known += 1
            else:
                unknown[name] += 1
        whole += all(name in CONSTRAINTS for name in ids)
        found = score("An answer.", ids, given)
        assert (found.value is None) == any(name not in CONSTRAINTS for name in ids)
    with capsys.disabled():
        print(f"\nifbench: {known} of {instances} instructions known, {whole} of {len(prompts)} prompts wholly")
    assert (known, instances) == (180, 190)
    assert unknown == {"words:start_verb": 5, "words:odd_even_syllables": 5}


@with_data
def test_columns_survive_from_the_file_to_the_reward():
    path = Path(os.environ["RLHF_LORA_DATA"]) / "ifbench/prompts.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    prompts = build("dataset", {"name": "jsonl", "path": str(path)}).load().prompts
    assert [p.columns["kwargs"] for p in prompts] == [row["kwargs"] for row in rows]
