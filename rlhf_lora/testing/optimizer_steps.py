"""The steps of one update, asked of an optimizer under test on a rollout that is made up: advantages, losses, gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rlhf_lora.contracts import Batch, Minibatch
from rlhf_lora.plain import finite_number
from rlhf_lora.testing.findings import Broken, short
from rlhf_lora.testing.subjects import Subject

if TYPE_CHECKING:
    from torch import Tensor

PROMPTS, WIDTH = 8, 6
ALONE = "a minibatch of new_values_BT alone"


def made_up(settings: Any, equal: bool = False) -> Batch:
    """A rollout at the reference: answers of 2 to 6 tokens, values 0, rewards of mean 0 that differ unless `equal`."""
    import torch

    per_prompt = settings.samples_per_prompt
    rows = PROMPTS * per_prompt
    stream = torch.Generator().manual_seed(0)
    mask_BT = torch.arange(WIDTH)[None] < (2 + torch.arange(rows) * 3 % 5)[:, None]
    logprobs_BT = -(1 + torch.rand(rows, WIDTH, generator=stream)) * mask_BT
    rewards_B = torch.zeros(rows) if equal else torch.randn(rows, generator=stream)
    has_value = "value" in settings.roles or settings.shared_trunk
    return Batch(
        tokens_BT=torch.ones(rows, WIDTH, dtype=torch.long), mask_BT=mask_BT, logprobs_BT=logprobs_BT,
        ref_logprobs_BT=logprobs_BT.clone(), values_BT=torch.zeros(rows, WIDTH) if has_value else None,
        scores_B=rewards_B.clone(), rewards_B=rewards_B - rewards_B.mean(),
        finished_B=torch.ones(rows, dtype=torch.bool), group_B=torch.arange(rows) // per_prompt,
    )  # fmt: skip


def with_advantages(subject: Subject, running: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
    """What `advantages` gives, held to its shape: a batch and metrics."""
    return _two(
        subject.ask(running.advantages, batch, sample="a batch of tensors"), "advantages(batch)", "(batch, metrics)"
    )


def loss_of(subject: Subject, running: Any, made: Batch) -> tuple[Any, dict[str, Any], Tensor]:
    """Loss and metrics of the policy's step at π = π_old, and the log-probs that it hangs on."""
    logprobs_BT = made.logprobs_BT.clone().requires_grad_(True)
    minibatch = Minibatch(made, new_logprobs_BT=logprobs_BT)
    if subject.plugin.shared_trunk:
        minibatch.new_values_BT = (logprobs_BT.detach() * 0).requires_grad_(True)
    got = subject.ask(running.loss, minibatch, sample="a minibatch of tensors")
    loss, metrics = _two(got, "loss(minibatch)", "(loss, metrics)")
    if not hasattr(loss, "requires_grad"):
        raise Broken(short(loss), "a tensor", "return loss, metrics", "a minibatch of tensors", short(loss))
    return loss, metrics, logprobs_BT


def value_loss_of(subject: Subject, running: Any, made: Batch) -> tuple[Any, dict[str, Any]]:
    """Loss and metrics of the value role's own step: it is given new values and no log-probs."""
    minibatch = Minibatch(made, new_values_BT=(made.logprobs_BT * 0).requires_grad_(True))
    loss, metrics = _two(subject.ask(running.loss, minibatch, sample=ALONE), "loss(minibatch)", "(loss, metrics)")
    if not hasattr(loss, "requires_grad"):
        raise Broken(short(loss), "a tensor", "return loss, metrics", ALONE, short(loss))
    return loss, metrics


def gradient_of(subject: Subject, running: Any, made: Batch) -> Tensor:
    """d loss / d log π(token), shape (B, T); zeros where the loss does not hang on it."""
    import torch

    loss, _, logprobs_BT = loss_of(subject, running, made)
    (found,) = torch.autograd.grad(loss, logprobs_BT, allow_unused=True)
    return torch.zeros_like(logprobs_BT) if found is None else found


def _two(got: Any, what: str, wanted: str) -> tuple[Any, dict[str, Any]]:
    if not isinstance(got, tuple) or len(got) != 2 or not isinstance(got[1], dict):
        raise Broken(f"{short(got)} from {what}", wanted, f"return {wanted[1:-1]}", what, short(got))
    return got[0], got[1]


def refuse_not_finite(metrics: dict[str, Any], where: str) -> None:
    for name, value in metrics.items():
        number = finite_number(value)
        if number is None or not math.isfinite(number):
            fix = "log numbers only: float(x), and none where there is none"
            raise Broken(f"the metric {name} of {where} is {short(value)}", "a finite number", fix, where, short(value))
