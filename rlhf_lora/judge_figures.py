"""What a judge is worth, in figures: how often it sides with people, and what moves it that should not.

A pair is asked in both orders and judged by their mean (`judging.orders`). What could not be read is counted by its kind and
is in no rate. Ties count one half. Rates of pairs have Wilson's interval; rates of verdicts, of which a pair has two, have a
bootstrap over pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lora import scores
from rlhf_lora.comparison import bootstrap_ci95, wilson
from rlhf_lora.data_show import visible
from rlhf_lora.judging.orders import Compared, probability
from rlhf_lora.records import Pair, Verdict
from rlhf_lora.stages.accuracy import BINS

MANY_FLIPS, MANY_MISSING = 0.2, 0.1
FAR = 1.0
"""A gold difference that nobody should miss."""

Kind = Literal["refusal", "unreadable", "error"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A labelled pair and what a judge said of it.

    Attributes:
        chosen_first: the answer that people chose was A of the comparison.
        gold: the true value of the chosen answer minus that of the rejected one, where it is known.
        swapped: the same comparison begun in the other order; None for a judge that says the same twice, who was not asked again.
    """

    pair: Pair
    compared: Compared
    chosen_first: bool
    gold: float | None = None
    swapped: Compared | None = None

    @property
    def p_chosen(self) -> float | None:
        """P(the chosen answer is better) after averaging; None where an order could not be read."""
        p = probability(self.compared.verdict)
        return p if p is None or self.chosen_first else 1 - p

    @property
    def verdicts(self) -> list[Verdict]:
        """As they were read, each of an order of its own."""
        return [one for one in (self.compared.first, self.compared.second) if one is not None]

    @property
    def longer(self) -> int:
        """By how many characters the chosen answer is longer."""
        return len(self.pair.chosen) - len(self.pair.rejected)

    def one_order(self) -> list[float]:
        """Agreement of each verdict that could be read, alone: 1, ½, 0."""
        ps = [probability(one) for one in self.verdicts]
        return [_right(p if first else 1 - p) for p, first in zip(ps, (self.chosen_first, not self.chosen_first), strict=False)
                if p is not None]  # fmt: skip


def kind_of(verdict: Verdict) -> Kind | None:
    """Why a verdict has no choice, by how its reason begins; None where it has one."""
    if verdict.choice is not None:
        return None
    kind = scores.kind_of(verdict.reason)
    return "refusal" if kind == "abstain" else kind


def figures(rows: Sequence[Judged], seed: int = 0) -> dict[str, Any]:
    """All figures of a judge on labelled pairs; a part that the pairs cannot tell is absent.

    Returns:
        `pairs`, `pairs_read` (both orders could be read), `verdicts` (counts by kind), `agreement` (with people), and
        `agreement_one_order` (what a single order would give), `ties`; the parts `position`, `length`, `calibration` and
        `gold`; `warnings`, sentences.
    """
    read = [row for row in rows if row.p_chosen is not None]
    found: dict[str, Any] = {"pairs": len(rows), "pairs_read": len(read), "verdicts": _verdicts(rows)}
    found |= _share("agreement", [_right(_p(row)) for row in read])
    alone = [row.one_order() for row in rows]
    found |= _ratio("agreement_one_order", [sum(one) for one in alone], [len(one) for one in alone], seed)
    found |= _share("ties", [float(_p(row) == 0.5) for row in read])
    parts = {
        "position": _position(rows, read, seed),
        "length": _length(read),
        "calibration": _calibration(read, seed),
        "gold": _gold(read),
    }
    found |= {name: part for name, part in parts.items() if part}
    return found | {"warnings": _warnings(found, rows)}


def _verdicts(rows: Sequence[Judged]) -> dict[str, int]:
    every = [verdict for row in rows for verdict in row.verdicts]
    kinds = [kind_of(verdict) for verdict in every]
    return {
        "asked": len(every), "a": sum(v.choice == "A" for v in every), "b": sum(v.choice == "B" for v in every),
        "ties": sum(v.choice == "tie" for v in every), "refusals": kinds.count("refusal"),
        "unreadable": kinds.count("unreadable"), "errors": kinds.count("error"),
    }  # fmt: skip


def _position(rows: Sequence[Judged], read: Sequence[Judged], seed: int) -> dict[str, Any]:
    """Share of the answer read first among verdicts that decide, and of pairs whose winner changed with the order."""
    decided = [[verdict.choice for verdict in row.verdicts if verdict.choice in ("A", "B")] for row in rows]
    found = _ratio("first_share", [one.count("A") for one in decided], [len(one) for one in decided], seed)
    found |= _share("flip_rate", [float(bool(row.compared.flipped)) for row in read])
    return found | _share("flip_rate_averaged", [flip for row in read if (flip := _flips_averaged(row)) is not None])


def _flips_averaged(row: Judged) -> float | None:
    """1 where the mean of both orders changes its winner when the comparison is begun in the other order. A judge that says
    the same twice cannot: the mean is of the same two verdicts."""
    if row.swapped is None:
        return 0.0
    p, q = probability(row.compared.verdict), probability(row.swapped.verdict)
    return None if p is None or q is None else float((p - 0.5) * (0.5 - q) < 0)


