"""What `docs/plugins.md` tells a plugin's author to type, typed; and what it says of the promises, held against the kit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.testing import rewards

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
SHELL = [re.sub(r"\s+#.*", "", line) for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
         for line in block.splitlines()]  # fmt: skip
SHORTEST = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def short" in block)
CHECK_SECONDS = 2.0


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))


def typed(command: str, *more: str) -> tuple[str, float]:
    """What a command of the page prints, and its CPU seconds. `more` follows it."""
    program, *words = shlex.split(command)
    assert program == "rlhf-lora"
    with open("printed.txt", "w+", encoding="utf-8") as printed:
        child = subprocess.Popen([sys.executable, "-m", "rlhf_lora", *words, *more], stdout=printed, stderr=printed)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        said = printed.read()
    assert child.returncode == 0, said
    return said, used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="CPU seconds of a child are told on Linux and macOS alone")
def test_from_an_empty_folder_to_a_replay_in_the_five_commands_of_the_page(tiny_base):
    new, check, look, train, replay = SHELL
    assert "brevity.py" in typed(new)[0]
    checks = [typed(check) for _ in range(3)]
    assert all("0 broken" in said for said, _ in checks)
    # the least of three: CPU seconds of the same work grow when others share the core
    assert min(seconds for _, seconds in checks) < CHECK_SECONDS
    assert "score" in typed(look)[0]
    typed(train, *overrides(tiny_base, Path("runs/mine"), "optimizer.updates=2"))
    assert RunFolder.open(Path("runs/mine")).summary["status"] == "finished"
    typed(replay)
    assert Path("runs/mine/replay-brevity.html").is_file()


def test_the_smallest_reward_of_the_page_has_six_lines_and_keeps_every_promise(capsys):
    assert len([line for line in SHORTEST.splitlines() if line]) <= 6
    Path("short.py").write_text(SHORTEST)
    assert cli.run(["plugins", "check", "short.py"]) == 0
    assert "reward=short: 20 kept, 0 broken, 1 not looked at" in capsys.readouterr().out


def test_the_page_names_every_promise_of_a_reward_in_its_order():
    table = PAGE.partition("| id | promise |")[2].partition("\n\n")[0]
    named = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    ]
    assert named == [promise.id for promise in rewards.KIT.promises]


@pytest.mark.slow
def test_the_message_of_a_broken_promise_is_that_of_the_page(capsys):
    assert cli.run(["plugins", "check", str(ROOT / "tests" / "broken_plugins" / "nan.py")]) == 2
    message = re.findall(r"```\n(reward=nan .*?)```", PAGE, re.DOTALL)[0]
    assert message.strip() in capsys.readouterr().out
