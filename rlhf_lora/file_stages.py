"""Stages that leave files and train nothing: a judge's labels, and an assistant's revisions of its own answers.

labels/      labels.jsonl (format labels/1)   answers.jsonl (with reward_model.pairs=rollouts)
revisions/   answers.jsonl   steps.jsonl   demonstrations.jsonl
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lora import ai_labels, feedback_checks, loading, registry
from rlhf_lora.assembly import Assembly, at_work, opened
from rlhf_lora.atomic import write_text
from rlhf_lora.comparison_rows import Sampled
from rlhf_lora.contracts import Context
from rlhf_lora.errors import DataError, PluginError
from rlhf_lora.plan_stages import StagePlan
from rlhf_lora.principles import principles_of
from rlhf_lora.records import Comparison, Demonstration, Pair, Prompt, named_seed
from rlhf_lora.revised_rows import matches, revised_prompts, with_helpful
from rlhf_lora.revising import ByQuestions, OwnVoice, Reviser
from rlhf_lora.reward_tree import asks_judge
from rlhf_lora.row_file import RowFile
from rlhf_lora.stages import answers, labelling, revisions
from rlhf_lora.stages.scoring import Scorer

NAMES = ("labels", "revisions")
MEASURED = 200
"""Held-out prompts that are answered before and after training on revisions, at most."""


@dataclass(frozen=True)
class FileStages:
    """Runs them, and reads what they left.

    Attributes:
        parts: plan and run folder, the base's path known.
        interrupted: the number of the signal that asked the run to stop, or None.
    """

    parts: Assembly
    interrupted: Callable[[], int | None] = lambda: None

    def run(self, name: str) -> dict[str, Any]:
        """Do what is left to do of a stage. Returns its figures."""
        try:
            return self._labels() if name == "labels" else self._revisions()
        finally:
            loading.free()

    # --- labels -------------------------------------------------------------------------------------------------------

    def pairs(self) -> list[Pair]:
        """What the reward model learns from, once `labels` is done: labels that are kept, and the judge's."""
        config = self.parts.plan.config
        work = ai_labels.work_of(config, self.parts.plan.splits)
        rows = self._file("labels", "labels.jsonl").rows()
        sampled, comparisons = self._to_compare(work)
        pairs = ai_labels.learned_from(work.kept, comparisons, rows, config.ai_labels.hard, sampled)
        if not pairs:
            raise DataError(
                "the judge's labels leave no pair to learn from: all are ties, or could not be read",
                where=str(self._file("labels", "labels.jsonl").path),
                fix="another judge, a smaller ai_labels.tie_within, or ai_labels.keep_dataset above 0",
            )
        return pairs

    def _labels(self) -> dict[str, Any]:
        plan, settings = self.parts.plan, self.parts.plan.config.ai_labels
        work = ai_labels.work_of(plan.config, plan.splits)
        needs_base = bool(work.prompts) or getattr(plan.judge, "needs_backbone", False)
        ctx = self._context(needs_base)
        name, file = name_of(plan.judge), self._file("labels", "labels.jsonl")
        with at_work(plan.judge, ctx) as judge:  # before anything is sampled: a judge that is not there is told at once
            if work.prompts:
                self._answer(ctx, work.prompts, settings.samples_per_prompt, "labels")
            sampled, comparisons = self._to_compare(work)
            annotator = labelling.Judging(judge, name, settings.orders, settings.tie_within)
            rows = labelling.label(annotator, comparisons, file, plan.config.scoring.missing_share, self.interrupted)
        gold = labelling.truth(self.parts.gold_scorer(), sampled)
        figures = ai_labels.figures(comparisons, rows, work.people, gold)
        said = {
            "judge": name,
            "pairs": plan.config.reward_model.pairs,
            "orders": settings.orders,
            "kept": len(work.kept),
        }
        return said | figures

    def _to_compare(self, work: ai_labels.Work) -> tuple[Sampled, list[Comparison]]:
        """What the policy answered, and what is compared: that, or the data's own answers."""
        sampled = Sampled(work.prompts, self._file("labels", "answers.jsonl").rows())
        return sampled, [*ai_labels.asked(work.people), *sampled.comparisons()]

    # --- revisions ----------------------------------------------------------------------------------------------------

    def demonstrations(self) -> list[Demonstration]:
        """What `revised_sft` learns from: last revisions, and the share of the data's own that is asked for."""
        plan = self.parts.plan
        rows = {row["id"]: row["completion"] for row in self._file("revisions", "demonstrations.jsonl").rows()}
        prompts = revised_prompts(plan.config, plan.splits)
        revised = [Demonstration(prompt, rows[prompt.id]) for prompt in prompts if rows.get(prompt.id)]
        return with_helpful(revised, plan.splits.demonstrations, plan.config.revisions)

    def _revisions(self) -> dict[str, Any]:
        plan, settings = self.parts.plan, self.parts.plan.config.revisions
        prompts, by_judge = revised_prompts(plan.config, plan.splits), settings.by == "judge"
        ctx, steps = self._context(needs_base=True, before_revisions=True), self._file("revisions", "steps.jsonl")
        with at_work(plan.judge if by_judge else None, ctx) as judge:
            reviser = self._reviser(judge) if by_judge else ByQuestions(self._own_voice(ctx), settings.max_new_tokens)
            prompts, answers = self._answer(ctx, prompts, 1, "revisions")
            texts = revisions.revise(
                reviser, prompts, [given[0] for given in answers], principles_of(settings), settings.rounds, steps,
                plan.config.seed, plan.config.scoring.missing_share, self.interrupted,
            )  # fmt: skip
        rows = [
            {"id": prompt.id, "prompt": prompt.text, **_messages(prompt), "completion": given[-1]}
            for prompt, given in zip(prompts, texts, strict=True)
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self._file("revisions", "demonstrations.jsonl").path, lines)
        by = name_of(plan.judge) if by_judge else "self"
        return {"by": by, **revisions.figures(prompts, texts, steps.rows(), self._measures())}

    def measured(self) -> dict[str, Any]:
        """Prompts of the tuning split answered before and after training on revisions: means and violations by each measure.

        Where `revisions.where` picks prompts, those of that kind and the `others` apart: what was to be mended, and what was
        to stay as good as it was.
        """
        where, every = self.parts.plan.config.revisions.where, self.parts.plan.splits.tuning_prompts
        found = self._before_and_after([prompt for prompt in every if matches(prompt, where)])
        others = self._before_and_after([prompt for prompt in every if not matches(prompt, where)])
        return found | ({"others": others} if others else {})

    def _before_and_after(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        measures = self._measures()
        if not measures or not prompts:
            return {}
        found: dict[str, Any] = {}
        for when, adapter in (
            ("before", self.parts.first_sft_adapter),
            ("after", self.parts.adapter_of("revised_sft")),
        ):
            asked, answers = self._answers_of(adapter, prompts)
            loading.free()
            if asked:
                found["prompts"] = len(asked)
            for name, measure in measures.items():
                if said := revisions.of_answers(measure, asked, answers):
                    found.setdefault(name, {})[when] = said
        return found

    def _answers_of(self, adapter: Path | None, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
        """Those of the prompts that are short enough, and an answer to each."""
        backbone = self.parts.answering_backbone(adapter)
        asked = self.parts.within_limit(backbone, prompts)[:MEASURED]
        engine = opened(self.parts.plan.rollout, self.parts.context(backbone))
        seed = named_seed(self.parts.plan.config.seed, "revised_sft/measured") >> 1
        return asked, [sample.text for sample in engine.generate(backbone, asked, 1, seed)] if asked else []

    def _reviser(self, judge: Any) -> Reviser:
        if callable(getattr(judge, "revise_all", None)):
            return judge
        if (listener := getattr(judge, "listener", None)) is not None:
            return ByQuestions(listener, self.parts.plan.config.revisions.max_new_tokens)
        name = self.parts.plan.config.judge.name
        raise PluginError(
            f"judge={name} compares answers and cannot revise them: it has neither `revise_all` nor a listener",
            where="revisions.by=judge", fix="revisions.by=self, or a judge that is a language model",
        )  # fmt: skip

    def _own_voice(self, ctx: Context) -> OwnVoice:
        plan, longest = self.parts.plan, self.parts.plan.config.revisions.max_new_tokens
        engine = opened(dataclasses.replace(plan.rollout, max_new_tokens=longest), ctx)
        seed = named_seed(plan.config.seed, "revisions/own voice") >> 1
        return OwnVoice(ctx.backbone, engine, seed, _positions(ctx) - longest)

    def _measures(self) -> dict[str, Scorer]:
        plan = self.parts.plan
        names = dict.fromkeys([*plan.config.revisions.measure, *([plan.data.gold] if plan.data.gold else [])])
        return {name: Scorer(registry.build("reward", {"name": name}), name) for name in names}

    # --- what both need -----------------------------------------------------------------------------------------------

    def _context(self, needs_base: bool, before_revisions: bool = False) -> Context:
        """With the base and the SFT policy on it, where somebody needs them."""
        parts = self.parts
        if not needs_base:
            return parts.context()
        return parts.context(
            parts.answering_backbone(parts.first_sft_adapter if before_revisions else parts.sft_adapter)
        )

    def _answer(
        self, ctx: Context, prompts: Sequence[Prompt], count: int, stage: str
    ) -> tuple[list[Prompt], list[list[str]]]:
        """The prompts that are short enough, and `count` answers of the SFT policy to each."""
        plan = self.parts.plan
        kept = self.parts.short_enough(ctx.backbone, prompts, f"prompts of {stage}")
        file, engine = self._file(stage, "answers.jsonl"), opened(plan.rollout, ctx)
        seed = named_seed(plan.config.seed, stage) >> 1
        rows = answers.sampled(
            ctx.backbone, engine, kept, count, file, lambda first: named_seed(seed, f"answers/{first}") >> 1, self.interrupted
        )  # fmt: skip
        return kept, [row["answers"] for row in rows]

    def _file(self, stage: str, name: str) -> RowFile:
        return RowFile(self.parts.left_by(stage) / name)


def meet_judge(parts: Assembly, done: Callable[[StagePlan], bool]) -> None:
    """Open the run's judge and close it again, before anything long begins: a wrong key, or a server that is not there, is
    told in seconds and not after SFT. Not where nobody asks it any more, nor where it needs the base in memory.

    Args:
        done: whether a stage was finished.
    """
    plan = parts.plan
    if plan.judge is None or getattr(plan.judge, "needs_backbone", False):
        return
    stages = [stage for stage in plan.stages if not done(stage)]
    asked = [s for s in stages if s.name in feedback_checks.asking_stages(plan.config) and s.reused is None]
    asks_policy = asks_judge(plan.reward) or plan.config.refresh.by == "judge"
    if asked or (asks_policy and any(stage.name == "policy" for stage in stages)):
        with at_work(plan.judge, parts.context()):
            pass
        loading.free()  # a model of its own is not to stay beside SFT's


def name_of(judge: Any) -> str:
    """Its name, and the model it asks where it says so."""
    model = getattr(judge, "model", None)
    name = str(registry.to_config(judge)["name"])
    return f"{name}/{model}" if isinstance(model, str) and model else name


def _messages(prompt: Prompt) -> dict[str, Any]:
    return {} if prompt.messages is None else {"messages": [dict(turn) for turn in prompt.messages]}


def _positions(ctx: Context) -> int:
    """Tokens that the model can hold."""
    return int(getattr(ctx.backbone.base.config, "max_position_embeddings", 2048))
