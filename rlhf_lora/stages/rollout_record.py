"""What one rollout leaves: samples and scores as a person reads them, tensors as the optimizer does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lora.contracts import Batch
from rlhf_lora.objectives import kl
from rlhf_lora.objectives.advantages import masked_mean
from rlhf_lora.records import Sample, Score


@dataclass
class Rollout:
    """One rollout. `samples[i]`, `scores[i]`, `prompt_ids[i]` and row i of `batch` are the same completion.

    Attributes:
        unscored: samples that have no score, each with the `Score` that says why; they are in none of the others, but where
            a missing score is its group's mean.
    """

    samples: list[Sample]
    scores: list[Score]
    prompt_ids: list[list[int]]
    batch: Batch
    unscored: list[tuple[Sample, Score]]

    @property
    def response_ids(self) -> list[list[int]]:
        return [list(sample.tokens or ()) for sample in self.samples]

    def metrics(self) -> dict[str, float]:
        """What the policy got and how far it went, in TRL's names. KL is k1 summed over each sequence, in nats."""
        batch = self.batch
        kl_B = (kl.k1(batch.logprobs_BT, batch.ref_logprobs_BT) * batch.mask_BT).sum(1)
        parts: dict[str, list[float]] = {}
        for score in self.scores:
            for name, value in score.parts.items():
                parts.setdefault(name, []).append(value)
        return {
            "objective/scores": float(batch.scores_B[batch.scored_B].mean()),
            "objective/scores_std": float(batch.scores_B[batch.scored_B].std(unbiased=False)),
            "objective/kl": float(kl_B.mean()),
            "objective/entropy": float(-masked_mean(batch.logprobs_BT, batch.mask_BT)),
            "completions/mean_length": float(batch.mask_BT.sum(1).float().mean()),
            "completions/cut_share": float((~batch.finished_B).float().mean()),
            "scores/missing": float(len(self.unscored)),
        } | {f"rewards/{name}/mean": sum(values) / len(values) for name, values in parts.items()}

    def rows(self) -> list[dict[str, Any]]:
        """For `samples/*.parquet`: every sample with its tokens and figures, those without a score with the reason."""
        table = []
        for i, (sample, score) in enumerate(zip(self.samples, self.scores, strict=True)):
            row, length = _row(sample, score), len(sample.tokens or ())
            for name in ("ref_logprobs", "values", "advantages"):
                values_BT = getattr(self.batch, f"{name}_BT")
                row[name] = None if values_BT is None else values_BT[i, :length].tolist()
            table.append(row)
        shown = {id(sample) for sample in self.samples}
        return table + [_row(sample, score) for sample, score in self.unscored if id(sample) not in shown]


def _row(sample: Sample, score: Score) -> dict[str, Any]:
    return {
        "prompt": sample.prompt, "text": sample.text, "tokens": list(sample.tokens or ()), "finished": sample.finished,
        "logprobs": list(sample.logprobs or ()), "score": score.value, "parts": dict(score.parts), "kind": score.kind,
        "reason": score.reason,
    }  # fmt: skip


def token_at(chat: Any, sample: Sample, place: int) -> int:
    """Index of the token that a place in the text falls into: the first that the text up to there is complete with.

    Args:
        place: in characters. Behind the text (an end token has none) it is the last token.
    """
    tokens = list(sample.tokens or ())
    low, high = 0, len(tokens) - 1
    while low < high:
        middle = (low + high) // 2
        if len(chat.decode(tokens[: middle + 1])) >= place:
            high = middle
        else:
            low = middle + 1
    return low


def padded(rows: list[list[Any]], mask_BT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of numbers as one tensor in the shape of their mask, 0 where there is nothing."""
    out_BT = torch.zeros(mask_BT.shape, dtype=dtype)
    out_BT[mask_BT] = torch.tensor([value for row in rows for value in row], dtype=dtype)
    return out_BT
