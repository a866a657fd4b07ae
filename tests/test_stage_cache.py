"""Stages that two runs want at once, and what a start that was killed leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from rlhf_lora import stage_cache
from rlhf_lora.errors import Interrupted


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Path]:
    """A cache in which another run trains this stage."""
    (tmp_path / "stages").mkdir()
    with FileLock(str(tmp_path / "stages" / "sft-abc.lock"), is_singleton=False):
        yield tmp_path


def test_who_waits_says_so_and_hears_a_signal(taken, capsys):
    with pytest.raises(Interrupted) as told, stage_cache.locked(taken, "sft", "abc", lambda: signal.SIGINT):
        pytest.fail("another run has it")
    assert told.value.exit_code == 130
    assert "waiting for another run" in capsys.readouterr().err


def test_who_waits_goes_on_when_the_other_is_done(tmp_path):
    for _ in range(2):
        with stage_cache.locked(tmp_path, "sft", "abc", lambda: None) as folder:
            assert folder == tmp_path / "stages" / "sft-abc"
