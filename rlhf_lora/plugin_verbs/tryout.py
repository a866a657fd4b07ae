"""`rlhf-lora plugins try`: what a reward gives for some answers, in a table; without a model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from rlhf_lora import config, registry
from rlhf_lora.errors import ConfigError, PluginError
from rlhf_lora.plugin_verbs import rows
from rlhf_lora.plugin_verbs.table import parts_of, table, value_of
from rlhf_lora.records import Score
from rlhf_lora.stages.scoring import Scorer
from rlhf_lora.testing.findings import NeedsModel
from rlhf_lora.testing.subjects import open_without_model

MOST, ROWS = 1000, 5


def tryout(words: Sequence[str], options: Mapping[str, str], as_json: bool) -> int:
    """Score answers and print them.

    Raises:
        UserError: what was given is wrong. ContractError: the reward is broken.
    """
    if "--data" in options and "--run" in options:
        raise ConfigError("both --data and --run are given", where="plugins try", fix="one of them")
    count = _count(options.get("-n"))
    if "--to" in options and "--run" not in options:
        raise ConfigError("--to is for the page of a replay", where="--to", fix="give the run: --run RUN")
    with contextlib.closing(scorer_of(composed(words))) as scorer:
        if "--run" in options:
            from rlhf_lora.plugin_verbs.replay import replay

            return replay(scorer.name, scorer, options["--run"], options.get("--to"), count, as_json)
        given = rows.of_file(options["--data"], count) if "--data" in options else rows.own()[:count]
        scores = scorer([row.sample for row in given])
    if as_json:
        plain = [_plain(row, score) for row, score in zip(given, scores, strict=True)]
        print(json.dumps({"reward": scorer.name, "rows": plain}, indent=1))
    else:
        _show(scorer.name, given, scores)
    return 0


def composed(words: Sequence[str]) -> DictConfig:
    """The configuration that overrides describe, with a reward in it. A file with one reward needs no `reward=`.

    Raises:
        UserError: overrides that cannot be composed, or no reward is named.
    """
    files = [word for word in words if word.endswith(".py") and "=" not in word]
    overrides = [f"plugins=[{','.join(files)}]", *words] if files else list(words)
    overrides = [word for word in overrides if word not in files]
    stray = [word for word in overrides if "=" not in word]
    if stray:
        raise ConfigError(
            f"try takes overrides, not '{stray[0]}'", where=f"plugins try {stray[0]}",
            fix="rlhf-lora plugins try reward=NAME reward.setting=value --data FILE -n 5",
        )  # fmt: skip
    if not any(word.partition("=")[0] in ("reward", "+reward") for word in overrides):
        overrides.append(f"reward={_only_reward(config.plugin_files(overrides))}")
    return config.compose(*overrides)


def _only_reward(files: Sequence[str]) -> str:
    """The reward of the files that are named, when they have one only.

    Raises:
        ConfigError: none, or several.
    """
    from rlhf_lora.plugin_verbs.in_child import found as in_file

    entries = [entry for file in files for entry in in_file(file)]
    found = sorted({entry.name for entry in entries if entry.kind == "reward"})
    judges = [entry.name for entry in entries if entry.kind == "judge"]
    if judges and not found:
        raise ConfigError(
            f"'{judges[0]}' is a judge, and what is tried is a reward", where=f"plugins try {files[0]}",
            fix=f"hold it against labelled pairs: rlhf-lora evaluate plugins=[{files[0]}] judge={judges[0]} dataset=orders -n 20",
        )  # fmt: skip
    if len(found) != 1:
        raise ConfigError(
            "no reward is named" if not found else f"the file has {len(found)} rewards", where="plugins try",
            fix=f"reward=NAME; installed: {', '.join(found or registry.names('reward'))}",
        )  # fmt: skip
    return found[0]


def scorer_of(given: DictConfig) -> Scorer:
    """The reward opened where there is no model, with the deadline that a run would hold it to.

    Raises:
        PluginError: it needs one.
    """
    name, reward = str(given.reward.name), registry.build("reward", given.reward)
    judge = None if given.judge is None else registry.build("judge", given.judge)
    if judge is None and getattr(reward, "needs_judge", False):
        raise PluginError(
            f"the reward '{name}' asks a judge, and none is given", where="judge=null", fix="add judge=NAME"
        )
    try:
        source = open_without_model(reward, judge=judge)
        if not callable(getattr(source, "score", None)):
            raise NeedsModel("it compares with an answer of the reference")
        return Scorer(source, name, deadline=given.scoring.deadline)
    except NeedsModel as reason:
        raise PluginError(
            f"the reward '{name}' needs a model ({reason}), and this command loads none", where=f"reward={name}",
            fix=f"look at its scores in a run: rlhf-lora evaluate RUN reward={name}; or try a reward that reads text only",
        ) from None  # fmt: skip


def _count(text: str | None) -> int:
    if text is None:
        return ROWS
    if not text.isdigit() or not 1 <= int(text) <= MOST:
        raise ConfigError(f"-n is {text}", where="-n", fix=f"a whole number from 1 to {MOST}")
    return int(text)


def _plain(row: rows.Row, score: Score) -> dict[str, Any]:
    return {
        "row": row.number, "which": row.which, "prompt": row.sample.prompt, "answer": row.sample.text, "score": score.value,
        "parts": dict(score.parts), "kind": score.kind, "reason": score.reason,
    }  # fmt: skip


# --- for people -------------------------------------------------------------------------------------------------------


def _show(name: str, given: Sequence[rows.Row], scores: Sequence[Score]) -> None:
    lines = [
        (row.sample.prompt, row.which, row.sample.text, value_of(score), parts_of(score), score.reason)
        for row, score in zip(given, scores, strict=True)
    ]
    table(("prompt", "", "answer", "score", "parts", "why"), lines, (4, None, 5, None, 2, 3))
    values = [score.value for score in scores if score.value is not None]
    none = len(scores) - len(values)
    spread = (
        f"mean {sum(values) / len(values):.4g}, {min(values):.4g} to {max(values):.4g}" if values else "no score at all"
    )
    print(f"reward={name}: {len(scores)} answers, {spread}{f', {none} without a score' if none else ''}")
    apart = _pairs(given, scores)
    if apart:
        right = sum(a > b for a, b in apart)
        print(
            f"pairs: the chosen answer scores higher in {right} of {len(apart)}, the same in {sum(a == b for a, b in apart)}"
        )


def _pairs(given: Sequence[rows.Row], scores: Sequence[Score]) -> list[tuple[float, float]]:
    """(chosen, rejected) of the rows where both have a score."""
    found: dict[int, dict[str, float]] = {}
    for row, score in zip(given, scores, strict=True):
        if score.value is not None:
            found.setdefault(row.number, {})[row.which] = score.value
    return [(row["chosen"], row["rejected"]) for row in found.values() if {"chosen", "rejected"} <= row.keys()]
