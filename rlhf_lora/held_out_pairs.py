"""Held-out pairs and ratings: how often a reward orders two answers as people did, whether it was trained or a policy implies
it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.records import Pair, Sample
from rlhf_lora.splits import Splits
from rlhf_lora.stages.accuracy import accuracy, calibration, closeness, wilson


def judge_reward_model(
    spec: Any, folder: Path, splits: Splits, gold: Any = None, split: str = "final"
) -> dict[str, Any]:
    """Accuracy on held-out pairs beside the length baseline, calibration, and how near it comes to held-out ratings; then
    scale its scores to deviation 1.

    The scale (`reward.json`: gain and bias) comes from both answers of the tuning pairs, 512 pairs at most. Scores that
    were learned from ratings have a scale already, the labellers', and keep it.

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
    if "rating_mean" in scorer.info:
        ratings = splits.tuning_ratings if split == "tuning" else splits.final_ratings
        scores = scorer.score([rating.prompt for rating in ratings], [rating.completion for rating in ratings])
        return figures | closeness(scores, ratings, scorer.info["rating_mean"])
    if splits.tuning_pairs:
        chosen, rejected = _both_sides(scorer, splits.tuning_pairs[:512])
        if len({*chosen, *rejected}) > 1:
            reward_model.normalise(folder, [*chosen, *rejected])
    return figures


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
