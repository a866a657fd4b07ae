"""Best of n: the reference answers a prompt n times and the run's reward picks one. No training, a hard baseline.

A policy that wins no more than this at the same KL has learned nothing that sampling would not give. The KL of best of
n to the reference is at most log n − (n − 1)/n nats (Stiennon et al. 2020, arXiv 2009.01325, appendix G.3). It is a
bound and no more: with few probable answers the KL is lower (Beirami et al. 2024, arXiv 2401.01879).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_lora import progress
from rlhf_lora.comparison import compare, length_differences, mean_length
from rlhf_lora.records import Prompt, Sample, Score, named_seed

AT_ONCE = 512
"""Answers drawn before the best of them are kept and the rest forgotten: memory does not grow with n × prompts."""

Best = tuple[Sample, Score]


def kl_bound(n: int) -> float:
    """An upper bound of KL(best of n ‖ reference), in nats."""
    return math.log(n) - (n - 1) / n


def sizes(setting: Any) -> list[int]:
    """`evaluation.best_of_n` as a list, ascending: null, one number, or several.

    Raises:
        ValueError: something else, a number below 2, or one twice.
    """
    several = isinstance(setting, Sequence) and not isinstance(setting, str)
    given = [] if setting is None else list(setting) if several else [setting]
    if setting is not None and not given:
        raise ValueError("it is an empty list")
    for n in given:
        if isinstance(n, bool) or not isinstance(n, int):
            raise ValueError(f"{n!r} is no whole number")
        if n < 2:
            raise ValueError(f"the best of {n} is no choice")
    if len(set(given)) < len(given):
        raise ValueError("a number is there twice")
    return sorted(given)


def judge_best_of_n(
    backbone: Any, engine: Any, prompts: Sequence[Prompt], seed: int, scorers: Mapping[str, Any], ns: Sequence[int],
    reference: Sequence[Sample], theirs: Mapping[str, Sequence[Score]], between: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Draw max(ns) answers a prompt, and compare the best of the first n with the reference's single answers.

    The draws for a smaller n are the first of those for the largest, so figures of different n are not independent.

    Args:
        scorers: as for the policy; `score` does the choosing.
        reference, theirs: the single answers and their scores, which the policy is compared with too.
        between: called between chunks; may raise to leave.

    Returns:
        "n" → figures of `compare` by the reward, `gold` with those by the truth, `mean_length`, `kl_bound`, and
        `candidates_unscored` where the reward left an answer without a score; and a row of texts for each prompt.
    """
    best, unscored = _draw(backbone, engine, prompts, seed, scorers["score"], ns, between)
    rows: list[dict[str, Any]] = [{} for _ in prompts]
    found = {}
    for n in ns:
        places = [i for i, one in enumerate(best[n]) if one is not None]
        samples = [best[n][i][0] for i in places]  # type: ignore[index]
        figures: dict[str, Any] = {"kl_bound": kl_bound(n)}
        if samples:
            figures["mean_length"] = mean_length(samples)
        for name, scorer in scorers.items():
            told = [best[n][i][1] for i in places] if name == "score" else scorer(samples)  # type: ignore[index]
            figures_by = _against(places, samples, told, reference, theirs[name], seed)
            figures |= figures_by if name == "score" else {name: figures_by}
            for i, one in zip(places, told, strict=True):
                rows[i] |= {f"best_of_{n}_{name}": one.value}
        for i, sample in zip(places, samples, strict=True):
            rows[i][f"best_of_{n}_text"] = sample.text
        if unscored[n]:
            figures["candidates_unscored"] = unscored[n]
        found[str(n)] = figures
    return found, rows


def _draw(
    backbone: Any, engine: Any, prompts: Sequence[Prompt], seed: int, scorer: Any, ns: Sequence[int],
    between: Callable[[], None],
) -> tuple[dict[int, list[Best | None]], dict[int, int]]:  # fmt: skip
    """n → the best of the first n answers to each prompt, and how many of those answers had no score."""
    most = max(ns)
    best: dict[int, list[Best | None]] = {n: [] for n in ns}
    unscored = dict.fromkeys(ns, 0)
    size = max(1, AT_ONCE // most)
    for start in progress.track(range(0, len(prompts), size), f"best of {most}"):
        chunk = prompts[start : start + size]
        answers = engine.generate(backbone, chunk, most, _seed(seed, f"draw/{start}"), role="reference")
        scored = list(zip(answers, scorer(answers), strict=True))
        for i in range(len(chunk)):
            mine = scored[i * most : (i + 1) * most]
            for n in ns:
                best[n].append(pick(mine[:n], _seed(seed, f"tie/{start + i}/{n}")))
                unscored[n] += sum(score.value is None for _, score in mine[:n])
        between()
    return best, unscored


def pick(candidates: Sequence[Best], seed: int) -> Best | None:
    """The candidate with the highest score; among equals one by lot. None when no candidate has a score."""
    highest = max((score.value for _, score in candidates if score.value is not None), default=None)
    equals = [one for one in candidates if highest is not None and one[1].value == highest]
    return random.Random(seed).choice(equals) if equals else None


def _against(
    places: Sequence[int], samples: Sequence[Sample], told: Sequence[Score], reference: Sequence[Sample],
    theirs: Sequence[Score], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """`compare` over all prompts; one whose candidates all went without a score has no best, and counts as unscored."""
    ours = [Score.none("no answer had a score") for _ in reference]
    differences = [0.0] * len(reference)  # of what is not compared: not looked at
    at_places = length_differences(samples, [reference[i] for i in places])
    for i, one, difference in zip(places, told, at_places, strict=True):
        ours[i], differences[i] = one, difference
    return compare(ours, theirs, seed, differences)


def _seed(seed: int, stream: str) -> int:
    return named_seed(seed, f"best_of_n/{stream}")
