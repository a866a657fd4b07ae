"""From labels to what is trained on: which rows count, and how those of several raters become one record.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any, Literal

from rlhf_lora.errors import DataError, did_you_mean
from rlhf_lora.label_rows import STRENGTHS, LabelRow, distinct
from rlhf_lora.records import Data, Label, Pair, Prompt, Ranking, Rating, Unused

ALL = "all"
TIE = "a tie"
MARGINS: Mapping[str, tuple[float, ...]] = {"small": (0.0, 1 / 3, 2 / 3, 1.0), "large": (0.0, 1.0, 2.0, 3.0)}
"""What strengths in words are as margins, negligibly first (Touvron et al. 2023, table 27)."""

Placed = tuple[str, LabelRow]


@dataclass(frozen=True)
class Counting:
    """How labels are counted.

    Attributes:
        criterion: only labels by this one; "all" = every criterion, each apart; None = the one that there is.
        raters: only theirs; empty = everybody's.
        ties: of a comparison with several raters, `drop` leaves ties out of the vote, `half` counts them one half for each
            side. What is a tie on the whole gives no pair, or with `half` one of label ½.
        margins: what strengths in words are worth: a key of `MARGINS`, or "none" for no margins, of numbers either.
        min_raters: fewer leave the thing out.
        min_agreement: the share of its raters that must have said the same, the commonest thing said; not of ratings.
    """

    criterion: str | None = None
    raters: tuple[str, ...] = ()
    on_disagreement: Literal["majority", "soft", "drop"] = "majority"
    ties: Literal["drop", "half"] = "drop"
    margins: str = "small"
    min_raters: int = 1
    min_agreement: float = 0.0


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
    box, rows = _Box(), with_one_group(rows)
    for group in _things(_chosen(rows, how, box)):
        try:
            _count(group, how, box)
            box.used += len(group)
        except _NoVote as reason:
            box.unused += [Unused(where, str(reason)) for where, _ in group]
    _one_scale(rows, box)
    return Data(
        pairs=box.pairs, rankings=box.rankings, ratings=box.ratings, labels=box.labels,
        unused=box.unused, rows=box.used, left_out=dict(+box.left_out),
    )  # fmt: skip


# --- which rows count -------------------------------------------------------------------------------------------------


def last_of_each(rows: Iterable[Placed]) -> list[Placed]:
    """Of what one rater said of one thing, the last; a rater that was given several principles has one say on each."""
    return list({(row.rater, row.principle, row.item): (where, row) for where, row in rows}.values())


def with_one_group(rows: Sequence[Placed]) -> list[Placed]:
    """Every row of one prompt with the group that any of them names: it decides the split, and one prompt is in one split.

    Raises:
        DataError: a prompt has two groups.
    """
    groups: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        prompt = row.prompt
        before, known = groups.setdefault(prompt.text, (where, prompt.group))
        if prompt.group and known and prompt.group != known:
            raise DataError(
                "one prompt is of two groups, and a group is in one split only",
                where=f"{before}: '{known[:40]}'; {where}: '{prompt.group[:40]}'", fix="give its rows one group",
            )  # fmt: skip
        if prompt.group:
            groups[prompt.text] = (where, prompt.group)
    named = {text: group for text, (_, group) in groups.items()}
    return [
        (where, row if row.prompt.group == named[row.prompt.text] else
         replace(row, prompt=replace(row.prompt, group=named[row.prompt.text])))
        for where, row in rows
    ]  # fmt: skip


def _chosen(rows: Sequence[Placed], how: Counting, box: _Box) -> list[Placed]:
    """The rows that count; the others are in `unused`."""
    _known(rows, how)
    last = {id(row) for _, row in last_of_each(rows)}
    later = {(row.rater, row.principle, row.item): where for where, row in rows}
    kept = []
    for where, row in rows:
        if id(row) not in last:
            again = later[row.rater, row.principle, row.item]
            box.unused.append(Unused(f"{where} (again: {again})", "labelled again by the same rater; the last counts"))
        elif reason := _not_wanted(row, how):
            box.unused.append(Unused(where, reason))
        else:
            kept.append((where, row))
    return kept


def _known(rows: Sequence[Placed], how: Counting) -> None:
    """Raises DataError where what is asked for is not there, or it must be said what is."""
    every = [row for _, row in rows]
    criteria = Counter(row.criterion for row in every)
    listed = ", ".join(f"{name} ({count:,})" for name, count in criteria.most_common())
    if how.criterion is None and len(criteria) > 1:
        raise DataError(
            f"the labels are by several criteria: {listed}",
            where="dataset.criterion=null", fix=f"choose one, such as dataset.criterion={min(criteria)}, or all",
        )  # fmt: skip
    if how.criterion not in (None, ALL, *criteria):
        raise DataError(
            f"no label is by '{how.criterion}'{did_you_mean(str(how.criterion), criteria)}",
            where="dataset.criterion", fix=f"labels there are: {listed}",
        )  # fmt: skip
    names = distinct(every, "rater")
    for rater in how.raters:
        if rater not in names:
            raise DataError(
                f"no label is by '{rater}'{did_you_mean(rater, names)}",
                where="dataset.raters", fix=f"raters: {', '.join(name or '(not named)' for name in names)}",
            )  # fmt: skip


def _not_wanted(row: LabelRow, how: Counting) -> str:
    if how.criterion not in (None, ALL, row.criterion):
        return f"a label by another criterion than {how.criterion}"
    if how.raters and row.rater not in how.raters:
        return "a label by another rater (dataset.raters)"
    if row.skipped:
        return "skipped by its rater"
    if not row.prompt.text.strip():
        return "the prompt is empty"
    if not all(answer.strip() for answer in row.answers):
        return "an answer is empty"
    return "all answers are the same" if len(row.answers) > 1 and len(set(row.answers)) == 1 else ""


def _things(rows: Sequence[Placed]) -> list[list[Placed]]:
    """The rows of each thing that was judged."""
    groups: dict[str, list[Placed]] = defaultdict(list)
    for where, row in rows:
        groups[row.item].append((where, row))
    return list(groups.values())


def _one_scale(rows: Sequence[Placed], box: _Box) -> None:
    scales = Counter(row.scale for _, row in rows if row.kind == "rating" and row.scale)
    if box.ratings and len(scales) > 1:
        listed = ", ".join(f"{low:g} to {high:g} ({count:,})" for (low, high), count in scales.most_common())
        raise DataError(
            f"the ratings are on several scales: {listed}",
            where="dataset.path", fix="bring them to one, or choose the criterion or the raters of one",
        )  # fmt: skip


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
    if len(rows) < how.min_raters:
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
