"""`rlhf-lora plugins check FILE_OR_NAME`: the conformance kit, in a process of its own with a deadline.

A plugin is somebody's code: it may hang, end its process, print without end, or take long to import. Here that costs the one
who asked a message and not the terminal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rlhf_lora.errors import ConfigError, PluginError, did_you_mean
from rlhf_lora.plugin_verbs.in_child import is_file
from rlhf_lora.testing.promises import LOUD

START_S, IMPORT_S = 60.0, 3.0
"""Until the kit's own modules are there, and the plugin's."""
DEADLINE_S = {"optimizer": 120.0, "rollout": 120.0}
OTHERS_S = 10.0
"""For one plugin's promises; those of optimizers and rollouts need torch."""
CALLS = 60
"""Answers that a kit asks for, about: a plugin that says how long one may take (`latency_s`) gets the time for so many."""
KEPT = 2_000
"""Characters that are kept of what a plugin prints."""


@dataclass
class Found:
    """What the child told: plugins with their rows, or the message that ended it."""

    plugins: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and bool(self.plugins) and all(plugin["passed"] for plugin in self.plugins)


def check(words: Sequence[str], data: str | None, deadline: str | None, as_json: bool) -> int:
    """Print what came of the kit; 0 when every promise is kept, 2 otherwise.

    Raises:
        UserError: what was given is wrong, or the plugin cannot be loaded.
    """
    targets = [word for word in words if "=" not in word or word.partition("=")[0] in _kinds()]
    files = _files([word for word in words if word.startswith("plugins=")])
    settings = [word for word in words if word not in targets and not word.startswith("plugins=")]
    if len(targets) != 1:
        raise ConfigError(
            f"check wants one plugin, got {len(targets)}", where=" ".join(["rlhf-lora plugins check", *words]),
            fix="rlhf-lora plugins check FILE.py, or the name of an installed plugin",
        )  # fmt: skip
    if is_file(targets[0]) and not Path(targets[0]).expanduser().is_file():
        near = did_you_mean(targets[0], [str(path) for path in Path().glob("*.py")])
        raise PluginError(
            f"no plugin file {targets[0]}{near}", where=f"plugins check {targets[0]}", fix="give its path"
        )
    asked = {"target": targets[0], "files": files, "settings": settings, "data": data}
    found = watched(asked, _seconds(deadline))
    if found.error is not None and not found.plugins:
        if as_json:
            print(json.dumps({"passed": False, "plugins": [], "error": found.error}, indent=1))
            return 2
        raise PluginError(found.error["what"], where=found.error["where"], fix=found.error["fix"])
    if as_json:
        print(json.dumps({"passed": found.passed, "plugins": found.plugins, "error": found.error}, indent=1))
    else:
        show(found)
    return 0 if found.passed else 2


def _kinds() -> tuple[str, ...]:
    return ("reward", "judge", "dataset", "optimizer", "rollout", "tracker")  # registry.KINDS, without importing Hydra


def _files(overrides: Sequence[str]) -> list[str]:
    values = [override.partition("=")[2].strip("[]") for override in overrides]
    return [file.strip(" '\"") for value in values for file in value.split(",") if file.strip()]


def _seconds(deadline: str | None) -> float | None:
    try:
        seconds = None if deadline is None else float(deadline)
    except ValueError:
        seconds = 0.0
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"--deadline is {deadline}", where="--deadline", fix="seconds, such as --deadline 60")
    return seconds


# --- the child --------------------------------------------------------------------------------------------------------


