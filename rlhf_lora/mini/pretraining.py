"""Pretraining from scratch, as both tiny bases need it: AdamW, a short warm-up, a cosine down to a tenth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT_BUCKET = 90
"""Prompts from this bucket on are for tuning and the final evaluation (`splits`); no base is pretrained on them."""

Report = Callable[[int, int, float], None]
"""Called as `report(done, total, loss)` after each step; the loss in nats per token."""


def pretrain(
    model: Any, batches: Iterator[tuple[Tensor, Tensor]], steps: int, learning_rate: float, report: Report | None = None
) -> list[float]:
    """Train all of `model` on `steps` batches of (ids_BS, labels_BS), labels -100 where there is nothing to predict.

    Returns:
        The loss of each step, nats per token.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * rate(step, steps)
        ids_BS, labels_BS = next(batches)
        loss = model(input_ids=ids_BS, labels=labels_BS, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if report:
            report(step + 1, steps, losses[-1])
    model.eval()
    return losses


def rate(step: int, steps: int) -> float:
    """Share of the full learning rate: up over the first twentieth, then a cosine from 1 to 0.1."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without Transformers' own bars for writing and reading files of half a megabyte."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
