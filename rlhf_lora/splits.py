"""One file, five uses: which prompts train SFT, the reward model and the policy, and which are kept for judging.

A prompt's bucket (0-99) is a hash of its `split_key`, so a prompt lands in one split whatever file, order or machine
it comes from, and so do all rows that share it. From the bottom: SFT, reward model, prompts, tuning, final.

    sft            demonstrations (of pairs alone: their chosen answers)   → SFT
    reward_model   pairs, rankings, ratings, labels                        → reward model; DPO: pairs
    prompts        prompts alone                                           → the on-policy loop
    tuning         prompts, and pairs, ratings and labels for choosing settings
    final          prompts, and pairs, ratings and labels that are judged once, at the end

A share that the data cannot fill is given to one that it can: prompts alone all go to the on-policy loop. Labels (replies
called good or bad) fill the reward model's only where a reward model or an optimizer of the run learns from them: else the
replies called good are demonstrations, and the share is SFT's.

A stage may read a dataset of its own (`split(own, shares, uses=…)`): then it gets all of it but the buckets of tuning and
final, and `joined` takes from every stage the prompts that are held out in any of the datasets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rlhf_lora.derived_rows import good_answers, prompts_of, prompts_of_rows, repeated, with_pairs
from rlhf_lora.errors import ConfigError, ContractError
from rlhf_lora.records import Data, Demonstration, Label, Pair, Prompt, Ranking, Rating, Unused, prompt_of

Name = Literal["sft", "reward_model", "prompts", "tuning", "final"]
Row = TypeVar("Row", Demonstration, Pair, Label, Ranking, Rating)

TRAINED: tuple[Name, ...] = ("sft", "reward_model", "prompts")
"""The splits that are learned from, as against those that are judged on."""

SALT = "rlhf_lora split\n"
"""Public slices are often cut by the bare hash of the prompt already; a split by the same hash would find whole shares
of such a file empty. With a salt the two cuts are independent."""


def bucket(key: str, salt: str = SALT) -> int:
    """0 to 99: where a prompt falls, the same on every machine."""
    digest = hashlib.sha256((salt + key).encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:8], 16) % 100


@dataclass(frozen=True)
class Shares:
    """Per cent of the prompts that each use gets.

    Raises:
        ConfigError: a share is negative or not whole, or they do not add up to 100.
    """

    sft: int = 15
    reward_model: int = 50
    prompts: int = 25
    tuning: int = 5
    final: int = 5

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if isinstance(share, bool) or not isinstance(share, int) or share < 0:
                raise ConfigError(
                    f"the share {name} is {share!r}",
                    where=f"splits.{name}",
                    fix="give a whole number of per cent, 0 to 100",
                )
        total = sum(vars(self).values())
        if total != 100:
            listed = ", ".join(f"{name} {share}" for name, share in vars(self).items())
            raise ConfigError(
                f"the shares add up to {total} per cent", where=f"splits: {listed}", fix="make them add up to 100"
            )

    def of(self, key: str) -> Name:
        """The split of a prompt."""
        position, upto = bucket(key), 0
        names: tuple[Name, ...] = ("sft", "reward_model", "prompts", "tuning")
        for name in names:
            upto += getattr(self, name)
            if position < upto:
                return name
        return "final"

    def fitted(self, data: Data, uses: Sequence[Name] = TRAINED, labels_read: bool = False) -> Shares:
        """These shares, with those that `data` has no rows for, and those that are not among `uses`, given to others.

        With a test set of its own nothing of the rest is kept back for the final evaluation.
        """
        comparisons = bool(data.pairs or data.ratings) or (labels_read and bool(data.labels))
        answers = bool(data.pairs or data.labels or data.demonstrations)
        share = dict(vars(self))
        spare = sum(share.pop(name) for name in TRAINED if name not in uses)
        share = dict.fromkeys(TRAINED, 0) | share
        share[max(uses, key=lambda name: share[name])] += spare

        def give(name: Name, *takers: Name) -> None:
            taker = next((t for t in takers if share[t]), "prompts")
            share[taker], share[name] = share[taker] + share[name], 0

        if data.test is not None:
            give("final", "reward_model", "prompts", *uses)
        if not comparisons:
            give("reward_model", *(("sft",) if answers else ()))
        if not answers:
            give("sft", "prompts")
        return Shares(**share)


@dataclass(frozen=True)
class Splits:
    """What each use gets. Any list may be empty; `counts` says how long they are.

    Of one dataset no prompt is in two of them; of several `joined` ones, none that is trained on is judged on.

    Attributes:
        unused: rows that no split holds, each with its reason: those of the data, of its test set, and rows of the
            data whose prompt is in the test set too.
        shares: the shares as they were applied, in per cent.
    """

    demonstrations: Sequence[Demonstration] = ()
    pairs: Sequence[Pair] = ()
    labels: Sequence[Label] = ()
    prompts: Sequence[Prompt] = ()
    tuning_prompts: Sequence[Prompt] = ()
    tuning_pairs: Sequence[Pair] = ()
    final_prompts: Sequence[Prompt] = ()
    final_pairs: Sequence[Pair] = ()
    unused: Sequence[Unused] = ()
    shares: Shares = Shares()
    rankings: Sequence[Ranking] = ()
    ratings: Sequence[Rating] = ()
    tuning_ratings: Sequence[Rating] = ()
    final_ratings: Sequence[Rating] = ()
    tuning_labels: Sequence[Label] = ()
    final_labels: Sequence[Label] = ()

    @property
    def choices(self) -> Sequence[Ranking]:
        """The rankings that have a single best answer."""
        return [ranking for ranking in self.rankings if ranking.best is not None]

    def counts(self) -> dict[str, int]:
        """Rows in each list, for the plan."""
        return {f.name: len(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "shares"}

    def fingerprint(self, *names: str) -> str:
        """SHA-256 over the contents of the lists called `names`, in order; over all that are trained on or judged when
        none is named. A stage's cache key takes those it reads, so that other rows may change without redoing it.

        Raises:
            ContractError: a dataset put something into a prompt's columns that JSON cannot hold.
        """
        digest = hashlib.sha256()
        for name in names or [name for name in self.counts() if name != "unused"]:
            digest.update(f"{name} {len(getattr(self, name))}\n".encode())
            for row in getattr(self, name):
                digest.update(json.dumps(row, default=_plain, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def held_out(self) -> set[str]:
        """Split keys and texts of all prompts that are judged on: another file may not know their groups."""
        rows: tuple[Pair | Rating | Label, ...] = (
            *self.tuning_pairs,
            *self.final_pairs,
            *self.tuning_ratings,
            *self.final_ratings,
            *self.tuning_labels,
            *self.final_labels,
        )
        prompts = (*self.tuning_prompts, *self.final_prompts, *(row.prompt for row in rows))
        return set().union(*map(_names, prompts))

    def without(self, keys: set[str]) -> Splits:
        """Trained on without the prompts of these split keys or texts; what goes is in `unused`."""
        kept: dict[str, list[Any]] = {}
        gone: list[Unused] = []
        for name in ("demonstrations", "pairs", "labels", "prompts", "rankings", "ratings"):
            rows = getattr(self, name)
            kept[name] = [row for row in rows if keys.isdisjoint(_names(prompt_of(row)))]
            why = f"among the {name}, and its prompt is held out for judging in another dataset"
            gone += [
                Unused(f"prompt {prompt_of(row).id}", why)
                for row in rows
                if not keys.isdisjoint(_names(prompt_of(row)))
            ]
        return dataclasses.replace(self, **kept, unused=[*self.unused, *gone])  # type: ignore[arg-type]


def split(
    data: Data, shares: Shares | None = None, uses: Sequence[Name] = TRAINED, labels_read: bool = False
) -> Splits:
    """Give each row of `data` to one use, by the hash of its prompt. Order is kept; lists of prompts hold each once.

    Args:
        uses: what it is trained on for; the shares of other trainings go to these.
        labels_read: whether a reward model or an optimizer of this run may learn from labels.
    """
    data, leaked = _without_test_prompts(with_pairs(data))
    applied = (shares or Shares()).fitted(data, uses, labels_read)

    def rows(of: Sequence[Row], name: Name) -> list[Row]:
        return [row for row in of if applied.of(row.prompt.split_key) == name]

    every = prompts_of(data)
    test = data.test
    part = {name: [p for p in every if applied.of(p.split_key) == name] for name in ("prompts", "tuning", "final")}
    return Splits(
        demonstrations=rows(data.demonstrations, "sft")
        if data.demonstrations
        else good_answers(data, lambda of: rows(of, "sft")),
        pairs=rows(data.pairs, "reward_model"),
        labels=rows(data.labels, "reward_model"),
        prompts=part["prompts"],
        tuning_prompts=part["tuning"],
        tuning_pairs=_decided(rows(data.pairs, "tuning")),
        final_prompts=part["final"] if test is None else prompts_of(test),
        final_pairs=_decided(rows(data.pairs, "final") if test is None else test.pairs),
        unused=[*data.unused, *repeated(data), *([*test.unused, *repeated(test)] if test else ()), *leaked],
        shares=applied,
        rankings=rows(data.rankings, "reward_model"),
        ratings=rows(data.ratings, "reward_model"),
        tuning_ratings=rows(data.ratings, "tuning"),
        final_ratings=rows(data.ratings, "final") if test is None else list(test.ratings),
        tuning_labels=rows(data.labels, "tuning"),
        final_labels=rows(data.labels, "final") if test is None else list(test.labels),
    )


def _names(prompt: Prompt) -> set[str]:
    """What a prompt is known by: its group, and its text, since a file of labels may name no group."""
    return {prompt.split_key, prompt.text.strip()}


def _decided(pairs: Sequence[Pair]) -> list[Pair]:
    """Those that can be judged on: of a tie either answer is as right."""
    return [pair for pair in pairs if pair.label > 0.5]


STAGE_LISTS = {
    "sft": ("demonstrations",),
    "reward_model": (
        "pairs",
        "labels",
        "rankings",
        "ratings",
        "tuning_pairs",
        "final_pairs",
        "tuning_ratings",
        "final_ratings",
        "tuning_labels",
        "final_labels",
    ),
    "policy": ("prompts", "tuning_prompts", "final_prompts"),
}
"""What a dataset of a stage's own replaces: what it learns from, and what it is judged on."""


