"""A user's own presets: `--config-dir DIR` adds DIR/GROUP/NAME.yaml to the presets of the kit."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rlhf_lora.errors import ConfigError


def checked(folder: str | Path) -> Path:
    """The folder, absolute.

    Raises:
        ConfigError: it is none, or one of its files bears the name of a preset of the kit, which would win in silence.
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise ConfigError(
            f"{folder} is no folder",
            where=f"--config-dir {folder}",
            fix="a folder with experiment/NAME.yaml, model/NAME.yaml, …",
        )
    built_in = resources.files("rlhf_lora.conf")
    for file in sorted(path.rglob("*.yaml")):
        name = file.relative_to(path)
        if built_in.joinpath(*name.parts).is_file():
            raise ConfigError(
                f"the kit has a {name.as_posix()} of its own", where=str(file), fix="give the file another name"
            )
    return path


def names(folder: Path | None, group: str) -> list[str]:
    """The presets of one group; none without a folder."""
    return sorted(file.stem for file in (folder / group).glob("*.yaml")) if folder and group else []


def search_path(folder: Path) -> str:
    """The override that makes Hydra look there as well."""
    quoted = str(folder).replace("\\", "/").replace("'", "\\'")
    return f"hydra.searchpath=['file://{quoted}']"


def refuse_code(config: Any, where: str = "") -> None:
    """A configuration names no code, at no depth.

    Raises:
        ConfigError: there is a `_target_`.
    """
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        place = f"{where}.{key}" if where else str(key)
        if key == "_target_":
            raise ConfigError(
                "a configuration cannot name code: _target_ is refused",
                where=place,
                fix="write a plugin: plugins=[FILE.py] reward=NAME",
            )
        if isinstance(value, Mapping | list):
            refuse_code(value, place)
