"""What the plan shows of the data: for each file what was recognised, what became of its rows, lengths, and examples.

`view(plan)` gives facts, as plain values; `data_show` prints them and `plan --json` gives them to programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_lora.data_lengths import KINDS, Lengths, measured, replies_of
from rlhf_lora.feedback_checks import readers
from rlhf_lora.plan_tokens import PlanTokens, TemplateRefuses, plan_tokens
from rlhf_lora.records import Data, Unused, prompt_of
from rlhf_lora.sources import SHARE, Source
from rlhf_lora.splits import STAGE_LISTS, TRAINED

if TYPE_CHECKING:
    from rlhf_lora.plan import Plan

EXAMPLES, FIRST = 3, 3
"""Examples of a file; rows that are named for each reason why rows are not used."""


@dataclass(frozen=True)
class Reason:
    """Why rows are not used: how many, and where the first ones stand."""

    reason: str
    rows: int
    first: tuple[str, ...]


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
        remarks: what else the dataset tells of itself, such as how far its raters agree.
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
    remarks: tuple[str, ...] = ()


def view(plan: Plan) -> list[FileView]:
    """Every file that the plan reads: each dataset, and its test set where it has one."""
    tokens, views = plan_tokens(plan.spec, plan.mini), []
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
    lengths, refused = measured(plan, _stages_of(plan, source, is_test), data, tokens)
    return FileView(
        setting=setting, file=str(place or _name(plan, source)), format=data.format, rows=used + len(data.unused), used=used,
        unused=tuple(_reasons(data.unused)), left_out=dict(data.left_out), gives=gives,
        goes_to=_goes_to(plan, source, data, is_test), counted_as=tokens.said, lengths=lengths, refused=refused,
        examples=tuple(_examples(data, tokens)), remarks=tuple(data.remarks),
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
    read = readers([stage.name for stage in plan.stages])
    stages = {name for name in read if (name == source.stage if source.stage else name not in own)}
    return stages - {"sft"} if is_test else stages


def _goes_to(plan: Plan, source: Source, data: Data, is_test: bool) -> dict[str, int]:
    stages = _stages_of(plan, source, is_test=False)
    lists = {name for stage in stages for name in STAGE_LISTS.get(stage, ())}
    if "policy" in stages and not plan.is_on_policy:
        lists = lists - {"prompts"} | {plan.row_source.existing or "prompts"}
    if (learned := plan.stage("reward_model")) is not None and "reward_model" in stages:
        lists = lists - {"pairs", "rankings", "ratings"} | {learned.reads}
        if learned.reads != "labels" and getattr(plan.optimizer, "learns_from", None) != "labels":
            lists -= {"labels"}
    together = {name: getattr(plan.splits, name) for name in lists}
    if is_test:
        return {name: len(rows) for name, rows in sorted(together.items()) if name.startswith("final_") and rows}
    counts = {name: len(rows) for name, rows in sorted(together.items()) if rows}
    policy = plan.stage("policy")
    if policy is not None and plan.row_source.existing and not plan.row_source.made and "policy" in stages:
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
    keys = [prompt_of(record).split_key for record in getattr(data, kinds[0])]
    share = Counter(source.splits.shares.of(key) for key in keys)
    learns_from = plan.row_source.existing or ""
    read = {SHARE.get(learns_from if stage == "policy" else stage, "prompts") for stage in stages}
    found = {
        "in shares that no stage of this run reads": sum(share[name] for name in TRAINED if name not in read),
        "held back for judging, not trained on": 0 if judged else share["tuning"] + share["final"],
    }
    return {why: count for why, count in found.items() if count}


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
    prompt = prompt_of(record)
    try:
        shown = tokens.prompt(prompt)
    except TemplateRefuses as error:
        shown = f"(the chat template refuses this conversation: {error}) {prompt.text}"
    replies = {name: tokens.reply(prompt, reply) for name, reply in replies_of(record).items()}
    return Example(kind.removesuffix("s"), shown, replies)
