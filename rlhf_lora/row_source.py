"""Where the rows come from that a policy optimizer learns from, and what of the data it reads for them.

    own         it rolls out and learns from that (PPO, RLOO, GRPO)
    dataset     rows of the data as they are: pairs, labels, demonstrations
    pairs       of an optimizer of labels: the data's pairs, chosen good and rejected bad
    relabel     answers of the data, ordered by the reward
    rollouts    the policy's own answers, ordered by the reward

An off-policy optimizer says it with the setting that its class names as `rows_setting` (`optimizer.pairs`,
`optimizer.labels`), or with `rows_from`, where it knows but one way. Those that the reward makes are the stage `answers`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from rlhf_lora import registry
from rlhf_lora.errors import ConfigError
from rlhf_lora.feedback_plan import judge_settings
from rlhf_lora.records import Label, Pair
from rlhf_lora.reward_tree import every_reward
from rlhf_lora.sources import Sources
from rlhf_lora.splits import Splits


@dataclass(frozen=True)
class RowSource:
    """Attributes:
    name: one of the above, or `auto` until the data are read.
    learns_from: `pairs`, `labels` or `demonstrations`; None of an optimizer that rolls out itself.
    setting: where the user names it: `optimizer.pairs`; None where there is no choice.
    """

    name: str
    learns_from: str | None = None
    setting: str | None = None

    @property
    def is_own(self) -> bool:
        return self.learns_from is None

    @property
    def made(self) -> bool:
        """The stage `answers` makes the rows."""
        return self.name in ("relabel", "rollouts")

    @property
    def asks_reward(self) -> bool:
        """The reward takes part in training, not in the evaluation alone."""
        return self.is_own or self.made

    @property
    def existing(self) -> str | None:
        """What it reads of the data: the list of that name, else prompts (None)."""
        if self.is_own or self.name == "rollouts":
            return None
        return "pairs" if self.name == "pairs" else self.learns_from

    @property
    def taught_by(self) -> str | None:
        """The labels of the data that it believes; None where the reward says what is good."""
        return None if self.asks_reward else self.existing


def of(optimizer: Any) -> RowSource:
    """Of a configuration node `{"name": …, fields…}`."""
    cls: Any = registry.lookup("optimizer", optimizer["name"]).cls
    learns_from = getattr(cls, "learns_from", None)
    if learns_from is None:
        return RowSource("own")
    setting = getattr(cls, "rows_setting", None)
    if setting is None:
        return RowSource(getattr(cls, "rows_from", "dataset"), learns_from)
    return RowSource(str(optimizer[setting]), learns_from, f"optimizer.{setting}")


def choose(optimizer: Any, reward: Any) -> RowSource:
    """The same where the reward is known. `auto` with a reward that is not learned from the data's labels is `relabel`, and
    written back as that: every reward drives every optimizer."""
    source = of(optimizer)
    if source.name != "auto" or source.setting is None or learned_here(reward):
        return source
    return _written(optimizer, source, "relabel")


def settle(optimizer: Any, existing: Splits) -> RowSource:
    """The same once the data are read: an `auto` that is left is the data's own labels, and written back as that."""
    source = of(optimizer)
    if source.name != "auto" or source.setting is None:
        return source
    is_pairs = source.learns_from == "labels" and existing.pairs and not existing.labels
    return _written(optimizer, source, "pairs" if is_pairs else "dataset")


def _written(optimizer: Any, source: RowSource, name: str) -> RowSource:
    assert source.setting is not None
    optimizer[source.setting.partition(".")[2]] = name
    return RowSource(name, source.learns_from, source.setting)


def learned_here(reward: Any) -> bool:
    """Whether the reward is a model of this run, and nothing beside it: then the labels it would learn from can teach a
    policy directly."""
    return [one for _, one in every_reward(reward)] == [reward] and bool(getattr(reward, "stages", ()))


def check_reward(source: RowSource, config: Any, reward: Any) -> None:
    """What teaches the policy is what was chosen to.

    Raises:
        ConfigError: the data's own labels would teach it, and the reward that was given would not.
    """
    if source.asks_reward or learned_here(reward):
        return
    raise ConfigError(
        f"the policy would learn from the data's own labels, and reward={config.reward.name} has no part in them",
        where=f"{source.setting}={source.name}" if source.setting else f"optimizer={config.optimizer.name}",
        fix=f"{source.setting}=relabel or rollouts, which it orders; to judge a finished run by it: "
        f"rlhf-lora evaluate RUN reward={config.reward.name}",
    )  # fmt: skip


def reads(source: RowSource, existing: Splits) -> str:
    """The list of `Splits` that is read: pairs are relabelled where an optimizer of labels finds no labels."""
    if source.name == "relabel" and source.existing == "labels" and not existing.labels:
        return "pairs"
    return source.existing or "prompts"


def deciding(source: RowSource, config: Any, read: Sources, inputs: Mapping[str, str], judge: Any) -> list[Any]:
    """What decides what `answers` gives, beside where the policy starts and the reward model: for its key."""
    optimizer, listed = config.optimizer, reads(source, read.existing)
    asked = (
        [source.name, optimizer.samples_per_prompt, optimizer.prompts] if source.name == "rollouts" else [source.name]
    )
    splits = read.splits if listed == "prompts" else read.existing
    kinds = [
        OmegaConf.to_container(config.reward),
        judge_settings(config, judge),
        OmegaConf.to_container(config.rollout),
    ]
    plugins = [what for name, what in inputs.items() if name.startswith("the plugin")]
    limits = [config.max_prompt_tokens, config.hardware.rollout_batch, config.hardware.micro_batch]
    scoring = OmegaConf.to_container(config.scoring)
    return [*asked, splits.fingerprint(listed), read.data.gold, kinds, plugins, limits, scoring]


def as_labels(pairs: Sequence[Pair]) -> list[Label]:
    """Both answers of each pair that is no tie: the chosen one good, the rejected one bad. An answer that is good in one pair
    and bad in another is there as both: what people said of it."""
    return [
        Label(pair.prompt, answer, good, pair.finished[not good])
        for pair in pairs
        if pair.label != 0.5
        for answer, good in ((pair.chosen, True), (pair.rejected, False))
    ]
