"""Every vector holds, and every vector fails when the function it is about is wrong in a way that others were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf_lora.checks import registry, vectors
from rlhf_lora.objectives import advantages, kl, logprobs, ppo, preference

CHECKS = [entry for entry in registry.checks("nothing") if entry.function.__module__ == vectors.__name__]


@pytest.mark.parametrize("entry", CHECKS, ids=lambda entry: entry.function.__name__)
def test_vector_holds(entry):
    (result,) = registry.run([entry])
    assert result.state == "passed", result.figure
    assert entry.source


def changed(module: Any, name: str, change: Callable[..., Any]) -> tuple[Any, str, Callable[..., Any]]:
    """The function with its arguments or its result changed: `change(right, *arguments)`."""
    right = getattr(module, name)
    return module, name, lambda *given, **named: change(right, *given, **named)


def bessel(right, x_BT, mask_BT, shift_mean=True):
    n = mask_BT.sum()
    mean = (x_BT * mask_BT).sum() / n
    variance = ((x_BT - mean) ** 2 * mask_BT).sum() / (n - 1)
    return ((x_BT - mean) / variance.sqrt() + (0 if shift_mean else mean)) * mask_BT


def mean_of_all(right, x_B, group_B):
    return x_B - x_B.mean()


def unmasked(right, new, old, adv, mask_BT, *rest):
    return right(new, old, adv, torch.ones_like(mask_BT), *rest)


class NeverClipped(kl.AdaptiveKL):
    def update(self, found, n):
        self.value *= 1 + (found / self.target - 1) * n / self.horizon
        return self.value


WRONG = {
    "logprob_at_temperature": changed(logprobs, "selected", lambda f, h, w, t, T, chunk: f(h, w, t, 1.0, chunk)),
    "estimators": changed(kl, "k3", lambda f, a, b: f(b, a)),
    "adaptive_kl": (kl, "AdaptiveKL", NeverClipped),
    "whitening": changed(advantages, "whiten", bessel),
    "whitening_keeps_mean": changed(advantages, "whiten", lambda f, x, m, shift_mean: f(x, m)),
    "gae": changed(advantages, "gae", lambda f, r, v, m, gamma, lam: f(r, v, m, gamma, 1.0)),
    "gae_masked": changed(advantages, "gae", lambda f, r, v, m, gamma, lam: f(r, v, torch.ones_like(m), gamma, lam)),
    "leave_one_out": changed(advantages, "leave_one_out", mean_of_all),
    "group_relative": changed(advantages, "group_relative", lambda f, r, g, scale=True: r - r.mean()),
    "value_loss": changed(ppo, "value_loss", lambda f, *given: (f(*given)[0] * 2, f(*given)[1])),
    "policy_loss": changed(ppo, "policy_loss", lambda f, new, old, adv, m, clip: f(new, old, adv, m, 10.0)),
    "approxkl": changed(ppo, "policy_loss", unmasked),
    "token_weighted": (advantages, "masked_mean", advantages.sequence_mean),
    "bradley_terry": changed(preference, "pairwise", lambda f, a, b, margin_B=None, label_B=None: f(a, b, margin_B)),
    "ranked": changed(preference, "kwise", lambda f, s, r: f(s, r + torch.arange(r.shape[1]) * 0.1)),
    "best_of_four": changed(preference, "best_of_n", lambda f, s, b: f(-s, b)),
    "dpo": changed(preference, "dpo", lambda f, a, b, c, d, beta, smooth=0.0: f(a, b, c, d, beta)),
    "dpo_at_reference": changed(preference, "dpo", lambda f, a, b, c, d, *rest: f(a, b, c * 0, d * 0, *rest)),
}  # fmt: skip


def test_every_vector_has_a_wrong_function_to_catch():
    assert WRONG.keys() == {entry.function.__name__ for entry in CHECKS}


@pytest.mark.parametrize("entry", CHECKS, ids=lambda entry: entry.function.__name__)
def test_vector_fails_when_its_function_is_wrong(entry, monkeypatch):
    monkeypatch.setattr(*WRONG[entry.function.__name__])
    (result,) = registry.run([entry])
    assert result.state == "failed"
    assert "limit" in result.figure
