"""Talking to a run: what goes to the model, what goes to which stream, and how one leaves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_lora import cli
from rlhf_lora.chat_verb import shown
from rlhf_lora.errors import DataError
from rlhf_lora.records import Message, Prompt, Sample, Score, transcript


class FakeRun:
    """An opened run whose policy counts its answers."""

    def __init__(self, conversational: bool = True):
        self.conversational, self.score, self.closed = conversational, Score(1.5), False
        self.asked: list[Any] = []
        self.plan = SimpleNamespace(config=SimpleNamespace(seed=0, evaluation=SimpleNamespace(seed=None)))
        self.scorer, self.seeds = object(), set[int]()

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def prompt(self, text: str, before: Sequence[Message] = ()) -> Prompt:
        turns = (*before, {"role": "user", "content": text})
        return Prompt(transcript(turns), turns) if self.conversational else Prompt(text)

    def answers(self, prompts: Sequence[Prompt], best_of: int, seed: int) -> list[tuple[Sample, Score]]:
        if "too long" in prompts[0].text:
            raise DataError("the prompt has 80 tokens")
        self.asked += prompts
        self.seeds.add(seed)
        sample = Sample(
            prompts[0].text, f" certainly {len(self.asked)}", tokens=[1, 2, 3], finished="cut" not in prompts[0].text
        )
        return [(sample, self.score if best_of > 1 else Score.none("nobody was asked"))]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    made = FakeRun()
    monkeypatch.setattr("rlhf_lora.finished_run.open_run", lambda *_: made)
    return made


def said(monkeypatch: pytest.MonkeyPatch, text: str, *words: str, terminal: bool = False) -> int:
    monkeypatch.setattr("sys.stdin", (Terminal if terminal else io.StringIO)(text))
    return cli.run(["chat", "runs/mine", *words])


def test_through_a_pipe_lines_are_turns_of_one_conversation(run, monkeypatch, capsys):
    assert said(monkeypatch, "tea please\n\nand bread\n") == 0
    assert capsys.readouterr().out == "certainly 1\ncertainly 2\n"
    assert [turn["content"] for turn in run.asked[1].messages] == ["tea please", "certainly 1", "and bread"]
    assert len(run.seeds) == 2  # the same question twice need not get the same answer
    assert run.closed


def test_reset_begins_anew_and_quit_leaves(run, monkeypatch, capsys):
    assert said(monkeypatch, "tea\n/reset\nbread\n/quit\ncake\n") == 0
    assert [len(prompt.messages) for prompt in run.asked] == [1, 1]
    assert capsys.readouterr().out == "certainly 1\ncertainly 2\n"


def test_a_run_of_single_prompts_forgets_what_was_said(run, monkeypatch, capsys):
    run.conversational = False
    assert said(monkeypatch, "tea please\nbread please", terminal=True) == 0
    assert [prompt.text for prompt in run.asked] == ["tea please", "bread please"]
    assert "each prompt is answered by itself" in capsys.readouterr().err


def test_the_score_of_the_best_goes_to_stderr(run, monkeypatch, capsys):
    assert said(monkeypatch, "", "--prompt", "tea please\nand = bread", "--best-of", "4") == 0
    captured = capsys.readouterr()
    assert captured.out == "certainly 1\n"
    assert "score 1.5, best of 4" in captured.err
    assert run.asked[0].messages[0]["content"] == "tea please\nand = bread"


def test_no_score_is_said_and_is_no_number(run, monkeypatch, capsys):
    run.score = Score.none("no server", kind="error")
    assert said(monkeypatch, "tea\n", "--best-of", "2") == 0
    assert "no score (error: no server), best of 2" in capsys.readouterr().err
    assert said(monkeypatch, "tea\n", "--best-of", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["score"], told["missing"], told["reason"]) == (None, "error", "no server")


def test_json_is_a_line_for_each_answer(run, monkeypatch, capsys):
    assert said(monkeypatch, "tea\ncut it\n", "--json") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == {"prompt": "tea", "text": " certainly 1", "finished": True, "tokens": 3, "best_of": 1}
    assert second["finished"] is False


def test_on_a_terminal_an_error_costs_a_message_and_the_talk_goes_on(run, monkeypatch, capsys):
    assert said(monkeypatch, "too long\ntea\n/quit\n", terminal=True) == 0
    captured = capsys.readouterr()
    assert "80 tokens" in captured.err
    assert captured.out == "certainly 1\n"


def test_through_a_pipe_an_error_ends_it(run, monkeypatch, capsys):
    assert said(monkeypatch, "tea\ntoo long\nbread\n") == 2
    captured = capsys.readouterr()
    assert captured.out == "certainly 1\n"
    assert "80 tokens" in captured.err
    assert run.closed


def test_ctrl_c_ends_the_answer_and_not_the_talk(run, monkeypatch, capsys):
    answers, count = run.answers, [0]

    def interrupted(*given: Any) -> Any:
        count[0] += 1
        if count[0] == 1:
            raise KeyboardInterrupt
        return answers(*given)

    run.answers = interrupted
    assert said(monkeypatch, "tea\ntea\n", terminal=True) == 0
    assert capsys.readouterr().out == "certainly 1\n"


def test_no_control_character_of_an_answer_reaches_the_terminal():
    assert shown("one\ntwo \x1b[31mred\u202e") == "one\ntwo \\x1b[31mred\\u202e"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["chat"], "one run folder, got 0"),
        (["chat", "a", "b"], "one run folder, got 2"),
        (["chat", "a", "--best-of", "0"], "--best-of wants a number, not '0'"),
        (["chat", "a", "--bestof", "4"], "did you mean '--best-of'"),
        (["chat", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_words_are_refused_in_one_message(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
