"""Checks of what is plugged in: the reward source on real samples, the optimizer on tensors made up for it."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import torch
from torch import Tensor

from rlhf_lora.checks.registry import NotApplicable, Outcome, check, failed, judged, within
from rlhf_lora.contracts import Batch, Minibatch
from rlhf_lora.records import Score
from rlhf_lora.scores import given_by, values_of
from rlhf_lora.verify.loop_checks import worst
from rlhf_lora.verify.subject import Subject

# --- the reward -------------------------------------------------------------------------------------------------------


def scored(subject: Subject) -> list[Score]:
    return subject.scorer(copy.deepcopy(subject.samples))


def distance(one: list[Score], other: list[Score]) -> float:
    """Largest |Δ| of two scorings, in units of the largest score where that is above 1; infinite where only one of them
    has a value."""
    pairs = [(a.value, b.value) for a, b in zip(one, other, strict=True)]
    size = max([1.0, *(abs(a) for a, _ in pairs if a is not None)])
    apart = [0.0 if a == b else math.inf if a is None or b is None else abs(a - b) / size for a, b in pairs]
    return worst(apart)


@check("R1", "one finite score a sample, or none with a reason", source="contract RewardSource", needs="model")
def reward_counts(subject: Subject) -> Outcome:
    scores = scored(subject)
    values = [score.value for score in scores if score.value is not None]
    reasons = [score.reason or score.kind for score in scores if score.value is None]
    if not values:
        return failed(f"none of {len(scores)} samples has a score: {reasons[0]}")
    broken = [score.reason for score in scores if score.kind in ("error", "unreadable")]
    if broken:
        return failed(f"{len(broken)} of {len(scores)} samples: {broken[0]}")
    none = f", {len(reasons)} without ({reasons[0]})" if reasons else ""
    return judged(True, f"{len(values)} scores between {min(values):.3g} and {max(values):.3g}{none}")


@check("R2", "the same samples get the same scores twice", source="contract RewardSource", needs="model")
def reward_repeats(subject: Subject) -> Outcome:
    return within(distance(scored(subject), scored(subject)), subject.limit(1e-5, 1e-2))


@check("R3", "a score does not hang on order or company", source="contract RewardSource; padding", needs="model")
def reward_order(subject: Subject) -> Outcome:
    together, order = scored(subject), list(range(len(subject.samples)))
    random.Random(0).shuffle(order)
    half = len(order) // 2
    apart: list[Score | None] = [None] * len(order)
    for part in (order[:half], order[half:]):
        for i, score in zip(part, subject.scorer([copy.deepcopy(subject.samples[i]) for i in part]), strict=True):
            apart[i] = score
    return within(distance(together, [score for score in apart if score is not None]), subject.limit(1e-4, 0.25))


@check("R4", "scoring leaves its samples as they were", source="contract RewardSource", needs="model")
def reward_leaves_inputs(subject: Subject) -> Outcome:
    given, kept = copy.deepcopy(subject.samples), copy.deepcopy(subject.samples)
    scorer = subject.scorer
    if scorer.apart:
        raise NotApplicable("it runs in a process of its own")
    given_by(scorer.source, given, values_of(scorer.columns, given, scorer.name))  # a run would give it copies
    changed = sum(a != b for a, b in zip(given, kept, strict=True))
    return judged(changed == 0, f"{changed} of {len(kept)} samples changed")


# --- the optimizer ----------------------------------------------------------------------------------------------------


def batch(subject: Subject, equal: bool = False) -> Batch:
    """A rollout at the reference: rows of 2 to 6 tokens, values 0, rewards of mean 0 that differ unless `equal`."""
    per_prompt = subject.settings.samples_per_prompt
    rows, width = subject.settings.prompts_per_update * per_prompt, 6
    stream = torch.Generator().manual_seed(0)
    lengths_B = 2 + torch.arange(rows) * 3 % 5
    mask_BT = torch.arange(width)[None] < lengths_B[:, None]
    logprobs_BT = -(1 + torch.rand(rows, width, generator=stream)) * mask_BT
    rewards_B = torch.zeros(rows) if equal else torch.randn(rows, generator=stream)
    return Batch(
        tokens_BT=torch.ones(rows, width, dtype=torch.long), mask_BT=mask_BT, logprobs_BT=logprobs_BT,
        ref_logprobs_BT=logprobs_BT.clone(), values_BT=torch.zeros(rows, width) if _has_value(subject) else None,
        scores_B=rewards_B.clone(), rewards_B=rewards_B - rewards_B.mean(),
        finished_B=torch.ones(rows, dtype=torch.bool), group_B=torch.arange(rows) // per_prompt,
    )  # fmt: skip


def _has_value(subject: Subject) -> bool:
    return "value" in subject.settings.roles or subject.settings.shared_trunk


def gradient(subject: Subject, optimizer: Any, made: Batch, rows: Tensor) -> Tensor:
    """d loss / d log π(token) at π = π_old of the given rows, shape (B, T)."""
    part = made.rows(rows)
    logprobs_BT = part.logprobs_BT.clone().requires_grad_(True)
    minibatch = Minibatch(part, new_logprobs_BT=logprobs_BT)
    if subject.settings.shared_trunk:
        minibatch.new_values_BT = torch.zeros_like(logprobs_BT).requires_grad_(True)
    loss, _ = optimizer.loss(minibatch)
    (found,) = torch.autograd.grad(loss, logprobs_BT)
    return found


def whole(subject: Subject, equal: bool = False) -> tuple[Any, Batch, Tensor]:
    """A fresh optimizer, its batch with advantages, and the gradient over all of it."""
    optimizer = subject.optimizer()
    made, _ = optimizer.advantages(batch(subject, equal))
    return optimizer, made, gradient(subject, optimizer, made, torch.arange(len(made)))


@check("O1", "better answers become likelier, worse ones less", source="contract OnPolicyOptimizer", needs="model")
def better_becomes_likelier(subject: Subject) -> Outcome:
    _, made, gradient_BT = whole(subject)
    push_B, reward_B = -(gradient_BT * made.mask_BT).sum(1), made.rewards_B - made.rewards_B.mean()
    if subject.settings.samples_per_prompt > 1:  # better than the others of the same prompt
        count = subject.settings.samples_per_prompt
        reward_B = (made.rewards_B.view(-1, count) - made.rewards_B.view(-1, count).mean(1, keepdim=True)).flatten()
    agreement = float(torch.nn.functional.cosine_similarity(push_B.double(), reward_B.double(), dim=0))
    return judged(agreement > 0.3, f"cosine of push and reward {agreement:.3f}, at least 0.3")


@check("O2", "equal scores at the reference move nothing", source="contract OnPolicyOptimizer", needs="model")
def equal_scores(subject: Subject) -> Outcome:
    _, _, gradient_BT = whole(subject, equal=True)
    return within(float(gradient_BT.abs().max()), 1e-6, "max |gradient|")


@check("O3", "padded places get no gradient", source="N+ details, ppo.py: masks", needs="model")
def no_gradient_in_pads(subject: Subject) -> Outcome:
    _, made, gradient_BT = whole(subject)
    return within(float(gradient_BT[~made.mask_BT].abs().max()), 0.0, "max |gradient|")


@check("C34", "micro-batches add up to the minibatch", source="trl#583; token-weighted means", needs="model")
def micro_batches(subject: Subject) -> Outcome:
    optimizer, made, gradient_BT = whole(subject)
    by_sequence, added = subject.settings.mean_over == "sequences", torch.zeros_like(gradient_BT)
    for rows in torch.arange(len(made)).split((3, len(made) - 3)):
        mask_BT = made.mask_BT[rows]
        share = len(rows) / len(made) if by_sequence else float(mask_BT.sum() / made.mask_BT.sum())
        added[rows] = share * gradient(subject, optimizer, made, rows)
    what = "sequences" if by_sequence else "tokens"
    return within(float((added - gradient_BT).abs().max()), 1e-6, more=f", weighted by {what}")
