"""From a plan and its run folder to live objects: the backbone with its roles, the reward, the truth.

Training and evaluating a run again put the same parts together; this is the one place that does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lora import progress, registry
from rlhf_lora.against import Against
from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Context
from rlhf_lora.errors import DataError
from rlhf_lora.plan import Plan
from rlhf_lora.records import Demonstration, Prompt
from rlhf_lora.reward_calls import in_worker
from rlhf_lora.reward_tree import with_reward_model
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.stages.scoring import Scorer
from rlhf_lora.turns import Turn


@dataclass(frozen=True)
class Assembly:
    """The parts of one run.

    Attributes:
        plan: with `spec.path` known. folder: where the stages' adapters are.
        too_long: use → rows that it had to do without, since they are longer than the limits; for the summary.
        turn: the round, of a run that has several.
        known: see `contracts.Context`.
    """

    plan: Plan
    folder: RunFolder
    too_long: dict[str, int] = field(default_factory=dict)
    turn: Turn = field(default_factory=Turn)
    known: dict[str, Any] = field(default_factory=dict)

    def adapter_of(self, stage: str) -> Path:
        if stage == "policy":
            return self.folder.adapter(self.turn.named("policy"))
        return self.folder.adapter(stage.replace("reward_model", "reward"))  # reward_model_2: of the second round

    @property
    def policy_start(self) -> Path | None:
        """What the policy of this round starts from: the reference, or the policy of the round before."""
        return self.sft_adapter if self.turn.is_first else self.folder.adapter(f"policy_{self.turn.number - 1}")

    def left_by(self, stage: str) -> Path:
        """The folder that a stage leaves: of one that trains nothing its files, else an adapter."""
        return self.folder.path / stage if stage in ("labels", "revisions") else self.adapter_of(stage)

    @property
    def sft_adapter(self) -> Path | None:
        """What the policy starts from and the reference is: this run's SFT, the one on revisions where there is one;
        someone's; or None for the bare base."""
        return self.adapter_of("revised_sft") if self.plan.stage("revised_sft") else self.first_sft_adapter

    @property
    def first_sft_adapter(self) -> Path | None:
        """The model whose answers are revised."""
        return self.adapter_of("sft") if self.plan.stage("sft") else self.plan.start_adapter

    @property
    def reward_adapter(self) -> Path | None:
        """The reward model of this run; where it is refreshed, that of this round."""
        if self.plan.stage("reward_model") is None:
            return None
        refreshed = self.plan.config.refresh.by is not None and self.turn.of > 1
        return self.adapter_of(self.turn.named("reward_model") if refreshed else "reward_model")

    def backbone(self, policy: Path | None, trained: bool = False) -> Backbone:
        """The base with the roles policy and reference."""
        backbone = self.answering_backbone(policy, trained)
        # A frozen copy of SFT. Adapters off would measure KL from the base, which is right only when there is no SFT.
        backbone.add_role("reference", start=self.sft_adapter, bare=self.sft_adapter is None)
        return backbone

    def answering_backbone(self, policy: Path | None, trained: bool = False) -> Backbone:
        """The base with the role policy alone, for who only has it answer."""
        hardware = self.plan.config.hardware
        backbone = Backbone(
            self.plan.spec, micro_batch=max(hardware.micro_batch, hardware.rollout_batch // 4),
            rollout_batch=hardware.rollout_batch, logprob_chunk=hardware.logprob_chunk,
        )  # fmt: skip
        backbone.add_role("policy", start=policy, trained=trained)
        return backbone

    def training_backbone(self) -> Backbone:
        """The base for the on-policy loop: policy from SFT or the round before, value from the reward adapter (else SFT) with
        a zero head."""
        backbone = self.backbone(self.policy_start, trained=True)
        optimizer = self.plan.optimizer
        reward = self.reward_adapter or getattr(self.plan.reward, "folder", None)
        if "value" in optimizer.roles:
            backbone.add_role("value", start=reward or self.sft_adapter, trained=True)
        if "value" in optimizer.roles or optimizer.shared_trunk:
            as_reward = getattr(optimizer, "value_init", "zero") == "reward"
            backbone.add_head("value", reward if as_reward else None)
        return backbone

    def short_enough(self, backbone: Backbone, prompts: Sequence[Prompt], use: str) -> list[Prompt]:
        """The prompts within `max_prompt_tokens`; how many of them `use` has to do without is in `too_long`.

        Raises:
            DataError: not one of them is.
        """
        limit = self.plan.config.max_prompt_tokens
        kept = self.within_limit(backbone, prompts)
        if not kept:
            raise DataError(
                f"all {len(prompts)} prompts are longer than {limit} tokens", where="max_prompt_tokens",
                fix="raise max_prompt_tokens (more memory), or give shorter prompts",
            )  # fmt: skip
        if len(kept) < len(prompts):
            self.too_long[use] = len(prompts) - len(kept)
            progress.stage(
                use, f"{len(prompts) - len(kept)} of {len(prompts)} are longer than {limit} tokens: not used"
            )
        return kept

    def within_limit(self, backbone: Backbone, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts within `max_prompt_tokens`; perhaps none."""
        limit = self.plan.config.max_prompt_tokens
        return [prompt for prompt in prompts if len(backbone.chat.prompt_ids(prompt)) <= limit]

    def demonstrations(self, backbone: Backbone) -> list[Demonstration]:
        """Those that the optimizer asks for, within `sft.max_length` as SFT's are; none where it asks for none."""
        optimizer = self.plan.optimizer
        if not optimizer.ptx and optimizer.scale_scores != "demonstrations":
            return []
        chat, limit, given = backbone.chat, self.plan.config.sft.max_length, self.plan.splits.demonstrations
        kept = [
            row for row in given
            if len(chat.prompt_ids(row.prompt)) + len(chat.response_ids(row.completion, prompt=row.prompt)) <= limit
        ]  # fmt: skip
        if not kept:
            raise DataError(
                f"all {len(given)} demonstrations are longer than {limit} tokens", where="sft.max_length",
                fix="raise sft.max_length (more memory), give shorter ones, or optimizer.ptx=0 optimizer.scale_scores=reference",
            )  # fmt: skip
        if len(kept) < len(given):
            self.too_long["demonstrations"] = len(given) - len(kept)
            progress.stage(
                "demonstrations", f"{len(given) - len(kept)} of {len(given)} are longer than {limit} tokens: not used"
            )
        return kept

    def context(self, backbone: Backbone | None = None) -> Context:
        """Args: backbone: None for a plugin that needs no model."""
        return Context(
            seed=self.plan.config.seed, cache_dir=self.plan.cache_dir, run_dir=self.folder.path, backbone=backbone,
            chat=None if backbone is None else backbone.chat, judge=self.plan.judge, device=self.plan.spec.device,
            known=self.known,
        )  # fmt: skip

    def scorer(self, ctx: Context) -> Scorer:
        """The run's reward, opened."""
        reward = self.plan.reward
        if getattr(reward, "stages", ()):
            assert self.reward_adapter is not None
            reward = with_reward_model(reward, self.reward_adapter)
        return self.held(ctx, reward, opened(reward, ctx), self.plan.config.reward.name)

    def held(self, ctx: Context, reward: Any, source: Any, name: str) -> Scorer:
        """A reward and what `open` made of it, held to the contract as `scoring` says; so are those inside a mix."""
        how, worker = self.plan.config.scoring, None
        source = self._against(ctx, source, name)
        if callable(score_with := getattr(source, "score_with", None)):
            score_with(lambda part, of_it: self.held(ctx, part, of_it, registry.to_config(part)["name"]))
        if how.process == "auto":
            folders = {"cache_dir": str(self.plan.cache_dir), "run_dir": str(self.folder.path)}
            worker = in_worker(reward, name, how.deadline, {"seed": ctx.seed, **folders})
        return Scorer(
            source, name, deadline=how.deadline, on_error=how.on_error, worker=worker,
            on_device=getattr(source, "on_device", source is not reward),
        )  # fmt: skip

    def named_scorer(self, ctx: Context, name: str) -> Scorer:
        """A reward with the settings that it has by default, opened."""
        reward = registry.build("reward", {"name": name})
        return self.held(ctx, reward, opened(reward, ctx), name)

    def judges(self, ctx: Context, scorer: Scorer | None = None) -> dict[str, Scorer]:
        """What an evaluation is scored with: `score`, the run's reward, and `gold`, the truth where it is known.

        Args:
            scorer: the run's reward, where it is open already.
        """
        found = {}
        # A learned reward that this run did not train (DPO does not need it) has nothing to say.
        if scorer is not None or not getattr(self.plan.reward, "stages", ()) or self.reward_adapter is not None:
            found["score"] = self._judge(ctx, scorer or self.scorer(ctx))
        if (gold := self.gold_scorer()) is not None:
            found["gold"] = gold
        return found

    def _judge(self, ctx: Context, scorer: Scorer) -> Scorer:
        """The run's reward as it judges: raw, and of one answer, where in training it goes by the batch."""
        if not callable(as_judge := getattr(scorer.source, "as_judge", None)):
            return scorer
        return Scorer(self._against(ctx, as_judge(), scorer.name), scorer.name, on_device=scorer.on_device)

    def _against(self, ctx: Context, source: Any, name: str) -> Any:
        """A source that compares, made one that scores."""
        if callable(getattr(source, "score", None)):
            return source
        engine, deadline = opened(self.plan.rollout, ctx), self.plan.config.scoring.deadline
        return Against(source, ctx.backbone, engine, ctx.seed, name, deadline)

    def gold_scorer(self) -> Scorer | None:
        name = self.plan.data.gold
        return None if name is None else Scorer(registry.build("reward", {"name": name}), name)


def opened(plugin: Any, ctx: Context) -> Any:
    """The object that does a plugin's work: what its `open` returns, or the plugin itself."""
    opener = getattr(plugin, "open", None)
    return opener(ctx) if callable(opener) else plugin


@contextmanager
def at_work(plugin: Any, ctx: Context) -> Iterator[Any]:
    """A plugin opened, and closed again in the end; None where there is none."""
    made = None if plugin is None else opened(plugin, ctx)
    try:
        yield made
    finally:
        if callable(close := getattr(made, "close", None)):
            close()
