"""Advantages, whitening, losses, KL, log-probs and entropy are those of trl 1.12.0 where that release is right, on 1,000
random draws each; what only an older release has, the KL controller among it, is held against trl 0.11.4.

Where 1.12.0 differs it is put right here in so many words (`population`, `mask_p1`), and what that comes to is
in `test_trl_differences.py`. Bounds are in `tests/agreed.py`, from which docs/conformance.md has them. Run by hand, with the
figures: `pytest tests/agreement -m slow -rP`.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from agreed import bound
from both import advantages_of, apart, batch_of, exact, losses, optimizer_of, population, shaped, worst
from draws import draws
from torch import Tensor

from rlhf_lora.contracts import Minibatch
from rlhf_lora.objectives import kl
from rlhf_lora.objectives.advantages import gae, masked_mean, whiten
from rlhf_lora.objectives.kl import AdaptiveKL
from rlhf_lora.objectives.logprobs import entropy, selected
from rlhf_lora.objectives.ppo import policy_loss, value_loss

pytestmark = pytest.mark.slow  # they want the package index

COUNT = 1000
IDENTITY = torch.eye(11, dtype=torch.float64)


def close(name: str, differences: list[Tensor]) -> None:
    """All draws, none left out, differ by no more than the page says."""
    assert len(differences) == COUNT
    found = worst(differences)
    print(f"{name}: {found:.1e}")
    assert found <= bound(name), name


# --- means and whitening ----------------------------------------------------------------------------------------------


def test_masked_mean_agrees(theirs):
    close(
        "mean",
        [apart(masked_mean(d.values_BT, d.mask_BT), theirs.masked_mean(d.values_BT, d.mask_BT)) for d in draws(COUNT)],
    )


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_agrees_with_the_variance_of_the_population(theirs, shift_mean):
    whitened = population(theirs)
    close(
        "whiten",
        [
            apart(
                whiten(d.values_BT, d.mask_BT, shift_mean),
                whitened(d.values_BT, d.mask_BT, shift_mean) * d.mask_BT,
            )
            for d in draws(COUNT)
        ],
    )


# --- from scores to advantages ----------------------------------------------------------------------------------------


def test_advantages_and_returns_of_full_answers_agree(theirs):
    """The whole way: KL, rewards per token, whitening, GAE, whitening. Answers fill their places: no end to differ at."""
    found = []
    for number, d in enumerate(draws(COUNT, full=True)):
        estimator, whiten_rewards = ("k1", "k3")[number % 2], number % 4 < 2
        mine, figures = advantages_of(d, kl=estimator, whiten_rewards=whiten_rewards)
        other = shaped(theirs, d, estimator, whiten_rewards=whiten_rewards, masked_whiten=population(theirs))
        found.append(
            apart(mine.advantages_BT, other.advantages)
            .maximum(apart(mine.returns_BT, other.returns))
            .maximum(apart(figures[f"objective/kl_{estimator}"], other.kl.sum(1).mean()))
            .maximum(apart(figures["objective/non_score_reward"], other.non_score_reward.sum(1).mean()))
        )
    close("shaped", found)


def test_with_the_score_behind_the_end_answers_of_any_length_agree(theirs):
    """`score_position=after_end`: KL, rewards per token, whitening, GAE, whitening; and the value loss of a micro-batch."""
    found = []
    for number, d in enumerate(draws(COUNT)):
        whiten_rewards, settings = number % 2 == 0, {"score_position": "after_end", "value": "adapter"}
        value_mask_BT = torch.arange(d.mask_BT.shape[1]) < d.lengths_B[:, None] + 1
        running = optimizer_of(d, whiten_rewards=whiten_rewards, **settings)
        mine, _ = running.advantages(batch_of(d, value_mask_BT=value_mask_BT))
        other = shaped(theirs, d, whiten_rewards=whiten_rewards, masked_whiten=population(theirs))
        update = losses(theirs, d)
        batch = batch_of(d, value_mask_BT=value_mask_BT, advantages_BT=d.scores_BT, returns_BT=update.returns)
        value, _ = running.loss(Minibatch(batch, new_values_BT=d.new_values_BT))
        found.append(
            apart(mine.advantages_BT, other.advantages)
            .maximum(apart(mine.returns_BT, other.returns))
            .maximum(apart(value, update.vf_loss))
        )
    close("behind", found)


def test_gae_agrees_on_answers_of_any_length(theirs):
    """Given the same rewards, values and mask; theirs reaches one place behind the end."""
    found = []
    for d in draws(COUNT):
        other = shaped(theirs, d)
        advantages_BT, returns_BT = gae(other.rewards, other.values, ~other.padding_mask_p1, d.gamma, d.lam)
        # Theirs are not whitened any more when the part ends: returns − values are what they were before.
        found.append(apart(advantages_BT, other.returns - other.values).maximum(apart(returns_BT, other.returns)))
    close("gae", found)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_per_token_agrees(theirs, estimator):
    mine = getattr(kl, estimator)
    found = []
    for d in draws(COUNT):
        other = shaped(theirs, d, estimator)
        found.append(apart(mine(d.logprobs_BT, d.ref_logprobs_BT) * d.mask_BT, other.kl))  # 0 behind the end: 1.0 − 1.0
    close("kl", found)


def test_rewards_advantages_and_k2_agree_with_the_older_release_at_any_length(older):
    """0.11.4 puts the score on the last token, as the kit does; its whitening has the same variance as 1.12.0's."""
    found = []
    for d in draws(COUNT):
        mine, _ = advantages_of(d, kl="k2")
        settings = SimpleNamespace(kl_penalty="mse", gamma=d.gamma, lam=d.lam, whiten_rewards=False)
        trainer = SimpleNamespace(kl_ctl=SimpleNamespace(value=d.beta), config=settings)
        trainer._kl_penalty = lambda *given, trainer=trainer: older.kl_penalty(trainer, *given)
        logprobs_BT, ref_BT = d.logprobs_BT * d.mask_BT, d.ref_logprobs_BT * d.mask_BT
        rewards_BT, _, _ = older.compute_rewards(trainer, d.scores_B, logprobs_BT, ref_BT, d.mask_BT)
        _, advantages_BT, returns_BT = older.compute_advantages(trainer, d.values_BT, rewards_BT, d.mask_BT)
        raw_BT = (returns_BT - d.values_BT) * d.mask_BT
        found.append(
            apart(mine.returns_BT, returns_BT * d.mask_BT)
            .maximum(apart(mine.advantages_BT, whiten(raw_BT, d.mask_BT)))
            .maximum(apart(older.masked_whiten(raw_BT, d.mask_BT), advantages_BT))
        )
    close("older advantages", found)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_policy_and_value_loss_and_their_gradients_agree(theirs):
    """One micro-batch with answers of any length, the value loss over the mask of theirs."""
    found, shares, entropies = [], [], []
    for d in draws(COUNT):
        other = losses(theirs, d)
        logits_BTV, values_BT = exact(d), d.new_values_BT.clone().requires_grad_()
        logprobs_BT = logits_BTV.log_softmax(-1).gather(2, d.tokens_BT[..., None])[..., 0]
        policy, stats = policy_loss(logprobs_BT, d.logprobs_BT, d.scores_BT, d.mask_BT, d.clip)
        # In both, what lies behind the end is 0 before it is compared.
        value, value_stats = value_loss(
            values_BT * other.mask_p1, d.values_BT * other.mask_p1, other.returns, other.mask_p1, d.clip
        )
        (policy + 0.1 * value).backward()
        found.append(
            apart(policy, other.pg_loss)
            .maximum(apart(value, other.vf_loss))
            .maximum(apart(logits_BTV.grad, other.logits_grad))
            .maximum(apart(values_BT.grad, other.values_grad))
        )
        shares.append(
            apart(stats["clipfrac"], other.pg_clipfrac).maximum(apart(value_stats["clipfrac"], other.vf_clipfrac))
        )
        # Its `policy/entropy_avg` is of the logits of the update. A head that is the identity makes them hidden states.
        entropies.append(apart(entropy(logits_BTV, IDENTITY), other.entropy))
    close("losses", found)
    close("entropy", entropies)
    close("shares", shares)


