"""Tokenised rows of an off-policy stage, and the micro batches that are made of them.

Batches hold rows of like length: less padding, and an order that follows from the seed alone. Rows of one prompt are of like
length too, so that they meet in a batch more often than by chance; `sort_by_length=false` is a pure shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from rlhf_lora.errors import DataError
from rlhf_lora.train_settings import TrainSettings

Row = dict[str, Any]
MEGABATCH = 50
"""Batches whose rows are sorted by length together: more = less padding, and batches less mixed."""


@dataclass(frozen=True)
class Rows:
    """Tokenised rows of one stage, those that are too long left out and counted."""

    items: Sequence[Row]
    lengths: Sequence[int]
    too_long: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Row:
        return self.items[index]


def rows_of(items: Iterator[tuple[Row, int]], settings: TrainSettings, where: str) -> Rows:
    """Collect (row, length in tokens), leaving out what is longer than `settings.max_length`.

    Raises:
        DataError: there is no row, or more than half are too long.
    """
    kept, lengths, too_long = [], [], 0
    for row, length in items:
        if length > settings.max_length:
            too_long += 1
        else:
            kept.append(row)
            lengths.append(length)
    if not kept and not too_long:
        raise DataError(f"there is nothing to train on: no {where}", where=where, fix="give a dataset that has some")
    if too_long > len(kept):
        raise DataError(
            f"{too_long} of {too_long + len(kept)} {where} are longer than {settings.max_length} tokens",
            where="max_length",
            fix="raise max_length (more memory), or shorten the data",
        )
    return Rows(kept, lengths, too_long)


def pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Token rows as one right-padded tensor, and their lengths. The filler is told by length, never by its id."""
    lengths = [len(row) for row in rows]
    ids_BS = np.full((len(rows), max(lengths)), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        ids_BS[i, : lengths[i]] = row
    return torch.from_numpy(ids_BS), torch.tensor(lengths)


def mask_of(lengths_B: Tensor, width: int) -> Tensor:
    """1 where there is a token, 0 where there is filler: shape (B, width)."""
    return (torch.arange(width) < lengths_B[:, None]).long()


class Batches(Sampler[list[int]]):
    """Row numbers of one micro batch after another. The order of epoch e follows from (seed, e) and nothing else."""

    def __init__(self, lengths: Sequence[int], settings: TrainSettings, seed: int):
        self.lengths, self.seed, self.epoch = np.asarray(lengths), seed, 0
        self.rows, self.batch_size = settings.batch_size, settings.rows_at_a_time
        self.by_length = settings.sort_by_length
        self.drop_last, self.sampler = False, None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.rows)
        return full * (self.rows // self.batch_size) + -(-rest // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = draw.permutation(len(self.lengths))
        full = len(order) // self.rows * self.rows
        batches = []
        for start in range(0, full, self.rows * MEGABATCH):
            part = order[start : min(start + self.rows * MEGABATCH, full)]
            if self.by_length:
                part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches += list(part.reshape(-1, self.rows))
        batches = [batches[i] for i in draw.permutation(len(batches))]
        if full < len(order):
            batches.append(order[full:])  # the smaller batch comes last, where the Trainer expects it
        for batch in batches:
            for start in range(0, len(batch), self.batch_size):
                yield batch[start : start + self.batch_size].tolist()
