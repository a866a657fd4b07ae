"""Nothing that is learned from is ever made of a prompt that is judged on: labels, answers, revisions, comparisons, rollouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.config import compose
from rlhf_lora.plan import make_plan
from rlhf_lora.run_folder import RunFolder

SHORT = ("rollout.max_new_tokens=4", "evaluation.prompts=4", "sft.batch_size=64", "reward_model.batch_size=64",
         "splits={sft: 20, reward_model: 35, prompts: 15, tuning: 15, final: 15}")  # fmt: skip
LOOP = ("optimizer.updates=1", "optimizer.prompts_per_update=24", "optimizer.minibatch_size=12", "optimizer.epochs=1")
ROWS = ("optimizer.batch_size=64", "optimizer.micro_batch=16")

MAKERS: list[tuple[tuple[str, ...], set[str]]] = [
    (
        (*LOOP, "judge=scripted", "reward_model.pairs=rollouts", "ai_labels.keep_dataset=0.2", "revisions.rounds=1",
         "revisions.by=judge", "revisions.of=prompts", "revisions.helpful=1", "rounds=2", "refresh.by=judge", "refresh.pairs=50"),
        {"labels/answers", "labels/labels", "revisions/answers", "revisions/demonstrations", "comparisons_2/answers",
         "comparisons_2/labels", "policy"},
    ),
    (
        (*ROWS, "judge=scripted", "optimizer=dpo", "optimizer.pairs=rollouts", "reward=learned", "reward_model.pairs=relabel",
         "rounds=2", "refresh.by=orders_gold", "refresh.pairs=50"),
        {"labels/labels", "answers_1/answers", "answers_2/answers", "comparisons_2/answers", "comparisons_2/labels"},
    ),
    ((*ROWS, "judge=scripted", "optimizer=kto", "optimizer.labels=relabel", "reward=ai_feedback"), {"answers/answers"}),
    ((*ROWS, "optimizer=rejection_sampling", "optimizer.samples_per_prompt=2", "reward=length"), {"answers/answers"}),
]  # fmt: skip


def prompts_of(run: RunFolder) -> dict[str, set[str]]:
    """What made them → the texts of the prompts that something was made of."""
    found: dict[str, set[str]] = {}
    for file in run.path.glob("*/*.jsonl"):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        asked = [row["prompt"] for row in rows if "prompt" in row]
        if asked:
            texts = {one if isinstance(one, str) else one["text"] for one in asked}
            found[f"{file.parent.name}/{file.stem}"] = texts
    steps = run.sample_steps("policy")
    if steps:
        found["policy"] = {row["prompt"] for step in steps for row in run.read_samples("policy", step)}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("more", "makers"), MAKERS, ids=["revised-ppo", "dpo", "kto", "rejection"])
def test_no_maker_sees_a_prompt_that_is_judged_on(tiny_base: Path, tmp_path, monkeypatch, more, makers):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    given = overrides(tiny_base, tmp_path / "run", *SHORT, *more)
    plan, run = make_plan(compose(*given)), RunFolder(tmp_path / "run")
    assert cli.run(["train", *given]) == 0
    held_out = {prompt.text for prompt in (*plan.splits.tuning_prompts, *plan.splits.final_prompts)}
    held_out |= {pair.prompt.text for pair in (*plan.splits.tuning_pairs, *plan.splits.final_pairs)}
    made = prompts_of(run)
    assert set(made) == makers
    for maker, texts in made.items():
        assert len(texts) > 5, maker
        assert not texts & held_out, maker
    assert {row["prompt"] for row in run.read_samples("evaluation")} <= held_out
