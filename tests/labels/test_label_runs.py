"""From a labels file to a trained model, whole runs on the tiny base: reward model and PPO, DPO, and every kind of label."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.labels import files
from rlhf_lora.labels.rows import LabelRow
from rlhf_lora.mini import orders
from rlhf_lora.records import Prompt
from rlhf_lora.run_folder import RunFolder

REPLIES = ("gladly tea soup and bread", "tea soup and bread", "tea", "ugh whatever soup")
SHARES = "splits={sft: 20, reward_model: 50, prompts: 20, tuning: 5, final: 5}"
PROMPTS = [Prompt(orders.prompt_text(triple, 0)) for triple in orders.triples(8)]


def three_raters() -> list[LabelRow]:
    """Of each prompt one comparison by three raters, who err now and then, say how much, and call some of them ties."""
    rng, rows = random.Random(0), []
    for prompt in PROMPTS:
        better, worse = sorted(rng.sample(range(4), 2))
        a, b = rng.sample([better, worse], 2)
        for rater in ("ann", "bob", "cy"):
            label = "tie" if rng.random() < 0.1 else "A" if (a == better) == (rng.random() < 0.85) else "B"
            strength = None if label == "tie" else ("slightly", "better", "significantly")[worse - better - 1]
            rows.append(LabelRow(kind="comparison", prompt=prompt, answers=(REPLIES[a], REPLIES[b]), label=label,
                                 strength=strength, rater=rater))  # fmt: skip
    return rows


def of_kind(kind: Any) -> list[LabelRow]:
    rows = []
    for i, prompt in enumerate(PROMPTS):
        order = random.Random(i).sample(range(4), 4)
        answers = tuple(REPLIES[at] for at in order)
        if kind in ("ranking", "choice"):
            label: Any = tuple(at + 1 for at in order) if kind == "ranking" else order.index(0)
            rows.append(LabelRow(kind=kind, prompt=prompt, answers=answers, label=label))
            continue
        at = order[0]
        label = ("good" if at < 2 else "bad") if kind == "verdict" else 7 - 2 * at
        scale = {"scale": (1, 7)} if kind == "rating" else {}
        rows.append(LabelRow(kind=kind, prompt=prompt, answers=(REPLIES[at],), label=label, **scale))
    return rows


def train(base: Path, tmp_path: Path, rows: list[LabelRow], *more: str) -> RunFolder:
    files.append(tmp_path / "labels.jsonl", rows)
    given = (
        "dataset=labels", f"dataset.path={tmp_path / 'labels.jsonl'}", "reward_model.batch_size=8", SHARES, *more,
    )  # fmt: skip
    if "optimizer=dpo" in more:  # with settings of its own
        kept = [o for o in overrides(base, tmp_path / "run", *given) if not o.startswith("optimizer.") or o in more]
    else:
        kept = overrides(base, tmp_path / "run", *given)
    assert cli.run(["train", *kept]) == 0
    return RunFolder(tmp_path / "run")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("on_disagreement", ["majority", "soft"])
def test_labels_train_a_reward_model_and_ppo_follows_it(tiny_base, tmp_path, on_disagreement):
    run = train(
        tiny_base, tmp_path, three_raters(), "reward_model.epochs=4", f"dataset.on_disagreement={on_disagreement}",
    )  # fmt: skip
    assert run.summary["status"] == "finished"
    assert run.summary["reward_model"]["accuracy"] > 0.6
    assert run.summary["policy"]["kl_to_reference"] >= 0
    assert (run.path / "adapters" / "reward" / "reward.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("ties", ["drop", "half"])
def test_labels_feed_dpo(tiny_base, tmp_path, ties):
    run = train(tiny_base, tmp_path, three_raters(), "optimizer=dpo", "optimizer.batch_size=8", f"dataset.ties={ties}",
                "dataset.on_disagreement=soft")  # fmt: skip
    assert run.summary["status"] == "finished"
    assert run.summary["policy"]["kl_to_reference"] > 0
    assert run.summary["implicit_reward"]["accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("ranking", "kwise"),
        ("choice", "best_of_n"),
        ("rating", "regression"),
        ("verdict", "labels"),
        ("ranking", "pairwise"),
    ],
)
def test_each_kind_of_label_trains_a_reward_model(tiny_base, tmp_path, kind, loss):
    stages = "[reward_model]" if kind == "rating" else "[sft,reward_model]"  # nobody says which rated answer to imitate
    run = train(tiny_base, tmp_path, of_kind(kind), f"stages={stages}", f"reward_model.loss={loss}")
    figures = run.summary["reward_model"]
    assert run.summary["status"] == "finished"
    assert figures.get("pairs") or figures.get("ratings") or figures.get("labels")


@pytest.mark.slow
def test_labels_of_a_stage_of_its_own_beside_the_runs_dataset(tiny_base, tmp_path):
    """The journey of a labelling tool: prompts and demonstrations as they were, people's labels for the reward model alone."""
    files.append(tmp_path / "labels.jsonl", three_raters())
    given = overrides(
        tiny_base, tmp_path / "run", "reward_model.dataset=labels", f"reward_model.dataset.path={tmp_path / 'labels.jsonl'}",
        "reward_model.dataset.gold=orders_gold", "reward_model.batch_size=8",
    )  # fmt: skip
    assert cli.run(["train", *given]) == 0
    summary = RunFolder(tmp_path / "run").summary
    assert summary["status"] == "finished"
    assert "gold" in summary
