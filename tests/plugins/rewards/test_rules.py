"""Each rule of its own: what keeps it, what breaks it and by how much, and settings that make no sense."""

from __future__ import annotations

import json
import pickle
import sys
import threading
import time

import pytest

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Sample
from rlhf_lora.registry import build, to_config
from rlhf_lora.stages.scoring import Scorer


def one(rule: str, text: str, *, finished: bool = True, columns: dict | None = None, **settings: object):
    """The score of one answer under one rule, alone in a set."""
    reward = build("reward", {"name": "rules", "rules": {"it": {"rule": rule, **settings}}})
    (score,) = Scorer(reward, "rules")([Sample("asked", text, columns=columns or {}, finished=finished)])
    return score


def value(rule: str, text: str, **settings: object) -> float:
    return one(rule, text, **settings).value


def test_not_empty_wants_more_than_white_space():
    assert [value("not_empty", text) for text in ("tea", " ", "", "\n\t")] == [1, 0, 0, 0]


def test_ended_is_broken_by_an_answer_that_was_cut():
    assert (value("ended", "tea"), value("ended", "tea", finished=False)) == (1, 0)


# --- length -----------------------------------------------------------------------------------------------------------


def test_length_is_graded_outside_of_its_band():
    # 2 of 4 wanted: 2/4; 8 where at most 6 are wanted: 6/8; both bounds are inside.
    texts = ["", "a b", "a b c d", "a b c d e f", "a b c d e f g h"]
    assert [value("length", text, least=4, most=6) for text in texts] == [0, 0.5, 1, 1, 0.75]


def test_length_counts_characters_without_the_white_space_around():
    assert value("length", "  abcd \n", least=4, most=4, unit="characters") == 1


@pytest.mark.parametrize(
    ("text", "sentences"),
    [("", 0), ("tea", 1), ("Tea. Soup!", 2), ("Wait... what?", 2), ('He said "no." Then left.', 2), ("茶。汤。", 2),
     ("3.14 cups", 1), ("One\n\nTwo", 2)],
)  # fmt: skip
def test_length_counts_sentences(text, sentences):
    assert value("length", text, least=sentences, most=max(1, sentences), unit="sentences") == 1
    assert value("length", text, least=sentences + 1, unit="sentences") < 1


# --- repetition -------------------------------------------------------------------------------------------------------


def test_repetition_falls_in_a_line_from_the_share_that_is_kept():
    # 6 words, 5 bigrams, (a b) three times and (b a) twice: 2 distinct, share 3/5; (1 − 0.6) / (1 − 0.2) = 0.5
    assert value("repetition", "a b A b a b", n=2, most=0.2) == pytest.approx(0.5)
    assert value("repetition", "a b a b a b", n=2, most=0.6) == 1


def test_a_short_text_repeats_nothing_and_one_word_over_and_over_nearly_all():
    assert value("repetition", "a a", n=3) == 1
    assert value("repetition", "a " * 1000, n=3) < 0.01


def test_repetition_of_characters_reads_languages_without_spaces():
    assert value("repetition", "茶茶茶茶茶茶茶茶", n=2) == 1.0
    assert value("repetition", "茶茶茶茶茶茶茶茶", n=2, unit="characters") < 0.2


# --- regex ------------------------------------------------------------------------------------------------------------


def test_regex_searches_or_wants_the_whole_answer_or_wants_no_match():
    assert value("regex", " tea 2", pattern=r"\d") == 1
    assert value("regex", " tea 2", pattern=r"\d", match="fullmatch") == 0
    assert value("regex", " 22 \n", pattern=r"\d+", match="fullmatch") == 1
    assert value("regex", "tea 2", pattern=r"\d", forbid=True) == 0
    assert (value("regex", "TEA", pattern="tea"), value("regex", "TEA", pattern="tea", ignore_case=True)) == (0, 1)


