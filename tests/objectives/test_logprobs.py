"""Chunked log-probs are the plain ones, gradients included, and never hold all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf_lora.objectives import logprobs

B, T, D, V = 3, 5, 8, 11


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden_BTD = torch.randn(B, T, D, generator=draw, dtype=dtype)
    return hidden_BTD, torch.randn(V, D, generator=draw, dtype=dtype), torch.randint(V, (B, T), generator=draw)


def plain(hidden_BTD: Tensor, head_VD: Tensor, tokens_BT: Tensor, temperature: float) -> Tensor:
    return ((hidden_BTD @ head_VD.T).float() / temperature).log_softmax(-1).gather(2, tokens_BT[..., None])[..., 0]


@pytest.mark.parametrize("chunk", [1, 2, 4, 14, 15, 16, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_equals_full_for_every_chunk_size_and_for_gradients(chunk, temperature):
    hidden_BTD, head_VD, tokens_BT = inputs()
    ours, theirs = (hidden_BTD.clone().requires_grad_() for _ in range(2))
    weight_BT = torch.arange(float(B * T)).reshape(B, T)
    chunked_BT = logprobs.selected(ours, head_VD, tokens_BT, temperature, chunk)
    full_BT = plain(theirs, head_VD, tokens_BT, temperature)
    torch.testing.assert_close(chunked_BT, full_BT)
    (chunked_BT * weight_BT).sum().backward()
    (full_BT * weight_BT).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)  # both pass through float32


def test_nothing_is_shifted():
    # State t is paired with token t: moving one token moves one log-prob.
    hidden_BTD, head_VD, tokens_BT = inputs()
    before_BT = logprobs.selected(hidden_BTD, head_VD, tokens_BT)
    tokens_BT[1, 2] = (tokens_BT[1, 2] + 1) % V
    changed = (logprobs.selected(hidden_BTD, head_VD, tokens_BT) != before_BT).nonzero().tolist()
    assert changed == [[1, 2]]


def test_result_is_float32_whatever_the_head_is():
    hidden_BTD, head_VD, tokens_BT = inputs(torch.float32)
    assert logprobs.selected(hidden_BTD, head_VD.bfloat16(), tokens_BT).dtype == torch.float32


class Largest(torch.overrides.TorchFunctionMode):
    """Remembers the largest tensor that any torch function returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("gradient", [False, True])
def test_logits_of_a_whole_batch_never_exist(gradient):
    hidden_BTD, tokens_BT = torch.randn(4, 16, 8), torch.randint(500, (4, 16))
    head_VD = torch.randn(500, 8)
    with Largest() as seen:
        result_BT = logprobs.selected(hidden_BTD.requires_grad_(gradient), head_VD, tokens_BT, chunk=8)
        if gradient:
            result_BT.sum().backward()
    assert seen.numbers <= 8 * 500  # one chunk; all of them would be 32,000


def test_what_backward_keeps_does_not_grow_with_the_vocabulary():
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept = max(kept, 0 if tensor.dim() == 2 and tensor.shape == (500, 8) else tensor.numel())
        return tensor

    hidden_BTD = torch.randn(4, 16, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logprobs.selected(hidden_BTD, torch.randn(500, 8), torch.randint(500, (4, 16)), chunk=8).sum()
    assert kept <= 4 * 16 * 8


def test_entropy_is_that_of_the_distribution_at_the_temperature():
    hidden_BTD, head_VD, _ = inputs(torch.float32)
    logprobs_BTV = ((hidden_BTD @ head_VD.T) / 0.7).log_softmax(-1)
    expected_BT = -(logprobs_BTV.exp() * logprobs_BTV).sum(-1)
    torch.testing.assert_close(logprobs.entropy(hidden_BTD, head_VD, 0.7, chunk=4), expected_BT)
    uniform_BT = logprobs.entropy(torch.zeros(1, 2, D), head_VD)
    torch.testing.assert_close(uniform_BT, torch.full((1, 2), float(torch.tensor(V).log())))
