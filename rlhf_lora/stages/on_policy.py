"""The loop this kit exists for. Five steps, over and over:

    1. roll out   the policy answers prompts; each token's log-prob is captured as it is drawn
    2. score      any reward source judges the answers; what has no score is counted and left out, never called 0
    3. look back  reference log-probs and values for the same tokens; advantages
    4. update     a few epochs of minibatches; one role at a time on the shared base
    5. record     metrics, samples, and now and then a checkpoint from which the run goes on bit-exactly

The optimizer (PPO, …) is functions of tensors: it never sees the model. The backbone knows roles, not algorithms. What
is deliberately absent: parallel workers, a second copy of anything, logits of a whole rollout.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Batch
from rlhf_lora.errors import Stopped
from rlhf_lora.padding import pad
from rlhf_lora.records import Demonstration, Prompt, Sample, Score, named_seed
from rlhf_lora.stages import loop_state
from rlhf_lora.stages.best import Best
from rlhf_lora.stages.loop_state import LoopState
from rlhf_lora.stages.rollout_record import Rollout, padded, token_at
from rlhf_lora.stages.scoring import Scorer
from rlhf_lora.stages.update import Updater

SCALE_SAMPLES = 256
"""Completions on which rewards are measured, at most: of the reference (Ziegler et al. 2019 use 256), or demonstrations."""


class OnPolicy:
    """One on-policy run, update by update.

    Args:
        backbone: with the roles policy and reference, and value when the optimizer trains one.
        engine: samples completions. scorer: the reward source, held to its contract. optimizer: opened.
        prompts: drawn from in a fresh order each pass. micro_batch: sequences per forward-backward.
        missing: what becomes of a sample without a score: `drop` = it leaves the rollout; `group_mean` = it has the mean
            of its prompt's other samples, and no say in any mean or deviation; `stop` = the run ends.
        missing_share: stop when a rollout has a larger share of samples without a score.
        demonstrations: what `optimizer.ptx` keeps the policy close to, and `scale_scores` may measure rewards against.
    """

    def __init__(
        self, backbone: Backbone, engine: Any, scorer: Scorer, optimizer: Any, prompts: Sequence[Prompt], *, seed: int,
        micro_batch: int = 16, missing: str = "drop", missing_share: float = 0.5, demonstrations: Sequence[Demonstration] = (),
    ):  # fmt: skip
        self.backbone, self.engine, self.scorer, self.optimizer, self.prompts = (
            backbone,
            engine,
            scorer,
            optimizer,
            prompts,
        )
        self.seed, self.demonstrations = seed, demonstrations
        self.missing_becomes, self.missing_share = missing, missing_share
        self.updater = Updater(
            backbone, optimizer, temperature=engine.temperature, micro_batch=micro_batch, seed=seed,
            demonstrations=[(backbone.chat.prompt_ids(d.prompt), backbone.chat.response_ids(d.completion, prompt=d.prompt))
                            for d in (demonstrations if optimizer.ptx else ())],
        )  # fmt: skip
        self.state = LoopState()
        self.best = Best(backbone)  # by a figure that somebody outside gives; no part of training
        self.last: Rollout | None = None
        self.missing: list[Score] = []  # of the rollout in hand; those of finished updates are in `state`
        self.between_updates = True  # False while weights are being moved: no moment for a checkpoint
        self._orders: dict[int, list[int]] = {}

    # --- the loop -----------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One update: roll out, score, look back, update. Returns its metrics."""
        if self.state.update == 0:
            self._measure_scales()
        update = self.state.update + 1
        samples, scores = self._roll_out(self._prompts_of(update), update)
        with self.clock("score"):
            watched = self.scorer.watch(update, samples, scores)
            rollout = self._look_back(samples, scores)
        self.between_updates = False
        with self.clock("update"):
            rollout.batch, metrics = self.optimizer.advantages(rollout.batch)
            metrics |= self.updater.update(rollout, update)
        metrics |= rollout.metrics() | watched
        metrics |= self.optimizer.after_update(metrics, len(samples))
        self._refuse_nonfinite(metrics)
        self.state.count(update, len(samples), self.missing)
        self.last, self.missing, self.between_updates = rollout, [], True
        return metrics | {"episode": float(self.state.episodes)}

    # --- 1, 2: roll out and score -------------------------------------------------------------------------------------

    def _prompts_of(self, update: int) -> list[Prompt]:
        """The prompts of an update: a stream of passes over all prompts, each in an order of its own."""
        count = self.optimizer.prompts_per_update
        start = (update - 1) * count
        return [
            self.prompts[self._order(i // len(self.prompts))[i % len(self.prompts)]]
            for i in range(start, start + count)
        ]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            stream = torch.Generator().manual_seed(self._seed(f"prompts/{epoch}"))
            self._orders = {epoch: torch.randperm(len(self.prompts), generator=stream).tolist()}
        return self._orders[epoch]

    def _roll_out(self, prompts: list[Prompt], update: int) -> tuple[list[Sample], list[Score]]:
        """Samples and their scores. A reward that leaves the device alone scores the first while the last are sampled."""
        per_prompt, seed = self.optimizer.samples_per_prompt, self._seed(f"rollout/{update}")
        if not (self.scorer.overlaps and "each" in inspect.signature(self.engine.generate).parameters):
            with self.clock("rollout"):
                samples = self.engine.generate(self.backbone, prompts, per_prompt, seed)
            with self.clock("score"):
                return samples, self.scorer(samples)
        with self.scorer.overlapping() as overlap:
            with self.clock("rollout"):
                samples = self.engine.generate(self.backbone, prompts, per_prompt, seed, each=overlap.add)
            with self.clock("score"):  # what was left to wait for
                return samples, overlap.scores(len(samples))

    def _measure_scales(self) -> None:
        """Before the first update: what a reward wants to know of reference samples, and the scale of its scores."""
        source, scaled = self.scorer.source, self.optimizer.scale_scores
        calibrates = callable(getattr(source, "calibrate", None)) and getattr(source, "needs_calibration", True)
        reference = self._of_the_reference() if calibrates or scaled == "reference" else []
        if calibrates:
            source.calibrate(reference)
        if scaled != "none":
            self._measure_score_scale(reference if scaled == "reference" else self._demonstrated())

    def _measure_score_scale(self, samples: list[Sample]) -> None:
        """Give rewards mean 0 on what they are measured against, and on samples of the reference deviation 1 as well.

        Then β means the same whatever the reward's unit (Ziegler et al. 2019, appendix A; the deviation is the
        population's; a reward that is constant is only shifted). Against demonstrations the unit stays, as published
        (Huang et al. 2024).
        """
        against = self.optimizer.scale_scores
        values = torch.tensor([s.value for s in self.scorer(samples) if s.value is not None], dtype=torch.float64)
        if not len(values):
            raise Stopped(f"the reward gave no score for any sample of the {against}; there is nothing to learn from")
        self.state.score_shift = float(values.mean())
        deviation = float(values.std(unbiased=False))
        self.state.score_scale = 1.0 / deviation if against == "reference" and deviation > 1e-8 else 1.0

    def _of_the_reference(self) -> list[Sample]:
        chosen = [self.prompts[i % len(self.prompts)] for i in self._order(0)[:SCALE_SAMPLES]]
        return self.engine.generate(self.backbone, chosen, 1, self._seed("scale"), role="reference")

    def _demonstrated(self) -> list[Sample]:
        """Some demonstrations, as if they had been rolled out: a reward reads both alike."""
        stream, chat, samples = torch.Generator().manual_seed(self._seed("scale")), self.backbone.chat, []
        for i in torch.randperm(len(self.demonstrations), generator=stream).tolist()[:SCALE_SAMPLES]:
            prompt, completion = self.demonstrations[i].prompt, self.demonstrations[i].completion
            tokens = chat.response_ids(completion, prompt=prompt)
            samples.append(Sample(prompt.text, chat.decode(tokens), messages=prompt.messages, columns=prompt.columns,
                                  tokens=tokens))  # fmt: skip
        return samples

    # --- 3: look back -------------------------------------------------------------------------------------------------

    def _look_back(self, samples: list[Sample], scores: list[Score]) -> Rollout:
        """Reference log-probs and values for the sampled tokens; samples without a score leave here."""
        unscored = [(samples[i], scores[i]) for i in range(len(samples)) if scores[i].value is None]
        self.missing = [score for _, score in unscored]
        self._refuse_missing(self.missing, len(samples))
        per_prompt = self.optimizer.samples_per_prompt
        values = self._values_to_learn_from(scores)
        kept = [i for i, value in enumerate(values) if value is not None]
        groups = [i // per_prompt for i in kept]
        samples, scores = [samples[i] for i in kept], [scores[i] for i in kept]
        prompt_ids = [self.backbone.chat.prompt_ids(Prompt.of(sample)) for sample in samples]
        responses = [list(sample.tokens or ()) for sample in samples]
        mask_BT = pad(prompt_ids, responses, self.backbone.chat.fill_id).response_mask_BT
        if self.optimizer.value_behind_end:
            mask_BT = torch.nn.functional.pad(mask_BT, (0, 1))
        value_mask_BT = self._value_mask(mask_BT)
        ref_logprobs = self.backbone.sequence_logprobs("reference", prompt_ids, responses, self.engine.temperature)
        scores_B = torch.tensor([values[i] for i in kept], dtype=torch.float32)
        batch = Batch(
            tokens_BT=padded(responses, mask_BT, torch.long),
            mask_BT=mask_BT,
            logprobs_BT=padded([list(sample.logprobs or ()) for sample in samples], mask_BT),
            ref_logprobs_BT=padded(ref_logprobs, mask_BT),
            values_BT=self._values(prompt_ids, responses, value_mask_BT),
            scores_B=scores_B,
            rewards_B=(scores_B - self.state.score_shift) * self.state.score_scale,
            finished_B=torch.tensor([sample.finished for sample in samples]),
            group_B=torch.tensor(groups),
            value_mask_BT=value_mask_BT,
            steps_BT=self._steps(samples, scores, mask_BT),
            scored_B=torch.tensor([score.value is not None for score in scores]),
        )
        return Rollout(samples, scores, prompt_ids, batch, unscored)

    def _values_to_learn_from(self, scores: list[Score]) -> list[float | None]:
        """The score of each sample, or its group's mean where that is what becomes of a missing one; else None."""
        values = [score.value for score in scores]
        if self.missing_becomes != "group_mean":
            return values
        size = self.optimizer.samples_per_prompt
        for start in range(0, len(values), size):
            own = [value for value in values[start : start + size] if value is not None]
            if own:
                mean = math.fsum(own) / len(own)
                values[start : start + size] = [mean if v is None else v for v in values[start : start + size]]
        return values

    def _steps(self, samples: list[Sample], scores: list[Score], mask_BT: torch.Tensor) -> torch.Tensor | None:
        """What process rewards gave, on the tokens they gave it for, in the unit of the scaled reward."""
        if not any(score.steps for score in scores):
            return None
        steps_BT = torch.zeros(mask_BT.shape)
        for row, (sample, score) in enumerate(zip(samples, scores, strict=True)):
            for place, earned in score.steps:
                steps_BT[row, token_at(self.backbone.chat, sample, place)] += earned * self.state.score_scale
        return steps_BT

    def _value_mask(self, mask_BT: torch.Tensor) -> torch.Tensor:
        """Where values count. An answer that fills all its places has none behind it, whether it ended there or was cut."""
        if not self.optimizer.value_behind_end:
            return mask_BT
        has_room_B = mask_BT.sum(1) < self.engine.max_new_tokens
        one_more_BT = torch.cat([torch.ones_like(mask_BT[:, :1]), mask_BT[:, :-1]], dim=1)
        return mask_BT | (has_room_B[:, None] & one_more_BT)

    @torch.no_grad()
    def _values(
        self, prompt_ids: list[list[int]], responses: list[list[int]], mask_BT: torch.Tensor
    ) -> torch.Tensor | None:
        if "value" not in self.backbone.heads:
            return None
        values_BT, behind_end = torch.zeros(mask_BT.shape), self.optimizer.value_behind_end
        with self.backbone.role("policy" if self.optimizer.shared_trunk else "value"):
            for index, inputs in self.backbone.micro_batches(prompt_ids, responses, show="values"):
                rows_BT = self.backbone.read_head("value", self.backbone.response_hidden(inputs, behind_end)).cpu()
                values_BT[index, : rows_BT.shape[1]] = rows_BT
        return values_BT * mask_BT

    # --- 5: record ----------------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, saved = loop_state.gather(
            self.state, self.backbone, self.updater.adamw, self.optimizer, self.updater.trained
        )
        best_tensors, best_saved = self.best.gather()
        if callable(state := getattr(self.scorer.source, "state", None)):
            saved |= {"reward": state()}
        return tensors | best_tensors, saved | best_saved

    def resume(self, tensors: dict[str, torch.Tensor], saved: dict[str, Any]) -> None:
        self.state = loop_state.restore(
            tensors, saved, self.backbone, self.updater.adamw, self.optimizer, self.updater.trained
        )
        self.best.restore(tensors, saved)
        if "reward" in saved:
            self.scorer.source.restore(saved["reward"])

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Something that is no training is going on, perhaps with other weights: no moment for a checkpoint."""
        self.between_updates, before = False, self.between_updates
        try:
            yield
        finally:
            self.between_updates = before

    # --- inside -------------------------------------------------------------------------------------------------------

    def _refuse_missing(self, missing: list[Score], total: int) -> None:
        most = 0.0 if self.missing_becomes == "stop" else self.missing_share
        if len(missing) > most * total or len(missing) == total:
            reasons = sorted({f"{score.kind}: {score.reason}" for score in missing})
            raise Stopped(
                f"{len(missing)} of {total} samples have no score (first reasons: {'; '.join(reasons[:3])}); "
                "stopped rather than train on the rest"
            )

    def _refuse_nonfinite(self, metrics: dict[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise Stopped(
                f"update {self.state.update + 1} gave {bad[0]} = {metrics[bad[0]]}; lower adamw.lr, or raise beta"
            )

    def _seed(self, stream: str) -> int:
        return named_seed(self.seed, stream)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the seconds inside as `seconds.NAME` of the summary."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.state.seconds[name] = self.state.seconds.get(name, 0.0) + time.perf_counter() - started
