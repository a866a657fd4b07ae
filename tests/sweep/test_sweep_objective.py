"""What a sweep can be sorted by is what summaries have: real runs, whose every number was foretold from the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from rlhf_lora.errors import ConfigError
from rlhf_lora.pipeline import Run
from rlhf_lora.sweep.objective import DEFAULTS, check, chosen, figures

QUICK = ("optimizer.updates=1", "optimizer.prompts_per_update=4", "optimizer.epochs=1", "evaluation.prompts=24")
OFTEN_ABSENT = (
    "unscored",
    "too_long",
    "length_controlled",
    "left_out",
    "answers.abstained",
    "answers.errors",
    "unreadable",
)
"""Figures that depend on what comes out."""
SFT_WITHOUT_POLICY = {"seed", "peak_memory_gib", "seconds.total", "seconds.sft"}


def numbers(summary: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{where}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{where}{key}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (*QUICK, "reward=length", "evaluation.prompts=6"),
        pytest.param(
            (*QUICK, "reward=learned", "evaluation.every=1", "evaluation.keep=best", "evaluation.best_of_n=2"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("optimizer=dpo", "evaluation.prompts=24"), marks=pytest.mark.slow),
        pytest.param(("stages=[reward_model]",), marks=pytest.mark.slow),
        pytest.param(
            (
                "optimizer=dpo",
                "optimizer.pairs=rollouts",
                "reward=learned",
                "rounds=2",
                "refresh.by=orders_gold",
                "refresh.pairs=20",
                "evaluation.prompts=24",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param((*QUICK, "reward=length", "rounds=2"), marks=pytest.mark.slow),
        pytest.param(
            (
                "optimizer=rejection_sampling",
                "reward=length",
                "rounds=2",
                "optimizer.pool=true",
                "evaluation.prompts=24",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("optimizer=kto", "optimizer.labels=relabel", "reward=length", "evaluation.prompts=24"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        "ppo",
        "judged midway, best of n",
        "dpo",
        "reward model alone",
        "dpo in rounds",
        "ppo in rounds",
        "pooled",
        "relabel",
    ],
)
def test_every_number_of_a_summary_is_foretold_and_what_is_foretold_is_there(more, plan):
    made = plan(*more)
    told = figures(made)
    found = set(numbers(Run(made).finish().summary))
    assert found <= told
    assert {name for name in told - found if not any(part in name for part in OFTEN_ABSENT)} == set()


def test_without_a_policy_nothing_of_one_is_foretold(plan):
    assert figures(plan("stages=[sft]", "reward=length")) == SFT_WITHOUT_POLICY


def test_the_truth_is_what_counts_where_every_job_knows_it():
    truth, own = DEFAULTS
    assert chosen(None, [{truth, own}, {truth, own, "seed"}]) == truth
    assert chosen(None, [{truth, own}, {own}]) == own
    assert chosen("seed", [{truth, own, "seed"}]) == "seed"


def test_jobs_that_are_not_judged_have_nothing_to_search_for():
    with pytest.raises(ConfigError, match="not every job has a figure 'policy"):
        chosen(None, [SFT_WITHOUT_POLICY])


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("gold.win_rat", {"gold.win_rate_vs_reference"}, "did you mean 'gold.win_rate_vs_reference'"),
        ("gold.score_mean", {"policy.score_mean"}, "the truth is not known"),
        ("policy.score_mean", {"policy.kl_to_reference"}, "not judged by the reward"),
        ("gold", {"gold.score_mean"}, "a part of summary.json"),
        ("gold.win_rate_ci95", {"gold.score_mean"}, "two numbers"),
        ("best_of_n.4.score_mean", {"policy.score_mean"}, "does not ask for it"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_reason(name, known, told):
    with pytest.raises(ConfigError, match=told):
        check(name, known)
