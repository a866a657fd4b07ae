"""Progress: lines in a log stay few, bars may nest, stdout stays clean, quiet is quiet."""

from __future__ import annotations

import pytest

from rlhf_lora import progress
from rlhf_lora.progress import Progress, clock, stage, track


class Clock:
    """A clock that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.delenv(progress.QUIET, raising=False)
    monkeypatch.setattr(progress.time, "monotonic", moved)
    return moved


def test_what_takes_less_than_two_seconds_leaves_no_line(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(3, "quick")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_a_first_line_one_every_ten_seconds_and_a_last(
    time: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("policy", 40) as bar:
        for _ in range(40):
            time.now += 1
            bar.update(score=1.923, kl=3.1, gone=None)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split()[1] for line in lines] == ["2/40", "12/40", "22/40", "32/40", "40/40"]
    assert lines[1] == "policy 12/40  score 1.92  kl 3.1  0:28 left"
    assert lines[-1] == "policy 40/40  score 1.92  kl 3.1  in 0:40"


def test_a_part_of_a_step_is_seen_only_while_it_is_long(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (3, 12):
        for _ in track(2, "rollout", inner=True):
            time.now += seconds
    assert capsys.readouterr().err.splitlines() == ["rollout 1/2  0:12 left", "rollout 2/2  0:00 left"]


def test_time_left_of_a_resumed_loop_counts_only_this_processes_steps(time: Clock) -> None:
    bar = Progress("policy", 40, start=30)
    time.now += 10
    bar.done += 5
    assert bar.line() == "policy 35/40  0:10 left"


def test_a_loop_that_raises_says_where_it_ended(time: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), Progress("sft", 5) as bar:  # noqa: PT012
        time.now += 3
        bar.update()
        raise KeyError
    assert capsys.readouterr().err.splitlines()[-1] == "sft 1/5  in 0:03"


def test_quiet_is_quiet(time: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(progress.QUIET, "1")
    stage("SFT")
    with Progress("sft", 5) as bar:
        time.now += 30
        bar.update()
    assert capsys.readouterr() == ("", "")


def test_bars_nest_in_a_terminal_and_the_display_ends_with_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(progress.QUIET, raising=False)
    monkeypatch.setattr(progress, "_is_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stderr for a terminal
    for _ in track(2, "outer [red]"):
        for _ in track([1, 2], "inner"):
            assert progress._open_bars == 2
            print("a result")
    assert (progress._display, progress._open_bars) == (None, 0)
    assert capsys.readouterr().out == "a result\n" * 4


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (723, "12:03"), (3723, "1:02:03"), (-1, "0:00")])
def test_the_clock_reads_like_one(seconds: float, text: str) -> None:
    assert clock(seconds) == text
