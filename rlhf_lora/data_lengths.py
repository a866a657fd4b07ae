"""How long the plan's data is in tokens: of prompts, replies and rows, against the limits that cut them.

Counted on all records or, of a large file, on a sample that is the same every time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_lora.plan_tokens import LONGEST, PlanTokens, TemplateRefuses
from rlhf_lora.records import Data, Pair, Prompt, Ranking, prompt_of

if TYPE_CHECKING:
    from rlhf_lora.plan import Plan

SAMPLE, SAMPLE_CHARACTERS = 1_000, 2_000_000
"""Rows whose tokens are counted, at most: a plan is there in seconds whatever the file."""
KINDS = ("pairs", "demonstrations", "labels", "prompts", "rankings", "ratings")


@dataclass(frozen=True)
class Limit:
    """A setting that leaves out what is longer.

    Attributes:
        longer: share of what was counted that is longer.
        then: what happens to it.
    """

    setting: str
    tokens: int
    longer: float
    then: str


@dataclass(frozen=True)
class Lengths:
    """How long prompts, replies, or rows (a prompt and its longest reply) are, in tokens.

    Attributes:
        counted, of: how many were counted, of how many.
        bins: (up to this many tokens, how many). The limits that cut something are edges.
    """

    what: str
    counted: int
    of: int
    median: int
    p95: int
    longest: int
    bins: tuple[tuple[int, int], ...]
    limits: tuple[Limit, ...]


def measured(
    plan: Plan, stages: set[str], data: Data, tokens: PlanTokens
) -> tuple[tuple[Lengths, ...], dict[str, int]]:
    """Lengths of prompts (each once), of replies, and of both together; and how often the chat template refused a prompt.

    Args:
        stages: those that read the data; their limits are held against the lengths.

    Returns:
        What was counted, and the template's words → how many prompts it refused with them.
    """
    kinds = _counted(data)
    records = _sampled([record for kind in kinds for record in getattr(data, kind)])
    every = {prompt_of(record).text: prompt_of(record) for kind in kinds for record in getattr(data, kind)}
    every.pop("", None)  # of text without a prompt
    prompts = _sampled(list(every.values()))
    together = {prompt.text: prompt for prompt in [*prompts, *map(prompt_of, records)]}
    length_of = dict(zip(together, tokens.prompt_lengths(list(together.values())), strict=True))
    replies = [(prompt_of(record), reply) for record in records for reply in replies_of(record).values()]
    reply_lengths = tokens.reply_lengths(replies)
    rows = _row_lengths(records, reply_lengths, length_of)
    counted = [found for prompt in prompts if (found := length_of[prompt.text])]
    refused: Counter[str] = Counter()
    for text, length in length_of.items():
        if length is None:
            refused[_refusal(tokens, together[text])] += 1
    answered = [record for kind in kinds for record in getattr(data, kind) if kind != "prompts"]
    written = sum(len(replies_of(record)) for record in answered)
    found_lengths = [
        _of_one("prompts", counted, len(every), _prompt_limits(plan, stages, counted)),
        _of_one("replies", reply_lengths, written, _reply_limits(plan, stages, reply_lengths)),
        _of_one("rows", [longest for _, longest in rows], len(answered), _row_limits(plan, stages, rows)),
    ]
    return tuple(one for one in found_lengths if one is not None), dict(refused)


def _counted(data: Data) -> list[str]:
    """The kinds that lengths are counted of: rankings and ratings say again what their pairs hold. Ratings hold more
    than they: an answer that was compared with none has a rating alone."""
    again = {"pairs", "rankings"} if data.ratings else {"rankings"} if data.pairs else set()
    return [kind for kind in KINDS if kind not in again]


def _row_lengths(
    records: list[Any], reply_lengths: Sequence[int], length_of: Mapping[str, int | None]
) -> list[tuple[int, int]]:
    """Of each record with replies: prompt and the reply to imitate, prompt and the longest reply."""
    rows, lengths = [], iter(reply_lengths)
    for record in records:
        own = [next(lengths) for _ in replies_of(record)]
        prompt = length_of[prompt_of(record).text]
        if own and prompt:
            rows.append((prompt + own[0], prompt + max(own)))
    return rows


def _sampled(records: list[Any]) -> list[Any]:
    """All, or a sample that is the same every time, in the order of the file."""
    order = list(range(len(records)))
    random.Random(0).shuffle(order)
    chosen: list[int] = []
    characters = 0
    for index in order[:SAMPLE]:
        texts = [prompt_of(records[index]).text, *replies_of(records[index]).values()]
        characters += sum(min(LONGEST, len(text)) for text in texts)
        if chosen and characters > SAMPLE_CHARACTERS:
            break
        chosen.append(index)
    return [records[index] for index in sorted(chosen)]


def replies_of(record: Any) -> dict[str, str]:
    """The replies of a record by what they are, the one to imitate first; a prompt has none."""
    if isinstance(record, Prompt):
        return {}
    if isinstance(record, Pair):
        return {"chosen": record.chosen, "rejected": record.rejected}
    if isinstance(record, Ranking):
        return _in_order(record)
    if (value := getattr(record, "value", None)) is not None:
        return {f"rated {value:g}": record.completion}
    good = getattr(record, "good", None)
    return {"reply" if good is None else "good" if good else "bad": record.completion}


def _in_order(ranking: Ranking) -> dict[str, str]:
    """`rank 1`, `rank 2a`, `rank 2b`: the best first, ties told apart by a letter."""
    found: dict[str, str] = {}
    for rank in sorted(set(ranking.ranks)):
        tied = [text for text, r in zip(ranking.completions, ranking.ranks, strict=True) if r == rank]
        letters = [chr(ord("a") + n) if n < 26 else f".{n}" for n in range(len(tied))] if len(tied) > 1 else [""]
        found |= {f"rank {rank:g}{letter}": text for letter, text in zip(letters, tied, strict=True)}
    return found


def _refusal(tokens: PlanTokens, prompt: Prompt) -> str:
    try:
        tokens.prompt(prompt)
    except TemplateRefuses as error:
        return str(error)
    return ""


def _limit(setting: str, most: int, lengths: Sequence[int], then: str, refused: str = "") -> Limit:
    """`refused`: what happens instead when it is more than half of all."""
    longer = sum(n > most for n in lengths) / max(1, len(lengths))
    return Limit(setting, most, longer, refused if refused and longer > 0.5 else then)


def _prompt_limits(plan: Plan, stages: set[str], lengths: Sequence[int]) -> list[Limit]:
    if "policy" not in stages:
        return []
    most = plan.config.max_prompt_tokens
    return [_limit("max_prompt_tokens", most, lengths, "left out of rollouts and evaluation")]


def _reply_limits(plan: Plan, stages: set[str], lengths: Sequence[int]) -> list[Limit]:
    most = plan.config.rollout.get("max_new_tokens")
    if "policy" not in stages or not most:
        return []
    return [_limit("rollout.max_new_tokens", most, lengths, "more than the policy may write")]


def _row_limits(plan: Plan, stages: set[str], rows: Sequence[tuple[int, int]]) -> list[Limit]:
    """SFT leaves out a row whose reply to imitate is too long, the others one with any reply that is."""
    places = {"sft": plan.config.sft, "reward_model": plan.config.reward_model}
    if not plan.is_on_policy:
        places["policy"] = plan.config.optimizer
    return [
        _limit(
            f"{'optimizer' if stage == 'policy' else stage}.max_length", most,
            [imitated if stage == "sft" else longest for imitated, longest in rows], "not trained on, and counted",
            refused="more than half, so the stage will refuse: raise it, or shorten the data",
        )
        for stage, settings in places.items()
        if stage in stages and (most := settings.get("max_length"))
    ]  # fmt: skip


def _of_one(what: str, lengths: list[int], of: int, limits: list[Limit]) -> Lengths | None:
    if not lengths:
        return None
    lengths = sorted(lengths)
    edges = _edges(lengths[0], lengths[-1], [limit.tokens for limit in limits])
    bins, done = [], 0
    for edge in edges:
        upto = sum(n <= edge for n in lengths)
        bins.append((edge, upto - done))
        done = upto
    middle, high = lengths[len(lengths) // 2], lengths[min(len(lengths) - 1, len(lengths) * 95 // 100)]
    return Lengths(what, len(lengths), of, middle, high, lengths[-1], tuple(bins), tuple(limits))


def _edges(shortest: int, longest: int, limits: Sequence[int]) -> list[int]:
    """Upper ends of the bars: doubling, or even steps where all are of much the same length; and the limits that cut."""
    if longest <= 8 * shortest:
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if (longest - shortest) / s < 7)
        regular = {*range(-(-shortest // step) * step, longest + step, step)} if step < 10**9 else {longest}
    else:
        top = 1 << (longest - 1).bit_length()
        regular = {top >> n for n in range(8) if top >> n >= shortest}
    return sorted(regular | {limit for limit in limits if limit < longest})