def test_a_pattern_that_never_ends_gives_no_score_in_any_thread(monkeypatch):
    from rlhf_lora.plugins.rewards.rules import wording

    monkeypatch.setattr(wording, "PATTERN_SECONDS", 0.1)
    found = []
    thread = threading.Thread(target=lambda: found.append(one("regex", "a" * 60 + "c", pattern="(a|aa)+$")))
    started = time.perf_counter()
    thread.start()
    thread.join()
    assert time.perf_counter() - started < 5
    assert (found[0].value, found[0].kind) == (None, "error")
    assert "it: /(a|aa)+$/ was not done after 0.1 s" in found[0].reason


def test_a_row_may_have_its_own_pattern_and_a_bad_one_is_unreadable():
    scores = [
        one("regex", "tea", pattern_column="wanted", columns={"wanted": w}) for w in ("te.", "soup", "(", None, "")
    ]
    assert [score.value for score in scores] == [1, 0, None, None, None]
    assert {score.kind for score in scores[2:]} == {"unreadable"}


# --- keywords ---------------------------------------------------------------------------------------------------------


def test_keywords_are_words_and_case_does_not_count():
    assert value("keywords", "Please start", any=["please"]) == 1
    assert value("keywords", "start", any=["art"]) == 0
    assert value("keywords", "start", any=["art"], whole_words=False) == 1
    assert value("keywords", "Please", any=["please"], case=True) == 0
    assert value("keywords", "I like C++, too", any=["c++"]) == 1
    assert value("keywords", "STRASSE", any=["straße"]) == 1


def test_all_is_the_share_found_and_any_and_none_are_all_or_nothing():
    assert value("keywords", "tea soup", all=["tea", "soup", "bread", "milk"]) == 0.5
    # any holds (1), none does not (0), all is 1/2: their mean
    assert value("keywords", "tea no", any=["tea"], none=["no", "never"], all=["tea", "milk"]) == pytest.approx(0.5)
    assert one("keywords", "tea no", none=["no", "never"]).reason == "broken: it (has 'no')"


def test_words_may_come_from_a_column():
    scores = [
        one("keywords", "tea, soup", column="items", columns={"items": i}) for i in (["tea"], "tea,milk", "", None, 3)
    ]
    assert [score.value for score in scores] == [1, 0.5, None, None, None]


@pytest.mark.parametrize("given", [[None], [["tea"]], ["tea", None], [float("nan")], [True], [{}]])
def test_a_missing_value_is_no_word(given):
    score = one("keywords", "None nan tea True", column="items", columns={"items": given})
    assert (score.value, score.kind) == (None, "unreadable")
    assert one("keywords", "2 of 3.5", column="items", columns={"items": [2, 3.5]}).value == 1


# --- tags and Markdown ------------------------------------------------------------------------------------------------

GOOD = "<think>two cups</think>\n<answer>tea</answer>"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (GOOD, 3),
        (f"Well: {GOOD} Bye.", 3),  # `alone` is off
        ("<answer>tea</answer><think>two cups</think>", 2),  # order
        ("<think>two <answer>tea</answer> cups</think>", 2),  # one in the other is no order
        (GOOD + GOOD, 0),
        (GOOD + "<answer>", 1),
        ("<think></think><answer>tea</answer>", 1),  # nothing in it
        ("</think>two cups<think><answer>tea</answer>", 1),
        ("tea", 0),
    ],
)
def test_tags_stand_once_each_filled_and_in_order(text, kept):
    assert value("tags", text) == pytest.approx(kept / 3)


def test_tags_may_have_to_stand_alone_and_the_first_may_be_open_already():
    assert (value("tags", GOOD, alone=True), value("tags", f"{GOOD} Bye.", alone=True)) == (1, 0.75)
    rest = GOOD.removeprefix("<think>")
    assert (value("tags", rest), value("tags", rest, opened=True)) == (pytest.approx(1 / 3), 1)


