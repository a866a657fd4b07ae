"""Rows that compare several replies: which pairs they give, and that a tie never becomes a win."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rlhf_lora.plugins.datasets import row_reader

from rlhf_lora.errors import DataError
from rlhf_lora.records import Data
from rlhf_lora.registry import build
from rlhf_lora.splits import split


def load(folder: Path, *rows: Any, **settings: Any) -> Data:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build("dataset", {"name": "jsonl", "path": str(file), **settings}).load()


def wins(data: Data) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in data.pairs]


def reasons(data: Data) -> dict[str, int]:
    return dict(Counter(row.reason for row in data.unused))


def alpaca_eval(preference: Any, instruction: str = "q") -> dict[str, Any]:
    return {"instruction": instruction, "output_1": "one", "output_2": "two", "preference": preference}


def auto_j(label: Any, prompt: str = "q") -> dict[str, Any]:
    return {"prompt": prompt, "response 1": "one", "response 2": "two", "label": label}


def test_alpaca_eval_verdicts_count_from_one_and_zero_is_a_tie(tmp_path):
    data = load(tmp_path, *(alpaca_eval(v, f"q{i}") for i, v in enumerate([1, 2, 0, 1.5, 1.2, 1.9, 3, None])))
    assert wins(data) == [("one", "two"), ("two", "one"), ("one", "two"), ("two", "one")]
    assert reasons(data) == {"a tie": 2, "a preference that is not 1, 2 or 0": 1, "no verdict": 1}
    assert (data.rows, len(data.unused)) == (4, 4)


def test_auto_j_verdicts_count_from_zero_and_two_is_a_tie(tmp_path):
    data = load(tmp_path, *(auto_j(v, f"q{i}") for i, v in enumerate([0, 1, 2, 5])))
    assert wins(data) == [("one", "two"), ("two", "one")]
    assert reasons(data) == {"a tie": 1, "a label that is not 0, 1 or 2": 1}


def test_a_file_of_ties_alone_is_refused_and_says_so(tmp_path):
    with pytest.raises(DataError, match="a tie: 2"):
        load(tmp_path, auto_j(2, "a"), auto_j(2, "b"))


def test_two_replies_and_a_number_under_other_names_are_not_guessed_at(tmp_path):
    """`label: 1` means the second reply to auto-j and the first to others. Nor are they prompts: the comparisons would
    be gone. What the message says to write reads them."""
    row = {"prompt": "q", "response_a": "one", "response_b": "two", "label": 1}
    with pytest.raises(
        DataError, match="'response_a', 'response_b', 'label' look like replies that were compared"
    ) as why:
        load(tmp_path, row)
    assert "{reply_1: response_a, reply_2: response_b, preference: label}" in why.value.fix
    columns = {"reply_1": "response_a", "reply_2": "response_b", "preference": "label"}
    assert wins(load(tmp_path, row, columns=columns, format="alpaca_eval")) == [("one", "two")]
    columns = {"reply_1": "response_a", "reply_2": "response_b", "label": "label"}
    assert wins(load(tmp_path, row, columns=columns, format="auto_j")) == [("two", "one")]
    assert load(tmp_path, row, format="prompt_only").prompts[0].columns["response_b"] == "two"


@pytest.mark.parametrize(
    "row",
    [
        {"response_a": "one", "response_b": "two", "winner_model_a": 1},
        {"answer_1": "one", "answer_2": "two"},
        {"response_1": "one", "response_2": "two", "preference": "first"},
        {"winner": "me"},
        {"Response A": "one"},
        {"response": None, "other": "two"},
    ],
)
def test_comparisons_are_never_taken_for_prompts(tmp_path, row):
    with pytest.raises(DataError, match="look like replies that were compared"):
        load(tmp_path, {"prompt": "q", **row})
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2"):
        load(tmp_path, {"prompt": "q"}, {"prompt": "r", **row})
    assert len(load(tmp_path, {"prompt": "q", **row}, format="prompt_only").prompts) == 1


@pytest.mark.parametrize("name", ["answer", "answers", "reference_answer", "best_answer", "label", "score", "choices"])
def test_what_rewards_check_against_is_no_comparison(tmp_path, name):
    assert load(tmp_path, {"prompt": "2 + 2?", name: "4"}).prompts[0].columns == {name: "4"}


def test_underscores_name_two_replies_like_spaces(tmp_path):
    rows = [{"prompt": f"q{v}", "response_1": "one", "response_2": "two", "preference": v} for v in (1, 2)]
    assert wins(load(tmp_path, *rows)) == [("one", "two"), ("two", "one")]
    rows = [{"prompt": f"q{v}", "response_1": "one", "response_2": "two", "label": v} for v in (0, 1)]
    assert wins(load(tmp_path, *rows)) == [("one", "two"), ("two", "one")]


@pytest.mark.parametrize(
    ("row", "verdicts"), [(alpaca_eval, (0, 1)), (alpaca_eval, (2, 1, -1)), (alpaca_eval, (2, 0, -2)), (auto_j, (1, 2))]
)
def test_numbers_that_look_like_another_scale_are_refused_until_it_is_named(tmp_path, row, verdicts):
    """0 and 1 would be ties and wins of the first reply; whoever wrote them meant the second and the first, or the
    first and the second."""
    rows = [row(verdict, f"q{verdict}") for verdict in verdicts]
    with pytest.raises(DataError, match="which number means which reply is not certain"):
        load(tmp_path, *rows)
    assert wins(load(tmp_path, *rows, format=row.__name__))


def test_a_named_winner_is_the_better_reply(tmp_path):
    words = ["A", "b", "model_a", "Response B", "tie", "Tie (both bad)", "neither", "c", "1", "", None]
    rows = [{"prompt": f"q{i}", "response_a": "one", "response_b": "two", "winner": w} for i, w in enumerate(words)]
    for given in (rows, rows[::-1]):
        data = load(tmp_path, *given)
        assert Counter(wins(data)) == {("one", "two"): 2, ("two", "one"): 2}
        assert reasons(data) == {"a tie": 3, "a winner that is not A, B or tie": 3, "no verdict": 1}
    said = {"prompt": "q", "answer_a": "one", "answer_b": "two", "preference": "B"}
    assert wins(load(tmp_path, said)) == [("two", "one")]


def test_equal_scores_beside_a_pair_are_a_tie_and_others_are_no_margin(tmp_path):
    """UltraFeedback's binarised files: where the best reply's score is the other's too, a coin chose."""
    good = {"chosen": "Blue.", "rejected": "Red."}
    rows = [
        {"prompt": "a", **good, "score_chosen": 3, "score_rejected": 3.0},
        {"prompt": "b", **good, "score_chosen": 8, "score_rejected": 3},
        {"prompt": "c", **good, "score_chosen": None, "score_rejected": None},
        {"prompt": "d", **good, "score_chosen": 1e999, "score_rejected": 1e999},
        {"prompt": "e", **good, "chosen-rating": 4, "rejected-rating": 4},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r).replace("Infinity", "1e999") + "\n" for r in rows))
    data = build("dataset", {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}).load()
    assert [(pair.prompt.text, pair.margin) for pair in data.pairs] == [("b", None), ("c", None), ("d", None)]
    assert reasons(data) == {"a tie": 2}
    said = [{"role": "user", "content": "Hi"}]
    hello, what = ([*said, {"role": "assistant", "content": text}] for text in ("Hello!", "What?"))
    with pytest.raises(DataError, match="a tie: 1"):
        load(tmp_path, {"prompt": "Hi", "chosen": hello, "rejected": what, "score_chosen": 7, "score_rejected": 7})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"completions": ["a", "b"], "scores": [1, "?"]}, "a reply without a score"),
        ({"completions": ["a", "b"], "ranks": [1, "?"]}, "ranks that are not a list of numbers"),
        ({"completion": "a", "rating": "?"}, "a reply without a score"),
        ({"output_1": "a", "output_2": "b", "preference": "?"}, "no verdict"),
        ({"chosen": "a", "rejected": "b", "margin": "?"}, "a margin that is no number"),
    ],
)
def test_a_number_too_large_for_a_float_is_no_number(tmp_path, row, says):
    """JSON reads 1e999 as infinity, without a word."""
    text = json.dumps({"prompt": "q", **row}).replace('"?"', "1e999")
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=says):
        build("dataset", {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}).load()


