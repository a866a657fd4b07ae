"""Answers scored chunk by chunk: what a kill costs, and what counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_lora.answer_sets import Answered, AnswerSet
from rlhf_lora.errors import Interrupted, Stopped
from rlhf_lora.records import Prompt, Sample, Score
from rlhf_lora.row_file import RowFile
from rlhf_lora.stages import answers
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


def at_work(work: Path, reward: Reward, missing: str = "drop", share: float = 0.5, signal: Any = lambda: None) -> Any:
    gold = Scorer(Reward(), "gold")
    return answers.Answering(work, Scorer(reward, "mine"), gold, missing, share, signal)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "AT_ONCE", 4)


def test_what_was_sampled_and_scored_is_not_asked_for_again(tmp_path: Path):
    engine, reward = Engine(), Reward()
    sets = at_work(tmp_path, reward).answer(None, engine, PROMPTS, 2, seed=1)
    scored = at_work(tmp_path, reward).score(sets)
    assert (engine.calls, reward.asked) == (3, 10)
    assert [a.score.value for one in scored for a in one.answers] == [0.0, 1.0] * 5
    RowFile(tmp_path / "samples.jsonl").keep(3)
    RowFile(tmp_path / "scores.jsonl").keep(9)
    again = at_work(tmp_path, reward).score(at_work(tmp_path, reward).answer(None, engine, PROMPTS, 2, seed=1))
    assert again == scored
    assert (engine.calls, reward.asked) == (5, 12)  # the two last chunks of prompts; the last two answers


def test_a_signal_leaves_after_the_chunk_and_the_chunk_is_kept(tmp_path: Path):
    engine = Engine()
    with pytest.raises(Interrupted):
        at_work(tmp_path, Reward(), signal=lambda: 15 if engine.calls else None).answer(
            None, engine, PROMPTS, 2, seed=1
        )
    assert len(RowFile(tmp_path / "samples.jsonl").rows()) == 2


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
    calls: list[int] = []
    score = reward.score
    reward.score = lambda samples: calls.append(len(samples)) or score(samples)  # type: ignore[func-returns-value,method-assign]
    work.score(work.answer(None, Engine(), PROMPTS, 2, seed=1))
    assert calls == [10]


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