def test_markdown_is_seen_and_code_is_code():
    page = "# Title\n\n- a\n- b\n\n1. one\n\n| a | b |\n|---|---|\n\n**bold** [tea](x.html)\n\n```py\nx\n```\n"
    every = ["heading", "list", "numbered_list", "code_block", "table", "bold", "link"]
    assert value("markdown", page, all=every) == 1
    assert value("markdown", "plain # text - 2 * 3 ** 4 and 1.5", none=every) == 1
    code = "```py\n# comment\n- x\n```\n"
    assert value("markdown", code, all=["code_block"], none=["heading", "list"]) == 1
    assert one("markdown", "tea", all=["heading", "list"], none=["bold"]).value == pytest.approx(1 / 3)


def test_code_blocks_end_at_their_own_mark_and_those_that_never_end_are_none():
    def has(text: str) -> list[float]:
        return [value("markdown", text, all=["code_block"]), value("markdown", text, all=["heading"])]

    assert has("```py\n# a\n~~~\n# b\n   ``` \t\ntea") == [1, 0]
    assert has("```py\n# a\n~~~\n# b") == [0, 1]
    assert has("```\n```") == [1, 0]
    assert has("```\n~~~\n```\n# a\n~~~") == [1, 1]
    assert has("    ```\n# a\n```") == [0, 1]


# --- what takes long ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "settings", "text"),
    [
        ("length", {"unit": "sentences"}, "." * 20000 + "x"),
        ("length", {"unit": "sentences"}, ".。" * 10000 + "x"),
        ("markdown", {"all": ["table"]}, " " * 20000 + "x"),
        ("markdown", {"all": ["table"]}, "|" + "\t" * 20000 + "x"),
        ("markdown", {"all": ["code_block"]}, "```x " * 4000),
        ("markdown", {"all": ["code_block"]}, "```x\n" * 4000),
        ("markdown", {"all": ["code_block"]}, "```x\n~~~y\n" * 2000),
        ("markdown", {"all": ["link"]}, "[a](" * 5000),
        ("json_schema", {}, "```\n" + " " * 20000),
        ("json_schema", {}, "```" + " " * 20000),
    ],
)
def test_a_policy_cannot_make_a_rule_slow(rule, settings, text):
    reward = build("reward", {"name": "rules", "rules": {"it": {"rule": rule, **settings}}})
    started = time.process_time()
    reward.score([Sample("p", text)])
    assert time.process_time() - started < 0.3  # they took 2 to 20 s


# --- JSON -------------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "required": ["a"],
    "properties": {"a": {"$ref": "#/$defs/n"}},
    "$defs": {"n": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("text", "kept"),
    [('{"a": 1}', 1), ('{"a": "1"}', 0.25), ("{}", 0.25), ("a", 0), ("", 0), ("NaN", 0), ("[" * 100_000, 0), ("9" * 5000, 0),
     ('Here:\n```json\n{"a": 1}\n```\nBye', 1), ('```\n{"a": 1}\n```', 1)],
    ids=lambda given: str(given)[:20],
)  # fmt: skip
def test_json_is_held_against_its_schema(text, kept):
    assert value("json_schema", text, schema=SCHEMA, parsed=0.25) == kept


def test_json_without_schema_is_any_json_and_fences_can_be_refused():
    assert value("json_schema", "[1, 2]") == 1
    assert value("json_schema", "```json\n[1]\n```") == 1
    assert value("json_schema", "```json\n[1]\n```", fenced=False) == 0


