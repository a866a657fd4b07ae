"""A reward that compares: scores are win probabilities against one answer of the reference to each prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.against import Against
from rlhf_lora.errors import ContractError
from rlhf_lora.records import Prompt, Sample, Verdict
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.stages.scoring import Scorer

SHORTER = """
from rlhf_lora import reward
from rlhf_lora.records import Verdict

@reward("shorter")
class Shorter:
    def compare(self, pairs):
        return [Verdict("tie" if len(a.text) == len(b.text) else "A" if len(a.text) < len(b.text) else "B") for a, b in pairs]
"""


class Engine:
    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int]] = []

    def generate(self, backbone: Any, prompts: Sequence[Prompt], n: int, seed: int, role: str) -> list[Sample]:
        assert (n, role) == (1, "reference")
        self.asked.append(([prompt.text for prompt in prompts], seed))
        return [Sample(prompt.text, f"reference to {prompt.text}") for prompt in prompts]


class Slow:
    """Asynchronous, and it hangs at one prompt."""

    async def compare(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[Verdict]:
        await asyncio.sleep(60 if any(a.prompt == "hang" for a, _ in pairs) else 0)
        return [Verdict("A", 0.75) for _ in pairs]


def test_a_comparison_may_be_async_and_has_a_deadline():
    asked = Scorer(Against(Slow(), None, Engine(), 3, "slow", deadline=0.3), "slow", on_device=True)
    assert [score.value for score in asked(SAMPLES)] == [0.75] * 3
    began = time.monotonic()
    with pytest.raises(ContractError, match=r"the reward 'slow' gave no answer within 0\.3 s"):
        asked([*SAMPLES, Sample("hang", "x")])
    assert time.monotonic() - began < 5


class Source:
    def __init__(self, *verdicts: Any):
        self.verdicts, self.pairs = list(verdicts), []

    def compare(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[Any]:
        self.pairs = list(pairs)
        return self.verdicts


SAMPLES = [Sample("p", "a"), Sample("p", "b"), Sample("q", "c")]


def test_each_prompt_is_answered_once_and_verdicts_become_probabilities():
    source, engine = Source(Verdict("A", 0.9), Verdict("tie"), Verdict(None, reason="garbled")), Engine()
    scores = Against(source, None, engine, 3, "mine").score(SAMPLES)
    assert [score.value for score in scores] == [0.9, 0.5, None]
    assert (scores[2].kind, scores[2].reason) == ("unreadable", "garbled")
    assert [texts for texts, _ in engine.asked] == [["p", "q"]]
    assert [(a.text, b.text) for a, b in source.pairs] == [
        ("a", "reference to p"), ("b", "reference to p"), ("c", "reference to q"),
    ]  # fmt: skip


def test_the_reference_answers_follow_from_seed_and_prompts_alone():
    engine = Engine()
    for seed, samples in ((3, SAMPLES), (3, SAMPLES), (4, SAMPLES), (3, SAMPLES[:1])):
        Against(Source(*[Verdict("A")] * len(samples)), None, engine, seed, "mine").score(samples)
    seeds = [seed for _, seed in engine.asked]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("verdicts", [[], [Verdict("A")] * 2, ["A", "B", "A"]])
def test_what_is_no_list_of_verdicts_breaks_the_contract(verdicts):
    with pytest.raises(ContractError, match="reward 'mine' gave"):
        Against(Source(*verdicts), None, Engine(), 0, "mine").score(SAMPLES)


@pytest.mark.slow
def test_a_run_learns_from_comparisons(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shorter.py").write_text(SHORTER)
    more = ("reward=shorter", f"plugins=[{tmp_path / 'shorter.py'}]", "optimizer.updates=2", "optimizer.prompts_per_update=8",
            "optimizer.minibatch_size=4", "rollout.max_new_tokens=5", "evaluation.prompts=6")  # fmt: skip
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "run", *more)]) == 0
    scores = [row["objective/scores"] for row in RunFolder(tmp_path / "run").metrics() if row["stage"] == "policy"]
    assert len(scores) == 2
    assert all(0 <= score <= 1 for score in scores)
