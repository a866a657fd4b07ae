"""A judge's labels for the reward model: which comparisons it is asked about, and what it came to.

    reward_model.pairs=dataset    comparisons and labels as the data has them
    reward_model.pairs=relabel    the data's two answers, compared anew by the run's judge
    reward_model.pairs=rollouts   `ai_labels.samples_per_prompt` answers of the SFT policy, every two of them compared

`ai_labels.keep_dataset` keeps people's labels on a share of the prompts (a hybrid, as Bai et al. 2022 §4.1 have it). What the
reward model is judged on stays as the data has it: held-out labels are never the judge's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import reward_labels
from rlhf_lora.comparison import wilson
from rlhf_lora.comparison_rows import Row, Sampled, comparison_id, in_a_coins_order, newest, pair_of
from rlhf_lora.records import Comparison, Pair, Prompt
from rlhf_lora.splits import Splits

KINDS_OF_REASONS = 8
"""Reasons why a verdict could not be read that are counted apart; the rest is "other"."""


@dataclass(frozen=True)
class Work:
    """What a stage `labels` has to do.

    Attributes:
        kept: pairs whose label stays the data's.
        people: pairs whose answers are compared anew; empty with `rollouts`.
        prompts: what the SFT policy answers, for `rollouts`.
    """

    kept: Sequence[Pair]
    people: Sequence[Pair] = ()
    prompts: Sequence[Prompt] = ()

    @property
    def rows(self) -> int:
        """What the stage works on: pairs to compare anew, or prompts to answer."""
        return len(self.people) + len(self.prompts)

    def most_pairs(self, samples_per_prompt: int) -> int:
        """What the reward model learns from if no verdict is a tie, and no two answers are the same."""
        each = samples_per_prompt * (samples_per_prompt - 1) // 2
        return len(self.kept) + len(self.people) + len(self.prompts) * each


def work_of(config: DictConfig, splits: Splits) -> Work:
    """Of the reward model's split, as `reward_model.half`, `reward_model.rows` and `ai_labels` name it."""
    settings, how = config.ai_labels, config.reward_model.pairs
    pairs: Sequence[Pair] = splits.pairs
    prompts = list({pair.prompt.text: pair.prompt for pair in pairs}.values()) or list(splits.prompts)
    if settings.prompts is not None:
        first = {prompt.text for prompt in prompts[: settings.prompts]}
        pairs, prompts = [p for p in pairs if p.prompt.text in first], prompts[: settings.prompts]
    if how == "relabel":
        pairs = reward_labels.asked_for(pairs, config.reward_model)
    kept = [pair for pair in pairs if _keeps(pair.prompt, settings.keep_dataset)]
    if how == "relabel":
        return Work(kept, people=[p for p in pairs if not _keeps(p.prompt, settings.keep_dataset)])
    if pairs:
        prompts = [prompt for prompt in prompts if not _keeps(prompt, settings.keep_dataset)]
    return Work(kept, prompts=reward_labels.asked_for(prompts, config.reward_model))


def asked(people: Sequence[Pair]) -> list[Comparison]:
    """The data's pairs as comparisons, in an order that does not know their label."""
    return [in_a_coins_order(pair.prompt, pair.chosen, pair.rejected) for pair in people]


def learned_from(
    kept: Sequence[Pair],
    comparisons: Sequence[Comparison],
    rows: Sequence[Row],
    hard: bool,
    sampled: Sampled | None = None,
) -> list[Pair]:
    """What the reward model learns from: kept labels, then the judge's, without ties and what could not be read."""
    said = newest(rows)
    made = [pair_of(one, said[comparison_id(one)], hard, sampled) for one in comparisons if comparison_id(one) in said]
    return [*kept, *(pair for pair in made if pair is not None)]


# --- figures ----------------------------------------------------------------------------------------------------------


Gold = Callable[[Sequence[tuple[Prompt, str]]], Sequence[float | None]]
"""Answers to prompts → their true values, None where the truth says nothing."""


