"""C11 to C14 and C22 to C36: scales, rewards, advantages, losses and figures. `docs/conformance.md` has the table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_loop import batch, engine, later, length, loop, ppo
from tiny import prompts, spec, stir

from rlhf_lora.contracts import Minibatch
from rlhf_lora.objectives.advantages import gae, whiten
from rlhf_lora.objectives.kl import AdaptiveKL
from rlhf_lora.objectives.ppo import policy_loss, value_loss
from rlhf_lora.objectives.preference import best_of_n, pairwise
from rlhf_lora.records import Demonstration, Prompt, Sample, Score
from rlhf_lora.registry import build
from rlhf_lora.stages.rollout_record import Rollout

PLAIN = {"lam": 1.0, "gamma": 1.0, "whiten_advantages": False}
THREE = torch.ones(1, 3, dtype=torch.bool)


# --- the reward model -------------------------------------------------------------------------------------------------


def test_C11_head_starts_at_zero(tiny_base):
    """A new reward head is zero: every text scores 0 and the first loss is ln 2, or ln 4 for one picked out of four.

    Source: O `fc_layer`, D, S `layer_init` draw W from N(0, 1/√(d + 1)) instead
    Profile: kit
    """
    from rlhf_lora import adapters
    from rlhf_lora.loading import load_base

    model = adapters.attach(load_base(spec(tiny_base), num_labels=1), spec(tiny_base), "SEQ_CLS", None)
    assert not adapters.score_head(model).weight.any()
    assert getattr(adapters.score_head(model), "bias", None) is None
    assert pairwise(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))
    assert best_of_n(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)).item() == pytest.approx(math.log(4))


class Lengths:
    """An engine that answers the i-th prompt with i % 7 + 1 tokens, and remembers whom it was asked to be."""

    temperature = 1.0

    def __init__(self) -> None:
        self.roles: list[str] = []

    def generate(self, made: Any, asked: Sequence[Prompt], n: int, seed: int, role: str = "policy") -> list[Sample]:
        self.roles.append(role)
        return [Sample(p.text, "x", tokens=[5] * (i % 7 + 1), logprobs=[-1.0]) for i, p in enumerate(asked)]


def test_C12_normalisation(tiny_base, tmp_path):
    """gain = 1/σ and bias = −μ/σ over 256 completions of the reference, σ the population's: then mean 0, deviation 1.

    Source: O `normalize_samples=256`, `train_reward.py`; Ziegler et al. 2019, §2.1
    Profile: oai2019, kit
    """
    from rlhf_lora.stages.reward_model import INFO, normalise

    # 1, 2, 3, 6: μ = 3, σ² = (4 + 1 + 0 + 9) / 4 = 3.5
    (tmp_path / INFO).write_text(json.dumps({"gain": 1.0, "bias": 0.0}))
    assert normalise(tmp_path, [1.0, 2.0, 3.0, 6.0]) == pytest.approx((3.5**-0.5, -3 * 3.5**-0.5))
    made = loop(tiny_base, sampler=Lengths(), asked=300, scale_scores="reference")
    made._measure_scales()
    assert made.engine.roles == ["reference"]
    seen = torch.tensor([float(i % 7 + 1) for i in range(256)])
    scaled = (seen - made.state.score_shift) * made.state.score_scale
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(scaled.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_C13_mean_over_demonstrations(tiny_base):
    """The mean score of people's own answers is taken away, and the unit stays: mean 0 ± 1e-3 over them, as they were.

    Source: S `reward.py`, end: `config.bias`
    Profile: tldr2024
    """
    shown = [Demonstration(p, f"tea {'and soup ' * (i % 5)}") for i, p in enumerate(prompts(300))]

    def rule(sample: Sample) -> float:
        seen.append(sample)
        return 3.0 * length(sample) - 5.0

    seen: list[Sample] = []
    made = loop(tiny_base, rule, sampler=Lengths(), shown=shown, scale_scores="demonstrations")
    made._measure_scales()
    assert made.engine.roles == []  # nobody was asked to write
    assert len(seen) == 256
    answers = [list(made.backbone.chat.response_ids(d.completion, prompt=d.prompt)) for d in shown]
    there = [(d.prompt.text, answer) for d, answer in zip(shown, answers, strict=True)]
    assert all((s.prompt, list(s.tokens)) in there and s.finished for s in seen)
    scores = torch.tensor([3.0 * length(s) - 5.0 for s in seen], dtype=torch.float64)
    scaled = (scores - made.state.score_shift) * made.state.score_scale
    assert float(scaled.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(scaled.std()) == pytest.approx(float(scores.std()))
    again, seen[:] = list(seen), []
    made._measure_scales()
    assert seen == again  # which ones is the seed's matter


def test_C13_shift_is_taken_away(tiny_base):
    """What is added to every reward, and the unit they are in, changes no reward that PPO sees.

    Source: S `reward.py` takes the mean over human answers away, and leaves the unit
    Profile: kit
    """
    scaled = []
    for rule in (length, lambda sample: 1000.0 * length(sample) - 5.0):
        made = loop(tiny_base, rule, sampler=Lengths(), asked=300, scale_scores="reference")
        made._measure_scales()
        scores = torch.tensor([rule(Sample("p", "x", tokens=[5] * n)) for n in (1, 4, 7)])
        scaled.append((scores - made.state.score_shift) * made.state.score_scale)
    torch.testing.assert_close(scaled[0], scaled[1])


def test_C14_one_epoch_and_linear_decay(tmp_path):
    """With `schedule=linear warmup=0` the rate of step k is lr · (1 − k/N); one epoch has every row once, shuffled.

    Source: O, D `train_reward`: `lr · (1 − start / num_train)`, one epoch
    Profile: oai2019
    """
    from transformers import get_scheduler

    from rlhf_lora import token_rows, trainers
    from rlhf_lora.contracts import FitContext
    from rlhf_lora.train_settings import TrainSettings

    settings = TrainSettings(lr=5e-5, schedule="linear", warmup=0.0, batch_size=32, micro_batch=32, eps=1e-5)
    given = trainers.arguments(spec(tmp_path), settings, 4992, FitContext(tmp_path, 0, None))
    assert (given["num_train_epochs"], given["adam_epsilon"], settings.steps(4992)) == (1.0, 1e-5, 156)
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=given["learning_rate"])
    schedule = get_scheduler(given["lr_scheduler_type"], adamw, given["warmup_steps"], 156)
    for step in range(156):
        assert adamw.param_groups[0]["lr"] == pytest.approx(5e-5 * (1 - step / 156))
        adamw.step()
        schedule.step()
    rows = [row for part in token_rows.Batches([1] * 100, TrainSettings(), seed=1) for row in part]
    assert sorted(rows) == list(range(100))
    assert rows != sorted(rows)


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_C22_penalty_replaces():
    """A cut answer's reward is replaced by the penalty, not lowered by it, after scaling; its KL is charged all the same.

    Source: O `filter_response`, `penalty_reward_value=-1`; S `scores[~contain_eos] = -1`
    Profile: oai2019, tldr2024
    """
    running = ppo(beta=0.1, missing_end_reward=-1.0, **PLAIN)
    assert running.terminal_rewards(batch()).tolist() == [2.0, -1.0]
    # KL of the cut answer: 1 nat, β = 0.1: −0.1 − 1 is left to come at its first token.
    assert running.advantages(batch())[0].returns_BT[1, 0].item() == pytest.approx(-1.1)
    assert ppo(**PLAIN).terminal_rewards(batch()).tolist() == [2.0, 3.0]  # the kit's default: it keeps its score


def test_C22_penalty_is_added():
    """With `missing_end=add` a cut answer's reward is lowered by the penalty, and keeps what it was worth.

    Source: TRL `scores[~contain_eos] -= missing_eos_penalty`
    Profile: none
    """
    # 3 − 1.5 for the cut one; its KL is 1 nat, β = 0.1: −0.1 + 1.5 is left to come at its first token.
    running = ppo(beta=0.1, missing_end_reward=-1.5, missing_end="add", **PLAIN)
    assert running.terminal_rewards(batch()).tolist() == [2.0, 1.5]
    assert running.advantages(batch())[0].returns_BT[1, 0].item() == pytest.approx(1.4)
    assert ppo(missing_end="add", **PLAIN).terminal_rewards(batch()).tolist() == [2.0, 3.0]  # nothing to add


def test_C23_reward_per_token():
    """r_t = −β (log π − log ρ)_t on every token, and the score on the last one, on top of its KL.

    Source: O `compute_rewards`; Ziegler et al. 2019, eq. 2
    Profile: oai2019, tldr2024, kit
    """
    # β = 0.5; k1 = 0.5, −1, 0 and 1, 0.
    made, _ = ppo(beta=0.5, **PLAIN).advantages(batch())
    expected = torch.tensor([[-0.25, 0.5, 2.0], [-0.5, 3.0, 0.0]])
    torch.testing.assert_close(later(made.returns_BT), expected)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_C24_where_a_score_stands(tokens):
    """An answer of n tokens has its score on token n, its end; nothing behind it enters ratio, KL, values or losses.

    Source: O `compute_rewards` (every answer ends at T − 1); OpenRLHF at any length
    Profile: oai2019, kit
    """
    # T = 3. Index table (n: score, policy mask, value mask): 1: 0, t > 0, t > 0; 2: 1, t > 1, t > 1; 3: 2, none, none.
    mask_BT = torch.arange(3)[None] < tokens
    rubbish_BT = torch.where(mask_BT, 0.0, 50.0)
    given = batch(
        mask_BT=mask_BT, logprobs_BT=-1.0 - rubbish_BT, ref_logprobs_BT=-1.0 + rubbish_BT, values_BT=rubbish_BT,
        tokens_BT=torch.zeros(1, 3), scores_B=torch.ones(1), rewards_B=torch.tensor([4.0]),
        finished_B=torch.tensor([True]), group_B=torch.tensor([0]),
    )  # fmt: skip
    running = ppo(beta=0.1, value="trunk", **PLAIN)
    made, _ = running.advantages(given)
    expected = [4.0 if t == tokens - 1 else 0.0 for t in range(3)]
    assert later(made.returns_BT)[0].tolist() == expected
    assert made.advantages_BT[0, tokens:].tolist() == [0.0] * (3 - tokens)
    new_BT, values_BT = (-1.0 + 3 * rubbish_BT).requires_grad_(), (4.0 + rubbish_BT).requires_grad_()
    loss, metrics = running.loss(Minibatch(made, new_logprobs_BT=new_BT, new_values_BT=values_BT))
    assert (metrics["policy/ratio"], metrics["policy/approxkl"]) == (1.0, 0.0)
    loss.backward()
    assert not new_BT.grad[~mask_BT].any()
    assert not values_BT.grad[~mask_BT].any()


BEHIND = {"score_position": "after_end", "value": "adapter"}


@pytest.mark.parametrize(("tokens", "place", "values"), [(1, 1, [1, 1, 0]), (2, 2, [1, 1, 1]), (3, 2, [1, 1, 1])])
def test_C24_where_a_score_stands_behind_the_end(tiny_base, tokens, place, values):
    """With `score_position=after_end` the score stands on place n, behind the end, where a value counts; at T on the end.

    Source: S `ppo.py`: `actual_end`, `padding_mask_p1`; TRL the same
    Profile: tldr2024
    """
    # T = 3. Index table (n: score, policy mask, value mask): 1: 1, t > 0, t > 1; 2: 2, t > 1, none; 3: 2, none, none.
    made = loop(tiny_base, sampler=engine(max_new_tokens=3), **BEHIND)
    mask_BT = torch.arange(4)[None] < tokens  # one place more than T, as the loop makes it
    value_mask_BT = made._value_mask(mask_BT)
    assert value_mask_BT.int().tolist() == [[*values, 0]]
    rubbish_BT = torch.where(mask_BT, 0.0, 50.0)
    given = batch(
        mask_BT=mask_BT, value_mask_BT=value_mask_BT, logprobs_BT=-1.0 - rubbish_BT, ref_logprobs_BT=-1.0 + rubbish_BT,
        values_BT=torch.where(value_mask_BT, 0.0, 50.0), tokens_BT=torch.zeros(1, 4), scores_B=torch.ones(1),
        rewards_B=torch.tensor([4.0]), finished_B=torch.tensor([True]), group_B=torch.tensor([0]),
    )  # fmt: skip
    running = ppo(beta=0.1, **BEHIND, **PLAIN)
    ready, _ = running.advantages(given)
    assert later(ready.returns_BT)[0].tolist() == [4.0 if t == place else 0.0 for t in range(4)]
    assert ready.advantages_BT[0].tolist() == [4.0] * tokens + [0.0] * (4 - tokens)
    new_BT, values_BT = (-1.0 + 3 * rubbish_BT).requires_grad_(), rubbish_BT.clone().requires_grad_()
    for minibatch in (Minibatch(ready, new_logprobs_BT=new_BT), Minibatch(ready, new_values_BT=values_BT)):
        running.loss(minibatch)[0].backward()
    assert not new_BT.grad[~mask_BT].any()
    assert values_BT.grad.bool().tolist() == value_mask_BT.tolist()


def test_C24_a_score_behind_the_end_at_half_lambda():
    """What the end token gets of a score behind it: γ (λ · score + (1 − λ) · V behind the end) − V.

    Source: S `ppo.py`, generalised advantage estimation over `padding_mask_p1`
    Profile: tldr2024
    """
    # One token, V = 1, and 3 behind it; score 5, γ = 1, λ = ½: δ = 2, 2; A = 2 + ½ · 2 = 3, 2. On the end: A = 5 − 1.
    given = batch(
        mask_BT=torch.tensor([[True, False]]), value_mask_BT=torch.ones(1, 2, dtype=torch.bool),
        logprobs_BT=torch.zeros(1, 2), ref_logprobs_BT=torch.zeros(1, 2), values_BT=torch.tensor([[1.0, 3.0]]),
        tokens_BT=torch.zeros(1, 2), scores_B=torch.ones(1), rewards_B=torch.tensor([5.0]),
        finished_B=torch.tensor([True]), group_B=torch.tensor([0]),
    )  # fmt: skip
    half = PLAIN | {"lam": 0.5}
    made, _ = ppo(**BEHIND, **half).advantages(given)
    assert (made.advantages_BT.tolist(), made.returns_BT.tolist()) == ([[3.0, 0.0]], [[4.0, 5.0]])
    made, _ = ppo(**half).advantages(replace(given, value_mask_BT=None))
    assert (made.advantages_BT.tolist(), made.returns_BT.tolist()) == ([[4.0, 0.0]], [[5.0, 0.0]])


def test_C24_the_value_behind_the_end_is_of_the_state_after_it(tiny_base):
    """The value behind the end is the value head at the last token, as a reward model reads it, and it is trained there.

    Source: S `ppo.py`: `values` of `get_reward` at `context_length − 1 : −1`, with padding behind the end
    Profile: tldr2024
    """
    made = loop(tiny_base, sampler=engine(max_new_tokens=6, temperature=2.0), prompts_per_update=20, minibatch_size=20,
                **BEHIND)  # fmt: skip
    stir(made.backbone, "value")
    samples, _ = made._roll_out(made._prompts_of(1), 1)
    rollout = made._look_back(samples, made.scorer(samples))
    lengths = [len(ids) for ids in rollout.response_ids]
    assert len(set(lengths)) > 2
    assert max(lengths) == 6
    read = made.backbone.sequence_scores("value", rollout.prompt_ids, rollout.response_ids)
    for row, (length_, score) in enumerate(zip(lengths, read, strict=True)):
        counted = rollout.batch.value_mask_BT[row].sum()
        assert counted == (length_ + 1 if length_ < 6 else 6)
        if length_ < 6:
            assert float(rollout.batch.values_BT[row, length_]) == pytest.approx(score, abs=1e-5)
    # A head at zero: V = 0, so that the gradient of its bias is the mean of −R over the places that are trained.
    made = loop(tiny_base, prompts_per_update=20, minibatch_size=20, micro_batch=3, max_grad_norm=None,
                adamw={"lr": 0.0}, value_adamw={"lr": 0.0}, **BEHIND)  # fmt: skip
    made.step()
    trained = made.last.batch
    assert trained.value_mask_BT.sum() > trained.mask_BT.sum()
    expected = -float(trained.returns_BT[trained.value_mask_BT].mean())
    assert float(made.backbone.heads["value"].bias.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kl", "beta"), [(12.0, 0.151536), (0.0, 0.148464), (6.0, 0.15), (6.6, 0.150768)])
def test_C25_adaptive_kl(kl, beta):
    """β ← β · (1 + e · n / horizon), e = clip(KL / target − 1, −0.2, 0.2), n = the episodes of the update.

    Source: O `AdaptiveKLController`
    Profile: oai2019, kit
    """
    # 0.15 · (1 ± 0.2 · 512 / 10,000); within the clip: 6.6 / 6 − 1 = 0.1, half of it.
    assert AdaptiveKL(0.15, 6.0, 10_000).update(kl, 512) == pytest.approx(beta, abs=1e-9)


def test_C25_adaptive_kl_moves_after_the_epochs(tiny_base):
    """β moves after the PPO epochs, by the update's mean KL per sequence and its number of episodes.

    Source: O `step`: `kl_ctl.update(stats['objective/kl'], batch_size)`
    Profile: oai2019, kit
    """
    made = loop(tiny_base, beta=0.1, kl_target=6.0, kl_horizon=100.0)
    metrics = made.step()
    assert metrics["beta"] == 0.1
    # KL is 0 at first: e = −0.2, n = 8.
    assert made.optimizer.beta == pytest.approx(0.1 * (1 - 0.2 * 8 / 100))
    assert made.step()["beta"] == made.optimizer.beta / (1 + _error(made.last, 6.0) * 8 / 100)


def _error(rollout: Rollout, target: float) -> float:
    return min(max(rollout.metrics()["objective/kl"] / target - 1, -0.2), 0.2)


# --- advantages -------------------------------------------------------------------------------------------------------


def test_C26_whitening():
    """Whitening is (x − μ) / √(σ² + 1e-8) over unmasked tokens, σ² the population's; `shift_mean=False` adds μ again.

    Source: O `whiten` (tf.nn.moments); D `unbiased=False`; S `masked_var(..., False)`
    Profile: oai2019, tldr2024, kit
    """
    # 1, 2, 3, 6 and a masked 100: μ = 3, σ² = 3.5; Bessel's 14 / 3 would give 0.926 for the first, not 1.069.
    x_BT = torch.tensor([[1.0, 2.0, 3.0, 6.0, 100.0]])
    mask_BT = torch.tensor([[True, True, True, True, False]])
    centred_BT = torch.tensor([[-2.0, -1.0, 0.0, 3.0, 0.0]]) / 3.5**0.5
    torch.testing.assert_close(whiten(x_BT, mask_BT), centred_BT)
    torch.testing.assert_close(whiten(x_BT, mask_BT, shift_mean=False), centred_BT + 3.0 * mask_BT)


def test_C27_order_of_whitening():
    """Rewards are whitened with their mean kept, then GAE, then returns = A + V, then advantages are whitened.

    Source: O `train_policy.py`, `train_minibatch`; D per batch, as here
    Profile: oai2019, tldr2024, kit
    """
    # r = 0, 4: μ = 2, σ = 2, whitened −1 + 2, 1 + 2 = 1, 3. V = 1, 2, γ = 1, λ = ½: δ = 1 + 2 − 1, 3 − 2 = 2, 1;
    # A = 2.5, 1; returns 3.5, 3; A whitened: μ = 1.75, σ = 0.75: 1, −1.
    zeros_BT = torch.zeros(1, 2)
    given = batch(
        mask_BT=torch.ones(1, 2, dtype=torch.bool), logprobs_BT=zeros_BT, ref_logprobs_BT=zeros_BT,
        values_BT=torch.tensor([[1.0, 2.0]]), tokens_BT=zeros_BT.long(), scores_B=torch.ones(1),
        rewards_B=torch.tensor([4.0]), finished_B=torch.tensor([True]), group_B=torch.tensor([0]),
    )  # fmt: skip
    made, _ = ppo(lam=0.5, gamma=1.0, whiten_rewards=True, whiten_advantages=True).advantages(given)
    torch.testing.assert_close(made.returns_BT, torch.tensor([[3.5, 3.0]]))
    torch.testing.assert_close(made.advantages_BT, torch.tensor([[1.0, -1.0]]))


def test_C28_gae():
    """δ_t = r_t + γ V_{t+1} − V_t with V = 0 behind the end, A_t = δ_t + γ λ A_{t+1}, returns = A + V.

    Source: O, D, S the same loop; Schulman et al. 2016, eq. 16
    Profile: oai2019, tldr2024, kit
    """
    # δ = 0, 0, 0.5; A = 0.95² · 0.5, 0.95 · 0.5, 0.5.
    rewards_BT, values_BT = torch.tensor([[0.0, 0.0, 1.0]]), torch.full((1, 3), 0.5)
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, THREE, 1.0, 0.95)
    torch.testing.assert_close(advantages_BT, torch.tensor([[0.45125, 0.475, 0.5]]))
    torch.testing.assert_close(returns_BT, torch.tensor([[0.95125, 0.975, 1.0]]))
    # γ = 0.5: δ_3 = 0.5, δ_2 = 0.25 − 0.5 = −0.25; A_2 = −0.25 + 0.475 · 0.5 = −0.0125.
    assert gae(rewards_BT, values_BT, THREE, 0.5, 0.95)[0][0, 1].item() == pytest.approx(-0.0125)
    settings = build("optimizer", {"name": "ppo"})
    assert (settings.gamma, settings.lam) == (1.0, 0.95)


# --- losses and the update --------------------------------------------------------------------------------------------


def test_C29_fresh_order_each_epoch(tiny_base):
    """Each PPO epoch goes over the batch in a fresh random permutation.

    Source: O `np.random.permutation` per epoch; D, S the same
    Profile: oai2019, tldr2024, kit
    """
    made = loop(tiny_base)
    orders = [made.updater._order(16, update, epoch) for update in (1, 2) for epoch in range(4)]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert len({tuple(order) for order in orders}) == 8
    seen: list[list[int]] = []
    train = made.updater._train_on
    made.updater._train_on = lambda rollout, rows, stream: seen.append(rows) or train(rollout, rows, stream)
    made.step()
    assert seen == [made.updater._order(8, 1, 0)]


def test_C30_value_loss():
    """Value loss = ½ masked mean of max((V − R)², (clip(V, V_old ± 0.2) − R)²).

    Source: O `vf_loss`; D, S the same
    Profile: oai2019, tldr2024, kit
    """
    # V = 1.5, V_old = 1, R = 1.2: 0.09 against (1.2 − 1.2)²; V = 1.1, V_old = 0.5, R = 2: 0.81 against (0.7 − 2)² = 1.69.
    values_BT, old_BT = torch.tensor([[1.5, 1.1, 9.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    mask_BT = torch.tensor([[True, True, False]])
    loss, stats = value_loss(values_BT, old_BT, torch.tensor([[1.2, 2.0, -9.0]]), mask_BT, 0.2)
    assert loss.item() == pytest.approx(0.5 * (0.09 + 1.69) / 2)
    assert stats["clipfrac"].item() == 0.5
    assert build("optimizer", {"name": "ppo"}).value_clip == 0.2


def test_C31_policy_loss():
    """Policy loss = mean max(−A ρ, −A clip(ρ, 0.8, 1.2)); in all pg + 0.1 · vf, and no entropy bonus.

    Source: O `pg_loss`, `vf_coef=0.1`; D, S the same
    Profile: oai2019, tldr2024, kit
    """
    # ρ = 1.5, 0.5, 1.5, 0.5, A = 1, 1, −1, −1: −1.2, −0.5, 1.5, 0.8 → 0.15.
    ratios_BT, advantages_BT = torch.tensor([[1.5, 0.5, 1.5, 0.5]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    mask_BT = torch.ones(1, 4, dtype=torch.bool)
    loss, stats = policy_loss(ratios_BT.log(), torch.zeros(1, 4), advantages_BT, mask_BT, 0.2)
    assert loss.item() == pytest.approx(0.15)
    assert stats["clipfrac"].item() == 0.5
    running = ppo(value="trunk")
    assert (running.value_weight, running.clip) == (0.1, 0.2)
    made, _ = running.advantages(batch(values_BT=torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]])))
    new = Minibatch(made, new_logprobs_BT=made.logprobs_BT + 0.1, new_values_BT=torch.ones(2, 3))
    total, metrics = running.loss(new)
    assert total.item() == pytest.approx(metrics["loss/policy"] + 0.1 * metrics["loss/value"], abs=1e-7)


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_C32_nothing_has_moved_at_first(tiny_base, value):
    """On the first minibatch of all ρ = 1, approxkl = 0, nothing is clipped, and the policy loss is 0.

    Source: S `reference_output/ppo.txt`: approxkl 0.0, pg_loss -1.0e-08, ratio 1.0
    Profile: oai2019, tldr2024, kit
    """
    metrics = loop(tiny_base, value=value, temperature=0.7).step()
    assert metrics["policy/first_ratio_error"] < 1e-6
    assert metrics["policy/ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/approxkl"] < 1e-11
    assert metrics["policy/clipfrac"] == 0
    assert abs(metrics["loss/policy"]) < 1e-6
    assert abs(metrics["objective/kl"]) < 1e-5


def test_C33_adam_epsilon(tiny_base):
    """Adam's ε is 1e-5; where |g| = ε the first step is 0.5 lr in PyTorch's form and 0.0307 lr in TensorFlow's.

    Source: D `AdamTensorFlowStyle`: p −= lr · √(1 − β2ᵗ) / (1 − β1ᵗ) · m / (√v + ε)
    Profile: oai2019, tldr2024, kit
    """
    made = loop(tiny_base, adamw={"lr": 1e-3, "eps": 1e-5}, value_adamw={"lr": 1e-3, "eps": 1e-5})
    parameter = next(iter(made.backbone.parameters("policy").values()))
    before = parameter.detach().double().clone()
    parameter.grad = torch.full_like(parameter, 1e-5)
    made.updater.adamw.step()
    torch.testing.assert_close(before - parameter.detach(), torch.full_like(before, 0.5e-3), rtol=1e-3, atol=1e-7)
    settings = build("optimizer", {"name": "ppo"})
    assert (settings.adamw.eps, settings.value_adamw.eps) == (1e-5, 1e-5)
    placed = {"lr": 1e-3, "eps": 1e-5, "eps_placement": "tensorflow"}
    made = loop(tiny_base, adamw=placed, value_adamw=placed)
    made.step()
    eps = made.updater.adamw.param_groups[0]["eps"]
    steps = int(made.updater.adamw.state[made.updater.adamw.param_groups[0]["params"][0]]["step"])
    assert eps == pytest.approx(1e-5 / (1 - 0.999**steps) ** 0.5)
    # t = 1: m = (1 − β1) g, √v = √(1 − β2) g, so that the step is lr · √(1 − β2) g / (√(1 − β2) g + ε).
    assert tensorflow_step(1e-5, 1e-5, t=1) == pytest.approx(1 / (1 + 0.001**-0.5))
    assert tensorflow_step(1e-5, 1e-5, t=1) == pytest.approx(0.0307, abs=1e-4)
    assert tensorflow_step(1.0, 1e-5, t=1) == pytest.approx(1.0, abs=1e-3)  # large gradients: no difference


def tensorflow_step(g: float, eps: float, t: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """Length of a step in units of lr after t equal gradients, ε outside the correction."""
    m, v = (1 - beta1**t) * g, (1 - beta2**t) * g * g
    return math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (math.sqrt(v) + eps)


@pytest.mark.parametrize(("value", "position"), [("adapter", "end"), ("trunk", "end"), ("adapter", "after_end")])
def test_C34_micro_batches(tiny_base, value, position):
    """Gradients of micro-batches add up to those of one batch: every token weighs the same, whatever its neighbours.

    Source: trl issue 583; TRL averages the means of micro-batches, which differs where lengths do
    Profile: oai2019, tldr2024, kit
    """
    whole, parts = (_gradients(tiny_base, size, value, score_position=position) for size in (64, 3))
    assert whole.keys() == parts.keys()
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


def _gradients(base: Any, micro_batch: int, value: str, **settings: Any) -> dict[str, torch.Tensor]:
    """Of the first minibatch; lr 0, so that they are left standing."""
    still = {"adamw": {"lr": 0.0}, "value_adamw": {"lr": 0.0}, "max_grad_norm": None}
    made = loop(base, micro_batch=micro_batch, **{"value": value} | still | settings)
    made.step()
    assert len({len(ids) for ids in made.last.response_ids}) > 1  # else every way of averaging is right
    return {
        f"{role}.{name}": parameter.grad
        for role in made.updater.trained
        for name, parameter in made.backbone.parameters(role).items()
        if parameter.grad is not None
    }


# --- figures ----------------------------------------------------------------------------------------------------------


def _rollout(**changes: Any) -> Rollout:
    samples = [Sample("p", "x", tokens=[0] * 3), Sample("p", "x", tokens=[0] * 2)]
    return Rollout(samples, [Score(10.0), Score(20.0)], [[1], [1]], batch(**changes), [])


def test_C35_figures_are_masked():
    """`objective/kl` is the mean of sums per sequence; entropy and approxkl are means over unmasked tokens alone.

    Source: S `ppo.py`; TRL summed the filler of 1.0 into the entropy until 1.10
    Profile: oai2019, tldr2024, kit
    """
    # KL: (0.5 − 1 + 0 and 1 + 0) / 2 = 0.25; −log p: (1 + 2 + 0.5 + 1 + 1) / 5 = 1.1; lengths 3 and 2; one of two cut.
    metrics = _rollout().metrics()
    assert metrics["objective/kl"] == pytest.approx(0.25)
    assert metrics["objective/entropy"] == pytest.approx(1.1)
    assert (metrics["completions/mean_length"], metrics["completions/cut_share"]) == (2.5, 0.5)
    mask_BT = torch.tensor([[True, True, False]])
    new_BT = torch.tensor([[0.1, 0.3, 9.0]])
    _, stats = policy_loss(new_BT, torch.zeros(1, 3), torch.ones(1, 3), mask_BT, 0.2)
    assert stats["approxkl"].item() == pytest.approx(0.5 * (0.01 + 0.09) / 2)
    assert stats["clipfrac"].item() == 0.5  # e^0.3 = 1.35 is clipped, e^0.1 = 1.11 is not


def test_C36_one_kl():
    """The KL that is reported is the KL that is charged: −β · `objective/kl` is the reward that is no score.

    Source: trl issue 1161
    Profile: oai2019, tldr2024, kit
    """
    rollout = _rollout()
    _, charged = ppo(beta=0.3).advantages(rollout.batch)
    reported = rollout.metrics()
    assert reported["objective/kl"] != 0
    assert charged["objective/non_score_reward"] == pytest.approx(-0.3 * reported["objective/kl"])
    mean_reward = float(rollout.batch.rewards_B.mean())
    assert charged["objective/rlhf_reward"] == pytest.approx(mean_reward - 0.3 * reported["objective/kl"])
