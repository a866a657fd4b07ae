"""How an off-policy stage trains: the settings that SFT, reward model and DPO share. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lora.adamw import AdamW

Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one pass of supervised training.

    Attributes:
        epochs: passes over the rows; fractions are allowed.
        batch_size: rows per step of the gradient optimizer.
        micro_batch: rows in memory at a time; divides `batch_size`, and is cut down to it when larger. Same result,
            less memory, more time.
        lr: peak learning rate; None = still to be derived from the model's width, before a stage runs.
        schedule: how the learning rate goes from its peak: `cosine` and `linear` to 0, or `constant`.
        warmup: share of the steps over which it rises to the peak.
        max_grad_norm: gradients longer than this are scaled down to it.
        max_length: tokens of prompt and response; longer rows are not used, and counted.
        sort_by_length: batches of rows of like length, for less padding. False: each epoch is one pure shuffle.

    Raises:
        ValueError: a setting out of its range.
    """

    epochs: float = 1.0
    batch_size: int = 8
    micro_batch: int = 8
    lr: float | None = 2e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    max_length: int = 1024
    sort_by_length: bool = True

    def __post_init__(self) -> None:
        AdamW(self.lr, self.betas[0], self.betas[1], self.eps, self.weight_decay)  # checks the ranges
        for name in ("epochs", "batch_size", "micro_batch", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)!r}")
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {self.max_length!r}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"schedule must be cosine, linear or constant, got {self.schedule!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup!r}")
        if self.batch_size % self.rows_at_a_time:
            raise ValueError(f"micro_batch={self.micro_batch} must divide batch_size={self.batch_size}")

    @classmethod
    def of(cls, adamw: AdamW, **settings: Any) -> TrainSettings:
        """Settings whose gradient optimizer is written as a policy optimizer's `adamw`."""
        if adamw.eps_placement != "torch":
            raise ValueError(f"adamw.eps_placement={adamw.eps_placement} is there in the on-policy loop alone")
        betas = (adamw.beta1, adamw.beta2)
        return cls(lr=adamw.lr, betas=betas, eps=adamw.eps, weight_decay=adamw.weight_decay, **settings)

    @property
    def rows_at_a_time(self) -> int:
        return min(self.micro_batch, self.batch_size)

    def steps(self, rows: int) -> int:
        """Steps of the gradient optimizer over so many rows."""
        per_epoch = -(-rows // self.batch_size)
        return max(1, -int(-self.epochs * per_epoch // 1))


def micro_batch_within(batch_size: int, most: int) -> int:
    """The largest micro-batch of at most `most` rows that divides the batch."""
    return next((rows for rows in range(max(1, min(most, batch_size)), 0, -1) if batch_size % rows == 0), 1)