def figures(
    comparisons: Sequence[Comparison], rows: Sequence[Row], people: Sequence[Pair], gold: Gold | None = None
) -> dict[str, Any]:  # fmt: skip
    """What came of the asking, for the summary.

    Args:
        rows: all of the file, those that were asked again too: each was a cost.
        people: the data's labels of the same answers, where there are any.
        gold: (prompt, answer) pairs → their true values, asked only now that every label is there.

    Returns:
        `asked`, `labels`, `ties`, `unread` with `unread_by` (reason → count), `calls`, `certainty` (mean of the larger of P
        and 1 - P among labels); with both orders `flips` (share whose orders chose different answers), `flips_labelled` (share
        that got a label all the same); `first_chosen` (share of what was read first among decided readings; ½ for a judge
        without a preference); `agreement` with the data's labels and `gold_agreement` with the truth, ties ½.
    """
    said: Mapping[str, Row] = newest(rows)
    mine = [said[comparison_id(one)] for one in comparisons if comparison_id(one) in said]
    read = [row for row in mine if "label" in row]
    labels = [row for row in read if row["label"] != "tie"]
    found: dict[str, Any] = {
        "asked": len(mine), "labels": len(labels), "ties": len(read) - len(labels), "unread": len(mine) - len(read),
        "calls": sum(row["more"]["calls"] for row in rows if "kind" in row),
    }  # fmt: skip
    if len(read) < len(mine):
        found["unread_by"] = _by_reason([row["skipped"] for row in mine if "label" not in row])
    if labels:
        found["certainty"] = sum(max(row["p"], 1 - row["p"]) for row in labels) / len(labels)
    found |= _of_the_order(mine)
    found |= _against_people(comparisons, said, people)
    if gold is not None:
        found |= _against_gold(comparisons, said, gold)
    return found


def _of_the_order(rows: Sequence[Row]) -> dict[str, Any]:
    """How much reading one answer first did."""
    both = [row for row in rows if "flipped" in row["more"]]
    found: dict[str, Any] = {}
    if both:
        flipped = [row for row in both if row["more"]["flipped"]]
        found["flips"] = len(flipped) / len(both)
        found["flips_labelled"] = sum(row["label"] != "tie" for row in flipped) / len(both)
    once = [row["p"] for row in rows if row["order"] == "AB" and "label" in row]
    said = [*once, *(row["p_orders"][0] for row in both), *(1 - row["p_orders"][1] for row in both)]
    if decided := [p for p in said if p != 0.5]:
        found["first_chosen"] = sum(p > 0.5 for p in decided) / len(decided)
    return found


def _against_people(
    comparisons: Sequence[Comparison], said: Mapping[str, Row], people: Sequence[Pair]
) -> dict[str, Any]:  # fmt: skip
    chosen = {(pair.prompt.text, pair.chosen, pair.rejected) for pair in people}
    rights = []
    for one in comparisons:
        choice = said.get(comparison_id(one), {}).get("label")
        is_a, is_b = (one.prompt.text, one.a, one.b) in chosen, (one.prompt.text, one.b, one.a) in chosen
        if choice is not None and is_a != is_b:
            rights.append(0.5 if choice == "tie" else float((choice == "A") == is_a))
    return _agreement("agreement", rights)


def _against_gold(comparisons: Sequence[Comparison], said: Mapping[str, Row], gold: Gold) -> dict[str, Any]:
    ours = [one for one in comparisons if said.get(comparison_id(one), {}).get("label") is not None]
    a = gold([(one.prompt, one.a) for one in ours])
    b = gold([(one.prompt, one.b) for one in ours])
    rights = []
    for one, x, y in zip(ours, a, b, strict=True):
        if x is not None and y is not None and x != y:
            choice = said[comparison_id(one)]["label"]
            rights.append(0.5 if choice == "tie" else float((choice == "A") == (x > y)))
    return _agreement("gold_agreement", rights)


def _agreement(name: str, rights: Sequence[float]) -> dict[str, Any]:
    if not rights:
        return {}
    right, count = sum(rights), len(rights)
    return {name: right / count, f"{name}_ci95": list(wilson(right, count)), f"{name}_of": count}


def _by_reason(reasons: Sequence[str]) -> dict[str, int]:
    """By what stands before the first colon or semicolon: details (a number, a server's words) would make each its own."""
    counts = Counter(reason.partition(":")[0].partition(";")[0].strip() or "no verdict" for reason in reasons)
    common = counts.most_common(KINDS_OF_REASONS)
    rest = len(reasons) - sum(count for _, count in common)
    return dict(common) | ({"other": rest} if rest else {})


def _keeps(prompt: Prompt, share: float) -> bool:
    """Whether a prompt is among the share whose labels stay people's: by its hash, so that all its pairs stay together."""
    digest = hashlib.sha256(b"rlhf_lora kept label\n" + prompt.split_key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") < share * 2**48
