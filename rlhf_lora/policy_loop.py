"""The on-policy loop at work in a run: opened for a round, written down update by update, checkpointed, judged midway.

Updates are counted through the rounds: in metrics, in samples and in the names of checkpoints.
"""

from __future__ import annotations

from rlhf_lora import progress
from rlhf_lora.assembly import Assembly, opened
from rlhf_lora.atomic import staging
from rlhf_lora.contracts import Tracker
from rlhf_lora.midway import Midway
from rlhf_lora.records import named_seed
from rlhf_lora.stages import loop_state
from rlhf_lora.stages.on_policy import OnPolicy


class PolicyLoop:
    """Goes on from the newest checkpoint of its round, where there is one.

    Args:
        parts: of the run, with the round. tracker: opened.
    """

    def __init__(self, parts: Assembly, tracker: Tracker):
        self.parts, self.plan, self.folder, self._tracker = parts, parts.plan, parts.folder, tracker
        self._before = (parts.turn.number - 1) * int(parts.plan.optimizer.updates)  # updates of earlier rounds
        self.loop = self._opened()
        self._take_up()
        self.midway = None if self.plan.config.evaluation.every is None else Midway(parts, self.loop)

    @property
    def done(self) -> int:
        """Updates of all rounds so far."""
        return self._before + self.loop.state.update

    def step(self) -> dict[str, float] | None:
        """One update; None when this round's are done."""
        if self.loop.state.update >= self.plan.optimizer.updates:
            return None
        metrics: dict[str, float] = self.loop.step()
        self._record(metrics)
        return metrics

    def checkpoint(self) -> None:
        """Save the state, unless there is nothing yet to save or an update was broken off."""
        if self.loop.between_updates and self.loop.state.update > 0:
            self.folder.save_checkpoint(self.done, *self.loop.checkpoint())

    def close(self) -> None:
        """Let the reward go."""
        self.loop.scorer.close()

    # --- opening ------------------------------------------------------------------------------------------------------

    def _opened(self) -> OnPolicy:
        """The shared base with its roles, the reward and the optimizer opened."""
        parts, config = self.parts, self.plan.config
        progress.stage(parts.turn.named("policy"), f"{config.optimizer.name} against reward={config.reward.name}")
        loop_state.seed_streams(named_seed(config.seed, parts.turn.stream("policy")))
        backbone = parts.training_backbone()
        ctx = parts.context(backbone)
        return OnPolicy(
            backbone, opened(self.plan.rollout, ctx), parts.scorer(ctx), opened(self.plan.optimizer, ctx),
            parts.short_enough(backbone, self.plan.splits.prompts, "prompts"),
            seed=parts.turn.seed(config.seed), micro_batch=config.hardware.micro_batch,
            missing=config.scoring.missing, missing_share=config.scoring.missing_share,
            demonstrations=parts.demonstrations(backbone),
        )  # fmt: skip

    def _take_up(self) -> None:
        """The state of an interrupted run; what it logged behind its checkpoint is written anew."""
        checkpoint = self.folder.latest_checkpoint()
        if checkpoint is not None and checkpoint.step > self._before:
            self.loop.resume(checkpoint.tensors, checkpoint.state)
            progress.stage(self.parts.turn.named("policy"), f"going on after update {checkpoint.step}")
        for stage in ("policy", "evaluation"):
            self.folder.rewind(stage, self.done)

    # --- writing down -------------------------------------------------------------------------------------------------

    def _record(self, metrics: dict[str, float]) -> None:
        update, config = self.done, self.plan.config
        last = self.loop.state.update == self.plan.optimizer.updates
        self._log("policy", update, metrics)
        if last or update == 1 or update % config.samples_every == 0:
            self._save_samples(update)
        if self.midway is not None and self.midway.is_due(update):
            self._judge_midway(self.midway, update)
        if last:
            with staging(self.parts.adapter_of("policy")) as temp, self.loop.best.in_place():
                self.loop.backbone.save_adapter("policy", temp)
        if last or update % config.checkpoint_every == 0:
            self.checkpoint()

    def _save_samples(self, update: int) -> None:
        assert self.loop.last is not None
        rows = self.loop.last.rows()
        self.folder.save_samples("policy", update, rows)
        if callable(shown := getattr(self._tracker, "samples", None)):
            shown(update, rows)

    def _judge_midway(self, midway: Midway, update: int) -> None:
        """An update that could not be judged is not checkpointed: the run goes on from the one before, and tries again."""
        with self.loop.apart(), self.loop.clock("midway"):
            figures = midway.judge(update)
        self._log("evaluation", update, figures)

    def _log(self, stage: str, update: int, figures: dict[str, float]) -> None:
        self.folder.log(stage, update, figures)
        self._tracker.log(update, figures)
