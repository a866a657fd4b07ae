"""What is examined: the user's own model, adapters, engine, reward and optimizer, on a few of the user's prompts.

Everything is made once, when the first check asks for it, and in the order that proof needs: the state before an update
is taken before there is one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlhf_lora import stage_cache
from rlhf_lora.assembly import Assembly, opened
from rlhf_lora.backbone import Backbone
from rlhf_lora.checks.registry import NotApplicable
from rlhf_lora.plan import Plan
from rlhf_lora.records import Prompt, Sample, named_seed
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.stages.on_policy import OnPolicy
from rlhf_lora.stages.scoring import Scorer

ROWS = 8
"""Completions that are looked at, at least."""
LONGEST = 32
"""Tokens of a completion: enough to see, and quick."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Before:
    """What roles said before the update.

    Attributes:
        policy, reference: log-probs of each token of `Subject.samples`. scores: of the reward role, where there is one.
        values: of each token. begun: the value role read as a reward model, at the last token; None on a shared trunk.
        base: hash of the frozen weights.
    """

    policy: list[list[float]]
    reference: list[list[float]]
    scores: list[float] | None
    values: list[float] | None
    begun: list[float] | None
    base: str


class StandIn:
    """A reward for the one update: as varied as any, finite, free. The user's own is looked at by itself, so that a
    fault in it is told once, and not as a fault of the loop."""

    def score(self, samples: list[Sample]) -> list[float]:
        return [sum(37 * token + 11 for token in sample.tokens or ()) % 101 / 100 for sample in samples]


