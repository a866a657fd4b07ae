"""The reward model of a round: the newest policy answers, somebody compares the answers, the model is trained anew.

On the old comparisons and all new ones, from SFT, as the first reward model was; then scaled on the tuning pairs like it,
so that β keeps its meaning. The first round has the first reward model: its rollouts are SFT's.

    refresh.by=null      nothing of this: the frozen reward model of the first round serves all of them
    refresh.by=judge     the run's judge compares, in both orders; how sure it is becomes the label
    refresh.by=REWARD    simulated people: they see the reward's score, and err with refresh.tau

    comparisons_2/pairs.jsonl    the new pairs of the second round      adapters/reward_2
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora import controls, progress, rounds
from rlhf_lora.adapter_stages import AdapterStages, Record
from rlhf_lora.assembly import Assembly, opened
from rlhf_lora.atomic import staging, write_text
from rlhf_lora.file_stages import FileStages
from rlhf_lora.made_rows import drawn
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.records import Pair, Prompt, named_seed
from rlhf_lora.stages import answers
from rlhf_lora.stages.annotators import Annotator, Judging, People, counted, labelled

PAIRS = "pairs.jsonl"


def run(stages: AdapterStages) -> None:
    """Make the reward model that this round is trained against, if there is one to make and it is not there."""
    parts = stages.parts
    plan, turn = parts.plan, parts.turn
    if plan.config.refresh.by is None:
        return
    stage, out = plan.stage("reward_model"), parts.folder.adapter(turn.named("reward"))
    assert stage is not None
    if turn.is_first:
        if not out.is_dir():
            with staging(out) as temp:
                shutil.copytree(parts.adapter_of("reward_model"), temp, dirs_exist_ok=True)
        return
    stage = dataclasses.replace(stage, name=turn.named("reward_model"), key=rounds.key(plan, "reward_model", turn))
    if stages.records.has(stage) and out.is_dir():
        return
    pairs, figures = _new_pairs(stages, stage)

    def fit() -> Record:
        return _fit(stages, stage, pairs, figures)

    policy = plan.stage("policy")
    assert policy is not None
    record = stages.cached(stage, fit) if plan.config.cache and policy.repeatable else fit()
    stages.records.keep(stage.name, {"key": stage.key, "reused": False} | record)


def _fit(stages: AdapterStages, stage: StagePlan, new: Sequence[Pair], figures: Mapping[str, Any]) -> Record:
    """Train on old and new pairs; judge on the held-out ones, as the first reward model was."""
    from rlhf_lora.held_out import judge_reward_model
    from rlhf_lora.stages import reward_model

    parts, started = stages.parts, time.perf_counter()
    plan, rows = parts.plan, learned_from(parts, new)
    progress.stage(stage.name, f"{len(rows)} pairs, {len(new)} of them new")
    ctx = stages.context(stage.name)
    metrics = reward_model.fit(plan.spec, rows, plan.settings("reward_model"), ctx, "pairwise")
    judged = judge_reward_model(plan.spec, ctx.out, plan.splits, parts.gold_scorer(), plan.config.evaluation.split)
    return {"seconds": time.perf_counter() - started, "metrics": metrics, "figures": judged | {"new": dict(figures)}}


def learned_from(parts: Assembly, new: Sequence[Pair]) -> list[Pair]:
    """The pairs of the first reward model, those of later rounds, and the newest; in a control run all with its labels."""
    plan = parts.plan
    first = plan.stage("reward_model")
    assert first is not None
    old = plan.rows(first, FileStages(parts).pairs() if plan.stage("labels") else None)
    between = [pair for number in range(2, parts.turn.number) for pair in _load(_folder(parts, number))]
    labels, seed = plan.config.reward_model.labels, plan.config.seed
    return [*old, *controls.relabelled([*between, *new], labels, seed)]


# --- new pairs --------------------------------------------------------------------------------------------------------


def _new_pairs(stages: AdapterStages, stage: StagePlan) -> tuple[list[Pair], dict[str, Any]]:
    """Comparisons of the newest policy's answers, sampled and labelled now or found in the run folder; and their figures."""
    parts = stages.parts
    folder = _folder(parts, parts.turn.number)
    if (folder / "key").is_file() and (folder / "key").read_text("utf-8").strip() == stage.key:
        return _load(folder), json.loads((folder / "figures.json").read_text("utf-8"))
    work = parts.folder.checkpoints / f"{stage.name}-{stage.key}"
    compared = _compared(stages, work)
    pairs, figures = counted(compared)
    figures |= _told_before(parts, pairs)
    with staging(folder) as temp:
        lines = [json.dumps(_plain(pair), allow_nan=False) for pair in pairs]
        write_text(temp / PAIRS, "".join(f"{line}\n" for line in lines))
        write_text(temp / "figures.json", json.dumps(figures, indent=1, allow_nan=False) + "\n")
        write_text(temp / "key", stage.key + "\n")
    shutil.rmtree(work, ignore_errors=True)
    return pairs, figures


