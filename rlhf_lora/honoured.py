"""Settings that cannot be honoured together: a preset that fixes values and an override against it, truncated sampling and
log-probs of the whole distribution. `check_typed` looks at overrides before Hydra composes, `check_config` at what came out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from rlhf_lora.errors import ConfigError

FIXING = ("profile", "control")
"""Groups whose presets mean what they set: `profile=oai2019` with another β is not that paper's PPO."""
NEUTRAL = {"top_p": (1,), "typical_p": (1,), "top_k": (0, -1), "min_p": (0,)}
"""Ways to truncate what is sampled, and their values that truncate nothing."""


def check_typed(overrides: Sequence[str]) -> None:
    """What overrides say before they are composed: afterwards Hydra would only know of a key that is not there.

    Raises:
        ConfigError: another plugin than the one that a profile or control is made of, or truncated sampling.
    """
    typed = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    for group in FIXING:
        for kind, plugin in _plugins_of(group, typed.get(group, "")).items():
            if kind in typed and typed[kind] != plugin:
                raise ConfigError(
                    f"{group}={typed[group]} is made of {kind}={plugin}", where=f"{kind}={typed[kind]}",
                    fix=f"leave {kind}={typed[kind]} out, or {group}={typed[group]}",
                )  # fmt: skip
    for name in NEUTRAL:
        if (value := typed.get(f"rollout.{name}")) is not None:
            _refuse_truncation(name, _read(value))


def check_config(config: DictConfig) -> None:
    """A composed configuration: it is what its profile and its control say, and samples from what it has log-probs of.

    Raises:
        ConfigError: it is not.
    """
    for group in FIXING:
        found = differences(config, group)
        if found and not (group == "profile" and config.profile_overrides):
            name = config.get(group)
            places = ", ".join(place for place, _, _ in found)
            anyway = " or add profile_overrides=true (plan and summary then list what differs)"
            raise ConfigError(
                f"{group}={name} fixes " + "; ".join(f"{place}={_show(own)}, here {_show(is_)}" for place, own, is_ in found),
                where=places, fix=f"leave out {places}, or {group}={name}{',' + anyway if group == 'profile' else ''}",
            )  # fmt: skip
    for name in NEUTRAL:
        if (value := config.rollout.get(name)) is not None:
            _refuse_truncation(name, value)


def check_stop_rule(config: DictConfig) -> None:
    """A derived configuration: where stop strings begin to count, there are some, and tokens left for them.

    Raises:
        ConfigError: there are none.
    """
    after, stop, longest = (config.rollout.get(name) for name in ("stop_after", "stop", "max_new_tokens"))
    if after and not stop:
        raise ConfigError(
            "stop strings are to count from a token on, and there are none", where=f"rollout.stop_after={after}",
            fix='rollout.stop=["."], or whatever ends an answer; or rollout.stop_after=0',
        )  # fmt: skip
    if after and longest is not None and after >= longest:
        raise ConfigError(
            f"stop strings count from token {after} on, and answers have {longest} tokens (0 to {longest - 1})",
            where=f"rollout.stop_after={after}", fix="a smaller rollout.stop_after, or a larger rollout.max_new_tokens",
        )  # fmt: skip


def differences(config: DictConfig, group: str) -> list[tuple[str, Any, Any]]:
    """(setting, what the chosen preset of a group fixes, what is) wherever they differ; none without a preset, and none of
    a user's own, which is not known here."""
    name = config.get(group)
    fixed = _preset(group, str(name)) if name is not None else {}
    wanted = dict(_leaves({key: value for key, value in fixed.items() if key not in ("defaults", group)}))
    wanted |= {f"{kind}.name": plugin for kind, plugin in _plugins_of(group, str(name)).items()}
    found = ((place, value, OmegaConf.select(config, place)) for place, value in wanted.items())
    return [(place, value, is_) for place, value, is_ in found if value != is_]


def told(config: DictConfig) -> list[str]:
    """`optimizer.beta 0.15 → 0.3` for every setting that is not the profile's."""
    return [f"{place} {_show(own)} → {_show(is_)}" for place, own, is_ in differences(config, "profile")]


def released(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration for judging what it trained: held to no profile and no control, since nothing is trained."""
    open_again = {"labels": "as_given", "loss": "auto", "rows": None}  # other data may have other labels, and fewer
    as_given = {"reward_model": {**saved["reward_model"], **open_again}} if "reward_model" in saved else {}
    return {**saved, **dict.fromkeys(FIXING), **as_given}


def _refuse_truncation(name: str, value: Any) -> None:
    if value not in NEUTRAL[name]:
        raise ConfigError(
            f"rollout.{name}={value} draws from fewer tokens than its log-probs are of: the ratio to the old policy would not "
            "be 1 at the start and the KL could fall below 0, and there is no correction for it",
            where=f"rollout.{name}={value}",
            fix="leave it out: log-probs are those of the whole vocabulary; rollout.temperature is in them",
        )  # fmt: skip


def _plugins_of(group: str, name: str) -> dict[str, str]:
    """Kind → plugin, of a preset's `override /KIND: NAME`."""
    chosen = [entry for entry in _preset(group, name).get("defaults", ()) if isinstance(entry, Mapping)]
    return {
        key.removeprefix("override /"): str(value)
        for entry in chosen
        for key, value in entry.items()
        if key.startswith("override /")
    }


def _preset(group: str, name: str) -> dict[str, Any]:
    folder = resources.files("rlhf_lora.conf").joinpath(group)
    files = {file.name: file for file in folder.iterdir()} if folder.is_dir() else {}
    file = files.get(f"{name}.yaml")
    return yaml.safe_load(file.read_text("utf-8")) if file is not None else {}


def _leaves(node: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _show(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