def _length(read: Sequence[Judged]) -> dict[str, Any]:
    """Where answers differ in length and the judge decided: how often it and people take the longer one."""
    decided = [row for row in read if row.longer and _p(row) != 0.5]
    found = _share("longer_share", [float((_p(row) > 0.5) == (row.longer > 0)) for row in decided])
    found |= _share("longer_share_people", [float(row.longer > 0) for row in decided])
    for name, sign in (("shorter", -1), ("longer", 1)):
        values = [_right(_p(row)) for row in read if row.longer * sign > 0]
        found |= _share(f"agreement_where_{name}_chosen", values) | {f"pairs_where_{name}_chosen": len(values)}
    return found if decided else {}


def _calibration(read: Sequence[Judged], seed: int) -> dict[str, Any]:
    """Of pairs whose verdicts gave probabilities. Brier: mean (P − label)², 0.25 for who always says ½. Calibration error:
    over bins of how sure the judge is, mean |right − sure| weighted by pairs."""
    given = [row for row in read if all(verdict.probability_a is not None for verdict in row.verdicts)]
    if not given:
        return {}
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for row in given:
        p = _p(row)
        sure, right = max(p, 1 - p), 0.5 if p == 0.5 else row.pair.label if p > 0.5 else 1 - row.pair.label
        bins[min(BINS - 1, int((sure - 0.5) * 2 * BINS))].append((sure, right))
    table = [
        {"from": 0.5 + i / (2 * BINS), "to": 0.5 + (i + 1) / (2 * BINS), "pairs": len(one),
         "sure": sum(sure for sure, _ in one) / len(one), "right": sum(right for _, right in one) / len(one)}
        for i, one in enumerate(bins) if one
    ]  # fmt: skip
    squares = [(_p(row) - row.pair.label) ** 2 for row in given]
    error = sum(one["pairs"] * abs(one["right"] - one["sure"]) for one in table) / len(given)
    return {
        "pairs": len(given), "brier": sum(squares) / len(given), "brier_ci95": bootstrap_ci95(squares, seed),
        "calibration_error": error, "bins": table,
    }  # fmt: skip


def _gold(read: Sequence[Judged]) -> dict[str, Any]:
    """Agreement with the truth where it tells the answers apart; people's own beside it."""
    known = [(row, row.gold) for row in read if row.gold]
    far = [(row, gold) for row, gold in known if abs(gold) >= FAR]
    found = _share("agreement", [_right(_p(row) if gold > 0 else 1 - _p(row)) for row, gold in known])
    found |= _share("agreement_far", [_right(_p(row) if gold > 0 else 1 - _p(row)) for row, gold in far])
    found |= _share("agreement_of_people", [float(gold > 0) for _, gold in known])
    return found | {"pairs": len(known), "pairs_far": len(far)} if known else {}


def _warnings(found: dict[str, Any], rows: Sequence[Judged]) -> list[str]:
    said, verdicts, position = [], found["verdicts"], found.get("position", {})
    if position.get("flip_rate", 0.0) > MANY_FLIPS:
        share = f"{100 * position['flip_rate']:.3g} % of the pairs change their winner with the order"
        said.append(f"{share} (more than {100 * MANY_FLIPS:.0f} %): ask in both orders, or take another judge")
    missing = verdicts["refusals"] + verdicts["unreadable"] + verdicts["errors"]
    if missing > MANY_MISSING * verdicts["asked"]:
        parts = ", ".join(f"{verdicts[kind]} {kind}" for kind in ("refusals", "unreadable", "errors") if verdicts[kind])
        reasons = Counter(one.reason for row in rows for one in row.verdicts if one.choice is None and one.reason)
        most = "".join(f"; most often: {visible(reason[:200])}" for reason, _ in reasons.most_common(1))
        said.append(f"{missing} of {verdicts['asked']} verdicts are missing ({parts}): the rates are of the rest{most}")
    return said


def _p(row: Judged) -> float:
    assert row.p_chosen is not None
    return row.p_chosen


def _right(p_chosen: float) -> float:
    return 0.5 if p_chosen == 0.5 else float(p_chosen > 0.5)


def _share(name: str, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    return {name: sum(values) / len(values), f"{name}_ci95": list(wilson(sum(values), len(values)))}


def _ratio(name: str, tops: Sequence[float], bottoms: Sequence[float], seed: int) -> dict[str, Any]:
    """Σ tops / Σ bottoms, resampled by pair: the two verdicts of a pair are no independent trials."""
    import numpy as np

    if not sum(bottoms):
        return {}
    kept = [i for i, bottom in enumerate(bottoms) if bottom]
    top, bottom = np.asarray([tops[i] for i in kept], float), np.asarray([bottoms[i] for i in kept], float)
    draw = np.random.default_rng(seed)
    shares = []
    for _ in range(20):
        places = draw.integers(0, len(kept), (100, len(kept)))
        shares.append(top[places].sum(1) / bottom[places].sum(1))
    low, high = np.quantile(np.concatenate(shares), [0.025, 0.975])
    return {name: float(top.sum() / bottom.sum()), f"{name}_ci95": [float(low), float(high)]}
