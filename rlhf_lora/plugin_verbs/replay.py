"""`rlhf-lora plugins try --run RUN reward=mine`: what another reward would have said of the answers that a run kept."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.plugin_verbs import rows
from rlhf_lora.plugin_verbs.rows import Stored
from rlhf_lora.plugin_verbs.table import parts_of, table, value_of
from rlhf_lora.records import Score
from rlhf_lora.run_folder import find_run
from rlhf_lora.stages.scoring import Scorer

AT_ONCE = 256
"""Samples that are scored in one call, as a rollout would."""


@dataclass(frozen=True)
class Comparison:
    """Stored scores against new ones.

    Attributes:
        by_update: update → old mean, new mean, part → mean; of samples that have the score in question.
        correlation: Pearson's r over the samples that have both; None where it is not defined.
        rank_correlation: Spearman's.
        held_out: `reference` and `policy` → old mean and new mean.
        apart: sample numbers, those that both rank most differently first.
    """

    stored: Sequence[Stored]
    scores: Sequence[Score]
    by_update: dict[int, dict[str, Any]] = field(default_factory=dict)
    correlation: float | None = None
    rank_correlation: float | None = None
    held_out: dict[str, dict[str, float | None]] = field(default_factory=dict)
    apart: Sequence[int] = ()


def replay(name: str, scorer: Scorer, run: str, to: str | None, count: int, as_json: bool) -> int:
    """Score what a run kept, print old against new, and write the page.

    Raises:
        UserError: no such run, or no samples in it. ContractError: the reward is broken.
    """
    from rlhf_lora.report import replay as page

    folder = find_run(run)
    stored, note = rows.of_run(folder, scorer.columns)
    path = page_path(folder.path, name, to)
    _try_to_write(path)  # before a reward that may be slow or dear is asked
    found = compared(stored, scored(scorer, stored))
    old = str(folder.summary.get("reward") or (folder.config.get("reward") or {}).get("name") or "the run's reward")
    with writing(path):
        page.write(path, folder.name, old, name, found, count)
    if note:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(_plain(old, name, found, count) | {"page": str(path)}, indent=1))
        return 0
    _show(old, name, found, count)
    print(path)
    return 0


def scored(scorer: Scorer, stored: Sequence[Stored]) -> list[Score]:
    """A score for each; none where the columns that the reward asks for are not to be had for a sample. Where no sample has
    them, the reward is asked all the same and says so.

    Raises:
        DataError: the data lacks the columns. ContractError: the reward is broken.
    """
    have = [i for i, one in enumerate(stored) if set(scorer.columns) <= one.sample.columns.keys()] or range(len(stored))
    scores = [Score.none("its data row, and so its columns, cannot be told")] * len(stored)
    for start in range(0, len(have), AT_ONCE):
        at_once = have[start : start + AT_ONCE]
        for i, score in zip(at_once, scorer([stored[i].sample for i in at_once]), strict=True):
            scores[i] = score
    return scores


def compared(stored: Sequence[Stored], scores: Sequence[Score]) -> Comparison:
    """Means per update, how well the two agree, and where they do least."""
    both = [
        i for i, (one, score) in enumerate(zip(stored, scores, strict=True)) if None not in (one.score, score.value)
    ]
    old, new = [float(stored[i].score or 0) for i in both], [float(scores[i].value or 0) for i in both]
    old_ranks, new_ranks = ranks(old), ranks(new)
    order = sorted(range(len(both)), key=lambda k: -abs(old_ranks[k] - new_ranks[k]))
    by_update = {}
    for update in sorted({one.update for one in stored if one.update is not None}):
        by_update[update] = _means([i for i, one in enumerate(stored) if one.update == update], stored, scores)
    held_out = {}
    for who in ("reference", "policy"):
        index = [i for i, one in enumerate(stored) if one.update is None and one.who == who]
        if index:
            means = _means(index, stored, scores)
            held_out[who] = {"old": means["old"], "new": means["new"]}
    return Comparison(
        stored,
        scores,
        by_update,
        correlation(old, new),
        correlation(old_ranks, new_ranks),
        held_out,
        [both[k] for k in order],
    )


def _means(index: Sequence[int], stored: Sequence[Stored], scores: Sequence[Score]) -> dict[str, Any]:
    parts: dict[str, list[float]] = {}
    for i in index:
        for name, value in scores[i].parts.items():
            parts.setdefault(name, []).append(value)
    return {
        "samples": len(index),
        "old": _mean([then for i in index if (then := stored[i].score) is not None]),
        "new": _mean([now for i in index if (now := scores[i].value) is not None]),
        "missing": sum(scores[i].value is None for i in index),
        "parts": {name: _mean(values) for name, values in parts.items()},
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value from 0; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            found[place] = (start + end) / 2
        start = end + 1
    return found


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's r; None for fewer than three points or where one of them never changes."""
    if len(xs) < 3 or min(xs) == max(xs) or min(ys) == max(ys):  # a mean is rounded: a constant may differ from its own
        return None
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    under = math.sqrt(sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys))
    return over / under if under > 0 else None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says when a file cannot be written, as a message for the one who named it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}", where=f"--to {path}",
            fix="name a folder, or an .html file, that you may write: --to FOLDER",
        ) from error  # fmt: skip


