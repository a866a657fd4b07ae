"""Best of n: which answer is chosen, what the bound is, and what it is compared with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from tiny import overrides

from rlhf_lora import best_of_n, cli
from rlhf_lora.best_of_n import judge_best_of_n, kl_bound, pick, sizes
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError
from rlhf_lora.plan import make_plan
from rlhf_lora.records import Prompt, Sample, Score
from rlhf_lora.run_folder import RunFolder


def told(*values: float | None) -> list[tuple[Sample, Score]]:
    return [(Sample("p", str(i)), Score.none("…") if v is None else Score(v)) for i, v in enumerate(values)]


def chosen(*values: float | None, seed: int = 0) -> str | None:
    found = pick(told(*values), seed)
    return None if found is None else found[0].text


def test_the_highest_score_is_picked_and_a_missing_one_never():
    assert chosen(-3.0, -1.0, -2.0) == "1"
    assert chosen(None, -1.0, None) == "1"  # a missing score taken for 0 would win here
    assert chosen(None, None) is None


def test_among_equals_the_lot_decides_and_the_same_seed_says_the_same():
    picked = [chosen(1.0, 1.0, 0.0, 1.0, seed=seed) for seed in range(60)]
    assert set(picked) == {"0", "1", "3"}
    assert picked == [chosen(1.0, 1.0, 0.0, 1.0, seed=seed) for seed in range(60)]


def test_the_bound_is_that_of_stiennon():
    # log 4 − 3/4 = 1.3863 − 0.75.
    assert kl_bound(4) == pytest.approx(0.6363, abs=1e-4)
    assert kl_bound(1) == 0.0


def test_the_bound_is_kept_by_the_exact_kl_of_a_small_distribution():
    # Of two answers with probabilities 0.3 (worse) and 0.7 the best of n is the worse one with 0.3ⁿ.
    for n in (2, 4, 16):
        worse = 0.3**n
        exact = worse * math.log(worse / 0.3) + (1 - worse) * math.log((1 - worse) / 0.7)
        assert 0 < exact < kl_bound(n)


@pytest.mark.parametrize(("given", "is_"), [(None, []), (4, [4]), ([16, 4], [4, 16])])
def test_sizes_come_as_a_list_in_order(given, is_):
    assert sizes(given) == is_


@pytest.mark.parametrize("given", [1, 0, -4, [], [4, 1], [4, 4], "four", 4.0, True, [None]])
def test_what_is_no_size_is_refused(given):
    with pytest.raises(ValueError, match=r"empty|twice|no whole number|no choice"):
        sizes(given)


# --- against single answers -------------------------------------------------------------------------------------------


class Numbers:
    """An engine whose answers are numbers from a stream; `calls` has how many were drawn at once."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def generate(self, backbone: Any, prompts: Sequence[Prompt], n: int, seed: int, role: str = "policy") -> Any:
        import random

        draw = random.Random(seed)
        self.calls.append(len(prompts) * n)
        assert role == "reference"
        return [
            Sample(p.text, str(draw.randint(0, 99)), tokens=[1] * draw.randint(1, 5)) for p in prompts for _ in range(n)
        ]


def value(samples: Sequence[Sample]) -> list[Score]:
    return [Score(float(sample.text)) for sample in samples]


def opposite(samples: Sequence[Sample]) -> list[Score]:
    return [Score(-float(sample.text)) for sample in samples]


def judged(ns: Sequence[int], count: int = 300, **scorers: Any) -> Any:
    asked, engine = [Prompt(f"p{i}") for i in range(count)], Numbers()
    reference = engine.generate(None, asked, 1, 7, role="reference")
    engine.calls.clear()
    scorers = scorers or {"score": value, "gold": opposite}
    theirs = {name: scorer(reference) for name, scorer in scorers.items()}
    return engine, judge_best_of_n(None, engine, asked, 3, scorers, ns, reference, theirs)


def test_the_best_of_n_wins_as_often_as_arithmetic_says():
    # The highest of n + 1 equals is ours with probability n / (n + 1); the gold, its opposite, loses as often.
    _, (found, rows) = judged([4, 16])
    for n in (4, 16):
        figures, expected = found[str(n)], n / (n + 1)
        assert figures["win_rate_vs_reference"] == pytest.approx(expected, abs=0.05)
        assert figures["gold"]["win_rate_vs_reference"] == pytest.approx(1 - figures["win_rate_vs_reference"])
        assert figures["kl_bound"] == kl_bound(n)
        # The mean of the highest of n numbers from 0 to 99.
        assert figures["score_mean"] == pytest.approx(99 * n / (n + 1), abs=3)
        assert figures["score_mean"] == pytest.approx(sum(row[f"best_of_{n}_score"] for row in rows) / len(rows))
        assert 1 <= figures["mean_length"] <= 5
        assert "win_rate_length_controlled" in figures
    assert all(row["best_of_16_score"] >= row["best_of_4_score"] for row in rows)  # the 4 are among the 16


