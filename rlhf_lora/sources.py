"""Which dataset each stage reads: one for all of them, or one of a stage's own (`sft.dataset=jsonl sft.dataset.path=FILE`).

A stage's own dataset gives what the stage learns from and what it is judged on: demonstrations for SFT, pairs for the
reward model, prompts (for DPO: pairs) and the prompts of the evaluation for the policy. The buckets of the tuning and final
splits are kept out of every training, and so is every prompt that any of the datasets is judged on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import registry
from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.mini import bases
from rlhf_lora.records import Data
from rlhf_lora.reward_labels import may_read_labels
from rlhf_lora.schema import OWN_DATASETS
from rlhf_lora.splits import TRAINED, Name, Shares, Splits, joined, split

SHARE = {"sft": "sft", "demonstrations": "sft"} | dict.fromkeys(("reward_model", "pairs", "labels"), "reward_model")
"""The split that a stage, or an optimizer that learns from existing rows, is trained on; on-policy: prompts."""


@dataclass(frozen=True)
class Source:
    """One dataset of a run.

    Attributes:
        setting: where the configuration names it: `dataset`, or `sft.dataset`.
        splits: of this dataset alone.
    """

    setting: str
    dataset: Any
    data: Data
    splits: Splits

    @property
    def stage(self) -> str | None:
        """Whose own it is; None for the one that all others share."""
        return self.setting.partition(".")[0] if "." in self.setting else None


@dataclass(frozen=True)
class Sources:
    """All datasets of a run, and what the stages get of them.

    Attributes:
        splits: what SFT, the reward model and the on-policy loop learn from, and what is judged on.
        existing: what an optimizer that learns from existing rows (DPO) reads.
        data: the dataset that stages share; empty when each has its own. `gold` holds for all that is judged on.
    """

    every: tuple[Source, ...]
    splits: Splits
    existing: Splits
    data: Data

    def fingerprints(self) -> dict[str, str]:
        """By content, for the run's inputs: all that stages read, and each stage's own dataset by name."""
        own = {f"the data of {s.stage}": s.splits.fingerprint() for s in self.every if s.stage}
        return {"the data": self.splits.fingerprint(), **own}

    def named(self, stage: str) -> str:
        """The setting of the dataset that a stage reads."""
        return next((source.setting for source in self.every if source.stage == stage), "dataset")


def built(config: DictConfig, dataset: Any) -> dict[str, Any]:
    """Setting → dataset object, the shared one first. Seeds that were left open follow the run's.

    Raises:
        ConfigError: settings that the dataset refuses; a file for the embedded base, which knows no words but its own.
    """
    found = {"dataset": dataset}
    for stage in OWN_DATASETS:
        node, setting = config[stage].dataset, f"{stage}.dataset"
        if node is None:
            continue
        if "seed" in node and node.seed is None:
            node.seed = config.seed
        with _named(stage):
            found[setting] = own = registry.build("dataset", node)
        if config.model.path is None and bases.task_of(own) != bases.task_of(dataset):
            raise ConfigError(
                f"the embedded base knows only the words of dataset={config.dataset.name}, not those of {setting}={node.name}",
                where="model.path=null",
                fix="give a model: model.path=FOLDER, or a preset such as model=qwen3_0_6b"
                + (
                    f"; {setting}.mini_task={bases.task_of(dataset)} where the answers are of that task"
                    if hasattr(own, "mini_task") and bases.task_of(dataset)
                    else ""
                ),
            )
    return found


def read(
    config: DictConfig, datasets: Mapping[str, Any], load: Callable[[Any], Data], stages: Sequence[str], learns_from: str | None
) -> Sources:  # fmt: skip
    """Load the datasets and share them out.

    Args:
        stages: those that may run. learns_from: what an off-policy optimizer reads; None for one that rolls out.

    Raises:
        DataError: of the datasets, with the setting that names the file. ConfigError: a dataset for a stage that does not run.
    """
    shares, policy_reads = Shares(**config.splits), SHARE.get(learns_from or "", "prompts")
    own = {setting.partition(".")[0]: dataset for setting, dataset in datasets.items() if setting != "dataset"}
    for stage in own:
        if stage not in stages:
            raise ConfigError(
                f"{stage}.dataset is given, and the stage {stage} does not run", where=f"{stage}.dataset",
                fix=f"leave it out, or have the stage run (the stages of this run: {', '.join(stages)})",
            )  # fmt: skip
    labels_read = learns_from == "labels" or ("reward_model" in stages and may_read_labels(config.reward_model.loss))
    every = [_own(stage, of, load, shares, SHARE.get(stage, policy_reads), labels_read) for stage, of in own.items()]
    main, data = Splits(shares=shares), Data()
    if not set(stages) <= own.keys():
        data = load(datasets["dataset"])
        taken = {SHARE.get(stage, "prompts") for stage in own}
        if learns_from and "policy" not in own:
            taken.discard(policy_reads)
        main = split(data, shares, [name for name in TRAINED if name not in taken], labels_read)
        every.insert(0, Source("dataset", datasets["dataset"], data, main))
    splits_of = {source.stage: source.splits for source in every if source.stage}
    splits = joined(main, splits_of)
    if learns_from and "policy" in splits_of:  # judged on as well: the reward that its policy implies
        splits = splits.without(splits_of["policy"].held_out())
    existing = splits_of.get("policy", main).without(splits.held_out()) if splits_of and learns_from else splits
    data_of = {source.stage: source.data for source in every}
    golds = {data_of.get(stage, data).gold for stage in ("reward_model", "policy") if stage in stages}
    data = dataclasses.replace(data, gold=next(iter(golds)) if len(golds) == 1 else None) if own else data
    return Sources(tuple(every), splits, existing, data)


def _own(
    stage: str, dataset: Any, load: Callable[[Any], Data], shares: Shares, use: str, labels_read: bool
) -> Source:  # fmt: skip
    with _named(stage):
        data = load(dataset)
    uses: list[Name] = [name for name in TRAINED if name == use]
    return Source(f"{stage}.dataset", dataset, data, split(data, shares, uses, labels_read))


@contextmanager
def _named(stage: str) -> Iterator[None]:
    """A dataset knows its settings as `dataset.path`; the user has given `sft.dataset.path`."""
    try:
        yield
    except UserError as error:
        what, where, fix = (
            re.sub(r"(?<![\w.@])dataset(?=[.=])", f"{stage}.dataset", t) for t in (error.what, error.where, error.fix)
        )
        raise type(error)(what, where=where, fix=fix) from error