def test_the_loss_of_the_optimizer_agrees_on_full_answers(theirs):
    """pg + vf_coef · vf with one trunk, as 1.12.0 adds them, and its figures; nothing of it behind an end."""
    found, shares = [], []
    for d in draws(COUNT, full=True):
        other = losses(theirs, d)
        batch = batch_of(d, advantages_BT=d.scores_BT, returns_BT=other.returns)
        new_BT = exact(d).log_softmax(-1).gather(2, d.tokens_BT[..., None])[..., 0]
        optimizer = optimizer_of(d, value="trunk", value_weight=0.1)
        loss, figures = optimizer.loss(Minibatch(batch, new_logprobs_BT=new_BT, new_values_BT=d.new_values_BT))
        means = {"loss/policy": other.pg_loss, "loss/value": other.vf_loss, "policy/approxkl": other.approxkl,
                 "policy/ratio": other.ratio.mean()}  # fmt: skip
        found.append(
            torch.stack(
                [apart(loss, other.loss), *(apart(figures[name], value) for name, value in means.items())]
            ).max()
        )
        shares.append(
            apart(figures["policy/clipfrac"], other.pg_clipfrac).maximum(
                apart(figures["val/clipfrac"], other.vf_clipfrac)
            )
        )
    close("optimizer", found)
    close("shares", shares)


