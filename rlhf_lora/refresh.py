"""The reward model of a round: the newest policy answers, somebody compares the answers, the model is trained anew.

On the old comparisons and all new ones, from SFT, as the first reward model was; then scaled on the tuning pairs like it,
so that β keeps its meaning. The first round has the first reward model: its rollouts are SFT's.

    refresh.by=null      nothing of this: the frozen reward model of the first round serves all of them
    refresh.by=judge     the run's judge compares, in both orders; how sure it is becomes the label
    refresh.by=REWARD    simulated people: they see the reward's score, and err with refresh.tau

    comparisons_2/    answers.jsonl and labels.jsonl of the second round, as the stage `labels` has them      adapters/reward_2
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rlhf_lora import ai_labels, controls, progress, rounds
from rlhf_lora.adapter_stages import AdapterStages, Record
from rlhf_lora.assembly import Assembly, at_work, opened
from rlhf_lora.atomic import staging, write_text
from rlhf_lora.comparison_rows import Sampled
from rlhf_lora.contracts import Context
from rlhf_lora.file_stages import FileStages, name_of
from rlhf_lora.made_rows import drawn
from rlhf_lora.plan import Plan
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.records import Pair, named_seed
from rlhf_lora.row_file import RowFile
from rlhf_lora.stages import answers, labelling


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
    figures = _compared(stages, stage.key)

    def fit() -> Record:
        return _fit(stages, stage, figures)

    policy = plan.stage("policy")
    assert policy is not None
    record = stages.cached(stage, fit) if plan.config.cache and policy.repeatable else fit()
    stages.records.keep(stage.name, {"key": stage.key, "reused": False} | record)


def _fit(stages: AdapterStages, stage: StagePlan, figures: Mapping[str, Any]) -> Record:
    """Train on old and new pairs; judge on the held-out ones, as the first reward model was."""
    from rlhf_lora.held_out import judge_reward_model
    from rlhf_lora.stages import reward_model

    parts, started = stages.parts, time.perf_counter()
    plan, new = parts.plan, pairs_of(parts, parts.turn.number)
    rows = learned_from(parts, new)
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
    between = [pair for number in range(2, parts.turn.number) for pair in pairs_of(parts, number)]
    labels, seed = plan.config.reward_model.labels, plan.config.seed
    return [*old, *controls.relabelled([*between, *new], labels, seed)]


# --- new pairs --------------------------------------------------------------------------------------------------------


def pairs_of(parts: Assembly, number: int) -> list[Pair]:
    """What the comparisons of a round's refresh say which answer is better of."""
    sampled, labels = _sampled(parts, number), RowFile(_folder(parts, number) / "labels.jsonl")
    return ai_labels.learned_from((), sampled.comparisons(), labels.rows(), hard=False, sampled=sampled)


def _compared(stages: AdapterStages, key: str) -> Mapping[str, Any]:
    """Figures of the comparisons of the newest policy's answers, which are sampled and labelled now or in the run folder."""
    parts, started = stages.parts, time.perf_counter()
    name, folder = parts.turn.named("comparisons"), _folder(parts, parts.turn.number)
    if stages.records.get(name, {}).get("key") != key:
        if (
            not (folder / "key").is_file() or (folder / "key").read_text("utf-8") != key
        ):  # of other settings, or of none
            shutil.rmtree(folder, ignore_errors=True)
            write_text(folder / "key", key)
        figures = _label(stages, folder)
        figures |= _told_before(parts, pairs_of(parts, parts.turn.number))
        stages.records.keep(name, {"key": key, "seconds": time.perf_counter() - started, "figures": figures})
    found: Mapping[str, Any] = stages.records[name]["figures"]
    return found


def _label(stages: AdapterStages, folder: Path) -> dict[str, Any]:
    """The newest policy answers each prompt twice, and the annotator compares the two."""
    parts = stages.parts
    plan, turn = parts.plan, parts.turn
    settings, seed = plan.config.refresh, named_seed(plan.config.seed, turn.stream("refresh"))
    backbone = parts.backbone(parts.policy_start)
    ctx = parts.context(backbone)
    prompts = parts.short_enough(backbone, plan.splits.prompts, "prompts")
    asked = drawn(prompts, settings.pairs, turn.number - 1, named_seed(plan.config.seed, "refresh"), repeat=True)
    progress.stage(turn.named("comparisons"), f"two answers to {len(asked)} prompts, compared by {_by(plan)}")
    answers.sampled(
        backbone, opened(plan.rollout, ctx), asked, 2, RowFile(folder / "answers.jsonl"),
        lambda first: named_seed(seed, f"answers/{first}"), stages.interrupted,
    )  # fmt: skip
    sampled, file = _sampled(parts, turn.number), RowFile(folder / "labels.jsonl")
    comparisons = sampled.comparisons()
    with _annotator(parts, ctx, sampled, named_seed(seed, "people")) as annotator:
        rows = labelling.label(annotator, comparisons, file, plan.config.scoring.missing_share, stages.interrupted)
    figures = ai_labels.figures(comparisons, rows, (), labelling.truth(parts.gold_scorer(), sampled))
    return {"by": settings.by, "same_words": len(asked) - len(comparisons)} | figures


@contextmanager
def _annotator(parts: Assembly, ctx: Context, sampled: Sampled, seed: int) -> Iterator[labelling.Annotator]:
    settings, judge = parts.plan.config.refresh, parts.plan.judge
    if settings.by == "judge":
        with at_work(judge, ctx) as opened_judge:
            yield labelling.Judging(opened_judge, name_of(judge))
    else:
        with closing(parts.named_scorer(ctx, settings.by)) as scorer:
            yield labelling.People(scorer, settings.tau, seed, sampled)


def _by(plan: Plan) -> str:
    by = plan.config.refresh.by
    return f"judge={name_of(plan.judge)}" if by == "judge" else f"reward={by}"


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


def _sampled(parts: Assembly, number: int) -> Sampled:
    return Sampled(parts.plan.splits.prompts, RowFile(_folder(parts, number) / "answers.jsonl").rows())


def _folder(parts: Assembly, number: int) -> Path:
    return parts.folder.path / f"comparisons_{number}"
