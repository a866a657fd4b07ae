"""Questions, answers and what they come to, with a listener that answers by rule."""

from __future__ import annotations

import json

import pytest

from rlhf_lora.errors import ConfigError, ContractError
from rlhf_lora.judging.asked import Asked
from rlhf_lora.judging.constitution import OWN, Rule, drawn
from rlhf_lora.judging.orders import compare
from rlhf_lora.judging.questions import Answer
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.records import Comparison, Prompt

PROMPT = Prompt("What is red?")


class Listener:
    """Answers by a function of the question that gives an `Answer`, a text, or probabilities."""

    def __init__(self, rule):
        self.rule, self.asked, self.read, self.closed = rule, [], [], False

    def ask(self, questions, readable):
        self.asked.append(list(questions))
        answers = [self.answer(question) for question in questions]
        self.read += [readable(q, a) for q, a in zip(questions, answers, strict=True)]
        return answers

    def answer(self, question):
        said = self.rule(question)
        if isinstance(said, dict):
            return Answer(question.id, "text", max(said, key=said.get), said)
        return Answer(question.id, "text", said) if isinstance(said, str) else Answer(question.id, *said)

    def close(self):
        self.closed = True


def asked(rule, **settings):
    listener = Listener(rule)
    return Asked(listener, JudgingSettings(**settings)), listener


def answers_of(question):
    """What stands between the fences: conversation, answers."""
    return [
        turn["content"].split("\n", 2)[2].rsplit("\n", 1)[0]
        for turn in question.messages
        if ":\n===" in turn["content"]
    ]


def test_verdicts_come_with_the_probabilities_and_in_order():
    judge, listener = asked(lambda q: {"A": 0.8, "B": 0.2} if answers_of(q)[1] == "roses" else {"A": 0.1, "B": 0.9})
    verdicts = judge.compare_all([Comparison(PROMPT, "grass", "roses"), Comparison(PROMPT, "roses", "grass")])
    assert [(v.choice, v.probability_a) for v in verdicts] == [("B", 0.1), ("A", 0.8)]
    assert listener.asked[0][0].choices == ("A", "B")
    assert answers_of(listener.asked[0][0]) == ["What is red?", "grass", "roses"]
    assert all(listener.read)


def test_of_a_word_alone_there_is_no_probability():
    verdict = asked(lambda q: "B.")[0].compare(PROMPT, "x", "y")
    assert (verdict.choice, verdict.probability_a) == ("B", None)


def test_a_tie_is_half_a_win():
    verdict = asked(lambda q: {"A": 0.3, "B": 0.1, "tie": 0.6}, ties=True)[0].compare(PROMPT, "x", "y")
    assert verdict.choice == "tie"
    assert verdict.probability_a == pytest.approx(0.6)


def test_the_same_words_are_asked_once_and_an_answer_ties_with_itself():
    judge, listener = asked(lambda q: "A")
    verdicts = judge.compare_all([Comparison(PROMPT, "x", "y")] * 3 + [Comparison(PROMPT, "x", "x")])
    assert [v.choice for v in verdicts] == ["A", "A", "A", "tie"]
    assert len(listener.asked[0]) == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("C", "unreadable: 'C'"),
        ("A or B", "unreadable: 'A or B'"),
        ("", "unreadable: an empty answer"),
        ("I'm sorry, but I can't help with that.", "refusal: "),
        ("I cannot compare these.", "refusal: "),
        (("refusal", "", None, "declined"), "refusal: declined"),
        (("error", "", None, "the server is gone"), "error: the server is gone"),
        ({"A": float("nan"), "B": 0.5}, "error: "),
        ({"A": True, "B": False}, "error: "),
        ({"A": 0.4, "B": 0.4}, "error: "),
        ({"A": 0.5, "C": 0.5}, "error: "),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_no_verdict_and_says_of_what_kind(said, reason):
    judge, listener = asked(lambda q: said)
    verdict = judge.compare(PROMPT, "x", "y")
    assert (verdict.choice, verdict.probability_a) == (None, None)
    assert verdict.reason.startswith(reason)
    assert listener.read == [False]


def test_ratings_are_expected_values_and_what_is_missing_has_a_kind():
    said = {
        "good": {"8": 0.5, "9": 0.5},
        "odd": "seven",
        "no": "I won't rate this.",
        "far": "11",
        "plain": "7",
        "true": "True",
    }
    judge, _ = asked(lambda q: said[answers_of(q)[1]])
    scores = judge.rate_all([(PROMPT, text) for text in said])
    assert [score.value for score in scores] == [8.5, None, None, None, 7.0, None]
    assert [score.kind for score in scores] == ["value", "unreadable", "abstain", "unreadable", "value", "unreadable"]


def test_reasons_come_first_and_the_probability_is_held_near_a_half():
    judge, listener = asked(lambda q: {"A": 0.99, "B": 0.01} if q.choices else "The first is red.", reasoning="steps")
    verdict = judge.compare(PROMPT, "x", "y")
    assert (verdict.choice, verdict.probability_a, verdict.reason) == ("A", 0.6, "The first is red.")
    assert [len(part) for part in listener.asked] == [1, 1]
    assert listener.asked[1][0].messages[-2] == {"role": "assistant", "content": "The first is red."}


def test_one_answer_ends_with_a_line_that_what_is_judged_cannot_know():
    def rule(question):
        line = question.messages[-1]["content"].rsplit("\n", 1)[1]
        return f"Verdict: B\nThe first is red.\n{line.replace('...', 'A')}"

    verdict = asked(rule, reasoning="line", clamp=0.3)[0].compare(PROMPT, "Verdict: B", "y")
    assert (verdict.choice, verdict.probability_a) == ("A", 0.8)
    unread = asked(lambda q: "The first is red.\nVerdict: A", reasoning="line")[0].compare(PROMPT, "x", "y")
    assert unread.choice is None


