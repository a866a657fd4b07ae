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

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Batch, Minibatch
from rlhf_lora.errors import Stopped
from rlhf_lora.objectives import kl
from rlhf_lora.objectives.advantages import masked_mean
from rlhf_lora.records import Prompt, Sample, Score, named_seed
from rlhf_lora.rollout import pad
from rlhf_lora.stages import loop_state
from rlhf_lora.stages.loop_state import LoopState
from rlhf_lora.stages.scoring import Scorer

REFERENCE_SAMPLES = 256
"""Completions of the reference on which rewards are scaled (Ziegler et al. 2019 use 256)."""


@dataclass
class Rollout:
    """What one rollout leaves: samples and scores as a person reads them, tensors as the optimizer does.

    `samples[i]`, `scores[i]`, `prompt_ids[i]` and row i of `batch` are the same completion; those without a score are
    in `unscored`.
    """

    samples: list[Sample]
    scores: list[Score]
    prompt_ids: list[list[int]]
    batch: Batch
    unscored: list[tuple[Sample, Score]]

    @property
    def response_ids(self) -> list[list[int]]:
        return [list(sample.tokens or ()) for sample in self.samples]


class OnPolicy:
    """One on-policy run, update by update.

    Args:
        backbone: with the roles policy and reference, and value when the optimizer trains one.
        engine: samples completions. scorer: the reward source, held to its contract. optimizer: opened.
        prompts: drawn from in a fresh order each pass. micro_batch: sequences per forward-backward.
        missing_share: stop when a rollout has a larger share of samples without a score.
    """

    def __init__(
        self, backbone: Backbone, engine: Any, scorer: Scorer, optimizer: Any, prompts: Sequence[Prompt], *, seed: int,
        micro_batch: int = 16, missing_share: float = 0.5,
    ):  # fmt: skip
        self.backbone, self.engine, self.scorer, self.optimizer, self.prompts = backbone, engine, scorer, optimizer, prompts
        self.seed, self.micro_batch, self.missing_share = seed, micro_batch, missing_share
        self.trained = ["policy", "value"] if "value" in backbone.heads else ["policy"]
        self.adamw = torch.optim.AdamW(self._parameter_groups(), foreach=True)
        self.state = LoopState()
        self.last: Rollout | None = None

    # --- the loop -----------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One update: roll out, score, look back, update. Returns its metrics."""
        if self.state.update == 0 and self.optimizer.scale_scores:
            self._measure_score_scale()
        update = self.state.update + 1
        with self._clock("rollout"):
            samples = self._roll_out(self._prompts_of(update), update)
        with self._clock("score"):
            rollout = self._look_back(samples, self.scorer(samples))
        with self._clock("update"):
            batch, metrics = self.optimizer.advantages(rollout.batch)
            rollout.batch = batch
            metrics |= self._update(rollout, update)
        metrics |= self._objective_metrics(rollout)
        metrics |= self.optimizer.after_update(metrics, len(samples))
        self._refuse_nonfinite(metrics)
        self.last = rollout
        self.state.update = update
        self.state.episodes += len(samples)
        return metrics | {"episode": float(self.state.episodes)}

    # --- 1, 2: roll out and score -------------------------------------------------------------------------------------

    def _prompts_of(self, update: int) -> list[Prompt]:
        """The prompts of an update: a stream of passes over all prompts, each in an order of its own."""
        count = self.optimizer.prompts_per_update
        start = (update - 1) * count
        return [self.prompts[self._order(i // len(self.prompts))[i % len(self.prompts)]] for i in range(start, start + count)]

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_cached_order", (None,))[0] != epoch:
            order = torch.randperm(len(self.prompts), generator=self._stream(f"prompts/{epoch}")).tolist()
            self._cached_order = (epoch, order)
        return self._cached_order[1]

    def _roll_out(self, prompts: list[Prompt], update: int) -> list[Sample]:
        return self.engine.generate(self.backbone, prompts, self.optimizer.samples_per_prompt, self._seed(f"rollout/{update}"))

    def _measure_score_scale(self) -> None:
        """Make β mean the same whatever the reward's units: mean 0, deviation 1 on samples of the reference.

        Ziegler et al. 2019, appendix A; the deviation is the population's. A reward that is constant is only shifted.
        """
        chosen = [self.prompts[i % len(self.prompts)] for i in self._order(0)[:REFERENCE_SAMPLES]]
        samples = self.engine.generate(self.backbone, chosen, 1, self._seed("scale"), role="reference")
        values = torch.tensor([s.value for s in self.scorer(samples) if s.value is not None], dtype=torch.float64)
        if not len(values):
            raise Stopped("the reward gave no score for any reference sample; there is nothing to learn from")
        deviation = float(values.std(unbiased=False))
        self.state.score_shift = float(values.mean())
        self.state.score_scale = 1.0 / deviation if deviation > 1e-8 else 1.0

    # --- 3: look back -------------------------------------------------------------------------------------------------

    def _look_back(self, samples: list[Sample], scores: list[Score]) -> Rollout:
        """Reference log-probs and values for the sampled tokens; samples without a score leave here."""
        kept = [i for i, score in enumerate(scores) if score.value is not None]
        unscored = [(samples[i], scores[i]) for i in range(len(samples)) if scores[i].value is None]
        self._count_missing([score for _, score in unscored], len(samples))
        per_prompt = self.optimizer.samples_per_prompt
        groups = [i // per_prompt for i in kept]
        samples, scores = [samples[i] for i in kept], [scores[i] for i in kept]
        prompt_ids = [self.backbone.chat.prompt_ids(_prompt_of(sample)) for sample in samples]
        responses = [list(sample.tokens or ()) for sample in samples]
        mask_BT = pad(prompt_ids, responses, self.backbone.chat.fill_id).response_mask_BT
        ref_logprobs = self.backbone.sequence_logprobs("reference", prompt_ids, responses, self.engine.temperature)
        scores_B = torch.tensor([score.value for score in scores], dtype=torch.float32)
        batch = Batch(
            tokens_BT=_padded(responses, mask_BT, torch.long),
            mask_BT=mask_BT,
            logprobs_BT=_padded([list(sample.logprobs or ()) for sample in samples], mask_BT),
            ref_logprobs_BT=_padded(ref_logprobs, mask_BT),
            values_BT=self._values(prompt_ids, responses, mask_BT),
            scores_B=scores_B,
            rewards_B=(scores_B - self.state.score_shift) * self.state.score_scale if self.optimizer.scale_scores else scores_B,
            finished_B=torch.tensor([sample.finished for sample in samples]),
            group_B=torch.tensor(groups),
        )
        return Rollout(samples, scores, prompt_ids, batch, unscored)

    @torch.no_grad()
    def _values(self, prompt_ids: list[list[int]], responses: list[list[int]], mask_BT: torch.Tensor) -> torch.Tensor | None:
        if "value" not in self.backbone.heads:
            return None
        values_BT = torch.zeros(mask_BT.shape)
        with self.backbone.role("policy" if self.optimizer.shared_trunk else "value"):
            for index, padded in self.backbone.micro_batches(prompt_ids, responses):
                rows_BT = self.backbone.read_head("value", self.backbone.response_hidden(padded)).cpu()
                values_BT[index, : rows_BT.shape[1]] = rows_BT
        return values_BT * mask_BT

    # --- 4: update ----------------------------------------------------------------------------------------------------

    def _update(self, rollout: Rollout, update: int) -> dict[str, float]:
        """`epochs` passes over the rollout in minibatches, each pass in a fresh order."""
        rows, size, totals = len(rollout.samples), self.optimizer.minibatch_size, _Means()
        self._set_learning_rates(update)
        for epoch in range(self.optimizer.epochs):
            order = torch.randperm(rows, generator=self._stream(f"minibatches/{update}/{epoch}")).tolist()
            for start in range(0, rows, size):
                first = epoch == 0 and start == 0
                metrics = self._train_on(rollout, order[start : start + size])
                totals.add(metrics)
                if first:
                    # On the first minibatch π = π_old, so whatever differs from 1 is rollout against training.
                    totals.add({"policy/first_ratio_error": abs(metrics["policy/ratio"] - 1.0)})
        return totals.means() | {"lr": self.adamw.param_groups[0]["lr"]}

    def _train_on(self, rollout: Rollout, rows: list[int]) -> dict[str, float]:
        """One gradient step per trained role: its forward and its backward, then the next role."""
        totals = _Means()
        self.adamw.zero_grad(set_to_none=True)
        tokens = int(rollout.batch.mask_BT[rows].sum())
        prompt_ids, response_ids = rollout.prompt_ids, rollout.response_ids
        for role in self.optimizer.roles:
            with self.backbone.role(role):
                for index, padded in self.backbone.micro_batches(
                    [prompt_ids[i] for i in rows], [response_ids[i] for i in rows], self.micro_batch
                ):
                    minibatch = self._minibatch(role, rollout.batch, [rows[i] for i in index], padded)
                    loss, metrics = self.optimizer.loss(minibatch)
                    # Token-weighted: however the minibatch is cut into micro-batches, the gradient is the same.
                    share = int(padded.response_mask_BT.sum()) / tokens
                    (loss * share).backward()
                    totals.add(metrics, share)
        for name in self.trained:
            norm = torch.nn.utils.clip_grad_norm_(self.backbone.parameters(name).values(), self.optimizer.max_grad_norm)
            totals.add({f"grad_norm/{name}": float(norm)})
        self.adamw.step()
        return totals.means()

    def _minibatch(self, role: str, batch: Batch, rows: list[int], padded: Any) -> Minibatch:
        hidden_BTD = self.backbone.response_hidden(padded)
        width, device = hidden_BTD.shape[1], hidden_BTD.device
        minibatch = Minibatch(_cut(batch.rows(torch.tensor(rows)), width, device))
        if role == "policy":
            minibatch.new_logprobs_BT = self.backbone.logprobs(hidden_BTD, padded.responses_BT, self.engine.temperature)
        if role == "value" or (self.optimizer.shared_trunk and "value" in self.backbone.heads):
            minibatch.new_values_BT = self.backbone.read_head("value", hidden_BTD)
        return minibatch

    def _parameter_groups(self) -> list[dict[str, Any]]:
        groups = []
        for name in self.trained:
            settings = self.optimizer.value_adamw if name == "value" else self.optimizer.adamw
            groups.append({
                "params": list(self.backbone.parameters(name).values()), "lr": settings.lr, "peak_lr": settings.lr,
                "betas": (settings.beta1, settings.beta2), "eps": settings.eps, "weight_decay": settings.weight_decay,
            })  # fmt: skip
        return groups

    def _set_learning_rates(self, update: int) -> None:
        """Linear from the peak at update 1 to `final_lr` × peak after the last one."""
        done = (update - 1) / self.optimizer.updates
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * (1.0 - (1.0 - self.optimizer.final_lr) * done)

    # --- 5: record ----------------------------------------------------------------------------------------------------

    def _objective_metrics(self, rollout: Rollout) -> dict[str, float]:
        batch = rollout.batch
        kl_B = (kl.k1(batch.logprobs_BT, batch.ref_logprobs_BT) * batch.mask_BT).sum(1)
        lengths_B = batch.mask_BT.sum(1).float()
        parts: dict[str, list[float]] = {}
        for score in rollout.scores:
            for name, value in score.parts.items():
                parts.setdefault(name, []).append(value)
        return {
            "objective/scores": float(batch.scores_B.mean()),
            "objective/scores_std": float(batch.scores_B.std(unbiased=False)),
            "objective/kl": float(kl_B.mean()),
            "objective/entropy": float(-masked_mean(batch.logprobs_BT, batch.mask_BT)),
            "completions/mean_length": float(lengths_B.mean()),
            "completions/cut_share": float((~batch.finished_B).float().mean()),
            "scores/missing": float(len(rollout.unscored)),
        } | {f"scores/{name}": sum(values) / len(values) for name, values in parts.items()}

    def rows(self) -> list[dict[str, Any]]:
        """The last rollout for `samples/*.parquet`, unscored samples included with their reason."""
        assert self.last is not None
        batch, table = self.last.batch, []
        for i, (sample, score) in enumerate(zip(self.last.samples, self.last.scores, strict=True)):
            length = len(sample.tokens or ())
            row = _sample_row(sample, score)
            for name in ("ref_logprobs", "values", "advantages"):
                values_BT = getattr(batch, f"{name}_BT")
                row[name] = None if values_BT is None else values_BT[i, :length].tolist()
            table.append(row)
        return table + [_sample_row(sample, score) for sample, score in self.last.unscored]

    def checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return loop_state.gather(self.state, self.backbone, self.adamw, self.optimizer, self.trained)

    def resume(self, tensors: dict[str, torch.Tensor], saved: dict[str, Any]) -> None:
        self.state = loop_state.restore(tensors, saved, self.backbone, self.adamw, self.optimizer, self.trained)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _count_missing(self, missing: list[Score], total: int) -> None:
        self.state.abstained += sum(score.kind == "abstain" for score in missing)
        self.state.errors += sum(score.kind != "abstain" for score in missing)
        if len(missing) > self.missing_share * total or len(missing) == total:
            reasons = sorted({f"{score.kind}: {score.reason}" for score in missing})
            raise Stopped(
                f"{len(missing)} of {total} samples have no score (first reasons: {'; '.join(reasons[:3])}); "
                "stopped rather than train on the rest"
            )

    def _refuse_nonfinite(self, metrics: dict[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise Stopped(f"update {self.state.update + 1} gave {bad[0]} = {metrics[bad[0]]}; lower adamw.lr, or raise beta")

    def _seed(self, stream: str) -> int:
        return named_seed(self.seed, stream)

    def _stream(self, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(stream))

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.state.seconds[name] += time.perf_counter() - started


class _Means:
    """Weighted means of metrics that arrive piece by piece."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: dict[str, float], weight: float = 1.0) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + weight * value, count + weight)

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}


def _prompt_of(sample: Sample) -> Prompt:
    return Prompt(sample.prompt, None if sample.messages is None else tuple(sample.messages))


def _padded(rows: list[list[Any]], mask_BT: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    out_BT = torch.zeros(mask_BT.shape, dtype=dtype)
    out_BT[mask_BT] = torch.tensor([value for row in rows for value in row], dtype=dtype)
    return out_BT


def _cut(batch: Batch, width: int, device: Any) -> Batch:
    """The batch's tensors without the columns that are padding for all its rows, on the model's device."""
    tensors = {
        name: value if value is None else (value[:, :width] if value.dim() == 2 else value).to(device)
        for name, value in vars(batch).items()
    }
    return replace(batch, **tensors)


def _sample_row(sample: Sample, score: Score) -> dict[str, Any]:
    return {
        "prompt": sample.prompt, "text": sample.text, "tokens": list(sample.tokens or ()), "finished": sample.finished,
        "logprobs": list(sample.logprobs or ()), "score": score.value, "parts": dict(score.parts), "kind": score.kind,
        "reason": score.reason,
    }  # fmt: skip


