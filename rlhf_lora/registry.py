"""One decorator per kind of plugin, one table, and Hydra's ConfigStore fed from it.

`@reward("brevity")` on a class with fields does three things: makes it a frozen keyword-only dataclass, enters it in
the table, and stores a non-frozen twin (the same fields plus the reserved `name`) in Hydra's ConfigStore, so that
`reward=brevity reward.target=80` is typed and refused when wrong. There is no `_target_` anywhere: a configuration
names plugins, never code.

Three doors, one effect: installed packages (entry point group `rlhf_lora.plugins`; the built-ins use it too),
`plugins=[file.py]`, and a decorated class or function in a notebook cell.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from rlhf_lora.errors import ConfigError, ContractError, PluginError, UserError, did_you_mean

KINDS: Mapping[str, str] = {
    "reward": "score",
    "judge": "compare",
    "dataset": "load",
    "optimizer": "",
    "rollout": "generate",
    "tracker": "log",
}
"""Kind → the method that a plugin of that kind must have."""

ENTRY_POINTS = "rlhf_lora.plugins"
ONLY = "RLHF_LORA_PLUGINS"
"""Environment variable: a comma-separated list of entry points to load; for finding a plugin that breaks others."""

T = TypeVar("T")


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


_table: dict[tuple[str, str], Entry] = {}
_failures: dict[str, str] = {}
_files: dict[Path, str] = {}
_loaded_entry_points = False


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
        if method and not callable(getattr(cls, method, None)):
            also = " or compare()" if kind == "reward" else ""
            raise PluginError(
                f"the {kind} '{name}' has no method {method}(){also}",
                where=_origin(thing),
                fix=f"def {method}(self, …)",
            )
        _add(Entry(kind, name, cls, _origin(thing), _source_hash(thing)))
        return thing

    return enter


@dataclass_transform(frozen_default=True, kw_only_default=True)
def reward(name: str) -> Callable[[T], T]:
    """Register a reward: a class with `score(self, samples)`, or a function `f(samples, *, column, setting=default)`.

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


def _add(entry: Entry) -> None:
    old = _table.get((entry.kind, entry.name))
    if old is not None and not _may_replace(old, entry):
        raise PluginError(
            f"two plugins want the name {entry.kind}={entry.name}",
            where=f"{old.origin} and {entry.origin}",
            fix="rename one of them",
        )
    twin = _config_twin(entry)
    _table[entry.kind, entry.name] = entry
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

    namespace = {"score": score, "columns": columns, "__doc__": function.__doc__, "__module__": function.__module__}
    fields: list[Any] = [
        (p.name, hints.get(p.name, type(p.default)), dataclasses.field(default=p.default)) for p in settings
    ]
    cls_name = "".join(part.title() for part in name.split("_"))
    return dataclasses.make_dataclass(cls_name, fields, namespace=namespace, frozen=True, kw_only=True)


def columns_of(source: Any) -> tuple[str, ...]:
    """The dataset columns a reward asks for: keyword-only parameters of `score` without a default."""
    declared = getattr(source, "columns", None)
    if declared is not None:
        return tuple(declared)
    parameters = inspect.signature(source.score).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


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


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


# --- looking up and building ------------------------------------------------------------------------------------------


def entries(kind: str | None = None) -> list[Entry]:
    """All plugins, of one kind or of every kind, sorted by kind and name."""
    load_entry_points()
    return sorted((e for e in _table.values() if kind in (None, e.kind)), key=lambda e: (e.kind, e.name))


def names(kind: str) -> list[str]:
    return [entry.name for entry in entries(kind)]


def failures() -> Mapping[str, str]:
    """Packages whose plugins failed to import, and why."""
    return dict(_failures)