def test_numbers_that_no_float_holds_end_no_run():
    assert value("json_schema", "1e400") == value("json_schema", "[-1e400]") == 0
    assert "1e400" in one("json_schema", "1e400", schema={"multipleOf": 0.5}).reason
    score = one("json_schema", "1" * 400, schema={"multipleOf": 0.01})
    assert (score.value, score.kind) in [(None, "error"), (0.0, "value")]
    assert one("json_schema", "1" * 400, schema={"multipleOf": 3}).value == 0


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"pattern": "^(a|aa)+$"}, f'"{"a" * 60}c"'),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "not": {"pattern": "^(a|aa)+$"}}, f'"{"a" * 60}c"'),
        ({"patternProperties": {"^(a|aa)+$": {}}}, json.dumps({"a" * 60 + "c": 1})),
        ({"patternProperties": {"^(a|aa)+$": {}}, "additionalProperties": False}, json.dumps({"a" * 60 + "c": 1})),
        ({"propertyNames": {"pattern": "^(a|aa)+$"}}, json.dumps({"a" * 60 + "c": 1})),
    ],
)
def test_a_pattern_of_a_schema_that_never_ends_gives_no_score(monkeypatch, schema, text):
    from rlhf_lora.plugins.rewards.rules import wording

    monkeypatch.setattr(wording, "PATTERN_SECONDS", 0.1)
    started = time.perf_counter()
    score = one("json_schema", text, schema=schema)
    assert time.perf_counter() - started < 5
    assert (score.value, score.kind) == (None, "error")
    assert "the schema's patterns were not done after 0.1 s" in score.reason


def test_patterns_of_a_schema_share_their_time(monkeypatch):
    from rlhf_lora.plugins.rewards.rules import schema_check

    clock = iter(range(100))
    monkeypatch.setattr(schema_check.time, "monotonic", lambda: next(clock) * 0.3)
    score = one("json_schema", json.dumps(["a"] * 50), schema={"items": {"pattern": "a"}})
    assert (score.value, score.kind) == (None, "error")


def test_patterns_of_a_schema_are_kept_or_broken():
    schema = {"patternProperties": {"^n_": {"type": "integer"}}, "properties": {"s": {"pattern": "^t"}}}
    closed = {**schema, "additionalProperties": False}
    assert [value("json_schema", t, schema=closed) for t in ('{"n_a": 1, "s": "tea"}', '{"n_a": "1"}', '{"b": 1}')] == [
        1,
        0,
        0,
    ]
    assert [value("json_schema", t, schema=schema) for t in ('{"s": "soup"}', '{"b": 1}', '{"s": 3}')] == [0, 1, 1]
    typed = {**schema, "additionalProperties": {"type": "null"}}
    assert [value("json_schema", t, schema=typed) for t in ('{"b": null, "n_a": 1}', '{"b": 1}')] == [1, 0]


