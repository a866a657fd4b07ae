"""`reward=mix`: several rewards as one, each with its own settings, weighed by name. How to write one: docs/mix.md."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora import registry
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.records import Prompt, Sample, Score
from rlhf_lora.registry import reward
from rlhf_lora.scores import columns_of

from .mix_parts import Gate, built_parts, in_place, read_clips, read_weights, refuse_unknown

if TYPE_CHECKING:
    from .mix_open import OpenMix

COMBINE = ("sum", "mean", "min", "product", "gate")
CHOICES = {"combine": COMBINE, "missing_part": ("none", "skip")}


@reward("mix")
class Mix:
    """Several rewards as one: a sum, a mean, the lowest, a product, or Llama 2's gate; and rewards that are only watched.

    Attributes:
        parts: name → reward with its settings: `+reward@reward.parts.a=length reward.parts.a.target=7`; null = taken out.
        weights: name → weight, 1 where none is given; negative = a penalty.
        combine: `sum` = Σ w·x; `mean` = Σ w·x / Σ w less `disagreement`; `min` = the lowest part; `product` = Π x^w of parts in
            [0, 1]; `gate` = Touvron et al. 2023, section 3.4.1.
        disagreement: λ of mean − λ · variance over the parts, for ensembles; of `mean` alone.
        gate: which parts the gate is made of.
        clip: name → [lowest, highest], in the part's own unit; before it is normalised.
        normalise: name → `reference` = mean 0 and deviation 1 on samples of the reference; `none`.
        squash: name → `sigmoid` = a logit, such as a learned reward, as a probability; after it is normalised; `none`.
        shadow: parts that are scored and reported, and never trained on.
        missing_part: where a part has no value, the sum has `none` either; `skip` = the others stand for all, weighted up.
    """

    parts: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float | None] = field(default_factory=dict)
    combine: str = "sum"
    disagreement: float = 0.0
    gate: Gate = Gate()
    clip: dict[str, Any] = field(default_factory=dict)
    normalise: dict[str, str | None] = field(default_factory=dict)
    squash: dict[str, str | None] = field(default_factory=dict)
    shadow: list[str] = field(default_factory=list)
    missing_part: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", Gate.of(self.gate))
        object.__setattr__(self, "shadow", [str(name) for name in self.shadow])
        for name, known in CHOICES.items():
            refuse_unknown(getattr(self, name), known, f"reward.{name}", "choice")
        self._check_names()
        self._check_combination()
        self._check_inner_gates()

    # --- what it is made of -------------------------------------------------------------------------------------------

    @cached_property
    def rewards(self) -> dict[str, Any]:
        """Name → reward, shadows among them."""
        return built_parts(self.parts)

    def inner_rewards(self) -> dict[str, Any]:
        return self.rewards

    @cached_property
    def counted(self) -> list[str]:
        """Names of the parts that the value is made of."""
        return [name for name in self.rewards if name not in self.shadow]

    @cached_property
    def all_weights(self) -> dict[str, float]:
        """Name → weight of every part that counts."""
        given = read_weights(self.weights)
        return {name: given.get(name, 1.0) for name in self.counted}

    @cached_property
    def clips(self) -> dict[str, tuple[float, float]]:
        return read_clips(self.clip)

    @cached_property
    def normalised(self) -> list[str]:
        """Names of the parts that are measured on samples of the reference."""
        return [name for name in self.counted if self.normalise.get(name) == "reference"]

    @cached_property
    def squashed(self) -> list[str]:
        """Names of the parts whose sigmoid counts."""
        return [name for name in self.counted if self.squash.get(name) == "sigmoid"]

    # --- what a plan asks of a reward ---------------------------------------------------------------------------------

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that must have run before every part can score."""
        return tuple(dict.fromkeys(stage for part in self.rewards.values() for stage in getattr(part, "stages", ())))

    @property
    def folder(self) -> Path | None:
        """Of the first part that counts and has a trained reward model: what the value role starts from."""
        found = (getattr(self.rewards[name], "folder", None) for name in self.counted)
        return next((folder for folder in found if folder is not None), None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that any part, or the gate, asks for."""
        own = (self.gate.column,) if self.gate.column is not None else ()
        wanted = [name for part in self.rewards.values() for name in columns_of(part)]
        return tuple(dict.fromkeys((*wanted, *own)))

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Have every part look at the data, and see that some prompt has the value that marks those about safety: a misspelt
        one would leave all to the other part.

        Raises:
            ConfigError: none has it.
        """
        for name, part in self.rewards.items():
            if callable(look := getattr(part, "check_prompts", None)):
                with in_place(f"reward.parts.{name}"):
                    look(prompts)
        column, value = self.gate.column, self.gate.value
        if column is None or value is None:
            return
        found = {str(prompt.columns.get(column)) for prompt in prompts}
        if value not in found:
            raise ConfigError(
                f"no prompt has the value '{value}' in the column '{column}'{did_you_mean(value, found)}",
                where="reward.gate.value", fix=f"one of {', '.join(sorted(found)[:10])}",
            )  # fmt: skip

    def with_reward_model(self, folder: Path) -> Mix:
        """The mix with this run's reward model in every part that waits for one."""
        parts = dict(self.parts)
        for name, part in self.rewards.items():
            if isinstance(part, Mix):
                parts[name] = registry.to_config(part.with_reward_model(folder))
            elif getattr(part, "stages", ()):
                parts[name] = registry.to_config(part) | {"path": str(folder)}
        return dataclasses.replace(self, parts=parts)

    def in_words(self) -> str:
        """For a plan: `0.5 · a (length) + 1 · b (learned), shadow c (random)`."""
        plugin = {name: registry.to_config(part)["name"] for name, part in self.rewards.items()}
        weights = self.all_weights
        if self.combine == "gate":
            safety, helpful = str(self.gate.safety), str(self.gate.helpful)
            value = (
                f"gate: {safety} ({plugin[safety]}) below {self.gate.threshold:g}, else {helpful} ({plugin[helpful]})"
            )
        elif self.combine == "min":
            value = f"the lowest of {', '.join(f'{name} ({plugin[name]})' for name in self.counted)}"
        elif self.combine == "product":
            value = " · ".join(f"{name} ({plugin[name]})^{weights[name]:g}" for name in self.counted)
        else:
            value = " + ".join(f"{weights[name]:g} · {name} ({plugin[name]})" for name in self.counted)
            if self.combine == "mean":
                value = f"mean of {value}" + (f" − {self.disagreement:g} · variance" if self.disagreement else "")
        return ", ".join([value, *(f"shadow {name} ({plugin[name]})" for name in self.shadow)])

    # --- at work ------------------------------------------------------------------------------------------------------

    def open(self, ctx: Context) -> OpenMix:
        """With every part opened; what `calibrate` measures is kept in the run folder."""
        return self._opened(ctx, ctx.run_dir)

    def _opened(self, ctx: Context, run_dir: Path | None) -> OpenMix:
        from .mix_open import OpenMix

        opened: dict[str, Any] = {}
        for name, part in self.rewards.items():
            if isinstance(part, Mix):
                opened[name] = part._opened(ctx, None)
            else:
                opened[name] = part.open(ctx) if callable(getattr(part, "open", None)) else part
        return OpenMix(self, opened, run_dir)

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Score]:
        """Outside of a run, for parts that need no model."""
        return self.open(Context()).score(samples, **columns)

    # --- what it refuses ----------------------------------------------------------------------------------------------

    def _check_names(self) -> None:
        """Every name is one of a part, and no setting of a shadow is one that would do nothing."""
        if not self.rewards:
            raise ConfigError(
                "a mix has no parts", where="reward=mix", fix="+reward@reward.parts.a=length +reward.weights.a=0.5"
            )
        given: dict[str, Mapping[str, Any]] = {"weights": read_weights(self.weights), "clip": self.clips}
        given["normalise"] = {name: how for name, how in self.normalise.items() if how is not None}
        given["squash"] = {name: how for name, how in self.squash.items() if how is not None}
        for setting, names in given.items():
            for name in names:
                refuse_unknown(str(name), self.rewards, f"reward.{setting}.{name}")
                if name in self.shadow:
                    raise ConfigError(
                        f"part '{name}' is a shadow: it is reported as it is and never part of the value",
                        where=f"reward.{setting}.{name}", fix=f"reward.{setting}.{name}=null, or take it out of reward.shadow",
                    )  # fmt: skip
        for name, how in given["normalise"].items():
            refuse_unknown(str(how), ("none", "reference"), f"reward.normalise.{name}", "choice")
        for name, how in given["squash"].items():
            refuse_unknown(str(how), ("none", "sigmoid"), f"reward.squash.{name}", "choice")
        for name in self.shadow:
            refuse_unknown(name, self.rewards, f"reward.shadow=[{','.join(self.shadow)}]")
        if not self.counted:
            raise ConfigError(
                "every part of the mix is a shadow: nothing is left to train on", where="reward.shadow",
                fix="take a part out of reward.shadow",
            )  # fmt: skip

    def _check_combination(self) -> None:
        """What each way of combining takes, and nothing that it would pass over."""
        if not (math.isfinite(self.disagreement) and self.disagreement >= 0):
            raise ConfigError(
                f"disagreement is {self.disagreement:g}", where="reward.disagreement", fix="a number from 0 on"
            )
        if self.disagreement and self.combine != "mean":
            raise ConfigError(
                f"what the parts disagree is taken off a mean, and combine={self.combine}", where="reward.disagreement",
                fix="reward.combine=mean, or reward.disagreement=0",
            )  # fmt: skip
        if self.missing_part == "skip" and self.combine != "sum":
            raise ConfigError(
                f"only a sum can do without a part, and combine={self.combine}", where="reward.missing_part=skip",
                fix="reward.missing_part=none, or reward.combine=sum",
            )  # fmt: skip
        if self.combine == "gate":
            self._check_gate()
            return
        if Gate() != self.gate:
            raise ConfigError(
                f"the gate has settings, and combine={self.combine} has no gate", where="reward.gate",
                fix="reward.combine=gate, or leave reward.gate out",
            )  # fmt: skip
        weights = self.all_weights
        if not any(weights.values()):
            raise ConfigError(
                "every weight is 0: the reward would be constant", where="reward.weights", fix="weigh one"
            )
        below = [name for name, weight in weights.items() if weight < 0 and self.combine in ("mean", "product")]
        if below:
            what = "in a product it is an exponent" if self.combine == "product" else "in a mean it is a share"
            raise ConfigError(
                f"the weight of part '{below[0]}' is {weights[below[0]]:g}: {what}, from 0 on",
                where=f"reward.weights.{below[0]}", fix="a weight from 0 on, or reward.combine=sum",
            )  # fmt: skip
        if self.combine == "min" and (weighed := [name for name, weight in weights.items() if weight != 1]):
            raise ConfigError(
                "the lowest of the parts weighs nothing", where=f"reward.weights.{weighed[0]}",
                fix=f"leave it out; reward.shadow=[{weighed[0]}] watches a part without its counting",
            )  # fmt: skip

    def _check_gate(self) -> None:
        gate = self.gate
        for use in ("safety", "helpful"):
            name = getattr(gate, use)
            if name is None:
                raise ConfigError(
                    f"the gate has no {use} part", where=f"reward.gate.{use}",
                    fix=f"reward.gate.{use}=NAME, one of {', '.join(self.counted)}",
                )  # fmt: skip
            refuse_unknown(name, self.counted, f"reward.gate.{use}={name}")
        if gate.safety == gate.helpful:
            raise ConfigError("the gate's two parts are one", where="reward.gate", fix="name two different parts")
        if idle := [name for name in self.counted if name not in (gate.safety, gate.helpful)]:
            raise ConfigError(
                f"part '{idle[0]}' has no place in the gate", where=f"reward.parts.{idle[0]}",
                fix=f"reward.shadow=[{idle[0]}] to watch it, or put it with others into a mix that is a part of the gate",
            )  # fmt: skip
        if weights := read_weights(self.weights):
            raise ConfigError(
                "a gate chooses between its parts and weighs nothing", where=f"reward.weights.{next(iter(weights))}",
                fix="leave reward.weights out",
            )  # fmt: skip
        if self.squashed and gate.values == "logits":
            raise ConfigError(
                f"a gate of logits takes their sigmoid itself, and part '{self.squashed[0]}' would be squashed twice",
                where=f"reward.squash.{self.squashed[0]}",
                fix="leave reward.squash out; or reward.gate.values=probabilities, and squash each part that gives a logit",
            )  # fmt: skip
        if gate.value is not None and gate.column is None:
            raise ConfigError(
                f"no column is named that could hold '{gate.value}'",
                where="reward.gate.value",
                fix="reward.gate.column=NAME",
            )
        if not 0 <= gate.threshold <= 1:
            raise ConfigError(
                f"the gate's threshold is {gate.threshold:g}, and it is a probability",
                where="reward.gate.threshold", fix="from 0 to 1; Llama 2 used 0.15",
            )  # fmt: skip
        refuse_unknown(gate.values, ("logits", "probabilities"), "reward.gate.values", "choice")

    def _check_inner_gates(self) -> None:
        """What goes by the batch is the outermost value alone: whitened inside, a part would mean something else in each."""
        for name, part in self.rewards.items():
            if isinstance(part, Mix) and part.combine == "gate" and part.gate.whiten:
                raise ConfigError(
                    "a gate inside a mix cannot whiten: its share of the value would change from batch to batch",
                    where=f"reward.parts.{name}.gate.whiten",
                    fix=f"reward.parts.{name}.gate.whiten=false; reward.normalise.{name}=reference gives it mean 0 and deviation 1",
                )  # fmt: skip
