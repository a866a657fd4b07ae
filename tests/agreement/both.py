"""One draw given to the kit, and to the parts of trl 1.12.0's trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from draws import END, PAD, Draw
from torch import Tensor

from rlhf_lora.contracts import Batch, Context
from rlhf_lora.registry import build


def apart(mine: Tensor | float, other: Tensor) -> Tensor:
    """Largest absolute difference; of another shape is an error, and what is not finite stays so."""
    mine = torch.as_tensor(mine, dtype=torch.float64)
    assert mine.shape == other.shape, (mine.shape, other.shape)
    return (mine.detach() - other.detach().double()).abs().max()


def worst(differences: Sequence[Tensor]) -> float:
    """Over all draws. Python's max would let a NaN pass; this does not."""
    return float(torch.stack(list(differences)).max())


# --- the kit ----------------------------------------------------------------------------------------------------------


def optimizer_of(d: Draw, **settings: Any) -> Any:
    given = {"beta": d.beta, "gamma": d.gamma, "lam": d.lam, "clip": d.clip, "value_clip": d.clip, "kl_target": None}
    return build("optimizer", {"name": "ppo"} | given | settings).open(Context())


def batch_of(d: Draw, **changes: Any) -> Batch:
    given = {
        "tokens_BT": d.tokens_BT, "mask_BT": d.mask_BT, "logprobs_BT": d.logprobs_BT,
        "ref_logprobs_BT": d.ref_logprobs_BT, "values_BT": d.values_BT, "scores_B": d.scores_B, "rewards_B": d.scores_B,
        "finished_B": d.finished_B, "group_B": torch.arange(len(d.scores_B)),
    }  # fmt: skip
    return Batch(**(given | changes))


def advantages_of(d: Draw, **settings: Any) -> tuple[Any, dict[str, float]]:
    return optimizer_of(d, **settings).advantages(batch_of(d))


def exact(d: Draw) -> Tensor:
    """Logits of a vocabulary of 11, shape (B, T, V), in which each token has the log-prob that the draw gives it now.

    The others share what is left unevenly, so that an entropy is not a constant.
    """
    B, T = d.tokens_BT.shape
    rest_BTV = torch.linspace(0, 2, 11, dtype=torch.float64).expand(B, T, 11).clone()
    rest_BTV.scatter_(2, d.tokens_BT[..., None], -torch.inf)
    taken_BT = d.new_logprobs_BT.clamp(max=-1e-3)
    rest_BTV = rest_BTV.log_softmax(-1) + torch.log1p(-taken_BT.exp())[..., None]
    return rest_BTV.scatter(2, d.tokens_BT[..., None], taken_BT[..., None]).requires_grad_()


# --- trl 1.12.0 -------------------------------------------------------------------------------------------------------


def population(theirs: SimpleNamespace) -> Callable[..., Tensor]:
    """`masked_whiten`, with the variance of the population in it in place of the sample's."""
    function = theirs.masked_whiten
    scope = function.__globals__ | {"masked_var": partial(theirs.masked_var, unbiased=False)}
    return FunctionType(function.__code__, scope, argdefs=function.__defaults__)


def shaped(
    theirs: SimpleNamespace, d: Draw, estimator: str = "k1", *, whiten_rewards: bool = False, penalty: float | None = None,
    **changes: Any,
) -> SimpleNamespace:  # fmt: skip
    """What the trainer makes of a rollout: rewards, kl, returns, advantages, and its two masks of padding."""
    args = SimpleNamespace(
        missing_eos_penalty=penalty, kl_estimator=estimator, kl_coef=d.beta, whiten_rewards=whiten_rewards,
        gamma=d.gamma, lam=d.lam,
    )  # fmt: skip
    trainer = SimpleNamespace(args=args, processing_class=SimpleNamespace(eos_token_id=END))
    return theirs.shaped(
        **{
            "self": trainer, "args": args, "postprocessed_responses": d.tokens_BT, "responses": d.tokens_BT,
            "scores": d.scores_B.clone(), "logprobs": d.logprobs_BT, "ref_logprobs": d.ref_logprobs_BT,
            "values": d.values_BT, "sequence_lengths": d.lengths_B - 1,
        } | changes,
    )  # fmt: skip


def losses(
    theirs: SimpleNamespace, d: Draw, rows: Tensor | None = None, temperature: float = 1 - 1e-7
) -> SimpleNamespace:
    """What the trainer makes of one micro-batch, from the model's output on, and the gradients with respect to that.

    Args:
        temperature: 1e-7 are added to it: 1 is what logits are divided by, unless told otherwise.
    """
    rows = torch.arange(len(d.scores_B)) if rows is None else rows
    logits_BTV = exact(d)
    values_BT = d.new_values_BT.clone().requires_grad_()
    mask_p1 = torch.arange(d.mask_BT.shape[1]) < d.lengths_B[:, None] + 1
    # One prompt token: what predicts the first answer token stands in column 0, and the last column predicts nothing.
    logits_BSV = torch.cat([logits_BTV, torch.zeros_like(logits_BTV[:, :1])], dim=1)[rows] * 1.0
    values_BS1 = torch.cat([values_BT, torch.zeros_like(values_BT[:, :1])], dim=1)[rows][..., None]
    returns_BT = (d.values_BT + d.scores_BT) * mask_p1
    figures = "approxkl pg_clipfrac pg_loss vf_loss vf_clipfrac entropy ratio".split()
    found = theirs.losses(
        **{f"{name}_stats": torch.zeros(1, 1, 1) for name in figures}, ppo_epoch_idx=0, minibatch_idx=0,
        gradient_accumulation_idx=0, micro_batch_inds=rows, context_length=1, model=None,
        advantages=d.scores_BT * d.mask_BT, responses=d.tokens_BT, query_responses=d.tokens_BT,
        logprobs=d.logprobs_BT.where(d.mask_BT, 1.0), returns=returns_BT, values=d.values_BT * mask_p1,
        padding_mask=~d.mask_BT, padding_mask_p1=~mask_p1, processing_class=SimpleNamespace(pad_token_id=PAD),
        forward=lambda *_: (SimpleNamespace(logits=logits_BSV), values_BS1),
        args=SimpleNamespace(temperature=temperature, cliprange=d.clip, cliprange_value=d.clip, vf_coef=0.1),
        accelerator=SimpleNamespace(backward=lambda loss: loss.backward()),
        optimizer=SimpleNamespace(step=lambda: None, zero_grad=lambda: None),
    )  # fmt: skip
    found.logits_grad, found.values_grad = logits_BTV.grad, values_BT.grad
    found.mask_p1, found.returns = mask_p1, returns_BT
    return found
