"""Answers scored chunk by chunk, and compared by a judge or by simulated people: what a kill costs, and what counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rlhf_lora.answer_sets import Answered, AnswerSet
from rlhf_lora.errors import Interrupted, Stopped
from rlhf_lora.records import Prompt, Sample, Score, Verdict
from rlhf_lora.stages import annotators, answers
from rlhf_lora.stages.annotators import ComparedPair, Judging, People
from rlhf_lora.stages.scoring import Scorer

PROMPTS = [Prompt(f"p{i}", columns={"n": i}) for i in range(5)]


class Engine:
    """Answers that say which call they came from; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, backbone: Any, prompts: list[Prompt], n: int, seed: int) -> list[Sample]:
        self.calls += 1
        return [
            Sample(p.text, f"{p.text} {k} {seed % 1000}", tokens=[k, 1], finished=k > 0)
            for p in prompts
            for k in range(n)
        ]


class Reward:
    """The answer's number, none for one of them; it counts what it is asked."""

    def __init__(self, missing: int | None = None) -> None:
        self.missing, self.asked = missing, 0

    def score(self, samples: list[Sample]) -> list[float | None]:
        self.asked += len(samples)
        return [None if s.tokens and s.tokens[0] == self.missing else float(s.text.split()[1]) for s in samples]


def at_work(work: Path, reward: Reward, missing: str = "drop", share: float = 0.5, signal: int | None = None) -> Any:
    gold = Scorer(Reward(), "gold")
    return answers.Answering(work, Scorer(reward, "mine"), gold, missing, share, lambda: signal)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "AT_ONCE", 4)
    monkeypatch.setattr(annotators, "AT_ONCE", 4)


def test_what_was_sampled_and_scored_is_not_asked_for_again(tmp_path: Path):
    engine, reward = Engine(), Reward()
    sets = at_work(tmp_path, reward).answer(None, engine, PROMPTS, 2, seed=1)
    scored = at_work(tmp_path, reward).score(sets)
    assert (engine.calls, reward.asked) == (3, 10)
    assert [a.score.value for one in scored for a in one.answers] == [0.0, 1.0] * 5
    (tmp_path / "samples-000001.json").unlink()
    (tmp_path / "scores-000002.json").unlink()
    again = at_work(tmp_path, reward).score(at_work(tmp_path, reward).answer(None, engine, PROMPTS, 2, seed=1))
    assert again == scored
    assert (engine.calls, reward.asked) == (4, 12)  # one chunk of two prompts; the last two answers


def test_a_signal_leaves_after_the_chunk_and_the_chunk_is_kept(tmp_path: Path):
    with pytest.raises(Interrupted):
        at_work(tmp_path, Reward(), signal=15).answer(None, Engine(), PROMPTS, 2, seed=1)
    assert [file.name for file in tmp_path.iterdir()] == ["samples-000000.json"]


@pytest.mark.parametrize(
    ("missing", "share", "stops"), [("drop", 0.5, False), ("drop", 0.4, True), ("stop", 0.9, True)]
)
def test_too_many_missing_scores_stop_the_run(missing: str, share: float, stops: bool, tmp_path: Path):
    """Of each chunk of four, two have none."""
    work = at_work(tmp_path, Reward(missing=1), missing, share)
    sets = work.answer(None, Engine(), PROMPTS, 2, seed=1)
    if stops:
        with pytest.raises(Stopped, match="2 of 4 answers have no score"):
            work.score(sets)
        return
    found = answers.figures(work.score(sets))
    assert (found["answers"], found["abstained"], found["cut"], found["score_mean"]) == (10, 5, 5, 0.0)
    assert found["gold_mean"] == 0.5


def test_a_reward_that_looks_at_all_answers_is_given_all_at_once(tmp_path: Path):
    reward = Reward()
    reward.whole_batch = True  # type: ignore[attr-defined]
    work = at_work(tmp_path, reward)
    work.score(work.answer(None, Engine(), PROMPTS, 2, seed=1))
    assert len(list(tmp_path.glob("scores-*.json"))) == 1


