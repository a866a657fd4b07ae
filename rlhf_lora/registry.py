"""One decorator per kind of plugin, looking plugins up by name, and building them from a configuration.

`@reward("brevity")` on a class with fields makes it a frozen keyword-only dataclass and enters it in the table
(`plugin_table`), which gives Hydra the fields. Files and installed packages of plugins come in by `doors`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from rlhf_lora import doors, plugin_table
from rlhf_lora.errors import ConfigError, ContractError, PluginError, UserError, did_you_mean
from rlhf_lora.plugin_table import Entry

KINDS: Mapping[str, str] = {
    "reward": "score",
    "judge": "compare",
    "dataset": "load",
    "optimizer": "",
    "rollout": "generate",
    "tracker": "log",
}
"""Kind → the method that a plugin of that kind must have."""

T = TypeVar("T")


# --- registering ------------------------------------------------------------------------------------------------------


def register(kind: str, name: str) -> Callable[[T], T]:
    """Enter a class, or for rewards a function, as plugin `name` of `kind`.

    Raises:
        PluginError: another file owns the name already, the class lacks the method of its kind, or a field's type
            is not a plain value.
    """
    if not name.isidentifier():
        raise PluginError(
            f"'{name}' cannot name a plugin: use letters, digits and underscores", fix=f'@{kind}("my_name")'
        )

    def enter(thing: T) -> T:
        if inspect.isclass(thing):
            cls = dataclass(frozen=True, kw_only=True)(thing)
        elif callable(thing) and kind == "reward":
            cls = _class_around(thing, name)
        else:
            raise PluginError(f"@{kind}('{name}') wants a class, got {type(thing).__name__}", where=_origin(thing))
        method = KINDS[kind]
        compares = kind == "reward" and callable(getattr(cls, "compare", None))
        if method and not compares and not callable(getattr(cls, method, None)):
            also = " or compare()" if kind == "reward" else ""
            raise PluginError(
                f"the {kind} '{name}' has no method {method}(){also}",
                where=_origin(thing),
                fix=f"def {method}(self, …)",
            )
        plugin_table.add(Entry(kind, name, cls, _origin(thing), _source_hash(thing)))
        return thing

    return enter


@dataclass_transform(frozen_default=True, kw_only_default=True)
def reward(name: str) -> Callable[[T], T]:
    """Register a reward: a class with `score(self, samples)` or `compare(self, pairs)`, or a function
    `f(samples, *, column, setting=default)`.

    Keyword parameters with a default are configuration fields, those without are dataset columns.
    """
    return register("reward", name)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def judge(name: str) -> Callable[[T], T]:
    """Register a judge: a class with `compare(self, prompt, a, b) -> Verdict`."""
    return register("judge", name)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def dataset(name: str) -> Callable[[T], T]:
    """Register a dataset: a class with `load(self) -> Data`."""
    return register("dataset", name)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def optimizer(name: str) -> Callable[[T], T]:
    """Register a policy optimizer of either shape (see `contracts`)."""
    return register("optimizer", name)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def rollout(name: str) -> Callable[[T], T]:
    """Register a rollout engine: a class with `generate(self, backbone, prompts, n, seed)`."""
    return register("rollout", name)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def tracker(name: str) -> Callable[[T], T]:
    """Register a tracker: a class with `log(self, step, metrics)` and `close(self)`."""
    return register("tracker", name)


def _class_around(function: Callable[..., Any], name: str) -> type:
    """A reward class whose fields are the function's keyword settings and whose columns are the rest."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    first, *rest = signature.parameters.values()
    for parameter in rest:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise PluginError(
                f"the parameter '{parameter.name}' of reward '{name}' must stand behind a '*'",
                where=_origin(function),
                fix=f"def {function.__name__}({first.name}, *, column, setting=1.0)",
            )
    settings = [p for p in rest if p.default is not inspect.Parameter.empty]
    columns = tuple(p.name for p in rest if p.default is inspect.Parameter.empty)

    def score(self: Any, samples: Any, **values: Any) -> Any:
        return function(samples, **{p.name: getattr(self, p.name) for p in settings}, **values)

    namespace = {
        "score": score, "columns": columns, "__doc__": function.__doc__, "__module__": function.__module__,
        "made_from": staticmethod(function),
    }  # fmt: skip
    fields: list[Any] = [
        (p.name, hints.get(p.name, type(p.default)), dataclasses.field(default=p.default)) for p in settings
    ]
    cls_name = "".join(part.title() for part in name.split("_"))
    return dataclasses.make_dataclass(cls_name, fields, namespace=namespace, frozen=True, kw_only=True)


