"""Everything the on-policy loop needs to go on, as one object: tensors for safetensors, the rest for JSON.

Saved at rollout boundaries only, so no half-used rollout has to be kept. Randomness that belongs to an update is drawn
from streams named by (seed, update), which need no saving; the global streams of torch, numpy and random are saved all
the same, because a reward or an engine may draw from them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf_lora.backbone import Backbone
from rlhf_lora.records import Score


@dataclass
class LoopState:
    """Counters and controllers beside the weights.

    Attributes:
        update: rollouts finished so far.
        episodes: completions seen so far.
        abstained, errors: scores that were missing so far, by kind (unreadable counts as an error).
        score_shift, score_scale: reward = (score − shift) · scale, measured before update 1 (`scale_scores`).
    """

    update: int = 0
    episodes: int = 0
    abstained: int = 0
    errors: int = 0
    score_shift: float = 0.0
    score_scale: float = 1.0
    seconds: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "score": 0.0, "update": 0.0})

    def count(self, update: int, episodes: int, missing: Sequence[Score]) -> None:
        """An update is done."""
        self.update = update
        self.episodes += episodes
        abstained, errors = self.kinds(missing)
        self.abstained, self.errors = self.abstained + abstained, self.errors + errors

    @staticmethod
    def kinds(missing: Sequence[Score]) -> tuple[int, int]:
        """How many of these abstained, and how many failed."""
        abstained = sum(score.kind == "abstain" for score in missing)
        return abstained, len(missing) - abstained


def gather(
    state: LoopState, backbone: Backbone, adamw: torch.optim.Optimizer, optimizer: Any, trained: list[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of it: trained weights, AdamW moments, counters, controllers, random streams."""
    tensors: dict[str, Tensor] = {}
    for name in trained:
        for key, parameter in backbone.parameters(name).items():
            tensors[f"weights/{name}/{key}"] = parameter.detach()
            for moment, value in adamw.state.get(parameter, {}).items():
                tensors[f"adamw/{moment}/{name}/{key}"] = value
    tensors["random/torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and backbone.device != "cpu":
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors, {"loop": vars(state), "optimizer": dict(optimizer.state()), "random": _python_streams()}


def restore(
    tensors: Mapping[str, Tensor], saved: Mapping[str, Any], backbone: Backbone, adamw: torch.optim.Optimizer, optimizer: Any,
    trained: list[str],
) -> LoopState:  # fmt: skip
    """Put everything back, in place: parameters keep their identity, so nothing that holds them goes stale."""
    with torch.no_grad():
        for name in trained:
            for key, parameter in backbone.parameters(name).items():
                parameter.copy_(tensors[f"weights/{name}/{key}"])
                for moment in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors.get(f"adamw/{moment}/{name}/{key}")
                    if value is not None:
                        adamw.state[parameter][moment] = (
                            value.clone() if moment == "step" else value.to(parameter.device, copy=True)
                        )
    optimizer.restore(saved["optimizer"])
    torch.set_rng_state(tensors["random/torch"])
    if "random/cuda" in tensors and backbone.device != "cpu":
        torch.cuda.set_rng_state(tensors["random/cuda"])
    _set_python_streams(saved["random"])
    return LoopState(**saved["loop"])


def seed_streams(seed: int) -> None:
    """Set the global streams, so that new adapters, and rewards that draw, follow from the run's seed alone."""
    import numpy

    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def streams_of(seed: int) -> Iterator[None]:
    """The global streams as `seed` sets them, and put back: what is drawn inside changes nothing outside."""
    before, python = torch.get_rng_state(), _python_streams()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    seed_streams(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        _set_python_streams(python)


def _python_streams() -> dict[str, Any]:
    import numpy

    version, internal, gauss = random.getstate()
    name, keys, *rest = numpy.random.get_state()
    return {"python": [version, list(internal), gauss], "numpy": [name, [int(k) for k in keys], *rest]}


def _set_python_streams(saved: Mapping[str, Any]) -> None:
    import numpy

    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = saved["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
