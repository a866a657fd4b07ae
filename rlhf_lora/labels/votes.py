"""From labels to what is trained on: how the labels of several raters become one record.

Rows about the same thing (same kind, criterion, prompt and answers, in whatever order these stand) are votes. A rater has one
vote on a thing: the last row counts. Rows without a rater are taken to be of one.

    on_disagreement   comparison          ranking, choice              rating     verdict
    majority          the side with more  mean places; the plurality   median     more
    soft              mean of P(better)   each rater's, by itself      mean       each rater's, by itself
    drop              of one mind only    of one mind only             one value  of one mind only

Every row is used, or listed with where it stands and why not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from rlhf_lora.labels.rows import STRENGTHS, LabelRow
from rlhf_lora.labels.selection import MARGINS, Counting, Placed, one_scale, selected
from rlhf_lora.records import Data, Label, Pair, Prompt, Ranking, Rating, Unused

TIE = "a tie"


@dataclass
class _Box:
    """What is being found."""

    pairs: list[Pair] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    used: int = 0


class _NoVote(Exception):
    """A thing that gives no record. The message is the reason, the same for all of its kind."""


def counted(rows: Sequence[Placed], how: Counting) -> Data:
    """The records that the labels give, in the order in which things were first labelled.

    Raises:
        DataError: several criteria and none chosen, a criterion or rater that has no label, ratings on several scales.
    """
    kept, unused = selected(rows, how)
    box = _Box(unused=unused)
    for group in _things(kept):
        try:
            _count(group, how, box)
            box.used += len(group)
        except _NoVote as reason:
            box.unused += [Unused(where, str(reason)) for where, _ in group]
    if box.ratings:
        one_scale(kept)
    return Data(
        pairs=box.pairs, rankings=box.rankings, ratings=box.ratings, labels=box.labels,
        unused=box.unused, rows=box.used, left_out=dict(+box.left_out),
    )  # fmt: skip


def _things(rows: Sequence[Placed]) -> list[list[Placed]]:
    """The rows of each thing that was judged."""
    groups: dict[str, list[Placed]] = defaultdict(list)
    for where, row in rows:
        groups[row.item].append((where, row))
    return list(groups.values())


# --- votes on one thing -----------------------------------------------------------------------------------------------


def _count(group: list[Placed], how: Counting, box: _Box) -> None:
    """Add what the votes on one thing give; `group` loses the ties that do not count.

    Raises:
        _NoVote: nothing; the group is as it was.
    """
    rows = [row for _, row in group]
    kind = rows[0].kind
    if kind == "comparison" and how.ties == "drop":
        decided = [(where, row) for where, row in group if row.label != "tie"]
        if not decided:
            raise _NoVote(TIE)
        _heard([row for _, row in decided], how)
        ties = [
            Unused(where, "a tie, and others decided (dataset.ties=drop)") for where, row in group if row.label == "tie"
        ]
        box.pairs.append(_pair(rows[0], [row for _, row in decided], how))
        box.unused += ties
        group[:] = decided
        return
    _heard(rows, how)
    if kind == "comparison":
        box.pairs.append(_pair(rows[0], rows, how))
    elif kind == "rating":
        values = [float(row.label) for row in rows]
        value = fmean(values) if how.on_disagreement == "soft" else median(values)
        box.ratings.append(Rating(rows[0].prompt, rows[0].answers[0], value))
    elif kind == "verdict":
        said = [row.label == "good" for row in rows]
        kept = said if how.on_disagreement == "soft" else [_more(said)]
        box.labels += [Label(rows[0].prompt, rows[0].answers[0], good) for good in kept]
    else:
        _rank(rows, how, box)


def _heard(rows: Sequence[LabelRow], how: Counting) -> None:
    """Raises _NoVote where raters are too few, or not enough of one mind."""
    if len({row.rater for row in rows}) < how.min_raters:
        raise _NoVote("fewer raters than dataset.min_raters")
    said = Counter(map(said_of, rows))
    if how.on_disagreement == "drop" and len(said) > 1:
        raise _NoVote("raters disagree")
    if rows[0].kind != "rating" and max(said.values()) < how.min_agreement * len(rows) - 1e-9:
        raise _NoVote("raters agree less than dataset.min_agreement")


def said_of(row: LabelRow) -> Any:
    """What a label says, whatever the order in which its answers stand: equal where two raters say the same."""
    if row.kind == "comparison":
        return "tie" if row.label == "tie" else row.answers[row.label == "B"]
    if row.kind == "choice":
        return row.answers[row.label]
    if row.kind == "ranking":
        return tuple(sorted(zip(row.answers, places(row), strict=True)))
    return row.label


def places(row: LabelRow) -> list[float]:
    """The place of each answer of a ranking or choice: 1, 2, …, ties share one."""
    if row.kind == "choice":
        return [1.0 if at == row.label else 2.0 for at in range(len(row.answers))]
    ranks: Any = row.label
    order = {rank: float(place) for place, rank in enumerate(sorted(set(ranks)), 1)}
    return [order[rank] for rank in ranks]


def better(row: LabelRow, first: str) -> float:
    """P(the answer `first` of a comparison is the better one) as its rater says."""
    p = 0.5 if row.label == "tie" else row.p if row.p is not None else float(row.label == "A")
    return p if row.answers[0] == first else 1 - p


def _pair(first: LabelRow, rows: Sequence[LabelRow], how: Counting) -> Pair:
    a, b = first.answers
    votes = [better(row, a) for row in rows]
    if how.on_disagreement == "soft" or len(rows) == 1:
        p = fmean(votes)
    else:
        share = fmean(1.0 if vote > 0.5 else 0.0 if vote < 0.5 else 0.5 for vote in votes)
        side = [vote for vote in votes if (vote - 0.5) * (share - 0.5) > 0]
        p = fmean(side) if side else 0.5
    if p == 0.5:
        if how.ties == "half":
            return Pair(first.prompt, a, b, label=0.5)
        raise _NoVote(TIE if all(row.label == "tie" for row in rows) else "raters disagree, as many for each side")
    chosen, rejected = (a, b) if p > 0.5 else (b, a)
    margins = [
        margin for row in rows if better(row, chosen) > 0.5 and (margin := margin_of(row, how.margins)) is not None
    ]
    return Pair(first.prompt, chosen, rejected, fmean(margins) if margins else None, max(p, 1 - p))


def margin_of(row: LabelRow, margins: str) -> float | None:
    """By how much the better answer is better; None where nobody says, or margins are not wanted."""
    if row.strength is None or margins == "none":
        return None
    return MARGINS[margins][STRENGTHS.index(row.strength)] if isinstance(row.strength, str) else float(row.strength)


def _more(said: Sequence[Any]) -> Any:
    """The commonest thing said. Raises _NoVote where two are as common."""
    (top, count), *others = Counter(said).most_common(2)
    if others and others[0][1] == count:
        raise _NoVote("raters disagree, as many for each side")
    return top


def _rank(rows: Sequence[LabelRow], how: Counting, box: _Box) -> None:
    """A ranking for each rater, or one of all; and its pairs."""
    first = rows[0]
    each = [_in_order_of(first.answers, row) for row in rows]
    if how.on_disagreement == "soft" and len(rows) > 1:
        found = [one for one in (_ranking(first.prompt, first.answers, order) for order in each) if one]
        pairs = _soft_pairs(first, each, how, box)
    else:
        order = _one_order(rows, each)
        found = [one for one in (_ranking(first.prompt, first.answers, order),) if one]
        pairs = found[0].pairs() if found else []
        if first.kind == "ranking":
            box.left_out[TIE] += sum(order[i] == order[j] for i in range(len(order)) for j in range(i))
    if not found:
        raise _NoVote(TIE)
    box.rankings += found
    box.pairs += pairs


def _one_order(rows: Sequence[LabelRow], each: Sequence[Sequence[float]]) -> Sequence[float]:
    """Of one rater the ranks as they stand; of several the mean places, or the answer that most of them picked."""
    ranks: Any = rows[0].label
    if rows[0].kind == "choice":
        best = _more([tuple(order) for order in each])
        return list(best)
    return [float(rank) for rank in ranks] if len(rows) == 1 else [fmean(at) for at in zip(*each, strict=True)]


def _in_order_of(answers: Sequence[str], row: LabelRow) -> list[float]:
    """A rater's places, for the answers in another rater's order; of two answers in the same words, in their own order."""
    places_of: dict[str, list[float]] = defaultdict(list)
    for answer, place in zip(row.answers, places(row), strict=True):
        places_of[answer].append(place)
    return [places_of[answer].pop(0) for answer in answers]


def _ranking(prompt: Prompt, answers: Sequence[str], order: Sequence[float]) -> Ranking | None:
    return Ranking(prompt, tuple(answers), tuple(order)) if len(set(order)) > 1 else None


def _soft_pairs(first: LabelRow, each: Sequence[Sequence[float]], how: Counting, box: _Box) -> list[Pair]:
    """Every two answers, as sure as the raters are together. Of a choice, raters who picked neither say nothing of the two."""
    found = []
    for i in range(len(first.answers)):
        for j in range(i + 1, len(first.answers)):
            if first.answers[i] == first.answers[j]:
                continue
            tied = None if first.kind == "choice" or how.ties == "drop" else 0.5
            votes = [tied if order[i] == order[j] else float(order[i] < order[j]) for order in each]
            heard = [vote for vote in votes if vote is not None]
            p = fmean(heard) if heard else 0.5
            if p == 0.5:
                box.left_out[TIE] += bool(heard) or first.kind == "ranking"
                continue
            a, b = (first.answers[i], first.answers[j]) if p > 0.5 else (first.answers[j], first.answers[i])
            found.append(Pair(first.prompt, a, b, label=max(p, 1 - p)))
    return found
