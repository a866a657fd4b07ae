"""The settings of a mix read into parts: each one built, and every name in them one that there is."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rlhf_lora import registry
from rlhf_lora.errors import ConfigError, UserError, did_you_mean


# Not frozen, because OmegaConf makes the nodes of frozen dataclasses read-only; hashable, so that it may be a plain default.
@dataclass(unsafe_hash=True)
class Gate:
    """Llama 2's safety gate; used by `combine=gate` alone.

    Attributes:
        safety, helpful: names of the two parts.
        threshold: probability of being safe below which the safety part decides, whatever the prompt.
        column: column of the data that tells whether the prompt is one about safety; null = no prompt is known to be.
        value: what the column holds for those prompts; null = the column is true or false.
        values: what the two parts give: `logits` (a reward model's score: the sigmoid is taken here) or `probabilities`.
        whiten: to mean 0 and deviation 1 over each batch, of what came through the gate. With the optimizer's
            `scale_scores` on top it is redundant and does no harm.
    """

    safety: str | None = None
    helpful: str | None = None
    threshold: float = 0.15
    column: str | None = None
    value: str | None = None
    values: str = "logits"
    whiten: bool = True

    @classmethod
    def of(cls, value: Gate | Mapping[str, Any]) -> Gate:
        """A gate from itself or from the mapping that a saved configuration holds.

        Raises:
            ConfigError: a setting that a gate does not have.
        """
        if isinstance(value, Gate):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"reward.gate is {value!r}", where="reward.gate", fix="reward.gate.safety=NAME reward.gate.helpful=NAME"
            )
        known = list(cls.__dataclass_fields__)
        for key in value:
            refuse_unknown(str(key), known, f"reward.gate.{key}", "setting of the gate")
        return cls(**value)


def built_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Name → reward, each from its own settings; a part that is null is taken out.

    Raises:
        ConfigError, PluginError, …: what the parts' own settings are refused for, in their place (`reward.parts.NAME`).
    """
    found = {}
    for name, node in parts.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            raise ConfigError(
                f"'{name}' cannot name a part: it stands in metrics and settings",
                where=f"reward.parts.{name}", fix="letters, digits and underscores, a letter first",
            )  # fmt: skip
        if node is not None:
            with in_place(f"reward.parts.{name}"):
                found[str(name)] = registry.build("reward", _typed({"name": node} if isinstance(node, str) else node))
    return found


def _typed(node: Any) -> Any:
    """A part's settings converted to their types, as Hydra does it for the run's own reward: 7 where "7" is written.

    Raises:
        ConfigError: a value that is not of its type.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(node, Mapping) or "name" not in node:
        raise ConfigError(
            f"this part does not say which reward it is: {node!r}", where="reward", fix="reward=NAME, or {name: NAME}"
        )
    known = registry.lookup("reward", str(node["name"])).fields()
    twin = ConfigStore.instance().load(f"reward/{node['name']}.yaml").node
    try:
        merged = OmegaConf.merge(twin, {key: value for key, value in node.items() if key in known})
        typed = OmegaConf.to_container(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        raise ConfigError(
            str(error).partition("\n")[0].rstrip("."), where=f"reward.{key}" if key else "reward",
            fix="`rlhf-lora plugins reward` lists settings and their types",
        ) from error  # fmt: skip
    assert isinstance(typed, dict)
    return {**node, **{key: value for key, value in typed.items() if key in node}}


@contextmanager
def in_place(place: str) -> Iterator[None]:
    """A reward knows its settings as `reward.target`; as a part of a mix they are `reward.parts.a.target`."""
    try:
        yield
    except UserError as error:
        what, where, fix = (
            re.sub(r"(?<![\w.@])reward(?=[.=]|$)(?!\.json)", place, text) if text else text
            for text in (error.what, error.where, error.fix)
        )
        raise type(error)(what, where=where, fix=fix) from error


def refuse_unknown(name: str, known: Collection[str], where: str, what: str = "part") -> None:
    """Raises ConfigError when `name` is none of those that there are, with the nearest one."""
    if name not in known:
        raise ConfigError(
            f"there is no {what} '{name}'{did_you_mean(name, known)}", where=where,
            fix=f"{what}s: {', '.join(known) or 'none'}" if what == "part" else f"settings: {', '.join(known)}",
        )  # fmt: skip


def read_weights(given: Mapping[str, Any]) -> dict[str, float]:
    """Name → weight, those that are null left out.

    Raises:
        ConfigError: one that is no finite number.
    """
    found = {}
    for name, weight in given.items():
        if weight is not None:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(
                    f"the weight of part '{name}' is {weight!r}", where=f"reward.weights.{name}", fix="a finite number"
                )
            found[str(name)] = float(weight)
    return found


def read_clips(given: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Name → (lowest, highest); null inside is no limit on that side.

    Raises:
        ConfigError: anything but two numbers, the lower one first.
    """
    found = {}
    for name, pair in given.items():
        if pair is None:
            continue
        wrong = ConfigError(
            f"the clip of part '{name}' is {pair!r}", where=f"reward.clip.{name}",
            fix=f"two numbers, the lower one first: reward.clip.{name}=[-1,1]; null for no limit on one side",
        )  # fmt: skip
        if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise wrong
        ends = []
        for end, open_end in zip(pair, (-math.inf, math.inf), strict=True):
            if isinstance(end, bool) or not isinstance(end, int | float | None) or end != end:
                raise wrong
            ends.append(open_end if end is None else float(end))
        if not ends[0] < ends[1]:
            raise wrong
        found[str(name)] = (ends[0], ends[1])
    return found
