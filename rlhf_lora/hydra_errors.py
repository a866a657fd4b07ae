"""Hydra's and OmegaConf's messages as ours: what was asked, where, what there is instead."""

from __future__ import annotations

import difflib
import re
import shlex
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.schema import OWN_DATASETS, TrainConfig, all_keys, groups, options

UNREADABLE = (
    "Error parsing override", "no viable alternative", "mismatched input", "token recognition", "LexerNoViableAlt",
)  # fmt: skip


@dataclass(frozen=True)
class _Told:
    """What Hydra said of which overrides. `own`: the folder of the user's presets. `where`: the override it is about."""

    message: str
    overrides: Sequence[str]
    own: Path | None
    where: str

    def line_with(self, *parts: str) -> str:
        lines = [line.strip() for line in self.message.splitlines()]
        return next((line for line in lines if any(part in line for part in parts)), "")

    @property
    def full_key(self) -> str:
        return self.line_with("full_key:").partition("full_key:")[2].strip()


def as_config_error(error: Exception, overrides: Sequence[str], own: Path | None = None) -> ConfigError:
    """Hydra's message as ours: what, where, what to do."""
    # Hydra wraps what OmegaConf said of the value in "Error merging override"; the value is the news.
    cause = error.__cause__ if str(error).startswith("Error merging override") and error.__cause__ else error
    message = str(cause).strip()
    told = _Told(message, overrides, own, _override_in(message, overrides))
    for reading in (
        _no_dataset_chosen,
        _no_mix_chosen,
        _no_such_setting,
        _no_such_group,
        _no_such_option,
        _unreadable,
        _several_values,
    ):
        if (read := reading(told)) is not None:
            return read
    value = told.line_with("could not be converted", "Invalid value") or message.partition("\n")[0] or repr(error)
    return ConfigError(
        value.rstrip("."),
        where=told.full_key or told.where,
        fix="`rlhf-lora plugins` and `rlhf-lora plan` show settings and types",
    )


def _no_dataset_chosen(told: _Told) -> ConfigError | None:
    """A setting of a stage's own dataset, where the stage has none."""
    found = re.search(r"'((\w+)\.dataset)\.\w+'", told.message)
    if found is None or found[2] not in OWN_DATASETS:
        return None
    place = found[1]
    if any(override.startswith(f"dataset@{place}=") for override in told.overrides):
        return None
    where = next((o for o in told.overrides if o.lstrip("+").startswith(f"{place}.")), told.where)
    what = f"no dataset of its own is chosen for the stage {found[2]}"
    return ConfigError(what, where=where, fix=f"add {place}=NAME, such as {place}=jsonl")


def _no_mix_chosen(told: _Told) -> ConfigError | None:
    """A part of a mix, or its weight, where the reward is no mix."""
    own = r"(?:parts|weights|combine|disagreement|gate|clip|normalise|squash|shadow|missing_part)\b"
    asked = [o for o in told.overrides if re.match(rf"[+]*(reward@)?reward\.{own}", o)]
    if not asked or "reward=mix" in told.overrides or not re.search(rf"'(?:reward\.)?{own}[^']*'", told.message):
        return None
    return ConfigError("only a mix has parts and weights", where=asked[0], fix="add reward=mix")


def _no_such_setting(told: _Told) -> ConfigError | None:
    found = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", told.message)
    dotted = re.search(r"Could not override '([^']+\.[^']*)'", told.message)
    key = (found and (told.full_key or found[1])) or (dotted and dotted[1])
    if not key:
        return None
    known = all_keys(told.overrides)
    what = f"there is no setting '{key}'{did_you_mean(key, known)}"
    return ConfigError(what, where=told.where, fix=_keys_hint(key, known))


def _no_such_group(told: _Told) -> ConfigError | None:
    found = re.search(r"Could not override '([^']+)'", told.message)
    if found is None:
        return None
    known = [*groups(), *typing.get_type_hints(TrainConfig)]
    return ConfigError(
        f"there is no group or setting '{found[1]}'{did_you_mean(found[1], known)}",
        where=told.where,
        fix=f"groups: {', '.join(groups())}; settings are written with dots: model.path=FOLDER",
    )


def _no_such_option(told: _Told) -> ConfigError | None:
    found = re.search(r"Could not find '([^']+)'", told.message)
    if found is None:
        return None
    group, _, name = found[1].rpartition("/")
    known = options(group, told.own)
    what = f"{group} has no '{name}'{did_you_mean(name, known)}"
    return ConfigError(what, where=told.where, fix=f"choices: {', '.join(known)}")


def _unreadable(told: _Told) -> ConfigError | None:
    if not any(part in told.message for part in UNREADABLE):
        return None
    key, _, value = told.where.partition("=")
    quoted = shlex.quote(f'{key or "key"}="{value.strip(chr(34) + chr(39))}"')
    fix = f"write key=value, and quote a value that has commas, brackets, quotes or letters beyond a to z: {quoted}"
    return ConfigError(f"this override cannot be read: {told.where}", where=told.where, fix=fix)


def _several_values(told: _Told) -> ConfigError | None:
    if "Ambiguous value for argument" not in told.message:
        return None
    fix = "add -m for a sweep over them; or quote what has commas: 'key=\"a, b\"'"
    return ConfigError(f"several values for one run: {told.where}", where=told.where, fix=fix)


def _override_in(message: str, overrides: Sequence[str]) -> str:
    """The override that a message is about, found by its key or its text."""
    keys = {override: override.partition("=")[0].lstrip("+~") for override in overrides}
    for found in (
        lambda override: override in message,
        lambda override: re.search(rf"\b{re.escape(keys[override])}\b", message),
        lambda override: re.search(rf"\b{re.escape(keys[override].rpartition('.')[2])}\b", message),
    ):
        for override in overrides:
            if found(override):
                return override
    return ", ".join(overrides)


def _keys_hint(key: str, known: Sequence[str]) -> str:
    parent = key.rpartition(".")[0]
    inside = sorted({k for k in known if k.rpartition(".")[0] == parent})
    near = difflib.get_close_matches(key, inside, n=8, cutoff=0.0) if len(inside) > 12 else inside
    return f"settings {f'of {parent}' if parent else 'here'}: {', '.join(near)}"