def test_references_are_followed_and_data_that_looks_like_one_is_data():
    assert value("json_schema", '{"$ref": "#/nowhere"}', schema={"const": {"$ref": "#/nowhere"}}) == 1
    assert value("json_schema", "3", schema={"enum": [{"$ref": "http://x"}, 3]}) == 1
    own = {"$id": "http://example.org/s", "$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "integer"}}}
    assert [value("json_schema", text, schema=own) for text in ("3", '"3"')] == [1, 0]
    listed = {"anyOf": [{"type": "string"}, {"$ref": "#/anyOf/0"}]}
    assert [value("json_schema", text, schema=listed) for text in ("3", '"3"')] == [0, 1]


def test_a_schema_can_stand_in_a_file(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    reward = build("reward", {"name": "json_schema", "schema_file": str(tmp_path / "schema.json")})
    assert [s.value for s in reward.score([Sample("p", '{"a": 1}'), Sample("p", '{"a": []}')])] == [1, 0]


def test_json_too_deep_for_its_schema_gives_no_score():
    deep = {"type": "array", "items": {"$ref": "#"}}
    score = one("json_schema", "[" * 400 + "]" * 400, schema=deep)
    assert (score.value, score.kind) in [(None, "error"), (1.0, "value")]  # by how deep this Python may go


def test_a_schema_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ConfigError, match=r"needs the package jsonschema[\s\S]*pip install 'rlhf-lora\[rules\]'"):
        build("reward", {"name": "json_schema", "schema": {"type": "string", "title": "not seen before"}})
    assert build("reward", {"name": "json_schema"}).score([Sample("p", "1")])[0].value == 1


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "settings", "says"),
    [
        ("length", {"least": 5, "most": 4}, "not below least=5"),
        ("length", {"least": -1}, "at least 0"),
        ("length", {"unit": "word"}, "unit is one of words, characters, sentences"),
        ("length", {"least": "many"}, "could not be converted to Integer"),
        ("repetition", {"n": 0}, "n must be at least 1"),
        ("repetition", {"most": 1}, "below 1"),
        ("regex", {}, "needs a pattern"),
        ("regex", {"pattern": "(a"}, r"cannot be read: missing \)"),
        ("regex", {"pattern": "a", "pattern_column": "b"}, "not both"),
        ("regex", {"pattern": "a", "match": "find"}, "match is one of"),
        ("keywords", {}, "needs words"),
        ("keywords", {"any": [" "]}, "a word is empty"),
        ("keywords", {"any": "please"}, "any='please'"),
        ("tags", {"tags": []}, "tags must be names"),
        ("tags", {"tags": ["a", "a"]}, "tags must be names that differ"),
        ("tags", {"tags": ["<a>"]}, "without brackets"),
        ("markdown", {}, "needs elements"),
        ("markdown", {"all": ["headings"]}, "no element 'headings'"),
        ("json_schema", {"schema": {"type": 5}}, "no JSON Schema, at"),
        ("json_schema", {"schema": {"$ref": "https://example.org/s.json"}}, "nothing is fetched"),
        ("json_schema", {"schema": {"$ref": "#/$defs/x"}}, "points to what it does not have"),
        ("json_schema", {"schema": {"allOf": [{}], "$ref": "#/allOf/7"}}, "points to what it does not have"),
        ("json_schema", {"schema": {"allOf": [{}], "$ref": "#/allOf/x"}}, "points to what it does not have"),
        ("json_schema", {"schema": {"$ref": "#nowhere"}}, "points to what it does not have: #nowhere"),
        ("json_schema", {"schema": {"$dynamicRef": "http://example.org/s"}}, "nothing is fetched"),
        ("json_schema", {"schema": {"title": "x", "not": {"$ref": "#/title"}}}, "points to what"),
        ("json_schema", {"schema": {"x": {"$ref": "#/y"}, "$ref": "#/x"}}, "points to what it does not have: #/y"),
        ("json_schema", {"schema": {"items": {"pattern": "("}}}, "is not a 'regex'"),
        (
            "json_schema",
            {"schema": {"unevaluatedProperties": False, "allOf": [{"patternProperties": {"a": {}}}]}},
            "no time limit there",
        ),
        ("json_schema", {"schema_file": "nowhere.json"}, "cannot be read"),
        ("json_schema", {"parsed": 2}, "from 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_the_rule_is_built(rule, settings, says):
    with pytest.raises(ConfigError, match=says):
        build("reward", {"name": "rules", "rules": {"it": {"rule": rule, **settings}}})
    if rule != "length" and settings.get("any") != "please":  # Hydra refuses the types of a reward of its own
        with pytest.raises(ConfigError, match=says):
            build("reward", {"name": rule, **settings})


@pytest.mark.parametrize(
    "config",
    [{"name": "regex", "pattern": "a+"}, {"name": "keywords", "any": ["a"]}, {"name": "json_schema", "schema": SCHEMA},
     {"name": "repetition"}, {"name": "tags"}, {"name": "markdown", "all": ["list"]}, {"name": "ended"}],
    ids=lambda config: config["name"],
)  # fmt: skip
def test_a_rule_is_a_reward_of_its_own_that_keeps_the_contract(config):
    reward = build("reward", config)
    assert build("reward", to_config(reward)) == reward
    assert pickle.loads(pickle.dumps(reward)) == reward
    samples = [
        Sample("p", text, finished=f) for text in ("", "a a a a", "- a\n" * 300, "\ud800 ☃") for f in (True, False)
    ]
    scores = Scorer(reward, config["name"])(samples)
    assert all(0 <= score.value <= 1 for score in scores)
    assert scores == Scorer(pickle.loads(pickle.dumps(reward)), config["name"])(samples)
    assert Scorer(reward, config["name"])([]) == []
