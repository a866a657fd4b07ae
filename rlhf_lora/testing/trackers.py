"""`check_tracker`: what the contract `Tracker` promises, an id for each promise."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lora.contracts import Context
from rlhf_lora.testing.findings import Broken, NotLookedAt, Report, Row, short
from rlhf_lora.testing.promises import Kit, add_quiet, add_shared
from rlhf_lora.testing.subjects import Subject, Watch, built, heavy_modules, nothing

KIT = Kit("tracker")
METRICS = {"objective/kl": 0.5, "objective/scores": -1.25, "sft/loss": 2.0, "steps": 3}
ROWS = [
    {
        "prompt": "p",
        "text": "an answer",
        "score": 0.5,
        "parts": {"length": 0.5},
        "kind": "value",
        "reason": "",
        "tokens": [1],
    },
    {"prompt": "p", "text": "", "score": None, "parts": {}, "kind": "error", "reason": "no answer", "tokens": []},
]


@dataclass
class Tracking(Subject):
    """A tracker under test, opened in a folder that goes away."""

    source: Any = None
    folder: Path | None = None


def check_tracker(
    thing: Any,
    raises: bool = True,
    *,
    heavy_before: frozenset[str] | None = None,
    watch: Watch = nothing,
    on_row: Callable[[Row], None] = nothing,
) -> Report:
    """Hold a tracker to its contract; arguments as of `check_reward`. It is opened with a folder that is removed afterwards.

    Raises:
        ContractError: a promise is broken. PluginError: `thing` is no tracker.
    """
    before = heavy_modules() if heavy_before is None else heavy_before
    with tempfile.TemporaryDirectory(prefix="rlhf-lora-tracker-") as folder:
        made = Tracking("tracker", *built("tracker", thing), before, watch, on_row, folder=Path(folder))
        return KIT.report(made, raises)


add_shared(KIT)


@KIT.promise("opens", "it opens")
def _opens(subject: Tracking) -> str:
    opener = getattr(subject.plugin, "open", None)
    subject.source = subject.plugin
    if callable(opener):
        subject.source = subject.ask(opener, Context(run_dir=subject.folder), sample="open(ctx)")
    return "opened" if subject.source is not subject.plugin else "it is its own"


@KIT.promise("log", "it takes metrics", needs=("opens",))
def _log(subject: Tracking) -> str:
    for step, metrics in ((1, METRICS), (2, {}), (2, {"objective/kl": 0.25}), (1, {"evaluation/score": 0.0})):
        subject.ask(subject.source.log, step, dict(metrics), sample=f"log({step}, {metrics})")
    return "four times: none at all, a step twice, a step before the last"


@KIT.promise("inputs", "metrics are left as they were", needs=("log",))
def _inputs(subject: Tracking) -> str:
    given = dict(METRICS)
    subject.ask(subject.source.log, 3, given, sample=f"log(3, {METRICS})")
    if given != METRICS:
        raise Broken(short(given, 120), "metrics as they were", "work on a copy: dict(metrics)", "log", short(given))
    return "unchanged"


@KIT.promise("samples", "it takes samples, those without a score too", needs=("log",))
def _samples(subject: Tracking) -> str:
    take = getattr(subject.source, "samples", None)
    if not callable(take):
        raise NotLookedAt("it has no method samples()")
    given = copy.deepcopy(ROWS)
    subject.ask(take, 1, given, sample="samples(1, two rows)")
    if given != ROWS:
        raise Broken(short(given, 120), "rows as they were", "work on a copy", "samples", short(given))
    return f"{len(ROWS)} rows"


@KIT.promise("close", "it can be closed twice", needs=("opens",))
def _close(subject: Tracking) -> str:
    for what in ("close()", "close() once more"):
        if not callable(getattr(subject.source, "close", None)):
            raise Broken("no method close()", "one that ends what was begun", "def close(self) -> None: …")
        subject.ask(subject.source.close, sample=what)
    return "twice"


add_quiet(KIT, needs=("opens",))
