"""Comparing policy with reference: ties, missing scores, intervals, KL, and the reward model's figures."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import prompts, spec

from rlhf_lora.backbone import Backbone
from rlhf_lora.evaluation import _gold_accuracy, bootstrap_ci95, compare, evaluate_policy, sequence_kl
from rlhf_lora.records import Pair, Prompt, Sample, Score
from rlhf_lora.registry import build


def scores(*values: float | None) -> list[Score]:
    return [Score.none("no idea") if value is None else Score(value) for value in values]


def test_a_win_counts_one_and_a_tie_one_half():
    # Won, lost, tied, won: (1 + 0 + ½ + 1) / 4.
    found = compare(scores(2.0, 0.0, 1.0, 5.0), scores(1.0, 3.0, 1.0, 4.0))
    assert found["win_rate_vs_reference"] == 0.625
    assert (found["score_mean"], found["score_mean_reference"], found["compared"]) == (2.0, 2.25, 4)
    assert "unscored" not in found


def test_a_prompt_that_one_side_has_no_score_for_is_left_out_on_both_and_counted():
    found = compare(scores(2.0, None, 9.0), scores(1.0, 100.0, None))
    assert (found["compared"], found["unscored"], found["win_rate_vs_reference"]) == (1, 2, 1.0)
    assert (found["score_mean"], found["score_mean_reference"]) == (2.0, 1.0)


def test_without_any_score_nothing_is_made_up():
    assert compare(scores(None), scores(1.0)) == {"unscored": 1}


def test_the_interval_is_that_of_the_mean():
    # 400 wins and 400 losses: 0.5 ± 1.96 · 0.5 / √800.
    low, high = bootstrap_ci95([1.0, 0.0] * 400)
    half = 1.96 * 0.5 / math.sqrt(800)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.003)
    assert bootstrap_ci95([1.0, 0.0] * 400) == [low, high]
    assert bootstrap_ci95([1.0] * 5) == [1.0, 1.0]


@pytest.fixture(scope="module")
def backbone(tiny_base) -> Backbone:
    made = Backbone(spec(tiny_base))
    made.add_role("policy", trained=True)
    made.add_role("reference", bare=True)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters("policy").values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return made


@pytest.mark.slow
def test_sequence_kl_estimates_the_kl_of_whole_answers(backbone):
    # Of one-token answers the KL is known: Σ π (log π − log ρ) over the vocabulary.
    engine, asked = build("rollout", {"name": "native", "max_new_tokens": 1, "temperature": 0.9}), prompts(1) * 3000
    kl = torch.tensor(sequence_kl(backbone, engine.generate(backbone, asked, 1, 0), 0.9))
    ids = torch.tensor([backbone.chat.prompt_ids(asked[0])])
    with torch.no_grad():
        with backbone.role("policy"):
            policy_V = (backbone.base(ids).logits[0, -1] / 0.9).log_softmax(0)
        with backbone.role("reference"):
            reference_V = (backbone.base(ids).logits[0, -1] / 0.9).log_softmax(0)
    exact = float((policy_V.exp() * (policy_V - reference_V)).sum())
    assert float(kl.mean()) == pytest.approx(exact, abs=4 * float(kl.std()) / math.sqrt(len(kl)))
    assert exact > 0.01


def test_policy_and_reference_answer_the_same_prompts_and_both_are_kept(backbone):
    engine = build("rollout", {"name": "native", "max_new_tokens": 5})
    judges = {"score": lambda samples: [Score(float(len(s.tokens))) for s in samples],
              "gold": lambda samples: scores(*[None if i == 0 else 1.0 for i in range(len(samples))])}  # fmt: skip
    found = evaluate_policy(backbone, engine, prompts(8), 3, judges)
    assert [row["prompt"] for row in found.rows] == [p.text for p in prompts(8)]
    assert found.summary["policy"]["mean_length"] == found.summary["policy"]["score_mean"]
    assert found.summary["policy"]["mean_length_reference"] == found.summary["policy"]["score_mean_reference"]
    assert found.summary["gold"] == {
        "score_mean": 1.0,
        "score_mean_reference": 1.0,
        "win_rate_vs_reference": 0.5,
        "win_rate_ci95": [0.5, 0.5],
        "compared": 7,
        "unscored": 1,
    }
    assert found.rows[0]["policy_gold"] is None
    assert evaluate_policy(backbone, engine, prompts(8), 3, judges).summary == found.summary
    assert evaluate_policy(backbone, engine, prompts(8), 4, judges).rows != found.rows


def test_without_judges_there_is_still_the_kl(backbone):
    found = evaluate_policy(backbone, build("rollout", {"name": "native", "max_new_tokens": 3}), prompts(2), 3, {})
    assert found.summary["policy"].keys() == {"kl_to_reference", "mean_length", "mean_length_reference"}


def test_a_policy_that_is_the_reference_has_no_kl_and_wins_half(tiny_base):
    made = Backbone(spec(tiny_base))
    made.add_role("policy", trained=True)
    made.add_role("reference", bare=True)
    judge: dict[str, Any] = {"score": lambda samples: [Score(float(len(s.tokens))) for s in samples]}
    found = evaluate_policy(made, build("rollout", {"name": "native", "max_new_tokens": 6}), prompts(150), 3, judge)
    assert abs(found.summary["policy"]["kl_to_reference"]) < 1e-4
    low, high = found.summary["policy"]["win_rate_ci95"]
    assert low - 0.05 < 0.5 < high + 0.05


def test_gold_accuracy_is_against_the_true_order_without_its_ties():
    # The truth: a > b, a < b, tie, unknown. The model is right on the first, undecided on the second.
    pairs = [Pair(Prompt(name), "x", "y") for name in ("more", "less", "tie", "odd")]
    truth = {
        ("more", "x"): 2.0,
        ("more", "y"): 1.0,
        ("less", "x"): 1.0,
        ("less", "y"): 2.0,
        ("tie", "x"): 1.0,
        ("tie", "y"): 1.0,
    }

    def gold(samples: list[Sample]) -> list[Any]:
        return [SimpleNamespace(value=truth.get((s.prompt, s.text))) for s in samples]

    found = _gold_accuracy([1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 1.0, 1.0], pairs, gold)
    assert (found["gold_accuracy"], found["gold_pairs"]) == (0.75, 2)
    assert _gold_accuracy([1.0], [0.0], pairs[2:3], gold) == {}