def joined(main: Splits, own: Mapping[str, Splits]) -> Splits:
    """What the stages read when some of them (`own`: by stage) have a dataset of their own.

    Whatever the files: a prompt that one of them is judged on is taken from all trainings.
    """
    if not own:
        return main
    lists = {name: getattr(own.get(stage, main), name) for stage, names in STAGE_LISTS.items() for name in names}
    unused = [*main.unused, *(row for splits in own.values() for row in splits.unused)]
    together = Splits(**lists, unused=unused, shares=main.shares)
    return together.without(together.held_out())


def _without_test_prompts(data: Data) -> tuple[Data, list[Unused]]:
    """The data without rows whose prompt is in its test set, and those rows as unused."""
    if data.test is None:
        return data, []
    test = data.test
    held_out: set[str] = set().union(*map(_names, (*test.prompts, *prompts_of_rows(test))))
    leaked: list[Unused] = []

    def kept(rows: Sequence[Any]) -> list[Any]:
        inside = [row for row in rows if not held_out.isdisjoint(_names(prompt_of(row)))]
        leaked.extend(Unused(f"prompt {prompt_of(row).id}", "its prompt is in the test data too") for row in inside)
        return [row for row in rows if held_out.isdisjoint(_names(prompt_of(row)))]

    return dataclasses.replace(
        data,
        demonstrations=kept(data.demonstrations), pairs=kept(data.pairs), labels=kept(data.labels),
        prompts=kept(data.prompts), rankings=kept(data.rankings), ratings=kept(data.ratings),
    ), leaked  # fmt: skip


def _plain(thing: Any) -> Any:
    """A record as JSON: its fields in a list, behind its class name."""
    if dataclasses.is_dataclass(thing):
        return [type(thing).__name__, *(getattr(thing, f.name) for f in dataclasses.fields(thing))]
    if isinstance(thing, Mapping):
        return dict(thing)
    raise ContractError(
        f"a prompt's columns hold a {type(thing).__name__}, which JSON cannot; convert it in the dataset"
    )