def test_a_rating_that_is_missing_in_the_first_row_is_missing_for_that_row_alone(tmp_path):
    """Else all replies would be imitated, the bad ones too, because of where one row stands."""
    rows = [{"prompt": "p", "completion": c, "score": s} for c, s in (("a", None), ("b", 5), ("c", 1))]
    data = load(tmp_path, *rows)
    assert (wins(data), [row.completion for row in data.demonstrations]) == ([("b", "c")], ["b"])
    assert reasons(data) == {"a reply without a score": 1}


def test_column_names_can_be_mapped_to_a_verdict(tmp_path):
    row = {"q": "q", "left": "one", "right": "two", "winner": 2}
    columns = {"prompt": "q", "reply_1": "left", "reply_2": "right", "preference": "winner"}
    assert wins(load(tmp_path, row, columns=columns)) == [("two", "one")]


def qa(verdicts: Any, question: str = "q") -> dict[str, Any]:
    replies = {f"prediction {n}": text for n, text in enumerate("ABCD", 1)}
    return {"question": question, **replies, "preference": verdicts, "passages": [["title", "text"]]}


def test_six_verdicts_on_four_replies(tmp_path):
    """In the order (1,2) (1,3) (1,4) (2,3) (2,4) (3,4): A beats B, C beats A, A = D, B = C, D beats B, C beats D."""
    data = load(tmp_path, qa([1, 2, 0, 0, 2, 1]), qa([0] * 6, "tied"), qa([1, 1], "short"), qa([1] * 5 + [7], "odd"))
    assert wins(data) == [("A", "B"), ("C", "A"), ("D", "B"), ("C", "D")]
    assert data.left_out == {"a tie": 2}
    assert reasons(data) == {"a tie": 1, "no six verdicts that are each 0, 1 or 2": 2}
    assert [row.completion for row in data.demonstrations] == ["C"]
    assert data.pairs[0].prompt.columns == {"passages": [["title", "text"]]}
    assert data.rankings == [], "A beats B, C beats A, and B = C: no order says so"
    assert "1 rows gave 4 pairs, 2 none: a tie" in data.format


