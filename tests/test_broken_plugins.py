"""Rewards that are broken on purpose: `plugins check` says of each what it did, to which sample, and which promise that breaks;
the terminal, and the process that asked, are as they were."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lora import cli, doors
from rlhf_lora.errors import ContractError
from rlhf_lora.testing import check_reward

FOLDER = Path(__file__).with_name("broken_plugins")

# file → the promise it breaks, and words of the message: what it gave, and for which sample
PROMISES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cannot_open": ("opens", ("ConnectionRefusedError: no server at localhost:9", "cannot_open.py, line ")),
    "changes_its_settings": ("rebuild", ("target=7", "target=6")),
    "hangs": ("runs", ("no answer within 2 s", 'sample 5 (\'{"name": "Kit"')),
    "hangs_always": ("runs", ("no answer within 2 s", "sample 0 ('certainly tea soup")),
    "hangs_on_company": ("alone", ("sample 0", "0 and -")),
    "heavy_import": ("cheap", ("torch was loaded", "move the import")),
    "killed": ("runs", ("ended the process by signal 9", "sample 0")),
    "minus_inf": ("finite", ("-inf", "sample 1", "Score.none(reason)")),
    "mutates": ("inputs", ("text changed to '12 + 30 = 42. the answer", "sample 2")),
    "mutates_list": ("inputs", ("0 samples are left",)),
    "nan": ("finite", ("nan", "sample 0 ('certainly tea soup and bread')")),
    "none_always": ("runs", ("None, a NoneType", "a list of 1 score", "sample 0")),
    "nones": ("values", ("no value for any of 8 samples", "sample 0")),
    "one_string": ("runs", ("'good', a str", "sample 0")),
    "os_exit": ("runs", ("ended the process with exit code 4", "sample 0")),
    "out_of_range": ("range", ("from 0.0 to 1.0", "sample 3", "1.02")),
    "plus_inf": ("finite", ("inf", "sample 4")),
    "prints_megabytes": ("quiet", ("characters of output that begin", "at most 10,000")),
    "prints_past_python": ("quiet", ("bytes of output that begin 'noise noise",)),
    "raises": ("runs", ("ZeroDivisionError", "raises.py, line ", "sample 6 ('Yes.')")),
    "raises_on_cut_off": ("cut_off", ("AssertionError: not finished", "cut off")),
    "raises_on_empty_text": ("empty_text", ("IndexError", "a sample ('')")),
    "raises_on_long_text": ("long_text", ("MemoryError: too long", "10,000 characters")),
    "raises_on_nothing": ("empty_list", ("ValueError: max()", "an empty list")),
    "raises_on_unicode": ("unicode", ("UnicodeEncodeError", "a sample ('naïve")),
    "random_answers": ("twice", ("deterministic = False", "sample 0")),
    "scalar": ("runs", ("2.8, a float", "sample 0")),
    "slow": ("latency", ("p50 6", "at most 500 ms a sample")),
    "strings": ("type", ("'28', a str", "sample 0", "float(value)")),
    "sys_exit": ("runs", ("sys.exit(3)", "sample 0")),
    "unknown_column": ("columns", ("rows with the columns: none", "'solution_xyz'", "sample 0")),
    "wrong_count": ("runs", ("0 scores", "wanted 1", "sample 0")),
    "wrong_order": ("order", ("return scores in the order of the samples", "sample")),
}
# file → words of the message for what cannot be loaded at all
LOADING: dict[str, tuple[str, ...]] = {
    "defines_nothing": ("registers no plugin", '@reward("my_name")'),
    "exits_at_import": ("ended the process with exit code 5", "while it was imported"),
    "no_method": ("the reward 'no_method' has no method score()", "no_method.py:"),
    "raises_at_import": ("FileNotFoundError", "raises_at_import.py, line "),
    "slow_import": ("slow_import.py took more than 3 s", "nothing may run when a plugin file is imported"),
    "syntax_error": ("SyntaxError", "syntax_error.py, line 7: def syntax_error(samples)"),
}
FILES = sorted(PROMISES | LOADING)
ENDS_THE_PROCESS = {
    "hangs",
    "hangs_always",
    "killed",
    "os_exit",
    "exits_at_import",
    "slow_import",
    "prints_past_python",
    "slow",
}
"""Not to be asked in the process of the tests."""
QUICK = {"os_exit", "syntax_error"}
"""Of those that are checked in a process of their own, a second each, the ones that are not slow tests."""
NEEDS_A_PROCESS_OF_ITS_OWN = {"heavy_import"}  # elsewhere torch may have been loaded before


def checked(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    seconds = {"hangs": "2", "heavy": "60"}.get(file.name.partition("_")[0].removesuffix(".py"))
    deadline = () if seconds is None else ("--deadline", seconds)
    status = cli.run(["plugins", "check", str(file), *deadline, *more])
    out = capsys.readouterr()
    return status, out.out, out.err


def each(files: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in sorted(files)]


def test_every_file_has_a_line_in_a_table():
    assert {file.stem for file in FOLDER.glob("*.py")} == set(FILES)
    assert len(FILES) >= 18


def is_named(name: str, plugin: str, rows: list[dict[str, Any]]) -> None:
    promise, words = PROMISES[name]
    broken = [row for row in rows if row["ok"] is False]
    assert plugin == f"reward={name}"
    assert [row["id"] for row in broken] == [promise]
    for word in (*words, "wanted", "to do: "):
        assert word in f"{broken[0]['why']} {broken[0]['sample']}"
    assert broken[0]["value"] or promise == "inputs"


@pytest.mark.parametrize("name", sorted(PROMISES.keys() - ENDS_THE_PROCESS - NEEDS_A_PROCESS_OF_ITS_OWN))
def test_the_kit_names_exactly_the_promise_that_is_broken(name):
    doors.load_file(FOLDER / f"{name}.py")
    report = check_reward(name, raises=False)
    assert not report.passed
    is_named(name, report.plugin, [dataclasses.asdict(row) for row in report.rows])
    with pytest.raises(ContractError, match=f"reward={name} breaks '{PROMISES[name][0]}'"):
        check_reward(name)


@pytest.mark.parametrize("name", each(PROMISES))
def test_the_command_names_the_promise_with_sample_and_value(name, capsys):
    status, out, err = checked(FOLDER / f"{name}.py", capsys, "--json")
    (plugin,) = json.loads(out)["plugins"]
    assert status == 2
    assert not err
    is_named(name, plugin["plugin"], plugin["rows"])


@pytest.mark.parametrize("name", each(LOADING))
def test_what_cannot_be_loaded_is_one_message(name, capsys):
    status, out, err = checked(FOLDER / f"{name}.py", capsys)
    assert status == 2
    assert not out
    for word in (name, *LOADING[name]):
        assert word in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_plugin_that_hangs_costs_its_deadline_and_no_more(capsys):
    began = time.monotonic()
    checked(FOLDER / "hangs_always.py", capsys)
    assert time.monotonic() - began < 2 + 10  # the deadline, and two interpreters starting on a busy machine


@pytest.mark.slow
def test_what_a_plugin_prints_never_reaches_the_terminal(capfd):
    assert cli.run(["plugins", "check", str(FOLDER / "prints_past_python.py")]) == 2
    out = capfd.readouterr()
    assert len(out.out) + len(out.err) < 8_000
    assert "quiet" in out.out