def test_losses_and_figures_agree_with_the_older_release_at_any_length(older):
    """Its figures are masked, as the kit's are: approxkl, clipped share, ratio, at any length."""
    found, shares = [], []
    for d in draws(COUNT):
        logits_BTV, returns_BT = exact(d).detach(), d.values_BT + d.scores_BT
        trainer = SimpleNamespace(
            config=SimpleNamespace(cliprange=d.clip, cliprange_value=d.clip, vf_coef=0.1, ratio_threshold=1e9)
        )
        policy, value, stats = policy_and_value(d, returns_BT)
        pg, vf, other = older.loss(
            trainer,
            d.logprobs_BT,
            d.values_BT,
            logits_BTV,
            d.new_values_BT,
            d.new_logprobs_BT,
            d.mask_BT,
            d.scores_BT,
            returns_BT,
        )
        found.append(
            apart(policy, pg)
            .maximum(apart(0.1 * value, vf))
            .maximum(apart(stats["approxkl"], other["policy/approxkl"]))
            .maximum(apart(stats["ratio"], masked_mean(other["policy/ratio"], d.mask_BT)))
        )
        shares.append(apart(stats["clipfrac"], other["policy/clipfrac"]))
    close("older losses", found)
    close("shares", shares)


def policy_and_value(d, returns_BT: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    policy, stats = policy_loss(d.new_logprobs_BT, d.logprobs_BT, d.scores_BT, d.mask_BT, d.clip)
    value, _ = value_loss(d.new_values_BT, d.values_BT, returns_BT, d.mask_BT, d.clip)
    return policy, value, stats


# --- log-probs and entropy --------------------------------------------------------------------------------------------


def test_logprobs_in_chunks_agree_with_both_releases(theirs, older):
    found = []
    for hidden_BTD, head_VD, tokens_BT, temperature, chunk in states():
        mine_BT = selected(hidden_BTD, head_VD, tokens_BT, temperature, chunk)
        logits_BTV = hidden_BTD @ head_VD.T / temperature
        found.append(
            apart(mine_BT, theirs.selective_log_softmax(logits_BTV, tokens_BT)).maximum(
                apart(mine_BT, older.logprobs_from_logits(logits_BTV, tokens_BT))
            )
        )
    close("logprobs", found)


def test_entropy_in_chunks_agrees_with_both_releases(theirs, older):
    found = []
    for hidden_BTD, head_VD, _, temperature, chunk in states():
        mine_BT = entropy(hidden_BTD, head_VD, temperature, chunk)
        logits_BTV = hidden_BTD @ head_VD.T / temperature
        found.append(
            apart(mine_BT, theirs.entropy_from_logits(logits_BTV)).maximum(
                apart(mine_BT, older.entropy_from_logits(logits_BTV))
            )
        )
    close("entropy", found)


def states():
    """Hidden states, head, tokens, temperature and chunk, in float32, as a model has them."""
    for seed in range(COUNT):
        stream = torch.Generator().manual_seed(seed)
        B, T, D, V = (int(torch.randint(1, high, (), generator=stream)) for high in (5, 12, 24, 90))
        hidden_BTD = torch.randn(B, T, D, generator=stream)
        head_VD = torch.randn(V, D, generator=stream) / D**0.5 * 3
        tokens_BT = torch.randint(V, (B, T), generator=stream)
        temperature = 0.3 + float(torch.rand((), generator=stream))
        yield hidden_BTD, head_VD, tokens_BT, temperature, int(torch.randint(1, B * T + 2, (), generator=stream))


# --- the KL controller ------------------------------------------------------------------------------------------------


def test_the_kl_controller_agrees_over_20_updates(older):
    """1.12.0 has none: its β stays where it is. Relative, since β runs over magnitudes."""
    stream, found = random.Random(0), []
    for _ in range(COUNT):
        initial, target, horizon = stream.uniform(0.01, 1), stream.uniform(0.1, 20), stream.uniform(100, 10_000)
        mine, other = AdaptiveKL(initial, target, horizon), older.AdaptiveKLController(initial, target, horizon)
        differences = []
        for _ in range(20):
            seen, episodes = stream.uniform(-1, 3 * target), stream.randint(1, 512)
            mine.update(seen, episodes)
            other.update(seen, episodes)
            differences.append(abs(mine.value / other.value - 1))
        found.append(torch.tensor(differences).max())
    close("controller", found)
