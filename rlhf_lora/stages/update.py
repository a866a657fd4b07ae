"""Step 4 of the loop: a few epochs of minibatches over a rollout, one role at a time on the shared base.

What must hold, and is tested: on the first minibatch π = π_old, so its ratio is 1; cutting a minibatch into other
micro-batches changes nothing, because every token (or sequence) weighs the same; a role's backward is done before the next switch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Batch, Minibatch
from rlhf_lora.progress import track
from rlhf_lora.records import named_seed
from rlhf_lora.stages.rollout_record import Rollout


class Updater:
    """AdamW over the trained roles, and the passes over a rollout.

    Args:
        temperature: of the rollout; log-probs are taken at the same.
        micro_batch: sequences per forward and backward.
        demonstrations: (prompt, response) tokens that `optimizer.ptx` keeps the policy close to.
    """

    def __init__(
        self, backbone: Backbone, optimizer: Any, *, temperature: float, micro_batch: int, seed: int,
        demonstrations: Sequence[tuple[list[int], list[int]]] = (),
    ):  # fmt: skip
        self.demonstrations = demonstrations
        self.backbone, self.optimizer = backbone, optimizer
        self.temperature, self.micro_batch, self.seed = temperature, micro_batch, seed
        self.trained = ["policy", "value"] if "value" in backbone.heads else ["policy"]
        self.adamw = torch.optim.AdamW(self._parameter_groups(), foreach=True)

    def update(self, rollout: Rollout, update: int) -> dict[str, float]:
        """`epochs` passes over the rollout in minibatches, each pass in a fresh order. Returns mean metrics."""
        rows, size, totals = len(rollout.samples), self.optimizer.minibatch_size, Means()
        self._set_learning_rates(update)
        minibatches = [
            order[start : start + size]
            for order in (self._order(rows, update, epoch) for epoch in range(self.optimizer.epochs))
            for start in range(0, rows, size)
        ]
        for number, minibatch in enumerate(track(minibatches, "update", inner=True)):
            metrics = self._train_on(rollout, minibatch, f"ptx/{update}/{number}")
            totals.add(metrics)
            if number == 0:
                # Whatever differs from 1 here is the rollout's arithmetic against training's.
                totals.add({"policy/first_ratio_error": abs(metrics["policy/ratio"] - 1.0)})
            if self.optimizer.max_kl is not None and metrics["policy/approxkl"] > self.optimizer.max_kl:
                break
        done = {"policy/minibatches": number + 1.0, "lr": self.adamw.param_groups[0]["lr"]}
        return totals.means() | done

    def _order(self, rows: int, update: int, epoch: int) -> list[int]:
        stream = torch.Generator().manual_seed(named_seed(self.seed, f"minibatches/{update}/{epoch}"))
        return torch.randperm(rows, generator=stream).tolist()

    def _train_on(self, rollout: Rollout, rows: list[int], stream: str) -> dict[str, float]:
        """One gradient step per trained role: its forward and its backward, then the next role."""
        totals = Means()
        self.adamw.zero_grad(set_to_none=True)
        prompts, responses = [rollout.prompt_ids[i] for i in rows], [rollout.response_ids[i] for i in rows]
        for role in self.optimizer.roles:
            total = self._weight(_counted(rollout.batch, role)[rows])
            with self.backbone.role(role):
                for index, padded in self.backbone.micro_batches(prompts, responses, self.micro_batch):
                    minibatch = self._minibatch(role, rollout.batch, [rows[i] for i in index], padded)
                    loss, metrics = self.optimizer.loss(minibatch)
                    share = self._weight(_counted(minibatch.batch, role)) / total
                    (loss * share).backward()
                    totals.add(metrics, share)
                if role == "policy" and self.optimizer.ptx:
                    totals.add({"loss/ptx": self._ptx(len(rows), stream)})
        for name in self.trained:
            parameters = list(self.backbone.parameters(name).values())
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.optimizer.max_grad_norm or math.inf)
            totals.add({f"grad_norm/{name}": float(norm)})
        for group in self.adamw.param_groups:
            taken = self.adamw.state.get(group["params"][0], {}).get("step", 0)
            group["eps"] = group["settings"].eps_at(int(taken) + 1)
        self.adamw.step()
        return totals.means()

    def _ptx(self, count: int, stream: str) -> float:
        """Add `optimizer.ptx` times the gradient of the mean loss per token on `count` demonstrations (PPO-ptx: Ouyang et
        al. 2022, eq. 2). Returns that loss, in nats."""
        drawn = torch.Generator().manual_seed(named_seed(self.seed, stream))
        picked = torch.randint(len(self.demonstrations), (count,), generator=drawn).tolist()
        prompts, responses = zip(*(self.demonstrations[i] for i in picked), strict=True)
        tokens, total = sum(map(len, responses)), 0.0
        for _, padded in self.backbone.micro_batches(list(prompts), list(responses), self.micro_batch):
            hidden_BTD = self.backbone.response_hidden(padded)
            logprobs_BT = self.backbone.logprobs(hidden_BTD, padded.responses_BT, 1.0)
            loss = -(logprobs_BT * padded.response_mask_BT).sum() / tokens
            (self.optimizer.ptx * loss).backward()
            total += loss.item()
        return total

    def _weight(self, mask_BT: torch.Tensor) -> int:
        """What a part of a minibatch counts: its tokens, or its sequences where the loss is a mean over those."""
        return len(mask_BT) if self.optimizer.mean_over == "sequences" else int(mask_BT.sum())

    def _minibatch(self, role: str, batch: Batch, rows: list[int], padded: Any) -> Minibatch:
        hidden_BTD = self.backbone.response_hidden(padded, role == "value" and self.optimizer.value_behind_end)
        minibatch = Minibatch(_cut(batch.rows(torch.tensor(rows)), hidden_BTD.shape[1], hidden_BTD.device))
        if role == "policy":
            minibatch.new_logprobs_BT = self.backbone.logprobs(hidden_BTD, padded.responses_BT, self.temperature)
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
                "settings": settings,
            })  # fmt: skip
        return groups

    def _set_learning_rates(self, update: int) -> None:
        """Linear from the peak at update 1 to `final_lr` × peak after the last one."""
        done = (update - 1) / self.optimizer.updates
        for group in self.adamw.param_groups:
            group["lr"] = group["peak_lr"] * (1.0 - (1.0 - self.optimizer.final_lr) * done)


class Means:
    """Weighted means of metrics that arrive piece by piece."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: dict[str, float], weight: float = 1.0) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + weight * value, count + weight)

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}


def _counted(batch: Batch, role: str) -> torch.Tensor:
    """The places that a role's loss is a mean over."""
    return batch.value_mask_BT if role == "value" else batch.mask_BT


def _cut(batch: Batch, width: int, device: Any) -> Batch:
    """The batch without the columns that are padding for all its rows, on the model's device."""
    tensors: dict[str, Any] = {
        name: value if value is None else (value[:, :width] if value.dim() == 2 else value).to(device)
        for name, value in vars(batch).items()
    }
    return replace(batch, **tensors)
