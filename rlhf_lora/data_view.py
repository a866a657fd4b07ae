"""What the plan shows of the data: for each file what was recognised, what became of its rows, lengths, and examples.

`view(plan)` gives facts, as plain values; `data_show` prints them and `plan --json` gives them to programs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_lora.plan_tokens import LONGEST, PlanTokens, TemplateRefuses, plan_tokens
from rlhf_lora.records import Data, Pair, Prompt, Unused
from rlhf_lora.sources import SHARE, Source
from rlhf_lora.splits import STAGE_LISTS, TRAINED

if TYPE_CHECKING:
    from rlhf_lora.plan import Plan

EXAMPLES, FIRST = 3, 3
"""Examples of a file; rows that are named for each reason why rows are not used."""
SAMPLE, SAMPLE_CHARACTERS = 1_000, 2_000_000
"""Rows whose tokens are counted, at most: a plan is there in seconds whatever the file."""
KINDS = ("pairs", "demonstrations", "labels", "prompts")


@dataclass(frozen=True)
class Reason:
    """Why rows are not used: how many, and where the first ones stand."""

    reason: str
    rows: int
    first: tuple[str, ...]


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


@dataclass(frozen=True)
class Example:
    """One record as the model sees it. `replies`: by what they are (chosen, rejected, completion)."""

    kind: str
    prompt: str
    replies: Mapping[str, str]


@dataclass(frozen=True)
class FileView:
    """One file, or one dataset that is no file.

    Attributes:
        setting: what names it in the configuration. used + the rows of `unused` = rows.
        left_out: comparisons inside used rows that gave no pair, by reason.
        gives: records that came of the rows, by kind.
        goes_to: what they are used for, by name.
        counted_as: how tokens were counted.
        refused: prompts that the chat template refuses, by its words, among those counted.
    """

    setting: str
    file: str
    format: str
    rows: int
    used: int
    unused: tuple[Reason, ...]
    left_out: Mapping[str, int]
    gives: Mapping[str, int]
    goes_to: Mapping[str, int]
    counted_as: str
    lengths: tuple[Lengths, ...]
    refused: Mapping[str, int]
    examples: tuple[Example, ...]


def view(plan: Plan) -> list[FileView]:
    """Every file that the plan reads: each dataset, and its test set where it has one."""
    tokens, views = plan_tokens(plan.spec), []
    for source in plan.sources.every:
        views.append(_file(plan, source, source.data, tokens))
        if source.data.test is not None:
            views.append(_file(plan, source, source.data.test, tokens, is_test=True))
    return views


def _file(plan: Plan, source: Source, data: Data, tokens: PlanTokens, is_test: bool = False) -> FileView:
    gives = {kind: len(getattr(data, kind)) for kind in KINDS if getattr(data, kind)}
    used = sum(gives.values()) if data.rows is None else data.rows
    name = "test_path" if getattr(source.dataset, "test_path", None) else "test_split"
    setting = f"{source.setting}.{name}" if is_test else source.setting
    place = getattr(source.dataset, name if is_test else "path", None)
    lengths, refused = _lengths(plan, _stages_of(plan, source, is_test), data, tokens)
    return FileView(
        setting=setting, file=str(place or _name(plan, source)), format=data.format, rows=used + len(data.unused), used=used,
        unused=tuple(_reasons(data.unused)), left_out=dict(data.left_out), gives=gives,
        goes_to=_goes_to(plan, source, data, is_test), counted_as=tokens.said, lengths=lengths, refused=refused,
        examples=tuple(_examples(data, tokens)),
    )  # fmt: skip


def _name(plan: Plan, source: Source) -> str:
    return str((plan.config[source.stage] if source.stage else plan.config).dataset.name)


def _reasons(unused: Sequence[Unused]) -> list[Reason]:
    where: dict[str, list[str]] = {}
    for row in unused:
        where.setdefault(row.reason, []).append(row.where)
    return [
        Reason(reason, len(rows), tuple(rows[:FIRST]))
        for reason, rows in sorted(where.items(), key=lambda item: -len(item[1]))
    ]


# --- what it is used for ----------------------------------------------------------------------------------------------


def _stages_of(plan: Plan, source: Source, is_test: bool) -> set[str]:
    """The stages that read a dataset; of its test set, those that are judged on it."""
    own = {other.stage for other in plan.sources.every}
    stages = {s.name for s in plan.stages if (s.name == source.stage if source.stage else s.name not in own)}
    return stages - {"sft"} if is_test else stages


def _goes_to(plan: Plan, source: Source, data: Data, is_test: bool) -> dict[str, int]:
    stages = _stages_of(plan, source, is_test=False)
    lists = {name for stage in stages for name in STAGE_LISTS[stage]}
    if "policy" in stages and not plan.is_on_policy:
        lists = lists - {"prompts"} | {plan.optimizer.learns_from}
    together = {name: getattr(plan.splits, name) for name in lists}
    if is_test:
        return {name: len(rows) for name, rows in sorted(together.items()) if name.startswith("final_") and rows}
    counts = {name: len(rows) for name, rows in sorted(together.items()) if rows}
    policy = plan.stage("policy")
    if policy is not None and not plan.is_on_policy and "policy" in stages:
        counts[policy.reads] = policy.rows
    if data.test is not None:
        counts = {name: count for name, count in counts.items() if not name.startswith("final_")}
    return counts | _not_trained_on(
        plan, source, data, stages, any(n.startswith(("tuning_", "final_")) for n in counts)
    )


def _not_trained_on(plan: Plan, source: Source, data: Data, stages: set[str], judged: bool) -> dict[str, int]:
    """Records that no stage of this run gets, by why not. Told where a file gave records of one kind."""
    kinds = [kind for kind in KINDS if getattr(data, kind)]
    if len(kinds) != 1:
        return {}
    keys = [_prompt(record).split_key for record in getattr(data, kinds[0])]
    share = Counter(source.splits.shares.of(key) for key in keys)
    learns_from = "" if plan.is_on_policy else plan.optimizer.learns_from
    read = {SHARE.get(learns_from if stage == "policy" else stage, "prompts") for stage in stages}
    found = {
        "in shares that no stage of this run reads": sum(share[name] for name in TRAINED if name not in read),
        "held back for judging, not trained on": 0 if judged else share["tuning"] + share["final"],
    }
    return {why: count for why, count in found.items() if count}


# --- lengths ----------------------------------------------------------------------------------------------------------


def _lengths(
    plan: Plan, stages: set[str], data: Data, tokens: PlanTokens
) -> tuple[tuple[Lengths, ...], dict[str, int]]:
    """Of prompts (each once), of replies, and of both together, against the limits of the stages that read them."""
    records = _sampled([record for kind in KINDS for record in getattr(data, kind)])
    every = {_prompt(record).text: _prompt(record) for kind in KINDS for record in getattr(data, kind)}
    every.pop("", None)  # of text without a prompt
    prompts = _sampled(list(every.values()))
    together = {prompt.text: prompt for prompt in [*prompts, *map(_prompt, records)]}
    length_of = dict(zip(together, tokens.prompt_lengths(list(together.values())), strict=True))
    replies = [(_prompt(record), reply) for record in records for reply in _replies(record).values()]
    reply_lengths = tokens.reply_lengths(replies)
    rows = _row_lengths(records, reply_lengths, length_of)
    counted = [found for prompt in prompts if (found := length_of[prompt.text])]
    refused: Counter[str] = Counter()
    for text, length in length_of.items():
        if length is None:
            refused[_refusal(tokens, together[text])] += 1
    answered = [record for kind in KINDS for record in getattr(data, kind) if kind != "prompts"]
    found_lengths = [
        _of_one("prompts", counted, len(every), _prompt_limits(plan, stages, counted)),
        _of_one(
            "replies",
            reply_lengths,
            sum(len(_replies(r)) for r in answered),
            _reply_limits(plan, stages, reply_lengths),
        ),
        _of_one("rows", [longest for _, longest in rows], len(answered), _row_limits(plan, stages, rows)),
    ]
    return tuple(one for one in found_lengths if one is not None), dict(refused)


def _row_lengths(
    records: list[Any], reply_lengths: Sequence[int], length_of: Mapping[str, int | None]
) -> list[tuple[int, int]]:
    """Of each record with replies: prompt and the reply to imitate, prompt and the longest reply."""
    rows, lengths = [], iter(reply_lengths)
    for record in records:
        own = [next(lengths) for _ in _replies(record)]
        prompt = length_of[_prompt(record).text]
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
        texts = [_prompt(records[index]).text, *_replies(records[index]).values()]
        characters += sum(min(LONGEST, len(text)) for text in texts)
        if chosen and characters > SAMPLE_CHARACTERS:
            break
        chosen.append(index)
    return [records[index] for index in sorted(chosen)]


def _prompt(record: Any) -> Prompt:
    return record if isinstance(record, Prompt) else record.prompt


def _replies(record: Any) -> dict[str, str]:
    if isinstance(record, Prompt):
        return {}
    if isinstance(record, Pair):
        return {"chosen": record.chosen, "rejected": record.rejected}
    good = getattr(record, "good", None)
    return {"reply" if good is None else "good" if good else "bad": record.completion}


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


# --- examples ---------------------------------------------------------------------------------------------------------


def _examples(data: Data, tokens: PlanTokens) -> list[Example]:
    """One of each kind that the file gave, from its beginning; then more of the first kind, from its middle and end."""
    kinds = [kind for kind in KINDS if getattr(data, kind)]
    places = [(kind, 0) for kind in kinds[:EXAMPLES]]
    if kinds:
        size = len(getattr(data, kinds[0]))
        places += [(kinds[0], at) for at in dict.fromkeys((size // 2, size - 1)) if at > 0]
    return [_example(kind, getattr(data, kind)[at], tokens) for kind, at in places[:EXAMPLES]]


def _example(kind: str, record: Any, tokens: PlanTokens) -> Example:
    prompt = _prompt(record)
    try:
        shown = tokens.prompt(prompt)
    except TemplateRefuses as error:
        shown = f"(the chat template refuses this conversation: {error}) {prompt.text}"
    replies = {name: tokens.reply(prompt, reply) for name, reply in _replies(record).items()}
    return Example(kind.removesuffix("s"), shown, replies)
