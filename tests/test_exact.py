"""T0: where the best policy is known exactly, optimizers reach it. Five seeds with `-m nightly`, one with the slow tests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lora.backbone import Backbone
from rlhf_lora.checks import enumerable
from rlhf_lora.checks.enumerable import Enumerable
from rlhf_lora.contracts import Context, FitContext
from rlhf_lora.objectives import kl
from rlhf_lora.records import Pair
from rlhf_lora.registry import build
from rlhf_lora.stages.on_policy import OnPolicy
from rlhf_lora.stages.scoring import Scorer

BETA = 0.5
SEEDS = [pytest.param(0, marks=pytest.mark.slow), *(pytest.param(n, marks=pytest.mark.nightly) for n in range(1, 5))]


def world(
    folder: Path, seed: int = 0, trained: bool = False, policy: Path | None = None, longest: int = enumerable.LONGEST
) -> Enumerable:
    if not (folder / "config.json").exists():
        enumerable.build_model(folder, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(enumerable.spec(folder), micro_batch=256)
        backbone.add_role("policy", start=policy, trained=trained)
        backbone.add_role("reference", bare=True)
    return Enumerable(backbone, BETA, seed, longest)


def trained(exact: Enumerable, name: str, seed: int, updates: int = 60, **settings: Any) -> OnPolicy:
    """The loop that trains any policy, on this one."""
    given = {"updates": updates, "minibatch_size": 128, "beta": BETA, "kl_target": None, "scale_scores": "none",
             "adamw": {"lr": 4e-3, "eps": 1e-5}, "final_lr": 0.05, "prompts_per_update": 512}  # fmt: skip
    if name == "ppo":
        given |= {"value": "trunk", "value_weight": 0.5, "value_adamw": {"lr": 4e-3, "eps": 1e-5}}
        exact.backbone.add_head("value")
    else:
        given |= {"samples_per_prompt": 8, "prompts_per_update": 64}
    optimizer = build("optimizer", {"name": name, **given, **settings}).open(Context())
    engine = build("rollout", {"name": "native", "max_new_tokens": max(map(len, exact.answers)), "temperature": 1.0})
    loop = OnPolicy(
        exact.backbone, engine, Scorer(exact, "exact"), optimizer, [enumerable.PROMPT], seed=seed, micro_batch=256
    )
    for _ in range(updates):
        loop.step()
    return loop


# --- the problem itself -----------------------------------------------------------------------------------------------


def test_answers_are_all_there_are_and_the_best_policy_is_the_best(tmp_path):
    exact = world(tmp_path / "model")
    assert len(exact.answers) == 156
    assert exact.reference_N.exp().sum() == pytest.approx(1.0, abs=1e-5)
    assert exact.measure(exact.best_N).objective == pytest.approx(exact.best_objective, abs=1e-9)
    assert exact.share_of_best(exact.best_N) == pytest.approx(1.0)
    assert exact.share_of_best(exact.reference_N) == 0.0
    assert exact.measure(exact.reference_N).kl == 0.0
    for seed in range(5):  # nothing drawn at random around it is better
        stream = torch.Generator().manual_seed(seed)
        near_N = exact.best_N + 0.1 * torch.randn(len(exact.answers), generator=stream, dtype=torch.float64)
        near_N = near_N - near_N.logsumexp(0)
        assert exact.measure(near_N).objective < exact.best_objective
        gap = exact.best_objective - exact.measure(near_N).objective  # J* − J(π) = β KL(π‖π*)
        assert gap == pytest.approx(BETA * exact.measure(near_N).kl_to_best, abs=1e-9)


@pytest.mark.slow
def test_estimators_of_the_kl_agree_with_the_exact_one(tmp_path):
    """Within three standard errors of the mean over 4,096 samples of a policy that has moved."""
    exact = world(tmp_path / "model", trained=True)
    loop = trained(exact, "rloo", 0, updates=3)
    policy_N = exact.logprobs("policy")
    index = {answer: i for i, answer in enumerate(exact.answers)}
    samples = loop.engine.generate(exact.backbone, [enumerable.PROMPT] * 4096, 1, 7)
    drawn = torch.tensor([index[tuple(sample.tokens)] for sample in samples])
    true = exact.measure(policy_N).kl
    for estimator in (kl.k1, kl.k3):
        values_B = estimator(policy_N[drawn], exact.reference_N[drawn])
        assert abs(float(values_B.mean()) - true) < 3 * float(values_B.std()) / math.sqrt(len(drawn))
    captured = torch.tensor([sum(sample.logprobs) for sample in samples], dtype=torch.float64)
    torch.testing.assert_close(captured, policy_N[drawn], atol=1e-4, rtol=0)


def test_the_kl_of_best_of_n_is_below_its_bound_and_exactly_so_without_chance(tmp_path):
    """log n − (n−1)/n (Stiennon et al. 2020, App. G.3; Beirami et al. 2024): an upper bound, reached when no answer weighs much."""
    exact = world(tmp_path / "model")
    order = exact.rewards_N.argsort()
    sorted_N = exact.reference_N[order].exp()
    upto_N = sorted_N.cumsum(0)
    for n in (2, 4, 16):
        chosen_N = upto_N**n - (upto_N - sorted_N) ** n
        divergence = float((chosen_N * (chosen_N.clamp(min=1e-300) / sorted_N).log()).sum())
        bound = math.log(n) - (n - 1) / n
        assert 0.5 * bound < divergence <= bound
        assert float((chosen_N * exact.rewards_N[order]).sum()) > exact.measure(exact.reference_N).reward


# --- what optimizers come to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "settings"),
    [("ppo", {}), ("rloo", {})],
    ids=["ppo", "rloo"],
)
@pytest.mark.timeout(600)
def test_on_policy_optimizers_reach_the_best_policy(name, settings, seed, tmp_path):
    exact = world(tmp_path / "model", seed, trained=True)
    trained(exact, name, seed, **settings)
    share = exact.share_of_best(exact.logprobs("policy"))
    print(f"T0 {name} seed {seed}: {share:.3f} of what there is to gain")
    assert share >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_grpo_reaches_what_its_kl_estimator_stands_for(estimator, seed, tmp_path):
    """Where answers are one token long: k2 leads to π*, and k3 to the best policy for KL(ρ‖π) instead."""
    exact = world(tmp_path / "model", seed, trained=True, longest=1)
    trained(exact, "grpo", seed, updates=60, kl=estimator, scale_by_deviation=False)
    policy_N, other_N = exact.logprobs("policy"), exact.best_for_forward_kl()
    assert float(other_N.exp().sum()) == pytest.approx(1.0)
    to_best, to_other = (float((policy_N.exp() * (policy_N - it_N)).sum()) for it_N in (exact.best_N, other_N))
    print(f"T0 grpo {estimator} seed {seed}: KL to π* {to_best:.4f}, to the other {to_other:.4f}")
    assert (to_best if estimator == "k2" else to_other) < 0.02  # as DPO below
    assert (to_best < to_other) == (estimator == "k2")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(600)
def test_dpo_reaches_the_best_policy(seed, tmp_path):
    """From every pair of answers that end, labelled with its Bradley-Terry probability: KL(π‖π*) ≤ 0.02 among them.

    Answers that were cut cannot be written as text with an end, so nothing is known of them and they are left out.
    """
    exact = world(tmp_path / "model", seed)
    end = exact.backbone.chat.end_id
    ended = [i for i, answer in enumerate(exact.answers) if answer[-1] == end]

    def text(i: int) -> str:
        return " ".join(enumerable.WORDS[token] for token in exact.answers[i] if token != end)

    pairs = []
    for a in ended:
        for b in ended:
            better = float(torch.sigmoid(exact.rewards_N[a] - exact.rewards_N[b]))
            if better > 0.5:
                pairs.append(Pair(enumerable.PROMPT, text(a), text(b), label=better))
    assert len(pairs) == len(ended) * (len(ended) - 1) / 2
    settings = {"epochs": 40, "batch_size": 93, "micro_batch": 93, "beta": BETA, "adamw": {"lr": 2e-3}}
    context = FitContext(tmp_path / "out", seed, lambda step, metrics: None)
    build("optimizer", {"name": "dpo", **settings}).fit(enumerable.spec(tmp_path / "model"), pairs, context)
    policy_N = world(tmp_path / "model", seed, policy=tmp_path / "out").logprobs("policy")[ended]
    policy_N, best_N = policy_N - policy_N.logsumexp(0), exact.best_N[ended] - exact.best_N[ended].logsumexp(0)
    distance = float((policy_N.exp() * (policy_N - best_N)).sum())
    print(f"T0 dpo seed {seed}: KL to the best policy {distance:.5f}")
    assert distance <= 0.02