def test_answers_are_drawn_a_few_prompts_at_a_time():
    engine, _ = judged([2, 16])
    assert max(engine.calls) <= best_of_n.AT_ONCE
    assert sum(engine.calls) == 300 * 16


def test_the_same_seed_gives_the_same_figures():
    assert judged([4])[1] == judged([4])[1]


def test_a_prompt_without_a_scored_answer_has_no_best_and_is_counted():
    def sometimes(samples: Sequence[Sample]) -> list[Score]:
        return [Score.none("…") if s.prompt == "p0" and i > 0 else Score(1.0) for i, s in enumerate(samples)]

    # The reference's one answer to p0 has a score, and so has the first of the candidates; then only p0 is told of.
    _, (found, _) = judged([2], count=2, score=sometimes)
    assert found["2"]["candidates_unscored"] == 1
    assert found["2"]["win_rate_vs_reference"] == 0.5

    def never(samples: Sequence[Sample]) -> list[Score]:
        return [Score.none("…") if len(samples) > 2 and s.prompt == "p0" else Score(1.0) for s in samples]

    _, (found, rows) = judged([2], count=2, score=never, gold=value)
    assert (found["2"]["unscored"], found["2"]["compared"], found["2"]["gold"]["compared"]) == (1, 1, 1)
    assert rows[0] == {}


def test_without_any_score_there_are_no_figures_but_the_bound():
    _, (found, _) = judged([2], count=3, score=lambda samples: [Score.none("…") for _ in samples], gold=value)
    assert found == {"2": {"unscored": 3, "gold": {"unscored": 3}, "kl_bound": kl_bound(2), "candidates_unscored": 6}}


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["evaluation.best_of_n=1"], "the best of 1 is no choice"),
        (["evaluation.best_of_n=[]"], "empty"),
        (["evaluation.best_of_n=[4,4]"], "twice"),
        (["evaluation.best_of_n=many"], "no whole number"),
        (["evaluation.best_of_n=4", "optimizer=dpo"], "not trained in this run"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(more, message, tiny_base, tmp_path):
    with pytest.raises(ConfigError, match=message):
        make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more)))


def test_dpo_with_a_rule_has_something_to_choose_by(tiny_base, tmp_path):
    make_plan(
        compose(
            *overrides(tiny_base, tmp_path / "run", "evaluation.best_of_n=[4,16]", "optimizer=dpo", "reward=length")
        )
    )


FIRST_PLACE = """
from rlhf_lora.records import Verdict
from rlhf_lora.registry import judge
@judge("first_place")
class FirstPlace:
    always: str = "A"
    def compare(self, prompt, a, b):
        return Verdict(self.always)
"""


@pytest.mark.slow
def test_a_run_and_its_second_evaluation_have_best_of_n_and_the_judge(tiny_base, tmp_path, capsys):
    given = ["optimizer.updates=1", "reward=orders_gold", "evaluation.best_of_n=[2,3]", "stages=[policy]"]
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run", *given)]) == 0
    run = RunFolder(tmp_path / "run")
    assert run.summary["best_of_n"].keys() == {"2", "3"}
    assert {"win_rate_vs_reference", "gold", "kl_bound"} <= run.summary["best_of_n"]["3"].keys()
    assert {"best_of_2_text", "best_of_3_gold"} <= run.read_samples("evaluation")[0].keys()
    assert "best of 3, at most 0.43 nats: gold: wins" in capsys.readouterr().out  # log 3 − 2/3
    assert "Wins of the best of 2" in (run.path / "report.html").read_text("utf-8")
    (tmp_path / "first.py").write_text(FIRST_PLACE)
    words = ["evaluate", str(run.path), f"plugins=[{tmp_path / 'first.py'}]", "judge=first_place"]
    assert cli.run([*words, "evaluation.best_of_n=null"]) == 0
    assert "judge=first_place: wins 0.500" in (out := capsys.readouterr().out)
    assert "100 % changed with the order" in out
    assert "best of" not in out
    assert cli.run([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["judge"]["flip_rate"], told["judge"]["name"]) == (1.0, "first_place")
    assert told["best_of_n"].keys() == {"2", "3"}
