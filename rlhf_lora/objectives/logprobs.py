"""Log-probabilities of given tokens, without ever holding batch × time × vocabulary.

The largest single allocation of other PPOs is the logits of a whole rollout (64 × 512 × 152k floats: 20 GB). Here the
vocabulary projection is done for `chunk` positions at a time, and its backward recomputes them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def selected(
    hidden_BTD: Tensor, head_weight_VD: Tensor, tokens_BT: Tensor, temperature: float = 1.0, chunk: int = 1024
) -> Tensor:
    """log softmax(h W^T / temperature)[token] at each position.

    Already aligned: `hidden_BTD[:, t]` is the state that predicts `tokens_BT[:, t]`; nothing is shifted here.

    Args:
        hidden_BTD: final hidden states, after the last norm.
        head_weight_VD: weight of the vocabulary projection, no bias.
        tokens_BT: token ids; at masked positions any valid id.
        temperature: the sampling temperature, > 0. Rollout, reference and update must use the same.
        chunk: positions projected at a time: higher = faster, more memory (chunk × V floats).

    Returns:
        Float32 log-probs in nats, shape (B, T).
    """
    flat_ND, tokens_N = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), tokens_BT.reshape(-1)
    training = torch.is_grad_enabled() and (hidden_BTD.requires_grad or head_weight_VD.requires_grad)
    parts = []
    for start in range(0, len(tokens_N), chunk):
        args = (flat_ND[start : start + chunk], head_weight_VD, tokens_N[start : start + chunk], temperature)
        if training and len(tokens_N) > chunk:
            parts.append(checkpoint(_selected, *args, use_reentrant=False))
        else:
            parts.append(_selected(*args))
    return torch.cat(parts).reshape(tokens_BT.shape)


def _selected(hidden_ND: Tensor, head_weight_VD: Tensor, tokens_N: Tensor, temperature: float) -> Tensor:
    logits_NV = (hidden_ND.to(head_weight_VD.dtype) @ head_weight_VD.T).float() / temperature
    return logits_NV.gather(1, tokens_N[:, None])[:, 0] - logits_NV.logsumexp(1)


def entropy(hidden_BTD: Tensor, head_weight_VD: Tensor, temperature: float = 1.0, chunk: int = 1024) -> Tensor:
    """Entropy in nats of the next-token distribution at each position, shape (B, T), without gradient."""
    flat_ND = hidden_BTD.detach().reshape(-1, hidden_BTD.shape[-1])
    parts = []
    with torch.no_grad():
        for start in range(0, len(flat_ND), chunk):
            rows_ND = flat_ND[start : start + chunk].to(head_weight_VD.dtype)
            logprobs_NV = torch.log_softmax((rows_ND @ head_weight_VD.T).float() / temperature, dim=1)
            parts.append(-(logprobs_NV.exp() * logprobs_NV).sum(1))
    return torch.cat(parts).reshape(hidden_BTD.shape[:-1])