def lookup(kind: str, name: str) -> Entry:
    """The plugin called `name`.

    Raises:
        PluginError: there is none; names near ones, the installed ones, and packages that failed to import.
    """
    load_entry_points()
    if (kind, name) in _table:
        return _table[kind, name]
    known = names(kind)
    broken = "".join(f"\n  note: plugins of {package} failed to import: {why}" for package, why in _failures.items())
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
    for entry in _table.values():
        if type(thing) is entry.cls:
            return {"name": entry.name, **dataclasses.asdict(typing.cast(Any, thing))}
    raise ContractError(f"{type(thing).__name__} is not a registered plugin")


def _plain(config: Any) -> Any:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    return dict(config) if isinstance(config, Mapping) else config


# --- the three doors --------------------------------------------------------------------------------------------------


def load_entry_points() -> None:
    """Import every installed plugin package once. A failure is remembered and told when a name is asked for."""
    global _loaded_entry_points
    if _loaded_entry_points:
        return
    _loaded_entry_points = True
    from importlib.metadata import entry_points

    only = {name for name in os.environ.get(ONLY, "").split(",") if name}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: (p.name != "builtin", p.name)):
        if only and point.name not in only | {"builtin"}:
            continue
        try:
            point.load()
        except Exception as error:
            if point.name == "builtin":
                raise
            package = point.dist.name if point.dist else point.name
            _failures[package] = f"{type(error).__name__}: {error} ({_last_line(error, None)})"


def load_file(path: str | os.PathLike[str]) -> None:
    """Load the plugins of one Python file. Loading the same unchanged file again does nothing.

    Raises:
        PluginError: no such file, it raised (with file and line), or it registered nothing.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise PluginError(f"no plugin file {path}", where=f"plugins=[{path}]", fix="give the path of a .py file")
    source_hash = hashlib.sha256(file.read_bytes()).hexdigest()
    if _files.get(file) == source_hash:
        return
    load_entry_points()
    before = set(_table.values())
    module_name = f"rlhf_lora_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is not a Python file", where=f"plugins=[{path}]", fix="give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except PluginError:
        sys.modules.pop(module_name, None)
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(module_name, None)
        raise PluginError(
            f"the plugin file raised {type(error).__name__}: {error}",
            where=_last_line(error, file),
            fix=f"make `python {file}` run, then try again",
        ) from error
    if set(_table.values()) == before:
        sys.modules.pop(module_name, None)
        raise PluginError(
            f"{file} registers no plugin",
            where=f"plugins=[{path}]",
            fix='put @reward("my_name") on a class or function',
        )
    _files[file] = source_hash


def _last_line(error: BaseException, file: Path | None) -> str:
    """`file.py, line 3: the line`: the deepest frame in the plugin's own file, or of a syntax error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip()}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if file is None or Path(f.filename) == file] or list(frames)
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else str(file)


def check_scores(scores: Sequence[Any], count: int, source: str) -> list[Any]:
    """Hold a reward to its contract: `count` scores, each a finite number, a Score, or None.

    Returns:
        `Score` objects. A value that is not finite becomes `Score.none(kind="error")`: it is counted, never trained on.

    Raises:
        ContractError: a wrong count, or something that is no score at all.
    """
    from rlhf_lora.records import Score

    if isinstance(scores, str | bytes) or not hasattr(scores, "__len__"):
        raise ContractError(f"reward '{source}' returned {type(scores).__name__}, not a list of {count} scores")
    if len(scores) != count:
        raise ContractError(f"reward '{source}' returned {len(scores)} scores for {count} samples")
    result = []
    for i, value in enumerate(scores):
        if isinstance(value, Score):
            result.append(value)
        elif value is None:
            result.append(Score.none("the reward gave no value"))
        elif isinstance(value, bool | int | float) or hasattr(value, "__float__"):
            number = float(value)
            finite = number == number and abs(number) != float("inf")
            result.append(Score(number) if finite else Score.none(f"the reward gave {number}", kind="error"))
        else:
            raise ContractError(
                f"reward '{source}' returned {value!r} for sample {i}; wanted a number, None or a Score"
            )
    return result