class Watched:
    """The user's optimizer, and log(π / π_old) of the first minibatch that it was shown."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        self.log_ratios: list[Tensor] = []
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def loss(self, minibatch: Any) -> Any:
        batch = minibatch.batch
        if minibatch.new_logprobs_BT is not None and self.rows < self.optimizer.minibatch_size:
            self.rows += len(batch)
            difference_BT = minibatch.new_logprobs_BT.detach() - batch.logprobs_BT
            self.log_ratios.append(difference_BT[batch.mask_BT].double().cpu())
        return self.optimizer.loss(minibatch)


class Subject:
    """One configuration under examination.

    Args:
        plan: with `spec.path` known. folder: where adapters are put; thrown away afterwards.
    """

    def __init__(self, plan: Plan, folder: Path):
        self.folder = RunFolder(folder)
        self.plan = _with_what_exists(plan, self.folder)
        self.parts = Assembly(self.plan, self.folder)
        self._made: dict[str, Any] = {}

    @property
    def chat(self) -> Any:
        return self.backbone.chat

    @property
    def temperature(self) -> float:
        return float(getattr(self.engine, "temperature", 1.0))

    @property
    def backbone(self) -> Backbone:
        """The roles as training has them; without an on-policy optimizer, policy and reference."""

        def make() -> Backbone:
            with torch.random.fork_rng():
                torch.manual_seed(named_seed(self.plan.config.seed, "policy") % 2**63)
                if self.plan.is_on_policy:
                    return self.parts.training_backbone()
                return self.parts.backbone(self.parts.sft_adapter, trained=True)

        return self._once("backbone", make)

    @property
    def prompts(self) -> list[Prompt]:
        """The user's, of different lengths where they have them, so that padding is never nothing."""

        def make() -> list[Prompt]:
            asked = self.plan.splits.prompts or self.plan.splits.final_prompts
            short = self.parts.short_enough(self.backbone, list(asked[: 8 * ROWS]), "prompts")
            short.sort(key=lambda prompt: len(self.chat.prompt_ids(prompt)))
            return [short[i * len(short) // ROWS] for i in range(ROWS)]

        return self._once("prompts", make)

    @property
    def engine(self) -> Any:
        longest = min(getattr(self.plan.rollout, "max_new_tokens", None) or LONGEST, LONGEST)
        return self._once(
            "engine", lambda: opened(_changed(self.plan.rollout, max_new_tokens=longest), self._context())
        )

    @property
    def settings(self) -> Any:
        """The user's optimizer, with a rollout of few rows in one minibatch."""
        if not self.plan.is_on_policy:
            name = self.plan.config.optimizer.name
            raise NotApplicable(f"optimizer={name} learns from data that exists: nothing is rolled out")
        optimizer = self.plan.optimizer
        rows = ROWS if optimizer.samples_per_prompt <= ROWS // 2 else 2 * optimizer.samples_per_prompt
        prompts = -(-rows // optimizer.samples_per_prompt)
        return _changed(
            optimizer, prompts_per_update=prompts, minibatch_size=prompts * optimizer.samples_per_prompt, epochs=1
        )

    def optimizer(self) -> Any:
        """A fresh one, opened."""
        return opened(self.settings, self._context())

    @property
    def scorer(self) -> Scorer:
        """The user's reward."""

        def make() -> Scorer:
            reward = self.plan.reward
            if getattr(reward, "stages", ()) and self.parts.reward_adapter is None:
                raise NotApplicable("no reward model has been trained yet: reward.path=RUN, or after `train`")
            return self.parts.scorer(self._context())

        return self._once("scorer", make)

    @property
    def samples(self) -> list[Sample]:
        """Completions of the policy before any update."""
        return self._once(
            "samples", lambda: self.engine.generate(self.backbone, self.prompts, 1, self._seed("samples"))
        )

    @property
    def ids(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and responses of `samples`."""
        prompts = [self.chat.prompt_ids(Prompt.of(sample)) for sample in self.samples]
        return prompts, [list(sample.tokens or ()) for sample in self.samples]

    @property
    def before(self) -> Before:
        def make() -> Before:
            self._open_reward_role()
            return Before(
                self.logprobs("policy"), self.logprobs("reference"), self.scores_of("reward"), self._values(),
                self.scores_of("value"), self.base_hash(),
            )  # fmt: skip

        return self._once("before", make)

    @property
    def loop(self) -> OnPolicy:
        """The loop after one update with the user's optimizer, engine and model, and a stand-in for the reward."""

        def make() -> OnPolicy:
            watched = Watched(self.optimizer())
            assert self.before
            loop = OnPolicy(
                self.backbone, self.engine, Scorer(StandIn(), "stand-in"), watched, self.prompts,
                seed=self.plan.config.seed, micro_batch=max(2, ROWS // 2),
                demonstrations=self.parts.demonstrations(self.backbone),
            )  # fmt: skip
            loop.step()
            return loop

        return self._once("loop", make)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def logprobs(self, role: str, temperature: float | None = None) -> list[list[float]]:
        return self.backbone.sequence_logprobs(role, *self.ids, temperature or self.temperature)

    def scores_of(self, role: str) -> list[float] | None:
        """A role read as a reward model, at the last token of each completion; None where there is no such role."""
        return self.backbone.sequence_scores(role, *self.ids) if role in self.backbone.roles else None

    def base_hash(self) -> str:
        """SHA-256 of every frozen tensor of the base, bytes as they lie in memory."""
        digest = hashlib.sha256()
        for name, tensor in self.backbone.base.state_dict().items():
            if "lora_" not in name:
                digest.update(name.encode())
                digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()

    def limit(self, float32: float, bfloat16: float) -> float:
        """What rounding may do: more where compute is in bfloat16 (8 bits of fraction)."""
        return float32 if self.plan.spec.dtype == "float32" else bfloat16

    # --- inside -------------------------------------------------------------------------------------------------------

    def _values(self) -> list[float] | None:
        from rlhf_lora.padding import pad

        if "value" not in self.backbone.heads:
            return None
        padded = pad(*self.ids, self.chat.fill_id, self.backbone.device)
        with torch.no_grad(), self.backbone.role("policy" if self.plan.optimizer.shared_trunk else "value"):
            values_BT = self.backbone.read_head("value", self.backbone.response_hidden(padded))
        found: list[float] = values_BT[padded.response_mask_BT].tolist()
        return found

    def _open_reward_role(self) -> None:
        """A learned reward brings a role of its own, which the update must leave alone. What is wrong with the reward
        is told by its own checks."""
        try:
            assert self.scorer
        except Exception:
            return

    def _context(self) -> Any:
        return self.parts.context(self.backbone)

    def _seed(self, stream: str) -> int:
        return named_seed(self.plan.config.seed, f"verify/{stream}")

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """Made once; a failure is kept as well, and raised to every check that stands on it."""
        if name not in self._made:
            try:
                self._made[name] = (make(), None)
            except Exception as error:
                self._made[name] = (None, error)
        value, failure = self._made[name]
        if failure is not None:
            raise failure
        found: T = value
        return found


def _with_what_exists(plan: Plan, folder: RunFolder) -> Plan:
    """The plan with the stages that the cache has, their adapters in the folder; what is not trained starts fresh."""
    kept = []
    for stage in plan.stages:
        adapter = folder.adapter("reward" if stage.name == "reward_model" else stage.name)
        if stage.reused is not None and stage_cache.take(stage.reused, adapter) is not None:
            kept.append(stage)
    return dataclasses.replace(plan, stages=tuple(kept))


def _changed(plugin: Any, **changes: Any) -> Any:
    """The plugin with other settings, of those that it has."""
    if not dataclasses.is_dataclass(plugin) or isinstance(plugin, type):
        return plugin
    known = {field.name for field in dataclasses.fields(plugin) if field.init}
    return dataclasses.replace(plugin, **{name: value for name, value in changes.items() if name in known})
