"""`rlhf-lora plugins [KIND]`: kind, name, where each plugin came from, what it does, and its settings."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from rlhf_lora import config, doors, registry
from rlhf_lora.errors import ConfigError, did_you_mean


def listing(words: Sequence[str], as_json: bool) -> int:
    kinds = [word for word in words if "=" not in word]
    for kind in kinds:
        checked_kind(kind)
    for file in config.plugin_files([word for word in words if "=" in word]):
        doors.load_file(file)
    found = [entry for entry in registry.entries() if not kinds or entry.kind in kinds]
    if as_json:
        print(json.dumps([described(entry) for entry in found], indent=1))
        return 0
    for entry in found:
        print(f"{entry.kind}={entry.name}  {entry.summary}")
        print(f"    from {entry.origin}")
        for name, setting in described(entry)["settings"].items():
            print(f"    {entry.kind}.{name}={shown(setting['default'])}  ({setting['type']})")
    for package, why in doors.failures().items():
        print(f"failed to import: {package}: {why}", file=sys.stderr)
    return 0


def checked_kind(kind: str) -> str:
    """The kind, if it is one.

    Raises:
        ConfigError: it is none.
    """
    if kind not in registry.KINDS:
        raise ConfigError(
            f"there is no kind '{kind}'{did_you_mean(kind, registry.KINDS)}",
            where="rlhf-lora plugins",
            fix=f"kinds: {', '.join(registry.KINDS)}; verbs: new, check, try",
        )
    return kind


def described(entry: Any) -> dict[str, Any]:
    """An entry of the table as plain values."""
    settings = {}
    for name, (hint, default) in entry.fields().items():
        if dataclasses.is_dataclass(default):
            default = dataclasses.asdict(default)  # type: ignore[arg-type]
        value = "???" if default is dataclasses.MISSING else default
        settings[name] = {"type": getattr(hint, "__name__", str(hint)), "default": value}
    return {
        "kind": entry.kind, "name": entry.name, "origin": entry.origin, "summary": entry.summary, "settings": settings,
    }  # fmt: skip


def shown(value: Any) -> str:
    """A value as an override says it."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    return str(value)
