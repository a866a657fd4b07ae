"""Checks of the on-policy loop with the user's engine, optimizer and roles: what holds at the first update, and what one
update may not touch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rlhf_lora.checks.registry import NotApplicable, Outcome, check, failed, judged, passed, within
from rlhf_lora.verify.subject import Subject

TEMPERATURES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0)
"""Of which the one is named that a rollout's log-probs would fit."""


def gaps(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[float]:
    """|Δ| of each token.

    Raises:
        ValueError: rows are not of the same length.
    """
    return [abs(a - b) for row, other in zip(rows, others, strict=True) for a, b in zip(row, other, strict=True)]


def worst(values: Sequence[float]) -> float:
    return math.inf if any(math.isnan(value) for value in values) else max(values, default=0.0)


# --- rollout and training agree ---------------------------------------------------------------------------------------


@check("C08", "log-probs of the rollout are those of a fresh forward", source="verl#2088, trl#4", needs="model")
def rollout_against_forward(subject: Subject) -> Outcome:
    captured = [list(sample.logprobs or ()) for sample in subject.samples]
    counts = [(len(row), len(tokens)) for row, tokens in zip(captured, subject.ids[1], strict=True)]
    if wrong := [pair for pair in counts if pair[0] != pair[1]]:
        return failed(f"{len(wrong)} samples have not one log-prob a token (first: {wrong[0][0]} for {wrong[0][1]})")
    found = gaps(captured, subject.logprobs("policy"))
    mean, limit = sum(found) / max(1, len(found)), subject.limit(1e-4, 0.25)
    more = f"; mean {mean:.1g} over {len(found)} tokens at temperature {subject.temperature:g}"
    if worst(found) <= limit and mean <= subject.limit(1e-5, 0.03):
        return within(worst(found), limit, more=more)
    return failed(f"max |Δ| {worst(found):.2g}, limit {limit:.3g}{more}{_better_temperature(subject, captured, mean)}")


def _better_temperature(subject: Subject, captured: list[list[float]], mean: float) -> str:
    fits = {t: gaps(captured, subject.logprobs("policy", t)) for t in TEMPERATURES}
    best = min(fits, key=lambda t: sum(fits[t]))
    near = sum(fits[best]) / max(1, len(fits[best]))
    return f"; they fit temperature {best:g}" if near < 0.2 * mean else ""


@check("C32", "ratio is 1 on the first minibatch", source="N+ details, reference_output/ppo.txt", needs="model")
def first_ratio(subject: Subject) -> Outcome:
    watched: Any = subject.loop.optimizer
    if not watched.log_ratios:
        return failed("the optimizer's loss was never given the policy's log-probs")
    ratios = torch.cat(watched.log_ratios).exp()
    distance = float((ratios - 1).abs().max())
    return within(distance, subject.limit(1e-4, 0.3), "max |ratio − 1|", f"; mean ratio {float(ratios.mean()):.6f}")


@check("L1", "KL is 0 at step 0: policy = reference, bit for bit", source="this kit; trl#1005, trl#925", needs="model")
def kl_at_step_zero(subject: Subject) -> Outcome:
    before = subject.before
    found = gaps(before.policy, before.reference)
    differing = sum(gap != 0 for gap in found)
    kl = sum(a - b for r, s in zip(before.policy, before.reference, strict=True) for a, b in zip(r, s, strict=True))
    figure = (
        f"{differing} of {len(found)} tokens differ, max |Δ| {worst(found):.2g}, KL {kl / len(before.policy):.2g} nats"
    )
    return judged(differing == 0, figure)


# --- roles --------------------------------------------------------------------------------------------------------


@check(
    "L3",
    "an update of the policy leaves the other roles as they were",
    source="this kit; peft's set_adapter",
    needs="model",
)
def isolation(subject: Subject) -> Outcome:
    before, backbone = subject.before, subject.loop.backbone
    moved = worst(gaps(subject.logprobs("policy"), before.policy))
    found = gaps(subject.logprobs("reference"), before.reference)
    parts = [("reference", sum(gap != 0 for gap in found), len(found), worst(found))]
    after = subject.scores_of("reward")
    if after is not None and before.scores is not None:
        apart = [abs(a - b) for a, b in zip(after, before.scores, strict=True)]
        parts.append(("reward", sum(gap != 0 for gap in apart), len(apart), worst(apart)))
    learning = [
        name for name, role in backbone.roles.items()
        if not role.trained and any(p.requires_grad for p in backbone.parameters(name).values())
    ]  # fmt: skip
    if learning:
        return failed(f"requires_grad is set in {', '.join(learning)}")
    figure = ", ".join(f"{name}: {n} of {of} changed (max |Δ| {gap:.2g})" for name, n, of, gap in parts)
    return judged(not any(n for _, n, _, _ in parts), f"{figure}; policy moved by {moved:.2g}")


@check("L3", "one update moves the policy", source="this kit; bf16 adapters freeze at RL rates", needs="model")
def policy_moves(subject: Subject) -> Outcome:
    if not subject.loop.optimizer.adamw.lr:
        raise NotApplicable("the learning rate is 0")
    found = gaps(subject.logprobs("policy"), subject.before.policy)
    moved = sum(gap > 0 for gap in found)
    return judged(moved > 0, f"{moved} of {len(found)} log-probs changed, max |Δ| {worst(found):.2g}")


@check("L4", "a role's backward reaches its own adapter and no other", source="this kit; Hydra-RLHF", needs="model")
def backward_reaches_own(subject: Subject) -> Outcome:
    backbone = subject.backbone
    for name in {*backbone.roles, *backbone.heads}:
        for parameter in backbone.parameters(name).values():
            parameter.grad = None
    policy_backward(subject)
    own = sum(p.grad is not None for p in backbone.parameters("policy").values())
    others = {
        name: sum(p.grad is not None for p in backbone.parameters(name).values())
        for name in (*backbone.roles, *backbone.heads) if name != "policy"
    }  # fmt: skip
    reached = ", ".join(f"{name} {n}" for name, n in others.items())
    total = len(backbone.parameters("policy"))
    return judged(own == total and not any(others.values()), f"policy {own} of {total} tensors; {reached}")


def policy_backward(subject: Subject, rows: int = 4) -> dict[str, torch.Tensor]:
    """Gradients of the mean log-prob of a few completions, by name of the policy's tensors."""
    from rlhf_lora.padding import pad

    backbone = subject.backbone
    for parameter in backbone.parameters("policy").values():
        parameter.grad = None
    prompts, responses = subject.ids
    padded = pad(prompts[:rows], responses[:rows], subject.chat.fill_id, backbone.device)
    with backbone.role("policy"):
        hidden_BTD = backbone.response_hidden(padded)
        logprobs_BT = backbone.logprobs(hidden_BTD, padded.responses_BT, subject.temperature)
        logprobs_BT[padded.response_mask_BT].mean().backward()
    return {n: p.grad.clone() for n, p in backbone.parameters("policy").items() if p.grad is not None}


@check(
    "C20",
    "values begin at 0, or as the reward model where value_init says so",
    source="Ziegler et al. 2019; Huang et al. 2024",
    needs="model",
)
def value_head(subject: Subject) -> Outcome:
    before = subject.before
    if before.values is None:
        raise NotApplicable("no value function in these settings")
    head = subject.backbone.heads["value"]
    if any(parameter.dtype != torch.float32 for parameter in head.parameters()):
        return failed("the head is not float32")
    if getattr(subject.plan.optimizer, "value_init", "zero") == "reward":
        if before.scores is None or before.begun is None:
            raise NotApplicable("no reward model has been trained yet: reward.path=RUN, or after `train`")
        apart = worst([abs(value - score) for value, score in zip(before.begun, before.scores, strict=True)])
        more = f" between V and the reward model over {len(before.scores)} completions; float32 head"
        return within(apart, subject.limit(1e-4, 0.25), more=more)
    count = f" over {len(before.values)} tokens; float32 head"
    return within(worst([abs(value) for value in before.values]), 0.0, "max |V|", count)


@check("B1", "the frozen base is the same after an update", source="this kit; 4-bit merges move weights", needs="model")
def base_unchanged(subject: Subject) -> Outcome:
    before, after = subject.before.base, (subject.loop, subject.base_hash())[1]
    if before != after:
        return failed(f"SHA-256 {before[:12]} → {after[:12]}")
    return passed(f"SHA-256 {after[:12]}")