class Child:
    """A process that checks a plugin; what it prints is counted, and kept only in part."""

    def __init__(self, asked: dict[str, Any], events: Path):
        argument = json.dumps({**asked, "events": str(events)})
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.events, self.count, self.kept = events, 0, ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_lora.plugin_verbs.in_child", argument], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=os.name == "posix",
        )  # fmt: skip
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def _drain(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                self.count += len(chunk)
                if len(self.kept) < KEPT:
                    self.kept += chunk[:KEPT].decode("utf-8", "replace")

    def told(self) -> list[dict[str, Any]]:
        """The events so far; a line that is only half there is left for the next time."""
        try:
            lines = self.events.read_text(encoding="utf-8").split("\n")[:-1]
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """End it, and whatever it started."""
        if os.name == "posix":
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            self.process.kill()
        self.process.wait()

    def finish(self) -> int:
        """Its exit status, with nothing of it left behind."""
        status = self.process.wait()
        self.kill()  # a process of its own that the plugin left behind would hold the pipe open
        self.reader.join(timeout=1.0)
        return status


def watched(asked: dict[str, Any], deadline: float | None = None) -> Found:
    """Run the kit in a child and return what it told, a row for the promise at which it was ended included."""
    with tempfile.TemporaryDirectory(prefix="rlhf-lora-check-") as folder:
        child = Child(asked, Path(folder) / "events.jsonl")
        try:
            import rich.console
            import rich.table  # noqa: F401 while the child imports what it needs

            late = _wait(child, deadline)
        except BaseException:
            child.kill()
            raise
        status = None if late else child.finish()
        return _gathered(child, asked["target"], late, status)


def _wait(child: Child, deadline: float | None) -> str:
    """Until the child has ended: "". Past a limit: what it was late with, in words; it is killed."""
    began, stage = time.monotonic(), ""
    while True:
        try:
            child.process.wait(timeout=0.02)
            return ""
        except subprocess.TimeoutExpired:
            pass
        events = [event for event in child.told() if event["event"] in ("loading", "loaded", "begin", "end")]
        now = (events[-1]["event"] + events[-1].get("plugin", "")) if events else "start"
        if now != stage:
            began, stage = time.monotonic(), now
        limit = _limit(events[-1] if events else {"event": "start"}, deadline)
        if time.monotonic() - began > limit:
            child.kill()
            return f"{limit:g} s"


def _limit(event: dict[str, Any], deadline: float | None) -> float:
    if event["event"] == "start":
        return START_S
    if event["event"] == "begin":
        return deadline or DEADLINE_S.get(event["kind"], OTHERS_S) + CALLS * event["latency_s"]
    return max(IMPORT_S, deadline or 0)


# --- what it told -----------------------------------------------------------------------------------------------------


def _gathered(child: Child, target: str, late: str, status: int | None) -> Found:
    found, at, ended = Found(), {"id": "", "sample": ""}, False
    for event in child.told():
        kind = event.pop("event")
        event.pop("time_s")
        if kind == "begin":
            found.plugins.append({"plugin": event["plugin"], "passed": False, "rows": []})
            at = {"id": "", "sample": ""}
        elif kind == "at":
            at = event
        elif kind == "row":
            found.plugins[-1]["rows"].append(event)
            at = {"id": "", "sample": ""}
        elif kind == "end":
            found.plugins[-1]["passed"] = event["passed"]
        elif kind == "error":
            found.error, ended = event, True
        elif kind == "done":
            ended = True
    if not ended:
        _cut_short(found, target, at, late, status, child)
    elif child.count > LOUD and found.plugins:
        given = f"{child.count:,} bytes of output that begin {child.kept[:60]!r}"
        why = f"given {given}; wanted at most {LOUD:,}; to do: take the print out, or use `logging`"
        rows = [row for row in found.plugins[-1]["rows"] if row["id"] != "quiet"]
        found.plugins[-1]["rows"] = [
            *rows,
            _row("quiet", "it does not flood the terminal", why, "", f"{child.count:,} bytes"),
        ]
        found.plugins[-1]["passed"] = False
    return found


def _cut_short(
    found: Found, target: str, at: dict[str, Any], late: str, status: int | None, child: Child
) -> None:  # fmt: skip
    """The row, or the message, of a child that did not come to its end."""
    value = f"no answer within {late}" if late else _ended(status)
    if not found.plugins:
        loading = any(event["event"] == "loading" for event in child.told())
        what = f"importing {target} took more than {late}" if late else f"{target} {value} while it was imported"
        fix = "nothing may run when a plugin file is imported: move it into `open` or `score`"
        if not loading:
            what, fix = f"the check did not start: {value}", f"it said: {child.kept[-300:]!r}"
        found.error = {"type": "PluginError", "what": what, "where": "", "fix": fix}
        return
    plugin = found.plugins[-1]
    fix = (
        "make it answer, give it time (--deadline SECONDS)"
        if late
        else "a plugin never ends the process: raise instead"
    )
    given = f"{value} for {at['sample']}" if at["sample"] else value
    why = f"given {given}; wanted an answer; to do: {fix}"
    plugin["rows"].append(_row(at["id"] or "runs", "it answers, and lets the process live", why, at["sample"], value))


def _row(id: str, title: str, why: str, sample: str, value: str) -> dict[str, Any]:
    return {"id": id, "ok": False, "why": why, "title": title, "sample": sample, "value": value}


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"ended the process by signal {-status}"
    return f"ended the process with exit code {status}"


# --- for people -------------------------------------------------------------------------------------------------------


def show(found: Found) -> None:
    """A table for each plugin, its broken promises once more in full, and one line that sums up."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlhf_lora.data_show import visible

    console = Console(soft_wrap=False)
    words = {True: ("kept", "green"), False: ("broken", "bold red"), None: ("not looked at", "dim")}
    for plugin in found.plugins:
        table = Table(box=None, pad_edge=False)
        for column, ratio in (("promise", None), ("what", 4), ("", None), ("found", 5)):
            table.add_column(column, ratio=ratio, no_wrap=ratio is None)
        for row in plugin["rows"]:
            why = "see below" if row["ok"] is False else visible(row["why"])
            table.add_row(Text(row["id"]), Text(row["title"]), Text(*words[row["ok"]]), Text(why, "dim"))
        console.print(table)
        for row in plugin["rows"]:
            if row["ok"] is False:
                line = f"{plugin['plugin']} breaks '{row['id']}' ({row['title']}):\n    {visible(row['why'])}"
                console.print(line.replace("; wanted ", "\n    wanted ").replace("; to do: ", "\n    to do: "),
                              highlight=False, markup=False, soft_wrap=True)  # fmt: skip
        console.print(headline(plugin), highlight=False, markup=False, soft_wrap=True)
    if found.error is not None:
        more = "".join(
            f"\n  {name}: {found.error[key]}"
            for key, name in (("where", "where"), ("fix", "to do"))
            if found.error[key]
        )
        print(f"rlhf-lora: {found.error['what']}{more}", file=sys.stderr)


def headline(plugin: dict[str, Any]) -> str:
    """`reward=brevity: 20 kept, 0 broken, 1 not looked at`."""
    kept, broken, rest = (sum(row["ok"] is state for row in plugin["rows"]) for state in (True, False, None))
    needs = next((row["why"] for row in plugin["rows"] if row["ok"] is None and "needs a model" in row["why"]), "")
    return f"{plugin['plugin']}: {kept} kept, {broken} broken, {rest} not looked at{f' ({needs})' if needs else ''}"
