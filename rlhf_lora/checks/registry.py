"""One place for checks: what is proved, by which function, after which source.

    @check("C28", "GAE, by hand", source="Schulman et al. 2016, eq. 16")
    def gae_by_hand() -> Outcome:
        ...
        return within(difference, 1e-6)

A check that `needs="nothing"` is arithmetic; one that `needs="model"` is given the user's own model and settings. A check
that raises has failed, with the reason: what could not be measured is not right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

State = Literal["passed", "failed", "not applicable"]
Needs = Literal["nothing", "model"]
Function = TypeVar("Function", bound=Callable[..., "Outcome"])


@dataclass(frozen=True)
class Outcome:
    """What a check found: a state, and the figure that says how near or how far."""

    state: State
    figure: str


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        item: number in the conformance list (C28, L3), or a letter and a number of our own; not unique.
        source: who says that it should be so.
        needs: what its function is called with: nothing, or the subject (model, adapters, plugins).
    """

    item: str
    title: str
    source: str
    needs: Needs
    function: Callable[..., Outcome]


@dataclass(frozen=True)
class Result:
    """One line of the table, with what was found."""

    item: str
    title: str
    state: State
    figure: str
    source: str


class NotApplicable(Exception):
    """What a check is about does not occur in these settings; the message says why."""


_table: dict[tuple[str, str], Check] = {}


def check(item: str, title: str, *, source: str, needs: Needs = "nothing") -> Callable[[Function], Function]:
    """Put a function on the list; it is returned unchanged.

    Raises:
        ValueError: another function has this item and title.
    """

    def register(function: Function) -> Function:
        known = _table.get((item, title))
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise ValueError(f"two checks are called {item} '{title}': {known.function.__name__}, {function.__name__}")
        _table[item, title] = Check(item, title, source, needs, function)
        return function

    return register


def checks(needs: Needs) -> list[Check]:
    """The checks that need this, in the order in which they were written down."""
    return [entry for entry in _table.values() if entry.needs == needs]


def run(chosen: Iterable[Check], *subject: Any) -> list[Result]:
    """Run checks one after another; none stops the others."""
    results = []
    for entry in chosen:
        try:
            outcome = entry.function(*subject)
        except NotApplicable as reason:
            outcome = Outcome("not applicable", str(reason))
        except Exception as error:
            outcome = failed(f"could not be measured: {type(error).__name__}: {_first_line(error)}")
        results.append(Result(entry.item, entry.title, outcome.state, outcome.figure, entry.source))
    return results


# --- what a check returns ---------------------------------------------------------------------------------------------


def passed(figure: str) -> Outcome:
    return Outcome("passed", figure)


def failed(figure: str) -> Outcome:
    return Outcome("failed", figure)


def judged(holds: bool, figure: str) -> Outcome:
    return passed(figure) if holds else failed(figure)


def within(difference: float, limit: float, what: str = "max |Δ|", more: str = "") -> Outcome:
    """Passed where `difference` ≤ `limit`; a difference that is not finite has failed."""
    figure = f"{what} {difference:.2g}, limit {limit:.3g}{more}"
    return judged(math.isfinite(difference) and difference <= limit, figure)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
