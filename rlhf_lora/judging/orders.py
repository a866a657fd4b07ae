"""Asking a judge in both orders: a judge that prefers what it reads first shows it, and does not get its way.

The probability that A is better is the mean over both orders (Lee et al. 2023, arXiv 2309.00267, §3.1). Verdicts without
a probability count 1, ½ or 0. Where one order could not be read, neither counts: half an opinion has the bias whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from rlhf_lora.errors import ContractError, RlhfLoraError, raised_at
from rlhf_lora.records import Comparison, Verdict
from rlhf_lora.scores import awaited

Orders = Literal["both", "once"]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a judge said of two answers, and in each order.

    Attributes:
        verdict: of both orders together, or of the one that was asked; `probability_a` is there whenever it could be read.
        first, second: as they were read; `second` is of the swapped answers, with its A the comparison's B.
        flipped: the two orders chose different answers; None when one order was asked, or one could not be read.
    """

    verdict: Verdict
    first: Verdict
    second: Verdict | None = None
    flipped: bool | None = None


def compare(
    judge: Any, comparisons: Sequence[Comparison], orders: Orders = "both", tie_within: float = 0.0
) -> list[Compared]:
    """Ask an opened judge.

    Args:
        tie_within: a tie where P(A) is no further than this from ½.

    Raises:
        ContractError: not one Verdict for each comparison.
    """
    asked = [*comparisons, *(one.swapped for one in comparisons)] if orders == "both" else list(comparisons)
    told = verdicts(judge, asked)
    if orders == "once":
        return [Compared(_told(probability(one), tie_within, one.reason), one) for one in told]
    firsts, seconds = told[: len(comparisons)], told[len(comparisons) :]
    return [_together(first, second, tie_within) for first, second in zip(firsts, seconds, strict=True)]


def probability(verdict: Verdict) -> float | None:
    """P(A is better): the verdict's own, else 1, ½ or 0 of its choice; None where it could not be read."""
    if verdict.choice is None:
        return None
    if verdict.probability_a is not None:
        return verdict.probability_a
    return {"A": 1.0, "tie": 0.5, "B": 0.0}[verdict.choice]


def _together(first: Verdict, second: Verdict, tie_within: float) -> Compared:
    p, q = probability(first), probability(second)
    if p is None or q is None:
        unread = first if p is None else second
        return Compared(Verdict(None, reason=unread.reason), first, second)
    flipped = (p - 0.5) * (0.5 - q) < 0
    reason = "; ".join(dict.fromkeys(one.reason for one in (first, second) if one.reason))
    # p - q first: where both are the same, (p + 1) - q is not always 1, and rounding would decide what is a tie.
    return Compared(_told(((p - q) + 1) / 2, tie_within, reason), first, second, flipped)


def _told(p: float | None, tie_within: float, reason: str) -> Verdict:
    if p is None:
        return Verdict(None, reason=reason)
    choice: Literal["A", "B", "tie"] = "tie" if abs(p - 0.5) <= tie_within else "A" if p > 0.5 else "B"
    return Verdict(choice, p, reason)


@contextmanager
def raised_by(who: str) -> Iterator[None]:
    """What a user's judge or reviser raises in here is told in one sentence with its place, and is no fault of the kit's.

    Args:
        who: "the judge 'mine'".

    Raises:
        ContractError: in place of what was raised; the kit's own errors are let through.
    """
    try:
        yield
    except RlhfLoraError:
        raise
    except Exception as error:
        raise ContractError(f"{who} raised {type(error).__name__}: {error}{raised_at(error)}") from error


def verdicts(judge: Any, comparisons: Sequence[Comparison]) -> list[Verdict]:
    """An opened judge's verdicts as the answers stand, all asked for at once where it takes many.

    Raises:
        ContractError: not one Verdict for each, of A, B, tie or None, with a probability from 0 to 1 where there is one.
    """
    if not comparisons:
        return []
    name = type(judge).__name__
    if callable(compare_all := getattr(judge, "compare_all", None)):
        given = awaited(compare_all(comparisons))
    else:
        given = [awaited(judge.compare(one.prompt, one.a, one.b)) for one in comparisons]
    if not isinstance(given, Sequence):
        raise ContractError(f"the judge '{name}' gave {type(given).__name__}; wanted a list of verdicts")
    if len(given) != len(comparisons):
        raise ContractError(f"the judge '{name}' gave {len(given)} verdicts for {len(comparisons)} comparisons")
    for one in given:
        if not isinstance(one, Verdict) or one.choice not in ("A", "B", "tie", None):
            raise ContractError(f"the judge '{name}' returned {one!r}; wanted a Verdict of A, B, tie or None")
        p = one.probability_a
        if p is not None and not (isinstance(p, Real) and not isinstance(p, bool) and 0 <= p <= 1):
            raise ContractError(f"the judge '{name}' returned {one!r}; wanted a probability from 0 to 1, or None")
    return list(given)