def _try_to_write(path: Path) -> None:
    """Make the folder, and see that it takes a file. What is there already stays as it is."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def page_path(folder: Path, name: str, to: str | None) -> Path:
    """Where the page of a replay goes: the run folder, a folder, or a file."""
    path = Path(to) if to else folder
    return path if path.suffix == ".html" else path / f"replay-{name}.html"


# --- for people and programs ------------------------------------------------------------------------------------------


def _plain(old: str, new: str, found: Comparison, count: int) -> dict[str, Any]:
    return {
        "reward": new, "was": old, "samples": len(found.scores), "missing": sum(s.value is None for s in found.scores),
        "correlation": found.correlation, "rank_correlation": found.rank_correlation, "held_out": found.held_out,
        "by_update": [{"update": update, **means} for update, means in found.by_update.items()],
        "apart": [_line(found, i) for i in found.apart[:count]],
    }  # fmt: skip


def _line(found: Comparison, i: int) -> dict[str, Any]:
    one, score = found.stored[i], found.scores[i]
    return {
        "update": one.update, "prompt": one.sample.prompt, "answer": one.sample.text, "old": one.score, "new": score.value,
        "parts": dict(score.parts), "reason": score.reason,
    }  # fmt: skip


def _show(old: str, new: str, found: Comparison, count: int) -> None:
    lines = [[str(update), str(means["samples"]), figure(means["old"]), figure(means["new"]),
              ", ".join(f"{name} {figure(value)}" for name, value in means["parts"].items())]
             for update, means in found.by_update.items()]  # fmt: skip
    lines += [
        [f"held-out, {who}", "", figure(means["old"]), figure(means["new"]), ""]
        for who, means in found.held_out.items()
    ]
    table(
        ("update", "samples", old if old != new else f"{old} (then)", new, "parts"), lines, (None, None, None, None, 1)
    )
    print("\nwhere they rank answers most differently:")
    worst = [(found.stored[i], found.scores[i]) for i in found.apart[:count]]
    table(
        ("prompt", old if old != new else f"{old} (then)", "answer", new, "parts", "why"),
        [(one.sample.prompt, figure(one.score), one.sample.text, value_of(score), parts_of(score), score.reason)
         for one, score in worst],
        (4, None, 5, None, 2, 3),
    )  # fmt: skip
    print(summed_up(old, new, found))


def summed_up(old: str, new: str, found: Comparison) -> str:
    """One line: how many, how many without a score, how well the two agree."""
    missing = sum(score.value is None for score in found.scores)
    agree = "agreement not defined (one of them never changes, or too few)"
    if found.correlation is not None and found.rank_correlation is not None:
        agree = f"correlation {found.correlation:.3f}, of ranks {found.rank_correlation:.3f}"
    return f"{new} against {old} on {len(found.scores)} stored answers: {agree}; {missing} without a new score"


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
