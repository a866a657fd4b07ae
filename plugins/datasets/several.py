"""Rows that compare several replies: verdicts on two, verdicts on each pair of four, scores, the best of a list.

A tie is no win: it gives no pair, and is counted. What orders several replies is a ranking beside its pairs: it holds the
replies that are in one of them. The better replies of a ranked row would all be imitated if the pairs
were the only thing left of it, the second worst too; so the best reply goes along as a demonstration.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from rlhf_lora.records import Demonstration, Pair, Prompt, Ranking, Rating

from .parts import TIE, Columns, NotUsable, demonstration_of, is_score, kind_of, pair_of, prompt_of, reply_of

NO_SCORE = "a reply without a score"
TOO_LARGE = "a rating too large to learn from"

_NAMED = re.compile(
    r"(?:(?:model|assistant|response|reply|answer|output)[ _-]?)?(?P<reply>[ab])|(?:tie|draw|both|neither|equal)\b.*",
    re.IGNORECASE,
)


@dataclass
class Several:
    """What one row gave: records, and why other comparisons in it gave none."""

    records: list[Pair | Demonstration | Ranking | Rating] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def compare(self, prompt: Prompt, first: str, second: str, better: int) -> None:
        """Add one comparison. `better`: 1 the first, 2 the second, 0 a tie."""
        if better not in (1, 2):
            self.left_out[TIE] += 1
            return
        try:
            self.records.append(pair_of(prompt, *((first, second) if better == 1 else (second, first))))
        except NotUsable as reason:
            self.left_out[str(reason)] += 1

    def compare_scores(self, first: Rated, second: Rated) -> None:
        """Add the comparison of two rated replies to one prompt: the higher score is better, equal ones are a tie."""
        if first.score is None or second.score is None:
            self.left_out[NO_SCORE] += 1
            return
        better = 0 if first.score == second.score else 1 if first.score > second.score else 2
        self.compare(first.prompt, first.completion, second.completion, better)

    def finished(self) -> Several:
        """Itself.

        Raises:
            NotUsable: no pair came of the row; the reasons are its reason.
        """
        if not any(isinstance(record, Pair) for record in self.records):
            raise NotUsable("; ".join(sorted(self.left_out)) or "fewer than two replies to compare")
        return self

    def rank(self, prompt: Prompt, replies: Sequence[str], scores: Sequence[float | None]) -> None:
        """Add the replies in order, the highest score first; those without a score or text are in no pair, nor in this."""
        scored = [(r, s) for r, s in zip(replies, scores, strict=True) if s is not None and r.strip()]
        places = {score: place for place, score in enumerate(sorted({s for _, s in scored}, reverse=True), 1)}
        if len(places) > 1:
            ranks = tuple(float(places[score]) for _, score in scored)
            self.records.append(Ranking(prompt, tuple(reply for reply, _ in scored), ranks))

    def imitate(self, prompt: Prompt, best: str) -> None:
        if best.strip():
            self.records.append(demonstration_of(prompt, best))


@dataclass(frozen=True)
class Rated:
    """One reply with its score. It becomes pairs when the other replies to its prompt are known."""

    prompt: Prompt
    completion: str
    score: float | None


# --- one row, several replies -----------------------------------------------------------------------------------------


def alpaca_eval(row: Columns, extra: Columns) -> Pair:
    """AlpacaEval: 1 the first is better, 2 the second, 0 (or 1.5, the middle of its newer scale) a tie.

    In between it says how sure the judge is: 1.2 is P(the second is better) = 0.2, a soft label.
    """
    verdict = _verdict(row["preference"])
    if not (verdict == 0 or 1 <= verdict <= 2):
        raise NotUsable("a preference that is not 1, 2 or 0")
    pair = _two(row, extra, 0 if verdict in (0, 1.5) else 1 if verdict < 1.5 else 2)
    return replace(pair, label=max(2 - verdict, verdict - 1))


def auto_j(row: Columns, extra: Columns) -> Pair:
    """auto-j: 0 the first is better, 1 the second, 2 a tie."""
    verdict = _verdict(row["label"])
    better = {0.0: 1, 1.0: 2, 2.0: 0}.get(verdict)
    if better is None:
        raise NotUsable("a label that is not 0, 1 or 2")
    return _two(row, extra, better)


def winner(row: Columns, extra: Columns) -> Pair:
    """The better reply is named: A or B, alone or as `model_a`, `Response B`; or a tie. Numbers are not taken: 1 is the
    first reply to some and the second to others."""
    word = row["winner"]
    if not isinstance(word, str):
        raise NotUsable("no verdict")
    named = _NAMED.fullmatch(word.strip())
    if named is None:
        raise NotUsable("a winner that is not A, B or tie")
    better = {"a": 1, "b": 2}.get((named["reply"] or "").lower(), 0)
    return _two({**row, "reply_1": row["reply_a"], "reply_2": row["reply_b"]}, extra, better)


def other_scale(format: str, verdicts: set[float]) -> bool:
    """Whether the verdicts of a whole file look like another scale than its format's.

    0 and 1 alone would be ties and wins of the first reply to `alpaca_eval`, 1 and 2 alone wins of the second and ties
    to `auto_j`: more likely each means the two replies. Below 0 there is a scale with a middle.
    """
    return min(verdicts, default=0) < 0 or verdicts == {"alpaca_eval": {0, 1}, "auto_j": {1, 2}}.get(format)


def qa_feedback(row: Columns, extra: Columns) -> Several:
    """Six verdicts on the pairs of four replies, (1,2) (1,3) (1,4) (2,3) (2,4) (3,4): 0 equal, 1 first, 2 second."""
    prompt, found, wins, points = prompt_of(row["prompt"], extra), Several(), [0] * 4, [0] * 4
    replies, verdicts = [row[f"prediction_{n}"] for n in (1, 2, 3, 4)], row["preference"]
    if verdicts is None or len(verdicts) != 6 or any(kind_of(v) != "number" or v not in (0, 1, 2) for v in verdicts):
        raise NotUsable("no six verdicts that are each 0, 1 or 2")
    for (a, b), verdict in zip(combinations(range(4), 2), verdicts, strict=True):
        found.compare(prompt, replies[a], replies[b], verdict)
        if verdict:
            wins[(a, b)[verdict - 1]] += 1
        for reply, gained in ((a, (1, 2, 0)[verdict]), (b, (1, 0, 2)[verdict])):
            points[reply] += gained
    found.finished().imitate(prompt, replies[wins.index(max(wins))])
    # An order gives back every verdict: equal points for a tie, more for the winner. What goes in circles does not.
    order = [0 if points[a] == points[b] else 1 if points[a] > points[b] else 2 for a, b in combinations(range(4), 2)]
    if order == list(verdicts):
        found.rank(prompt, replies, points)
    return found


def ranked(row: Columns, extra: Columns) -> Several:
    """Every two replies whose scores differ are a pair: K (K - 1) / 2 of K different scores (InstructGPT §3.5)."""
    prompt, replies, scores = prompt_of(row["prompt"], extra), _replies(row["completions"]), row["scores"]
    if scores is None or len(scores) != len(replies):
        raise NotUsable("not as many scores as completions")
    return _by_score(Rated(prompt, reply, _score(score)) for reply, score in zip(replies, scores, strict=True))


def ranks(row: Columns, extra: Columns) -> Several:
    """Ranks instead of scores: 1 is the best, equal ranks are a tie."""
    if row["ranks"] is None or not all(is_score(rank) for rank in row["ranks"]):
        raise NotUsable("ranks that are not a list of numbers")
    return ranked({**row, "scores": [-rank for rank in row["ranks"]]}, extra)


def best_of_n(row: Columns, extra: Columns) -> Several:
    """The best reply (`best`: its index, from 0) beats each of the others; those are not compared with each other."""
    prompt, replies, best, found = prompt_of(row["prompt"], extra), _replies(row["completions"]), row["best"], Several()
    if kind_of(best) != "number" or best not in range(len(replies)):
        raise NotUsable("best is no index into completions (the first is 0)")
    chosen = replies[int(best)]
    for index, reply in enumerate(replies):
        if index != best:
            found.compare(prompt, chosen, reply, 1)
    found.finished().imitate(prompt, chosen)
    found.rank(prompt, replies, [float(index == best) for index in range(len(replies))])
    return found


def rated(row: Columns, extra: Columns) -> Rated:
    return Rated(prompt_of(row["prompt"], extra), reply_of(row["completion"]), _score(row["rating"]))


def _two(row: Columns, extra: Columns, better: int) -> Pair:
    first, second = reply_of(row["reply_1"]), reply_of(row["reply_2"])
    if better == 0:
        raise NotUsable(TIE)
    return pair_of(prompt_of(row["prompt"], extra), *((first, second) if better == 1 else (second, first)))


def _verdict(value: Any) -> float:
    """A number as it stands: a float of it could overflow."""
    if not is_score(value):
        raise NotUsable("no verdict")
    return value


def _score(value: Any) -> float | None:
    return value if is_score(value) else None


def _replies(value: Sequence[Any] | None) -> list[str]:
    if not value or any(kind_of(reply) not in ("text", "messages") for reply in value):
        raise NotUsable("completions that are not a list of texts")
    return [reply_of(reply) for reply in value]


def _by_score(replies: Iterable[Rated]) -> Several:
    found, scored = Several(), list(replies)
    for first, second in combinations(scored, 2):
        found.compare_scores(first, second)
    found.finished()
    best = max((reply for reply in scored if reply.score is not None), key=lambda reply: reply.score or 0.0)
    found.imitate(best.prompt, best.completion)
    found.rank(best.prompt, [reply.completion for reply in scored], [reply.score for reply in scored])
    return found


def comparisons(replies: int) -> int:
    """How often every two of so many replies are compared, to refuse too many before the first is made."""
    return replies * (replies - 1) // 2


def every_two(row: Columns) -> int:
    """Comparisons that a row of several completions asks for."""
    return comparisons(len(row["completions"] or ()))


# --- several rows, one prompt -----------------------------------------------------------------------------------------


Group = list[tuple[str, Rated]]


def by_prompt(rows: Mapping[str, Rated]) -> list[Group]:
    """Rated replies by where they stand → those of each prompt, with where they stand."""
    groups: dict[str, Group] = defaultdict(list)
    for where, reply in rows.items():
        groups[reply.prompt.text].append((where, reply))
    return list(groups.values())


def gathered(group: Group) -> Iterator[tuple[str, Several | NotUsable]]:
    """Replies to one prompt → for each row its rating, and its pairs with the rows that stand before it (so no pair is
    counted twice); or why it says nothing. The ranking of all stands with the best."""
    found = {where: Several() for where, _ in group}
    in_a_pair: set[str] = set()
    for (where_a, a), (where_b, b) in combinations(group, 2):
        one = Several()
        one.compare_scores(a, b)
        in_a_pair |= {where_a, where_b} if one.records else set()
        found[where_b].records += one.records
        found[where_b].left_out += one.left_out
    best = max((r for w, r in group if w in in_a_pair), key=lambda r: r.score or 0.0, default=None)
    for where, reply in group:
        if reply.score is None:
            yield where, NotUsable(NO_SCORE)
        elif not reply.completion.strip():
            yield where, NotUsable("the completion is empty")
        elif (value := _as_float(reply.score)) is None and where not in in_a_pair:
            yield where, NotUsable(TOO_LARGE)
        else:
            if value is None:
                found[where].left_out[TOO_LARGE] += 1
            else:
                found[where].records.append(Rating(reply.prompt, reply.completion, value))
            if reply is best:
                found[where].imitate(reply.prompt, reply.completion)
                found[where].rank(reply.prompt, [r.completion for _, r in group], [r.score for _, r in group])
            yield where, found[where]


def _as_float(score: float) -> float | None:
    try:
        return float(score)
    except OverflowError:
        return None
