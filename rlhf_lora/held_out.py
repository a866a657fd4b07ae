"""Held-out pairs, ratings and labels: how often a reward orders two answers as people did, whether it was trained or a
policy implies it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.comparison import wilson
from rlhf_lora.records import Label, Pair, Sample
from rlhf_lora.splits import Splits
from rlhf_lora.stages import label_figures
from rlhf_lora.stages.accuracy import accuracy, calibration, closeness


def judge_reward_model(
    spec: Any, folder: Path, splits: Splits, gold: Any = None, split: str = "final"
) -> dict[str, Any]:
    """Accuracy on held-out pairs beside the length baseline, calibration, how near it comes to held-out ratings, and how well
    it tells held-out answers called good from those called bad; then scale its scores to deviation 1.

    The scale (`reward.json`: gain and bias) comes from both answers of the tuning pairs, 512 pairs at most. Scores that
    were learned from ratings or labels have a scale already, the labellers' or log-odds, and keep it.

    Args:
        split: whose pairs are judged, `final` or `tuning`.
        gold: scorer of the truth, where it is known; adds `gold_accuracy`, against the true order without its ties.
    """
    from rlhf_lora.stages import reward_model

    scorer = reward_model.Scorer(spec, folder)
    figures: dict[str, Any] = {}
    pairs = splits.tuning_pairs if split == "tuning" else splits.final_pairs
    if pairs:
        chosen, rejected = _both_sides(scorer, pairs)
        figures = _accuracies(chosen, rejected, pairs, gold) | calibration(chosen, rejected, pairs)
    figures |= _of_labels(scorer, splits, gold, split)
    if "logit_of" in scorer.info:
        return figures
    if "rating_mean" in scorer.info:
        ratings = splits.tuning_ratings if split == "tuning" else splits.final_ratings
        scores = scorer.score([rating.prompt for rating in ratings], [rating.completion for rating in ratings])
        return figures | closeness(scores, ratings, scorer.info["rating_mean"])
    if splits.tuning_pairs:
        chosen, rejected = _both_sides(scorer, splits.tuning_pairs[:512])
        if len({*chosen, *rejected}) > 1:
            reward_model.normalise(folder, [*chosen, *rejected])
    return figures


def _of_labels(scorer: Any, splits: Splits, gold: Any, split: str) -> dict[str, Any]:
    """How well good and bad are told apart. Labels of a rule that training has not seen are figures of their own
    (`labels_unseen`); where the final split then has no others, those of the tuning split stand for the rules it has."""
    judged = splits.tuning_labels if split == "tuning" else splits.final_labels
    trained: tuple[Any, ...] = (*splits.labels, *splits.pairs, *splits.rankings, *splits.ratings)
    known = {label_figures.rule_of(row) for row in trained}
    seen = [label for label in judged if label_figures.rule_of(label) in known]
    unseen = [label for label in judged if label_figures.rule_of(label) not in known]
    found = {"labels_of": "tuning"} if unseen and not seen and splits.tuning_labels else {}
    seen = list(splits.tuning_labels) if found else seen

    def figures(labels: Sequence[Label]) -> dict[str, Any]:
        scores = scorer.score([label.prompt for label in labels], [label.completion for label in labels])
        share = scorer.info["good_share"] if "logit_of" in scorer.info else None
        return label_figures.by_rule(scores, labels, share, _truth(labels, gold))

    found |= figures(seen) if seen else {}
    return found | ({"labels_unseen": figures(unseen)} if unseen else {})


def _truth(labels: Sequence[Label], gold: Any) -> Sequence[bool | None] | None:
    """Whether each answer is good in truth, where the truth has two values; None of one that it says nothing of."""
    if gold is None:
        return None
    asked = [Sample(label.prompt.text, label.completion, columns=label.prompt.columns) for label in labels]
    values = [score.value for score in gold(asked)]
    if len(two := sorted({value for value in values if value is not None})) != 2:
        return None
    return [None if value is None else value == two[1] for value in values]


def judge_implicit_reward(backbone: Any, pairs: Sequence[Pair], longest: int, gold: Any = None) -> dict[str, Any]:
    """The same figures for the reward that a policy implies: β (log π − log ρ) of an answer, whatever its β > 0.

    A policy that was fitted to pairs is a reward model too (Rafailov et al. 2023, eq. 5); here is how good a one.

    Args:
        longest: tokens of prompt and answer; pairs with a longer one are left out, and counted as `too_long`.

    Returns:
        As `stages.accuracy.accuracy`; the margin is in nats, without the β.
    """
    chat = backbone.chat
    prompts = [chat.prompt_ids(pair.prompt) for pair in pairs]
    chosen, rejected = (
        [chat.response_ids(reply, prompt=pair.prompt) for reply, pair in zip(replies, pairs, strict=True)]
        for replies in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    )
    kept = [i for i in range(len(pairs)) if len(prompts[i]) + max(len(chosen[i]), len(rejected[i])) <= longest]

    def rewards(replies: Sequence[Sequence[int]]) -> list[float]:
        ids = [prompts[i] for i in kept], [replies[i] for i in kept]
        policy, reference = (backbone.sequence_logprobs(role, *ids) for role in ("policy", "reference"))
        return [sum(ours) - sum(theirs) for ours, theirs in zip(policy, reference, strict=True)]

    left_out = {"too_long": len(pairs) - len(kept)} if len(kept) < len(pairs) else {}
    return _accuracies(rewards(chosen), rewards(rejected), [pairs[i] for i in kept], gold) | left_out


def _accuracies(
    chosen: Sequence[float], rejected: Sequence[float], pairs: Sequence[Pair], gold: Any
) -> dict[str, Any]:  # fmt: skip
    figures = accuracy(chosen, rejected, pairs)
    return figures if gold is None else figures | gold_accuracy(chosen, rejected, pairs, gold)


def gold_accuracy(
    chosen: Sequence[float], rejected: Sequence[float], pairs: Sequence[Pair], gold: Any
) -> dict[str, Any]:
    """Labels are noisy, the truth is not: how often the model orders a pair as the truth does, where that is no tie."""
    better = [score.value for score in gold([Sample(p.prompt.text, p.chosen, columns=p.prompt.columns) for p in pairs])]
    worse = [
        score.value for score in gold([Sample(p.prompt.text, p.rejected, columns=p.prompt.columns) for p in pairs])
    ]
    rights = [
        0.5 if c == r else float((c > r) == (a > b))
        for c, r, a, b in zip(chosen, rejected, better, worse, strict=True)
        if a is not None and b is not None and a != b
    ]
    if not rights:
        return {}
    share = sum(rights) / len(rights)
    return {
        "gold_accuracy": share,
        "gold_accuracy_ci95": list(wilson(sum(rights), len(rights))),
        "gold_pairs": len(rights),
    }


def _both_sides(scorer: Any, pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    prompts = [pair.prompt for pair in pairs]
    return scorer.score(prompts, [pair.chosen for pair in pairs]), scorer.score(
        prompts, [pair.rejected for pair in pairs]
    )
