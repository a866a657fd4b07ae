"""A reward at work: what goes wrong is told, with the sample, or costs the samples it goes wrong for their score."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_lora import doors
from rlhf_lora.errors import ContractError
from rlhf_lora.records import Sample, Score, Verdict
from rlhf_lora.registry import build
from rlhf_lora.reward_calls import Failed, Worker, in_worker
from rlhf_lora.scores import preference, score_as_plain, score_of_plain, win_probability
from rlhf_lora.stages.scoring import Scorer

SAMPLES = [Sample(f"prompt {i}", f"answer {i}", columns={"n": i, "tags": ["a"]}) for i in range(10)]
HEADER = "import os, sys, time, random\nfrom rlhf_lora import Score, reward\n"


class Source:
    def __init__(self, rule: Any):
        self.rule = rule

    def score(self, samples: Sequence[Sample]) -> list[Any]:
        return [self.rule(sample) for sample in samples]


def fails_on(*numbers: int) -> Any:
    def rule(sample: Sample) -> float:
        if sample.columns["n"] in numbers:
            raise KeyError(f"no {sample.columns['n']}")
        return float(sample.columns["n"])

    return rule


def values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]


@pytest.fixture
def worker(tmp_path: Path):
    """A worker of a reward whose file is the header and this body; closed and forgotten afterwards."""
    made: list[Worker] = []

    def make(body: str, deadline: float | None = 20.0) -> Worker:
        file = tmp_path / "mine.py"
        file.write_text(HEADER + body)
        doors.load_file(file)
        context = {"seed": 0, "cache_dir": str(tmp_path), "run_dir": str(tmp_path)}
        given = in_worker(build("reward", {"name": "scored"}), "mine", deadline, context)
        assert given is not None
        made.append(given)
        return given

    yield make
    for one in made:
        one.close()


# --- failing calls ----------------------------------------------------------------------------------------------------


def test_a_call_that_fails_stops_the_run_and_names_the_first_sample_it_fails_for():
    with pytest.raises(ContractError) as told:
        Scorer(Source(fails_on(4, 7)), "mine")(SAMPLES)
    assert "the reward 'mine' raised KeyError: 'no 4'" in str(told.value)
    assert "sample 4 of 10: 'prompt 4' → 'answer 4'" in str(told.value)
    assert "test_scoring.py, line" in str(told.value)


def test_or_only_the_samples_it_fails_for_have_no_score():
    scores = Scorer(Source(fails_on(4, 7)), "mine", on_error="missing")(SAMPLES)
    assert values(scores) == [0, 1, 2, 3, None, 5, 6, None, 8, 9]
    assert scores[7].kind == "error"
    assert "KeyError: 'no 7'" in scores[7].reason


def test_what_returns_no_list_of_scores_stops_whatever_is_configured():
    class Wrong:
        def score(self, samples: Sequence[Sample]) -> list[float]:
            return [1.0]

    with pytest.raises(ContractError, match="returned 1 scores for 10"):
        Scorer(Wrong(), "mine", on_error="missing")(SAMPLES)


def test_a_reward_that_hangs_ends_the_run_at_its_deadline():
    scorer = Scorer(Source(lambda s: time.sleep(30)), "mine", deadline=0.2, on_error="missing")
    began = time.monotonic()
    with pytest.raises(ContractError, match="no answer within"):
        scorer(SAMPLES)
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_reward_that_says_how_long_it_may_take_has_that_long_and_no_longer(worker):
    class Slow(Source):
        def call_seconds(self, count: int) -> float:
            return 0.1 * count

    slow = Slow(lambda s: time.sleep(0.06) or 1.0)
    assert values(Scorer(slow, "mine", deadline=0.2)(SAMPLES)) == [1.0] * 10
    with pytest.raises(ContractError, match="no answer within 1 s"):
        Scorer(Slow(lambda s: time.sleep(30)), "mine", deadline=0.2)(SAMPLES)
    body = "@reward('scored')\nclass R:\n    def call_seconds(self, count): return 20.0\n"
    body += "    def score(self, samples):\n        time.sleep(0.5)\n        return [1.0] * len(samples)\n"
    assert values(Scorer(None, "mine", worker=worker(body, 0.2))(SAMPLES)) == [1.0] * 10


def test_sys_exit_in_a_reward_is_a_failure_and_not_the_end():
    def leave(sample: Sample) -> float:
        raise SystemExit(0)

    with pytest.raises(ContractError, match="raised SystemExit"):
        Scorer(Source(leave), "mine")(SAMPLES)


def test_inputs_belong_to_the_run():
    def spoil(sample: Sample) -> float:
        sample.columns["tags"].append("b")
        sample.text = "gone"
        return 1.0

    for deadline in (None, 5.0):
        Scorer(Source(spoil), "mine", deadline=deadline)(SAMPLES)
    assert SAMPLES[0].columns["tags"] == ["a"]
    assert SAMPLES[0].text == "answer 0"


def test_an_async_reward_is_awaited():
    import asyncio

    class Later:
        async def score(self, samples: Sequence[Sample]) -> list[float]:
            return list(await asyncio.gather(*(self.one(sample) for sample in samples)))

        async def one(self, sample: Sample) -> float:
            await asyncio.sleep(0.01)
            return float(sample.columns["n"])

    began = time.monotonic()
    assert values(Scorer(Later(), "mine", deadline=5)(SAMPLES)) == list(range(10))
    assert time.monotonic() - began < 1
    assert values(Scorer(Later(), "mine")(SAMPLES)) == list(range(10))


def test_a_source_on_the_device_is_called_in_the_main_thread_and_not_during_a_rollout():
    class OnDevice(Source):
        on_device = True

    seen = []
    scorer = Scorer(OnDevice(lambda s: seen.append(threading.current_thread()) or 1.0), "mine", deadline=1.0)
    scorer(SAMPLES[:1])
    assert seen == [threading.main_thread()]
    assert not scorer.overlaps
    assert Scorer(Source(len), "mine").overlaps


# --- in a process of its own ------------------------------------------------------------------------------------------


def test_a_reward_of_a_file_runs_in_a_process_of_its_own_and_gives_the_same(worker):
    import os

    made = worker(
        '@reward("scored")\ndef mine(samples, *, n):\n    return [Score(x + 0.5, {"pid": os.getpid()}) for x in n]\n'
    )
    scorer = Scorer(build("reward", {"name": "scored"}), "mine", worker=made)
    scores = scorer(SAMPLES)
    assert values(scores) == [i + 0.5 for i in range(10)]
    assert scores[0].parts["pid"] != os.getpid()
    assert scorer(SAMPLES[:1])[0].parts == scores[0].parts  # the same process again


@pytest.mark.slow
def test_what_exits_or_crashes_takes_nothing_with_it(worker):
    made = worker(
        '@reward("scored")\ndef mine(samples, *, n):\n    if 3 in n:\n        os._exit(7)\n    return list(n)\n'
    )
    scores = Scorer(build("reward", {"name": "scored"}), "mine", on_error="missing", worker=made)(SAMPLES)
    assert values(scores) == [0, 1, 2, None, 4, 5, 6, 7, 8, 9]
    assert "ended with exit code 7" in scores[3].reason


@pytest.mark.slow
def test_what_hangs_is_killed_and_the_next_batch_is_scored(worker):
    body = '@reward("scored")\ndef mine(samples, *, n):\n    if 3 in n:\n        time.sleep(60)\n    return list(n)\n'
    made = worker(body, deadline=0.5)
    scorer = Scorer(build("reward", {"name": "scored"}), "mine", on_error="missing", worker=made)
    began = time.monotonic()
    assert values(scorer(SAMPLES)) == [None] * 10  # nobody knows which it was, and asking takes as long again
    assert values(scorer(SAMPLES[5:])) == [5, 6, 7, 8, 9]
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_what_prints_megabytes_is_cut_short(worker, capfd):
    made = worker(
        '@reward("scored")\ndef mine(samples):\n    print("x" * 3_000_000)\n    return [1.0] * len(samples)\n'
    )
    assert values(Scorer(build("reward", {"name": "scored"}), "mine", worker=made)(SAMPLES)) == [1.0] * 10
    time.sleep(0.2)
    out, err = capfd.readouterr()
    assert out == ""
    assert 0 < len(err) < 500_000


@pytest.mark.slow
def test_what_draws_gives_the_same_for_the_same_samples(worker):
    made = worker('@reward("scored")\ndef mine(samples):\n    return [random.random() for _ in samples]\n')
    scorer = Scorer(build("reward", {"name": "scored"}), "mine", worker=made)
    first, other = values(scorer(SAMPLES)), values(scorer(SAMPLES[:5]))
    assert values(scorer(SAMPLES)) == first != other


@pytest.mark.slow
def test_what_is_no_list_of_scores_is_told_from_the_process_too(worker):
    made = worker('@reward("scored")\ndef mine(samples):\n    return "1.0"\n')
    with pytest.raises(ContractError, match="'mine' returned str"):
        Scorer(build("reward", {"name": "scored"}), "mine", on_error="missing", worker=made)(SAMPLES)


def test_a_reward_that_is_opened_stays_here(tmp_path):
    file = tmp_path / "theirs.py"
    body = '@reward("theirs")\nclass Theirs:\n    def score(self, samples): return []\n'
    file.write_text(HEADER + body + "    def open(self, ctx): return self\n")
    doors.load_file(file)
    assert in_worker(build("reward", {"name": "theirs"}), "theirs", None, {}) is None
    assert in_worker(build("reward", {"name": "length"}), "length", None, {}) is None


ASYNC_AND_HANGING = """
import asyncio
from rlhf_lora.records import Sample
from rlhf_lora.stages.scoring import Scorer