def _compared(stages: AdapterStages, work: Path) -> list[Any]:
    """The newest policy answers each prompt twice, and the annotator compares the two."""
    parts = stages.parts
    plan, turn = parts.plan, parts.turn
    settings, seed = plan.config.refresh, named_seed(plan.config.seed, turn.stream("refresh"))
    backbone = parts.backbone(parts.policy_start)
    ctx = parts.context(backbone)
    prompts = parts.short_enough(backbone, plan.splits.prompts, "prompts")
    asked = drawn(prompts, settings.pairs, turn.number - 1, named_seed(plan.config.seed, "refresh"), repeat=True)
    progress.stage(turn.named("reward_model"), f"{len(asked)} new comparisons by {settings.by}")
    at_work = answers.Answering(work, None, None, "drop", 1.0, stages.interrupted)
    sets = at_work.answer(backbone, opened(plan.rollout, ctx), asked, 2, seed)
    annotator: Annotator
    if settings.by == "judge":
        annotator = Judging(opened(plan.judge, ctx))
    else:
        annotator = People(parts.named_scorer(ctx, settings.by), settings.tau, named_seed(seed, "people"))
    try:
        share = plan.config.scoring.missing_share
        return labelled(annotator, sets, parts.gold_scorer(), work, stages.interrupted, share)
    finally:
        annotator.close()


def _told_before(parts: Assembly, pairs: Sequence[Pair]) -> dict[str, Any]:
    """How often the reward model of the round before orders the new pairs as the annotator does: how stale it is."""
    from rlhf_lora.stages import reward_model
    from rlhf_lora.stages.accuracy import accuracy

    if not pairs:
        return {}
    scorer = reward_model.Scorer(parts.plan.spec, parts.folder.adapter(f"reward_{parts.turn.number - 1}"))
    prompts = [pair.prompt for pair in pairs]
    chosen = scorer.score(prompts, [p.chosen for p in pairs], [p.finished[0] for p in pairs])
    rejected = scorer.score(prompts, [p.rejected for p in pairs], [p.finished[1] for p in pairs])
    told = accuracy(chosen, rejected, pairs)
    return {"accuracy_before": told["accuracy"], "accuracy_before_ci95": told["accuracy_ci95"]}


def _folder(parts: Assembly, number: int) -> Path:
    return parts.folder.path / f"comparisons_{number}"


def _plain(pair: Pair) -> dict[str, Any]:
    messages = None if pair.prompt.messages is None else [dict(turn) for turn in pair.prompt.messages]
    asked = {
        "text": pair.prompt.text,
        "messages": messages,
        "columns": dict(pair.prompt.columns),
        "group": pair.prompt.group,
    }
    rest = {"chosen": pair.chosen, "rejected": pair.rejected, "label": pair.label, "finished": list(pair.finished)}
    return {"prompt": asked} | rest


def _load(folder: Path) -> list[Pair]:
    found = []
    for line in (folder / PAIRS).read_text("utf-8").split("\n")[:-1]:
        row = json.loads(line)
        asked = row.pop("prompt")
        messages = None if asked["messages"] is None else tuple(asked["messages"])
        prompt = Prompt(asked["text"], messages, asked["columns"], asked["group"])
        found.append(Pair(prompt, row["chosen"], row["rejected"], None, row["label"], tuple(row["finished"])))
    return found