def test_answers_come_back_from_the_folder_as_they_went(tmp_path: Path):
    talk = ({"role": "user", "content": "hi ☕"},)
    sets = [
        AnswerSet(
            Prompt("p\n", talk, {"n": 1}, "g"),
            (
                Answered("a\u2028b\ud800", Score(1.5, {"part": 0.5}, "why"), True, (1, 2), 3.0),
                Answered("", Score.none("declined"), False),
            ),
        )
    ]
    answers.save(tmp_path / "answers", sets)
    assert answers.load(tmp_path / "answers") == sets


# --- comparisons ------------------------------------------------------------------------------------------------------


def two(a: str, b: str) -> AnswerSet:
    return AnswerSet(Prompt("p"), (Answered(a, Score.none("")), Answered(b, Score.none(""))))


class Longer:
    """Likes the longer answer, and of two that are equally long the one it reads first."""

    asked = 0

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        self.asked += 1
        return Verdict("A" if len(a) >= len(b) else "B", 0.9 if len(a) >= len(b) else 0.1)


class Silent:
    """Cannot be read any more, once it was asked about four comparisons."""

    asked = 0

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        self.asked += 1
        return Verdict("A", 0.9) if self.asked <= 8 else Verdict(None, None, "gone")


def test_a_judge_that_dies_while_a_reward_model_is_refreshed_stops_the_run_and_what_it_said_is_kept(tmp_path: Path):
    sets = [two("xx", "x")] * 5  # in chunks of four
    with pytest.raises(Stopped, match="1 of 1 new comparisons could not be read"):
        annotators.labelled(Judging(Silent()), sets, None, tmp_path, lambda: None, missing_share=0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["comparisons-000000.json"]  # the rest is asked again


def test_a_judge_is_asked_in_both_orders_and_what_the_order_decides_is_no_pair(tmp_path: Path):
    judge = Longer()
    sets = [two("xx", "x"), two("x", "xx"), two("ab", "cd"), two("x", "x")]
    compared = annotators.labelled(Judging(judge), sets, None, tmp_path, lambda: None)
    pairs, figures = annotators.counted(compared)
    assert [(pair.chosen, pair.rejected, pair.label) for pair in pairs] == [("xx", "x", pytest.approx(0.9))] * 2
    assert figures == {"asked": 4, "pairs": 2, "left_out": {"a tie": 2}, "flipped": 0.5}
    assert judge.asked == 8
    annotators.labelled(Judging(judge), sets, None, tmp_path, lambda: None)
    assert judge.asked == 8  # all of it was on disk


def test_simulated_people_err_as_often_as_tau_says(tmp_path: Path):
    class Length:
        def score(self, samples: list[Sample]) -> list[float]:
            return [float(len(s.text)) for s in samples]

    def right(tau: float) -> float:
        people = People(Scorer(Length(), "length"), tau, seed=3)
        told = people.probabilities([two("xx", "x"), two("x", "xx")] * 500, 0)
        return sum(p == (i % 2 == 0) for i, (p, _) in enumerate(told)) / 1000

    assert right(0.0) == 1.0
    assert right(1.0) == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.04)
    people = People(Scorer(Length(), "length"), 1.0, seed=3)
    assert people.probabilities([two("xx", "x")] * 3, 7) == people.probabilities([two("xx", "x")] * 9, 1)[6:]
    assert People(Scorer(Length(), "length"), 0.0, 3).probabilities([two("x", "y")], 0) == [(0.5, False)]


def test_what_gives_no_pair_is_counted_and_agreement_is_with_the_truth():
    compared = [
        ComparedPair(two("a", "b"), 1.0, False, (2.0, 1.0)),
        ComparedPair(two("a", "b"), 0.2, False, (2.0, 1.0)),
        ComparedPair(two("a", "b"), None, False, (2.0, 1.0)),
        ComparedPair(two("a", "a"), 1.0, False, (1.0, 1.0)),
    ]
    pairs, figures = annotators.counted(compared)
    assert [pair.chosen for pair in pairs] == ["a", "b"]
    assert figures["left_out"] == {"unreadable": 1, "the same words": 1}
    assert (figures["gold_agreement"], figures["gold_compared"]) == (0.5, 2)