@pytest.mark.parametrize(
    ("verdicts", "ranks"),
    [
        ([1, 1, 1, 1, 1, 1], (1, 2, 3, 4)),
        ([2, 2, 2, 2, 2, 2], (4, 3, 2, 1)),
        ([0, 1, 1, 1, 1, 0], (1, 1, 2, 2)),
        ([2, 0, 0, 1, 1, 0], (2, 1, 2, 2)),
        ([1, 2, 1, 1, 1, 1], None),  # A beats B, B beats C, C beats A
        ([0, 1, 1, 0, 1, 1], None),  # A = B and B = C, yet A beats C
    ],
)
def test_six_verdicts_are_a_ranking_where_they_make_an_order(tmp_path, verdicts, ranks):
    data = load(tmp_path, qa(verdicts))
    assert [ranking.ranks for ranking in data.rankings] == ([ranks] if ranks else [])
    if ranks:
        assert [(pair.chosen, pair.rejected) for pair in data.rankings[0].pairs()] == wins(data)


def test_what_orders_several_replies_is_a_ranking_of_those_that_are_in_a_pair(tmp_path):
    row = {"prompt": "q", "completions": ["a", "b", " ", "d", "e"], "scores": [0.5, 9, 7, None, 0.5]}
    (ranking,) = load(tmp_path, row).rankings
    assert (ranking.completions, ranking.ranks) == (("a", "b", "e"), (2, 1, 2))
    (ranking,) = load(tmp_path, {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [30, 10, 20]}).rankings
    assert (ranking.completions, ranking.ranks) == (("a", "b", "c"), (3, 1, 2))
    (ranking,) = load(tmp_path, {"prompt": "q", "completions": ["a", "b", "c"], "best": 2}).rankings
    assert (ranking.best, ranking.ranks) == (2, (2, 2, 1))