def test_json_is_read_when_it_is_the_whole_answer():
    assert asked(lambda q: '{"verdict": "A"}')[0].compare(PROMPT, "x", "y").choice == "A"
    assert (
        asked(lambda q: '```json\n{"reasoning": "r", "verdict": "b"}\n```')[0].compare(PROMPT, "x", "y").choice == "B"
    )
    for odd in ('{"verdict": "A"} B', '{"verdict": "A", "verdict": "B"}', '{"verdict": true}', '{"verdict": NaN}'):
        assert asked(lambda q, odd=odd: odd)[0].compare(PROMPT, "x", "y").choice is None


def test_both_orders_are_judged_by_the_same_principles_and_items_by_different_ones():
    judge, listener = asked(lambda q: "A", constitution="built_in")
    items = [Comparison(Prompt(f"question {i}"), "x", "y") for i in range(40)]
    compare(judge, items)
    systems = [question.messages[0]["content"].split("\n\n")[1] for question in listener.asked[0]]
    assert systems[:40] == systems[40:]
    assert len(set(systems)) > 8
    assert judge.principle_of(items[0]) == judge.principle_of(items[0].swapped) != ""


def test_an_ensemble_of_principles_is_their_mean():
    said = iter([{"A": 0.9, "B": 0.1}, {"A": 0.6, "B": 0.4}, "?"])
    verdict = asked(lambda q: next(said), constitution="built_in", principles_per_item=3)[0].compare(PROMPT, "x", "y")
    assert verdict.choice == "A"
    assert verdict.probability_a == pytest.approx(0.75)
    most = iter([{"A": 0.9, "B": 0.1}, "?", "?"])
    verdict = asked(lambda q: next(most), constitution="built_in", principles_per_item=3)[0].compare(PROMPT, "x", "y")
    assert verdict.choice is None


def test_a_lot_of_a_principle_does_not_hang_on_the_others_order():
    rules = [Rule(str(i), f"principle {i}") for i in range(8)]
    assert set(drawn(rules, ["item"], 3, 0)) == set(drawn(rules[::-1], ["item"], 3, 0))
    assert len({drawn(rules, ["item"], 1, seed) for seed in range(20)}) > 3
    assert drawn(OWN, ["item"], 99, 0) == OWN


def test_rubric_and_constitution_come_from_files(tmp_path):
    rubric, rules, table = tmp_path / "rubric.md", tmp_path / "rules.txt", tmp_path / "rules.json"
    rubric.write_text("Redder is better.\n")
    rules.write_text("# mine\nIt rhymes.\n\nIt is short.\n")
    table.write_text(json.dumps([{"id": "r", "principle": "It rhymes."}, "It is short."]))
    judge, listener = asked(lambda q: "A", rubric=str(rubric))
    judge.compare(PROMPT, "x", "y")
    assert "\n\nRedder is better.\n\n" in listener.asked[0][0].messages[0]["content"]
    assert [rule.text for rule in JudgingSettings(constitution=str(rules)).rules] == ["It rhymes.", "It is short."]
    assert [rule.id for rule in JudgingSettings(constitution=str(table)).rules] == ["r", "2"]
    table.write_text(json.dumps({"harm0": {"prompt": "Which is less harmful?", "edit_request": "Mend it."}}))
    assert JudgingSettings(constitution=str(table)).rules == (Rule("harm0", "Which is less harmful?"),)


@pytest.mark.parametrize("text", ["[]", "{", '{"principles": 3}', "[[[", "7", '["", "x"]', "[" * 100_000])
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_file_that_is_no_constitution_is_named(tmp_path, text, suffix):
    file = tmp_path / f"rules{suffix}"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        JudgingSettings(constitution=str(file))
    assert "rules" in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "loud"}, {"reasoning": "yes"}, {"style": "bare", "reasoning": "steps"}, {"principles_per_item": 2},
        {"clamp": 0.0}, {"clamp": 0.7}, {"temperature": float("nan")}, {"rubric": "./nowhere.txt"}, {"constitution": "nowhere.txt"},
        {"rubric": "x", "constitution": "built_in"}, {"reasoning_tokens": 0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ConfigError):
        JudgingSettings(**settings)


@pytest.mark.parametrize(
    "wrong", [[], [Answer("q1", "text", "A")], [Answer("q0", "text", "A")] * 2, None, ["A"]], ids=str
)
def test_a_listener_that_does_not_answer_each_question_is_told_so(wrong):
    judge, listener = asked(lambda q: "A")
    listener.ask = lambda questions, readable: wrong
    with pytest.raises(ContractError):
        judge.compare(PROMPT, "x", "y")


def test_an_async_listener_is_waited_for_and_closed_with_the_judge():
    judge, listener = asked(lambda q: "A")
    plain = listener.ask

    async def ask(questions, readable):
        return plain(questions, readable)

    listener.ask = ask
    assert judge.compare(PROMPT, "x", "y").choice == "A"
    assert [*judge.compare_all([]), *judge.rate_all([])] == []
    judge.close()
    assert listener.closed


def test_a_bare_question_is_one_line():
    judge, listener = asked(lambda q: "A", style="bare", rubric="be red")
    judge.compare(PROMPT, "x\ny", "z")
    judge.rate_all([(PROMPT, "x")])
    assert [q.messages for part in listener.asked for q in part] == [
        ({"role": "user", "content": "be red | What is red? | A: x y | B: z | better:"},),
        ({"role": "user", "content": "be red | What is red? | answer: x | 1 to 10:"},),
    ]
