"""The best update so far, by a held-out figure: its number, the figure, and a copy of the policy's weights.

The copy lives in the run's checkpoints beside the weights that are being trained, so that a run which was stopped
still knows its best. It is LoRA only: a few per cent of a checkpoint that holds two moments of every role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlhf_lora.backbone import Backbone


class Best:
    """Attributes: update: of the best figure, None while there is none. value: that figure; higher is better."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.update: int | None = None
        self.value: float | None = None
        self._weights: dict[str, Tensor] = {}

    def offer(self, update: int, value: float) -> bool:
        """Keep the policy as it is now if its figure is higher than every one before; says whether it was."""
        if self.value is not None and value <= self.value:
            return False
        self.update, self.value, self._weights = update, value, self._copy()
        return True

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The policy as it was at its best; afterwards as it was before. Nothing changes while there is no best."""
        before = self._copy() if self._weights else {}
        self._put(self._weights)
        try:
            yield
        finally:
            self._put(before)

    def gather(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint: tensors, and the rest as JSON. Both are empty while there is no best."""
        if self.update is None:
            return {}, {}
        tensors = {f"best/{name}": tensor for name, tensor in self._weights.items()}
        return tensors, {"best": {"update": self.update, "value": self.value}}

    def restore(self, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
        """Put back what `gather` gave."""
        if "best" in saved:
            self.update, self.value = saved["best"]["update"], saved["best"]["value"]
            self._weights = {k.removeprefix("best/"): v.clone() for k, v in tensors.items() if k.startswith("best/")}

    def _copy(self) -> dict[str, Tensor]:
        parameters = self.backbone.parameters("policy")
        return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        parameters = self.backbone.parameters("policy")
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