def _origin(thing: Any) -> str:
    """`package.module:12` for what is installed, `/path/file.py:12` for a file."""
    try:
        line = inspect.getsourcelines(thing)[1]
        file = inspect.getsourcefile(thing) or "?"
    except (OSError, TypeError):
        line, file = 0, "?"
    module = getattr(thing, "__module__", "?")
    return f"{module if module.startswith('rlhf_lora.') else file}:{line}"


def _source_hash(thing: Any) -> str:
    if getattr(thing, "__module__", "").startswith("rlhf_lora."):
        return ""
    try:
        file = Path(inspect.getsourcefile(thing) or "")
        text = file.read_text(encoding="utf-8") if file.is_file() else inspect.getsource(thing)
    except (OSError, TypeError, UnicodeDecodeError):  # typed at a prompt: there is nothing to compare
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


# --- looking up and building ------------------------------------------------------------------------------------------


def entries(kind: str | None = None) -> list[Entry]:
    """All plugins, of one kind or of every kind, sorted by kind and name."""
    doors.load_entry_points()
    return sorted((e for e in plugin_table.table.values() if kind in (None, e.kind)), key=lambda e: (e.kind, e.name))


def names(kind: str) -> list[str]:
    return [entry.name for entry in entries(kind)]


def lookup(kind: str, name: str) -> Entry:
    """The plugin called `name`.

    Raises:
        PluginError: there is none; names near ones, the installed ones, and packages that failed to import.
    """
    doors.load_entry_points()
    if (kind, name) in plugin_table.table:
        return plugin_table.table[kind, name]
    known = names(kind)
    broken = "".join(
        f"\n  note: plugins of {package} failed to import: {why}" for package, why in doors.failures().items()
    )
    raise PluginError(
        f"no {kind} named '{name}'{did_you_mean(name, known)}",
        where=f"{kind}={name}",
        fix=f"installed: {', '.join(known) or 'none'}; for a file of your own add plugins=[FILE.py]{broken}",
    )


def build(kind: str, config: Any, where: str | None = None) -> Any:
    """The plugin object that a configuration node describes: `{"name": …, fields…}`.

    Raises:
        PluginError: unknown name. ConfigError: an unknown or missing field, or a value its class refuses.
    """
    where = where or kind
    settings = _plain(config)
    if not isinstance(settings, dict) or "name" not in settings:
        raise ConfigError(f"{where} does not say which {kind} it means", where=where, fix=f"{where}=NAME")
    entry = lookup(kind, settings.pop("name"))
    known = entry.fields()
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(
                f"the {kind} '{entry.name}' has no setting '{key}'{did_you_mean(key, known)}",
                where=f"{where}.{key}",
                fix=f"settings: {', '.join(known) or 'none'}",
            )
        if value == "???":
            raise ConfigError(f"{where}.{key} is not given", where=where, fix=f"add {where}.{key}=VALUE")
    try:
        return entry.cls(**settings)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{kind} '{entry.name}': {error}", where=where, fix=f"`rlhf-lora plugins {kind}` lists its settings"
        ) from error


def to_config(thing: Any) -> dict[str, Any]:
    """The configuration that rebuilds a plugin object: `build(kind, to_config(x)) == x`."""
    for entry in plugin_table.table.values():
        if type(thing) is entry.cls:
            return {"name": entry.name, **dataclasses.asdict(typing.cast(Any, thing))}
    raise ContractError(f"{type(thing).__name__} is not a registered plugin")


def _plain(config: Any) -> Any:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    return dict(config) if isinstance(config, Mapping) else config
