"""The doors that plugins come in by: installed packages, and files that are named in `plugins=[file.py]`.

A third needs no door: a decorated class or function in a notebook cell. The built-in plugins use the first, as strangers
do. All end in the table of `plugin_table`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from rlhf_lora import plugin_table
from rlhf_lora.errors import PluginError

ENTRY_POINTS = "rlhf_lora.plugins"
ONLY = "RLHF_LORA_PLUGINS"
"""Environment variable: a comma-separated list of entry points to load; for finding a plugin that breaks others."""

_failures: dict[str, str] = {}
_files: dict[Path, str] = {}
_loaded_entry_points = False


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


def file_of(module: str) -> Path | None:
    """The plugin file that was loaded as this module; None for installed packages and notebook cells."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    return Path(file) if file is not None and Path(file) in _files else None


def failures() -> Mapping[str, str]:
    """Packages whose plugins failed to import, and why."""
    return dict(_failures)


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
    before = set(plugin_table.table.values())
    module_name = f"rlhf_lora_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    try:
        _run(file, module_name)
        if set(plugin_table.table.values()) == before:
            raise PluginError(
                f"{file} registers no plugin",
                where=f"plugins=[{path}]",
                fix='put @reward("my_name") on a class or function',
            )
    except BaseException:
        sys.modules.pop(module_name, None)
        raise
    _files[file] = source_hash


def _run(file: Path, module_name: str) -> None:
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is not a Python file", where=f"plugins=[{file}]", fix="give the path of a .py file")
    sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the plugin file raised {type(error).__name__}: {error}",
            where=_last_line(error, file),
            fix=f"make `python {file}` run, then try again",
        ) from error


def _last_line(error: BaseException, file: Path | None) -> str:
    """`file.py, line 3: the line`: the deepest frame in the plugin's own file, or of a syntax error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {(error.text or '').strip()}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if file is None or Path(f.filename) == file] or list(frames)
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else str(file)
