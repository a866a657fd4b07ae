"""The table of plugins, and Hydra's ConfigStore fed from it.

What is entered gets a twin in the ConfigStore: a non-frozen dataclass of the same fields plus the reserved `name`, so
that `reward=brevity reward.target=80` is typed and refused when wrong. There is no `_target_` anywhere: a configuration
names plugins, never code.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import typing
from dataclasses import dataclass
from typing import Any

from rlhf_lora.errors import PluginError


@dataclass(frozen=True)
class Entry:
    """One registered plugin and where it came from.

    Attributes:
        source: SHA-256 of the file (or the notebook cell's definition) that it stands in; empty for what comes with
            the kit, whose version says as much.
    """

    kind: str
    name: str
    cls: type
    origin: str
    source: str = ""

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.cls) or "").split("\n")[0]

    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Field name → (type, default); `dataclasses.MISSING` when it has none."""
        hints = typing.get_type_hints(self.cls)
        return {f.name: (hints[f.name], _default(f)) for f in dataclasses.fields(self.cls)}


table: dict[tuple[str, str], Entry] = {}
"""(kind, name) → the plugin. Only `add` writes here."""


def add(entry: Entry) -> None:
    """Enter a plugin.

    Raises:
        PluginError: another file owns the name already, or a field's type is not a plain value.
    """
    old = table.get((entry.kind, entry.name))
    if old is not None and not _may_replace(old, entry):
        raise PluginError(
            f"two plugins want the name {entry.kind}={entry.name}",
            where=f"{old.origin} and {entry.origin}",
            fix="rename one of them",
        )
    twin = _config_twin(entry)
    table[entry.kind, entry.name] = entry
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group=entry.kind, name=entry.name, node=twin, provider=entry.origin)


def _may_replace(old: Entry, new: Entry) -> bool:
    """A notebook cell that is run again, or a file that is loaded again, replaces itself."""
    return old.origin.rpartition(":")[0] == new.origin.rpartition(":")[0] or (_is_cell(old) and _is_cell(new))


def _is_cell(entry: Entry) -> bool:
    return entry.cls.__module__ == "__main__"


def _config_twin(entry: Entry) -> type:
    """The non-frozen dataclass that Hydra composes: OmegaConf makes nodes of frozen ones read-only."""
    fields: list[Any] = []
    for name, (hint, default) in entry.fields().items():
        if name == "name":
            raise PluginError(
                "the field 'name' is reserved: it says which plugin a saved config means", where=entry.origin
            )
        if default is dataclasses.MISSING:
            default = "???"
        if isinstance(default, list | dict):
            fields.append((name, hint, dataclasses.field(default_factory=functools.partial(copy.copy, default))))
        else:
            fields.append((name, hint, dataclasses.field(default=default)))
    twin = dataclasses.make_dataclass(f"{entry.cls.__name__}Config", [("name", str, entry.name), *fields])
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.structured(twin)
    except OmegaConfBaseException as error:
        raise PluginError(
            f"a field of {entry.kind} '{entry.name}' is not a plain value: {str(error).splitlines()[0]}",
            where=entry.origin,
            fix="use bool, int, float, str, Optional, list, dict or an Enum, and check the rest in __post_init__",
        ) from None
    return twin


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
