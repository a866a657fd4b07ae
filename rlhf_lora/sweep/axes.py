"""What a sweep varies: Hydra's own sweep syntax on the command line, over a preset of the group `sweep`.

`a,b` · `choice(a,b)` · `range(0,3)` · `glob(*)` over the options of a group; with the Optuna sampler `interval(a,b)` too.
`sweep=NAME` and `sweep.KEY=…` belong to the sweep and not to its jobs: they never reach a job's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from rlhf_lora import user_presets
from rlhf_lora.errors import ConfigError, did_you_mean

SAMPLERS = ("grid", "optuna")
DIRECTIONS = ("maximize", "minimize")
NOT_SWEPT = {
    "run_dir": "a sweep has one folder; its jobs live in run_dir/0, run_dir/1, …",
    "hydra": "Hydra's own settings are not part of a run",
}


@dataclass(frozen=True)
class SweepSettings:
    """How a sweep goes about it: `sweep.trials=8`.

    Attributes:
        objective: a dotted key of a number in summary.json; what the table is sorted by and Optuna works on. None: the
            gold win rate, and the policy's where there is no gold.
        seed: of Optuna's sampler; the jobs have their own.
    """

    sampler: str = "grid"
    trials: int = 20
    objective: str | None = None
    direction: str = "maximize"
    seed: int = 0


@dataclass(frozen=True)
class Axis:
    """One override with several values.

    Attributes:
        key: as written, `+` and `@` included.
        values: in Hydra's syntax; empty for an interval.
        parsed: the value as Hydra's parser gave it; Optuna reads intervals and ranges off it.
    """

    key: str
    values: tuple[str, ...]
    parsed: Any


@dataclass(frozen=True)
class SweepRequest:
    """A sweep as asked for: what stays, what varies, and how."""

    settings: SweepSettings
    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]

    def grid(self) -> Iterator[tuple[str, ...]]:
        """The overrides of each job that vary; the last axis moves fastest. One empty job when nothing varies."""
        return product(*([f"{axis.key}={value}" for value in axis.values] for axis in self.axes))


def read(words: Sequence[str], options: Any, config_dir: Path | None = None) -> SweepRequest:
    """A command line as a sweep.

    Args:
        options: group → names of its options, for `glob`.

    Raises:
        ConfigError: an override that cannot be read, a setting of `sweep` that is wrong, an interval without Optuna.
    """
    own = [word for word in words if word.partition("=")[0].split(".")[0].lstrip("+") == "sweep"]
    jobs = [word for word in words if word not in own]
    preset = _preset(own, config_dir)
    settings = _settings(own, preset)
    given = {_bare(word) for word in jobs}
    jobs = [word for word in _preset_overrides(preset) if _bare(word) not in given] + jobs
    fixed, axes = _split(jobs, options)
    for axis in axes:
        if not axis.values and settings.sampler != "optuna":
            raise ConfigError(
                f"an interval has no list of values: {axis.key}",
                where=axis.key,
                fix="sweep.sampler=optuna, or name the values: a,b or range(0,3)",
            )
    return SweepRequest(settings, tuple(fixed), tuple(axes))


def _bare(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _split(words: Sequence[str], options: Any) -> tuple[list[str], list[Axis]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    parser, fixed, axes = OverridesParser.create(), [], []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            raise ConfigError(
                f"this override cannot be read: {word}",
                where=word,
                fix="write key=value; quote what has commas: 'key=\"a, b\"'",
            ) from error
        if not override.is_sweep_override():
            fixed.append(word)
            continue
        for name, why in NOT_SWEPT.items():
            if _bare(word).split(".")[0] == name:
                raise ConfigError(f"{name} cannot be swept: {why}", where=word, fix=f"one value for {name}")
        value = override._value
        if isinstance(value, Glob):
            values = tuple(value.filter(options(override.key_or_group)))
        else:
            values = tuple(override.sweep_string_iterator()) if override.is_discrete_sweep() else ()
        if override.is_discrete_sweep() and not values:
            raise ConfigError(
                f"nothing to sweep over: {word}", where=word, fix="name values, or a pattern that fits some"
            )
        axes.append(Axis(override.get_key_element(), values, value))
    return fixed, axes


# --- presets and settings ---------------------------------------------------------------------------------------------


def _preset(own: Sequence[str], config_dir: Path | None) -> Mapping[str, Any]:
    """The YAML that `sweep=NAME` names, from the kit's `conf/sweep` or the user's own."""
    import yaml

    names = [word.partition("=")[2] for word in own if _bare(word) == "sweep"]
    if not names:
        return {}
    own_presets = user_presets.names(config_dir, "sweep")
    built_in = resources.files("rlhf_lora.conf").joinpath("sweep")
    known = sorted({*own_presets, *(file.name.removesuffix(".yaml") for file in built_in.iterdir())})
    if names[-1] not in known:
        raise ConfigError(
            f"sweep has no '{names[-1]}'{did_you_mean(names[-1], known)}",
            where=f"sweep={names[-1]}",
            fix=f"choices: {', '.join(known)}",
        )
    folder: Any = config_dir / "sweep" if config_dir and names[-1] in own_presets else built_in
    where = f"sweep/{names[-1]}.yaml"
    try:
        found = yaml.safe_load(folder.joinpath(f"{names[-1]}.yaml").read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where} cannot be read: {str(error).splitlines()[0]}", where=where, fix="correct the YAML"
        ) from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where} is not a mapping", where=where, fix="overrides: {optimizer: 'ppo,dpo'}")
    return found


def _preset_overrides(preset: Mapping[str, Any]) -> list[str]:
    found = preset.get("overrides", {})
    if not isinstance(found, Mapping):
        raise ConfigError("`overrides` of a sweep is a mapping", where="sweep", fix="overrides: {optimizer: 'ppo,dpo'}")
    words = []
    for key, value in found.items():
        if str(key).lstrip("+") in ("plugins", "run_dir"):
            raise ConfigError(
                f"{key} is for the command line, not for a sweep preset",
                where=f"sweep.overrides.{key}",
                fix=f"{key}=… -m",
            )
        if not isinstance(value, str | int | float | bool):
            raise ConfigError(
                f"a sweep's values are text in Hydra's syntax, not {type(value).__name__}",
                where=f"sweep.overrides.{key}",
                fix=f'{key}: "0.05,0.1"',
            )
        words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def _settings(own: Sequence[str], preset: Mapping[str, Any]) -> SweepSettings:
    """Preset, then command line; checked."""
    types = {"trials": int, "seed": int}
    known = [field.name for field in dataclasses.fields(SweepSettings)]
    given: dict[str, Any] = {str(k): v for k, v in preset.items() if k != "overrides"}
    given |= {_bare(word).partition(".")[2]: _value(word) for word in own if _bare(word) != "sweep"}
    for name, value in given.items():
        where = f"sweep.{name}={value}"
        if name not in known:
            raise ConfigError(
                f"there is no setting 'sweep.{name}'{did_you_mean(name, known)}",
                where=where,
                fix=f"settings of sweep: {', '.join(known)}",
            )
        if type(value) is not types.get(name, str) and not (name == "objective" and value is None):
            raise ConfigError(f"sweep.{name} is {value!r}", where=where, fix=f"give {types.get(name, str).__name__}")
    settings = SweepSettings(**given)
    for name, allowed in (("sampler", SAMPLERS), ("direction", DIRECTIONS)):
        value = getattr(settings, name)
        if value not in allowed:
            raise ConfigError(
                f"there is no {name} '{value}'{did_you_mean(value, allowed)}",
                where=f"sweep.{name}={value}",
                fix=f"choices: {', '.join(allowed)}",
            )
    if settings.trials < 1:
        raise ConfigError(f"{settings.trials} trials are none", where="sweep.trials", fix="sweep.trials=8")
    return settings


def _value(word: str) -> Any:
    """What `sweep.KEY=VALUE` gives."""
    import yaml

    try:
        return yaml.safe_load(word.partition("=")[2])
    except yaml.YAMLError as error:
        raise ConfigError(
            f"this override cannot be read: {word}",
            where=word,
            fix="sweep.KEY=VALUE; quote what has brackets or colons",
        ) from error
