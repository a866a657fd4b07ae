"""What can be completed on the command line, kept in a small file: importing every plugin takes longer than a key press.

The file lies in the cache folder and says from which files it was made. When one of them changed, or a package came or
went, it is made anew. A user's own presets and plugin files are looked at each time and never run.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

VERSION = 1


def index() -> dict[str, Any]:
    """`groups`: group → its choices. `defaults`: group → what is chosen when nothing is said. `settings`: section → setting →
    type ("" is the top). `plugins`: kind → name → setting → type, deeper ones as `adamw.lr`."""
    file = cache_file()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["version"] == VERSION and found["made_from"] == made_from(found["sources"]):
            return dict(found["index"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not one of ours: made anew
        pass
    made, sources = make()
    try:
        from rlhf_lora.atomic import write_text

        whole = {"version": VERSION, "sources": sources, "made_from": made_from(sources), "index": made}
        write_text(file, json.dumps(whole))
    except OSError:  # a folder that cannot be written to: the next key press takes as long
        pass
    return made


def cache_file() -> Path:
    """In the cache folder, found without importing the plan."""
    if given := os.environ.get("RLHF_LORA_CACHE"):
        return Path(given) / "completion.json"
    home = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "rlhf_lora" / "completion.json"


def made_from(sources: Sequence[str]) -> list[Any]:
    """What changes when a source does, or when a package is installed or removed."""
    folders = [path for path in sys.path if path and "site-packages" in path]
    return [sys.prefix, *([path, _changed(path)] for path in (*folders, *sources))]


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def make() -> tuple[dict[str, Any], list[str]]:
    """The index, and the files and folders that it depends on. Imports the plugins."""
    from importlib import resources

    import yaml

    from rlhf_lora import doors, registry, schema
    from rlhf_lora.sweep.axes import SweepSettings

    doors.load_entry_points()
    conf = resources.files("rlhf_lora.conf")
    groups = {group: schema.options(group) for group in schema.groups()}
    defaults = yaml.safe_load(conf.joinpath("train.yaml").read_text("utf-8"))["defaults"]
    plugins: dict[str, dict[str, dict[str, str]]] = {}
    for entry in registry.entries():
        plugins.setdefault(entry.kind, {})[entry.name] = dict(_settings(entry.fields()))
    made = {
        "groups": groups,
        "defaults": {k: v for one in defaults if isinstance(one, dict) for k, v in one.items() if v is not None},
        "settings": dict(_schema(schema.TrainConfig)) | {"sweep": dict(_settings(_hints(SweepSettings)))},
        "plugins": plugins,
        "kinds": list(registry.KINDS),
    }
    files = {sys.modules[entry.cls.__module__].__file__ for entry in registry.entries()}
    folders = [str(conf), *(str(conf / group) for group in groups if (conf / group).is_dir())]
    beside = {str(Path(file).parent) for file in files if file}
    own = [str(Path(schema.__file__)), str(Path(__file__))]
    return made, sorted({*folders, *beside, *own, *(file for file in files if file)})


def _schema(schema: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Section → its settings, of the part of the configuration that is no plugin's."""
    import typing

    top: dict[str, str] = {}
    for name, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint):
            yield name, dict(_settings(_hints(hint)))
        elif hint is not Any:
            top[name] = _type_name(hint)
    yield "", top


def _hints(schema: Any) -> dict[str, tuple[Any, Any]]:
    import typing

    return {field: (kind, None) for field, kind in typing.get_type_hints(schema).items()}


def _settings(fields: dict[str, tuple[Any, Any]]) -> Iterator[tuple[str, str]]:
    """Setting → its type; those of a dataclass within as `adamw.lr`."""
    import typing

    for name, (hint, _) in fields.items():
        if dataclasses.is_dataclass(hint):
            for inner, kind in typing.get_type_hints(hint).items():
                yield f"{name}.{inner}", _type_name(kind)
        else:
            yield name, _type_name(hint)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def in_plugin_file(path: str) -> dict[str, dict[str, dict[str, str]]]:
    """kind → name → settings of a user's plugin file, read off its syntax: pressing a key runs nobody's code."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    try:
        tree = ast.parse(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return found
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and mark.args and isinstance(mark.args[0], ast.Constant):
                kind = ast.unparse(mark.func).rpartition(".")[2]
                found.setdefault(kind, {})[str(mark.args[0].value)] = dict(_fields_of(node))
    return found


def _fields_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.ClassDef):
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                yield line.target.id, ast.unparse(line.annotation)
        return
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is not None:  # without one it names a column of the data
            yield argument.arg, ast.unparse(argument.annotation) if argument.annotation else ""