def test_a_rating_too_large_for_a_float_is_compared_and_not_learned_as_a_number(tmp_path):
    rows = [
        {"prompt": p, "completion": c, "rating": r}
        for p, c, r in (("p", "a", 10**400), ("p", "b", 1), ("q", "c", 10**400))
    ]
    data = load(tmp_path, *rows)
    assert (wins(data), [r.value for r in data.ratings]) == ([("a", "b")], [1.0])
    assert data.left_out == {"a rating too large to learn from": 1}
    assert reasons(data) == {"a rating too large to learn from": 1}


def test_scores_give_every_pair_whose_scores_differ(tmp_path):
    """Four replies have 4 · 3 / 2 = 6 pairs; one of them is a tie."""
    data = load(tmp_path, {"prompt": "q", "completions": ["a", "b", "c", "d"], "scores": [0.5, 0, 0.5, 1e-6]})
    assert set(wins(data)) == {("a", "b"), ("a", "d"), ("c", "b"), ("c", "d"), ("d", "b")}
    assert (data.left_out, data.rows) == ({"a tie": 1}, 1)


def test_rankings_that_cannot_be_used_say_why(tmp_path):
    good = {"prompt": "q", "completions": ["a", "b"], "scores": [1, 0]}
    data = load(
        tmp_path,
        good,
        {**good, "scores": [1, 1]},
        {**good, "scores": [1]},
        {**good, "completions": ["a", 3]},
        {**good, "scores": [1, None]},
        {**good, "completions": ["a"], "scores": [1]},
        {**good, "completions": ["a", " "]},
        {**good, "scores": None},
        {**good, "scores": [True, False]},
    )
    assert [row.reason for row in data.unused] == [
        "a tie",
        "not as many scores as completions",
        "completions that are not a list of texts",
        "a reply without a score",
        "fewer than two replies to compare",
        "the rejected reply is empty",
        "not as many scores as completions",
        "a reply without a score",
    ]
    assert data.rows + len(data.unused) == 9


def test_the_second_worst_of_a_ranking_is_not_imitated(tmp_path):
    """It is the better one of a pair; without a demonstration of the best, SFT would take it for an answer to learn."""
    row = {"completions": ["bad", "good", "middling"], "scores": [0, 2, 1]}
    data = load(tmp_path, *({"prompt": f"question {i}", **row} for i in range(60)))
    assert {row.completion for row in split(data).demonstrations} == {"good"}


def test_the_best_of_n_beats_the_others_which_are_not_compared(tmp_path):
    rows = [{"prompt": f"q{i}", "completions": ["a", "b", "c"], "best": best} for i, best in enumerate([1, 3, 0.5, -1])]
    data = load(tmp_path, *rows)
    assert wins(data) == [("b", "a"), ("b", "c")]
    assert reasons(data) == {"best is no index into completions (the first is 0)": 3}
    assert [row.completion for row in data.demonstrations] == ["b"]


