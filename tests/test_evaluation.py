"""Policy against reference: both are kept, the KL is right, a model ties with itself; the reward model's figures."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import prompts, spec, stir

from rlhf_lora.backbone import Backbone
from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.evaluation import evaluate_policy, judge_of, sequence_kl
from rlhf_lora.held_out import gold_accuracy, judge_implicit_reward
from rlhf_lora.records import Pair, Prompt, Sample, Score, Verdict
from rlhf_lora.registry import build
from rlhf_lora.registry import judge as register_judge


def scores(*values: float | None) -> list[Score]:
    return [Score.none("no idea") if value is None else Score(value) for value in values]


@pytest.fixture(scope="module")
def backbone(tiny_base) -> Backbone:
    made = Backbone(spec(tiny_base))
    made.add_role("policy", trained=True)
    made.add_role("reference", bare=True)
    stir(made, "policy", 0.1)
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
        "score_gain_ci95": [0.0, 0.0],
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
    made.add_role("policy", trained=True)  # an adapter that begins at nothing
    made.add_role("reference", bare=True)
    judge: dict[str, Any] = {"score": lambda samples: [Score(float(len(s.tokens))) for s in samples]}
    engine = build("rollout", {"name": "native", "max_new_tokens": 6})
    covered, wins = 0, []
    for seed in range(8):
        policy = evaluate_policy(made, engine, prompts(150), seed, judge).summary["policy"]
        assert abs(policy["kl_to_reference"]) < 1e-4
        low, high = policy["win_rate_ci95"]
        covered += low <= 0.5 <= high
        wins.append(policy["win_rate_vs_reference"])
    # 7.6 of 8 expected; over all 1,200 pairs, with a deviation of at most ½ each, three standard errors are 0.043.
    assert covered >= 6
    assert sum(wins) / len(wins) == pytest.approx(0.5, abs=0.043)
    assert len(set(wins)) > 1


def test_best_of_n_and_a_judge_stand_beside_the_policy_when_they_are_asked_for(backbone):
    class FirstPlace:
        def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
            return Verdict("A")

    engine = build("rollout", {"name": "native", "max_new_tokens": 5})
    judges = {"score": lambda samples: [Score(float(len(s.tokens))) for s in samples]}
    plain = evaluate_policy(backbone, engine, prompts(30), 3, judges)
    found = evaluate_policy(backbone, engine, prompts(30), 3, judges, best_of=[2, 4], judge=FirstPlace())
    assert found.summary["policy"] == plain.summary["policy"]  # nothing of it is moved by them
    two, four = found.summary["best_of_n"]["2"], found.summary["best_of_n"]["4"]
    reference = plain.summary["policy"]["score_mean_reference"]
    assert two["score_mean_reference"] == four["score_mean_reference"] == reference
    assert reference < two["score_mean"] <= four["score_mean"]
    assert four["mean_length"] == four["score_mean"]  # this reward is the length
    assert found.summary["judge"]["flip_rate"] == 1.0
    assert found.summary["judge"]["win_rate_vs_reference"] == 0.5
    assert {"best_of_4_text", "best_of_4_score", "policy_text"} <= found.rows[0].keys()


def test_a_judge_is_described_by_overrides():
    register_judge("longer_of_two")(LongerOfTwo)
    assert judge_of([]) is None
    assert judge_of(["judge=longer_of_two", "judge.by=3"]).by == 3
    with pytest.raises(ConfigError, match="no setting 'bye'"):
        judge_of(["judge=longer_of_two", "judge.bye=3"])
    with pytest.raises(ConfigError, match="does not say which judge"):
        judge_of(["judge.by=3"])
    with pytest.raises(UserError, match="longer_of_two"):
        judge_of(["judge=longer_of_tow"])
    with pytest.raises(ConfigError, match="cannot be read"):
        judge_of(["judge=longer_of_two", "judge.by=["])


class LongerOfTwo:
    by: int = 1

    def compare(self, prompt: Prompt, a: str, b: str) -> Verdict:
        return Verdict("tie" if abs(len(a) - len(b)) < self.by else "A" if len(a) > len(b) else "B")


def test_a_policy_that_makes_the_chosen_likelier_implies_a_reward_that_is_right(backbone):
    pairs = [Pair(prompt, "certainly tea soup and bread", "ugh whatever soup") for prompt in prompts(12)]
    same = judge_implicit_reward(backbone, pairs, longest=64)
    assert same["pairs"] == 12
    turned = judge_implicit_reward(backbone, [Pair(p.prompt, p.rejected, p.chosen) for p in pairs], longest=64)
    assert same["accuracy"] + turned["accuracy"] == pytest.approx(1.0)
    assert same["margin_mean"] == pytest.approx(-turned["margin_mean"])
    short = min(len(backbone.chat.prompt_ids(p.prompt)) for p in pairs) + 6
    cut = judge_implicit_reward(backbone, pairs, longest=short)
    assert cut["pairs"] + cut["too_long"] == 12
    assert cut["too_long"] > 0


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

    found = gold_accuracy([1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 1.0, 1.0], pairs, gold)
    assert (found["gold_accuracy"], found["gold_pairs"]) == (0.75, 2)
    assert gold_accuracy([1.0], [0.0], pairs[2:3], gold) == {}