class Hangs:
    async def score(self, samples):
        await asyncio.sleep(60)

Scorer(Hangs(), "hangs", deadline=0.2)([Sample("p", "t")])
"""


def test_an_async_reward_that_hangs_does_not_keep_the_process_from_ending():
    done = subprocess.run([sys.executable, "-c", ASYNC_AND_HANGING], capture_output=True, text=True, timeout=30)
    assert "ContractError: the reward 'hangs' gave no answer within 0.2 s" in done.stderr


# --- while the rollout goes on ----------------------------------------------------------------------------------------


def test_parts_of_a_rollout_are_scored_as_they_come():
    seen: list[int] = []
    scorer = Scorer(Source(lambda s: seen.append(s.columns["n"]) or float(s.columns["n"])), "mine")
    with scorer.overlapping() as overlap:
        overlap.add([5, 6, 7, 8, 9], SAMPLES[5:])
        for _ in range(200):
            if len(seen) == 5:
                break
            time.sleep(0.01)
        assert seen == [5, 6, 7, 8, 9]  # before the rest was there
        overlap.add([0, 1, 2, 3, 4], SAMPLES[:5])
        assert values(overlap.scores(10)) == list(range(10))


def test_what_goes_wrong_meanwhile_is_raised_where_the_scores_are_asked_for():
    scorer = Scorer(Source(fails_on(3)), "mine")
    with scorer.overlapping() as overlap:
        overlap.add(range(10), SAMPLES)
        with pytest.raises(ContractError, match="sample 3 of 10"):
            overlap.scores(10)


# --- scores as such ---------------------------------------------------------------------------------------------------


def test_steps_sum_to_the_value():
    assert Score.of_steps([(3, 0.5), (9, -0.2)]).value == pytest.approx(0.3)
    with pytest.raises(ValueError, match="sum to"):
        Score(1.0, steps=[(3, 0.5)])
    with pytest.raises(ValueError, match="before the text"):
        Score.of_steps([(-1, 0.5)])


@pytest.mark.parametrize(
    "score", [Score(1.5, {"a": 2.0}, "why"), Score.none("no"), Score.of_steps([(1, 0.1), (2, 0.2)])]
)
def test_a_score_comes_back_from_plain_values_as_it_was(score):
    assert score_of_plain(score_as_plain(score)) == score


def test_preferences_come_from_scores_and_scores_from_preferences():
    assert preference(Score(2.0), Score(0.0)) == Verdict("A", pytest.approx(0.8807970779778823))
    assert preference(Score(0.0), Score(900.0)) == Verdict("B", pytest.approx(0.0))
    assert preference(Score(1.0), Score(1.0)) == Verdict("tie", 0.5)
    assert preference(Score(1.0), Score.none("no idea")).choice is None
    assert win_probability(Verdict("A", 0.7)).value == 0.7
    assert [win_probability(Verdict(choice)).value for choice in ("A", "tie", "B")] == [1.0, 0.5, 0.0]
    assert win_probability(Verdict(None, reason="garbled")) == Score.none("garbled", kind="unreadable")


def test_failed_is_told_in_words():
    assert str(Failed("raised X")) == "raised X"