def test_ratings_are_compared_within_a_prompt(tmp_path):
    rows = [("p", "a", 5), ("q", "x", 3), ("p", "b", 1), ("p", "c", 5), ("r", "y", 2), ("r", "z", 2), ("p", "d", None)]
    data = load(tmp_path, *({"prompt": p, "completion": c, "score": s} for p, c, s in rows))
    assert set(wins(data)) == {("a", "b"), ("c", "b")}
    assert {unused.where[-6:]: unused.reason for unused in data.unused} == {
        "line 7": "a reply without a score",
    }
    assert data.rows == 6
    assert data.left_out == {"a tie": 2}
    assert [row.completion for row in data.demonstrations] == ["a"]
    assert [(r.prompt.text, r.completions, r.ranks) for r in data.rankings] == [("p", ("a", "b", "c"), (1, 2, 1))]
    assert {(r.prompt.text, r.completion, r.value) for r in data.ratings} == {row for row in rows if row[2] is not None}


def test_ratings_of_different_prompts_are_ratings_and_no_demonstrations(tmp_path):
    rows = [{"prompt": f"q{i}", "response": "a", "rating": i} for i in range(3)]
    data = load(tmp_path, *rows)
    assert ([r.value for r in data.ratings], data.pairs, data.rankings, data.demonstrations) == ([0, 1, 2], [], [], [])
    with pytest.raises(DataError, match=r"dataset\.format=prompt_completion"):
        load(tmp_path, *({**row, "rating": None} for row in rows))
    assert len(load(tmp_path, *rows, format="prompt_completion").demonstrations) == 3


def test_more_pairs_than_memory_are_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(row_reader, "MOST_PAIRS", 5)
    with pytest.raises(DataError, match="more than 5 pairs"):
        load(tmp_path, {"prompt": "q", "completions": list("abcd"), "scores": [1, 2, 3, 4]})


def test_too_many_comparisons_are_refused_before_they_are_made(tmp_path):
    """2,600 replies are 3.4 million comparisons; made first, they fill the memory before anyone counts."""
    started = time.process_time()
    rows = [{"prompt": "q", "completion": f"reply {i}", "rating": i} for i in range(2_600)]
    with pytest.raises(DataError, match="more than 2,000,000 pairs"):
        load(tmp_path, *rows)
    many = {"prompt": "q", "completions": [f"reply {i}" for i in range(2_600)]}
    for verdict in ("scores", "ranks"):
        with pytest.raises(DataError, match="more than 2,000,000 pairs"):
            load(tmp_path, many | {verdict: list(range(2_600))})
    assert time.process_time() - started < 3


def test_the_count_of_pairs_runs_over_rows_and_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(row_reader, "MOST_PAIRS", 5)
    three = [("a", 1), ("b", 2), ("c", 3)]
    one = [{"prompt": "p", "completion": c, "rating": r} for c, r in three]
    assert len(load(tmp_path, *one).pairs) == 3
    with pytest.raises(DataError, match="more than 5 pairs"):
        load(tmp_path, *one, *({**row, "prompt": "q"} for row in one))


def test_strength_becomes_a_margin_or_a_soft_label(tmp_path):
    pair = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
    (found,) = load(tmp_path, [pair | {"margin": 2}]).pairs
    assert (found.margin, found.label) == (2.0, 1.0)
    with pytest.raises(DataError, match="a margin that is no number"):
        load(tmp_path, [pair | {"margin": "much"}])
    row = {"instruction": "Name a colour.", "output_1": "Seven.", "output_2": "Blue."}
    sure, unsure = load(tmp_path, [row | {"preference": 1}, row | {"preference": 1.8}]).pairs
    assert (sure.chosen, sure.label) == ("Seven.", 1.0)
    assert (unsure.chosen, unsure.label) == ("Blue.", pytest.approx(0.8))


def test_ranks_are_pairs_and_equal_ranks_are_ties(tmp_path):
    row = {"prompt": "Name a colour.", "completions": ["Seven.", "Blue.", "Green.", "No."], "ranks": [2, 1, 1, 3]}
    data = load(tmp_path, [row])
    assert {(pair.chosen, pair.rejected) for pair in data.pairs} == {
        ("Blue.", "Seven."), ("Green.", "Seven."), ("Seven.", "No."), ("Blue.", "No."), ("Green.", "No."),
    }  # fmt: skip
    assert len(data.pairs) == 5
