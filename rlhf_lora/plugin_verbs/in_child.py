"""The other side of `plugins check`: load the plugin and run its kit in a process of its own, which tells by lines of a file
how far it got. Whatever the plugin does to its process, the one that asked is still there and knows at what it happened.

Started as `python -m rlhf_lora.plugin_verbs.in_child JSON`; ends at once when it is done, without waiting for anything that
the plugin has begun.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.errors import DataError, PluginError, RlhfLoraError, UserError, did_you_mean
from rlhf_lora.testing.subjects import heavy_modules

MOST_ROWS = 50
"""Rows of a data file that a reward is checked on."""


class Telling:
    """Events as lines of JSON, each written before the next thing is begun."""

    def __init__(self, path: str):
        self.file = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115

    def __call__(self, event: str, **more: Any) -> None:
        self.file.write(json.dumps({"event": event, "time_s": time.monotonic(), **more}) + "\n")


def main(argument: str) -> None:
    """Check what `argument` (JSON: events, target, settings, files, data) asks for."""
    asked = json.loads(argument)
    tell = Telling(asked["events"])
    try:
        _check(asked, tell)
        tell("done")
    except UserError as error:
        tell("error", type=type(error).__name__, what=error.what, where=error.where, fix=error.fix)
    except RlhfLoraError as error:
        tell("error", type=type(error).__name__, what=str(error), where="", fix="")
    except BaseException as error:
        tell("error", type=type(error).__name__, what=f"{type(error).__name__}: {error}", where="", fix="")
        raise
    finally:
        sys.stdout.flush()
        tell.file.close()
        os._exit(0)


def _check(asked: Mapping[str, Any], tell: Telling) -> None:
    from rlhf_lora import doors, testing

    heavy = heavy_modules()
    doors.load_entry_points()
    tell("loading")
    for file in asked["files"]:
        doors.load_file(file)
    entries = found(asked["target"])
    tell("loaded", plugins=[f"{entry.kind}={entry.name}" for entry in entries])
    for entry in entries:
        name = f"{entry.kind}={entry.name}"
        tell("begin", plugin=name, kind=entry.kind, latency_s=float(getattr(entry.cls, "latency_s", 0)))
        plugin = built(entry, asked["settings"])
        more = {}
        if entry.kind == "reward":
            more["samples"] = _samples(entry, plugin, asked["data"])
        report = getattr(testing, f"check_{entry.kind}")(
            plugin, raises=False, heavy_before=heavy,
            watch=lambda id, sample: tell("at", id=id, sample=sample),
            on_row=lambda row: tell("row", **dataclasses.asdict(row)), **more,
        )  # fmt: skip
        tell("end", plugin=name, passed=report.passed)


def found(target: str) -> list[Any]:
    """The entries that a file registers, or that a name (`length`, `reward=length`) means.

    Raises:
        PluginError: none.
    """
    from rlhf_lora import doors, registry

    if is_file(target):
        doors.load_file(target)
        path = str(Path(target).expanduser().resolve())
        return [entry for entry in registry.entries() if entry.origin.rpartition(":")[0] == path]
    kind, _, name = target.rpartition("=")
    entries = [entry for entry in registry.entries() if entry.name == name and kind in ("", entry.kind)]
    if not entries:
        known = sorted({entry.name for entry in registry.entries() if kind in ("", entry.kind)})
        raise PluginError(
            f"no {kind or 'plugin'} named '{name}'{did_you_mean(name, known)}",
            where=f"rlhf-lora plugins check {target}",
            fix=f"installed: {', '.join(known)}; for a file of your own give its path",
        )
    return entries


def is_file(target: str) -> bool:
    return target.endswith(".py") or "/" in target or os.sep in target


def built(entry: Any, settings: Sequence[str]) -> Any:
    """The plugin with `target=7` or `reward.target=7`, typed as on any command line.

    Raises:
        UserError: a setting that it does not have, or a value that it refuses.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from rlhf_lora import registry
    from rlhf_lora.errors import ConfigError

    node = OmegaConf.structured(ConfigStore.instance().load(f"{entry.kind}/{entry.name}.yaml").node)
    for setting in settings:
        key, _, value = setting.partition("=")
        key = key.lstrip("+").removeprefix(f"{entry.kind}.")
        top = key.partition(".")[0]
        if top not in entry.fields():
            raise ConfigError(
                f"the {entry.kind} '{entry.name}' has no setting '{top}'{did_you_mean(top, entry.fields())}",
                where=setting,
                fix=f"settings: {', '.join(entry.fields()) or 'none'}",
            )
        try:
            node = OmegaConf.merge(node, OmegaConf.from_dotlist([f"{key}={value}"]))
        except OmegaConfBaseException as error:
            raise ConfigError(str(error).splitlines()[0], where=setting, fix="give a value of its type") from error
    return registry.build(entry.kind, node)


def _samples(entry: Any, plugin: Any, data: str | None) -> list[Any] | None:
    """Rows of one's own: of the file that is given, or, for a reward that asks for columns, of the fixture beside it."""
    from rlhf_lora.scores import columns_of

    if data is None:
        beside = Path(entry.origin.rpartition(":")[0]).with_suffix(".jsonl")
        if not columns_of(plugin) or not beside.is_file():
            return None
        data = str(beside)
    from rlhf_lora.plugin_verbs import rows

    samples = [row.sample for row in rows.of_file(data)][:MOST_ROWS]
    if not samples:
        raise DataError(
            "no row has an answer to score", where=f"--data {data}", fix="give rows with a completion or a pair"
        )
    return samples


if __name__ == "__main__":
    main(sys.argv[1])
