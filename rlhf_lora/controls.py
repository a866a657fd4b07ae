"""Controls: runs that must come out empty-handed, and what makes a run one.

    random_reward     the reward knows nothing              the truth's win rate is at most 0.55
    flipped_reward    comparisons are learned upside down   right on fewer than half of the pairs; win rate ≤ 0.25
    shuffled_labels   comparisons are labelled by a coin    right on half of the held-out pairs (mean over seeds)
    no_learning       the policy's learning rate is 0       KL exactly 0; win rate one half

`control=NAME` sets them up (conf/control/); a run with the same settings is one whether it was asked for by name or not, and
its summary, report and model card say so. Labels are turned on the way into training alone: what is judged on stays as given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Label, Pair, Ranking, Rating

LABELS = ("as_given", "flipped", "shuffled")

MUST_GIVE = {
    "random_reward": "The reward knows nothing: wins by the truth must be 55 % at most, "
    "wins by the reward itself about one half.",
    "flipped_reward": "Comparisons were learned upside down: a reward model must be right on fewer than half of the held-out "
    "pairs, and wins by the truth must be 25 % at most.",
    "shuffled_labels": "Comparisons were labelled by a coin: accuracy on held-out pairs must be about one half, and one half "
    "in the mean over seeds.",
    "no_learning": "The policy's learning rate is 0: the KL must be exactly 0, and one half in the interval of a "
    "win rate, nineteen times of twenty.",
}
"""Control → what it is and what must come out, for people."""


def control_of(config: Mapping[str, Any]) -> str | None:
    """The control that a run is by its settings, whatever it was asked for as; None for a run that may have a result."""
    if (named := config.get("control")) is not None:
        return str(named)
    labels = _part(config, "reward_model").get("labels", "as_given")
    if labels != "as_given":
        return {"flipped": "flipped_reward", "shuffled": "shuffled_labels"}[labels]
    if _part(config, "reward").get("name") == "random":
        return "random_reward"
    if _part(config, "optimizer").get("adamw", {}).get("lr") == 0:
        return "no_learning"
    return None


def must_give(control: str) -> str:
    """What a control is and what must come out of it; of one that the kit does not know, that it is one."""
    return MUST_GIVE.get(control, "It was set up to have no result.")


def relabelled(rows: Sequence[Any], labels: str, seed: int) -> Sequence[Any]:
    """Pairs, rankings, ratings or labels as training is told them. Rows of one kind.

    Args:
        labels: `as_given`; `flipped` = the worse answer is called the better one, by the same margin and with the same
            certainty; rankings are read from their end, ratings mirrored between the lowest and the highest of them; good
            answers are called bad. `shuffled` = a coin says which, by a hash of the pair that does not know the label;
            the ranks of one prompt, or the ratings or labels of all answers, are dealt out anew.
    """
    if labels == "as_given" or not rows:
        return rows
    if isinstance(rows[0], Ranking):
        return [_reversed(row, seed) if labels == "flipped" else _dealt(row, seed) for row in rows]
    if isinstance(rows[0], Rating):
        return _mirrored(rows) if labels == "flipped" else _exchanged(rows, seed, "value")
    if isinstance(rows[0], Label):
        return (
            [replace(row, good=not row.good) for row in rows] if labels == "flipped" else _exchanged(rows, seed, "good")
        )
    if labels == "flipped":
        return [_turned(pair) for pair in rows]
    return [_turned(pair) if _first_wins(pair, seed) != (pair.chosen <= pair.rejected) else pair for pair in rows]


def check_control(config: Mapping[str, Any], stages: Sequence[str], learns_from: str | None) -> None:
    """A control does what it says: something learns from what it changed.

    Args:
        learns_from: of the optimizer; None when it learns from the reward.

    Raises:
        ConfigError: nothing does, so the run would pass for a control and be none.
    """
    labels = _part(config, "reward_model").get("labels", "as_given")
    learned_from = learns_from if "policy" in stages else None
    if labels != "as_given" and "reward_model" not in stages and learned_from not in ("pairs", "labels"):
        raise ConfigError(
            f"labels are to be {labels}, and nothing in this run learns from pairs", where=f"reward_model.labels={labels}",
            fix="reward=learned without reward.path, or optimizer=dpo; else reward_model.labels=as_given",
        )  # fmt: skip
    if config.get("control") == "random_reward" and ("policy" not in stages or learns_from is not None):
        raise ConfigError(
            f"optimizer={config['optimizer']['name']} learns from {learns_from or 'nothing'}, not from the reward",
            where="control=random_reward",
            fix="control=shuffled_labels, or an optimizer that rolls out, such as ppo",
        )


def _turned(pair: Pair) -> Pair:
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def _reversed(ranking: Ranking, seed: int) -> Ranking:
    """The order upside down. Where that leaves several best answers of one, as of a choice, a hash puts one of them
    first, so that there is one to learn from still."""
    found = replace(ranking, ranks=tuple(-rank for rank in ranking.ranks))
    if ranking.best is None or found.best is not None:
        return found
    first = min(found.ranks)
    _, picked = min((_hash(seed, ranking, i), i) for i, rank in enumerate(found.ranks) if rank == first)
    return replace(found, ranks=tuple(rank - (i == picked) for i, rank in enumerate(found.ranks)))


def _dealt(ranking: Ranking, seed: int) -> Ranking:
    """The same ranks, dealt to the answers by a hash that knows neither the ranks nor the answers' order."""
    order = sorted(range(len(ranking.ranks)), key=lambda i: (_hash(seed, ranking, i), i))
    ranks = dict(zip(order, sorted(ranking.ranks), strict=True))
    return replace(ranking, ranks=tuple(ranks[i] for i in range(len(order))))


def _hash(seed: int, ranking: Ranking, answer: int) -> bytes:
    said = json.dumps([seed, ranking.prompt.text, *sorted(ranking.completions), "", ranking.completions[answer]])
    return hashlib.sha256(said.encode()).digest()


def _mirrored(ratings: Sequence[Rating]) -> list[Rating]:
    values = [rating.value for rating in ratings]
    ends = min(values) + max(values)
    return [replace(rating, value=ends - rating.value) for rating in ratings]


def _exchanged(rows: Sequence[Any], seed: int, name: str) -> list[Any]:
    """Ratings or labels with the same values of the field `name`, dealt out in an order that hashes of the answers say:
    each gets that of the next in it."""
    said = [json.dumps([seed, row.prompt.text, row.completion]).encode() for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (hashlib.sha256(said[i]).digest(), i))
    found = list(rows)
    for place, i in enumerate(order):
        found[i] = replace(rows[i], **{name: getattr(rows[order[place - 1]], name)})
    return found


def _first_wins(pair: Pair, seed: int) -> bool:
    """The coin of a comparison: whether the answer that comes first in the alphabet wins. The same pair given twice, even
    with its answers the other way round, gets one answer."""
    said = json.dumps([seed, pair.prompt.text, *sorted((pair.chosen, pair.rejected))])
    return hashlib.sha256(said.encode()).digest()[0] % 2 == 0


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}
