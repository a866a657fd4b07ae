"""Controls: each does to a run what it says, is told as what it is, and gives what it must."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from tiny import jsonl, overrides, prompts

from rlhf_lora import cli, controls
from rlhf_lora.config import compose, recompose
from rlhf_lora.errors import ConfigError
from rlhf_lora.loading import read_adapter
from rlhf_lora.plan import Plan, make_plan
from rlhf_lora.records import Pair, Prompt, Sample
from rlhf_lora.registry import build
from rlhf_lora.report import write_model_card, write_report
from rlhf_lora.run_folder import RunFolder

CONF = Path(__file__).resolve().parent.parent / "conf" / "control"
SMALL = ("optimizer.updates=2", "optimizer.prompts_per_update=6", "optimizer.minibatch_size=3", "optimizer.epochs=1",
         "rollout.max_new_tokens=5", "evaluation.prompts=12")  # fmt: skip
PAIRS = [Pair(Prompt(f"p{i}"), f"good {i}", f"bad {i}", margin=2.0, label=0.9) for i in range(400)]


@pytest.fixture
def plan(tiny_base, tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))

    def make(*more: str) -> Plan:
        return make_plan(compose(*overrides(tiny_base, tmp_path / "run", *more)))

    return make


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """SFT is the same in all of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_LORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train(base: Path, run: Path, *more: str) -> RunFolder:
    small = () if "optimizer=dpo" in more else SMALL
    assert cli.run(["train", *overrides(base, run, *small, *more)]) == 0
    return RunFolder(run)


# --- the reward that knows nothing ------------------------------------------------------------------------------------


def test_random_reward_is_standard_normal_and_a_matter_of_text_and_seed_alone():
    reward = build("reward", {"name": "random", "seed": 3})
    samples = [Sample(f"prompt {i}", f"answer {j}") for i in range(100) for j in range(50)]
    scores = reward.score(samples)
    mean = sum(scores) / len(scores)
    assert abs(mean) < 4 / math.sqrt(5000)  # four standard errors
    assert abs(sum((s - mean) ** 2 for s in scores) / 5000 - 1) < 4 * math.sqrt(2 / 5000)
    assert reward.score([Sample("prompt 7", "answer 3", finished=False)]) == [scores[7 * 50 + 3]]
    assert len(set(scores)) == 5000  # the prompt counts: no answer is lucky everywhere
    assert build("reward", {"name": "random", "seed": 4}).score(samples[:1]) != scores[:1]
    assert reward.score([Sample("ab", "c")]) != reward.score([Sample("a", "bc")])


def test_random_reward_takes_the_runs_seed():
    from rlhf_lora.contracts import Context

    one, asked = Sample("p", "a"), build("reward", {"name": "random"})
    ctx = Context(seed=5, cache_dir=Path(), run_dir=Path(), device="cpu")
    assert asked.open(ctx).score([one]) == build("reward", {"name": "random", "seed": 5}).score([one])
    assert build("reward", {"name": "random", "seed": 1}).open(ctx).seed == 1


# --- labels -----------------------------------------------------------------------------------------------------------


def test_flipped_labels_turn_every_pair_and_keep_how_sure_it_was():
    turned = controls.relabelled(PAIRS, "flipped", 0)
    assert [(p.chosen, p.rejected) for p in turned] == [(p.rejected, p.chosen) for p in PAIRS]
    assert {(p.margin, p.label) for p in turned} == {(2.0, 0.9)}
    assert controls.relabelled(turned, "flipped", 0) == PAIRS
    assert controls.relabelled(PAIRS, "as_given", 0) is PAIRS


def test_shuffled_labels_are_a_coin_that_does_not_know_the_label():
    shuffled = controls.relabelled(PAIRS, "shuffled", 0)
    kept = sum(a.chosen == b.chosen for a, b in zip(shuffled, PAIRS, strict=True))
    assert abs(kept - 200) < 4 * math.sqrt(400 / 4)
    # Told the other way round, the same comparison falls the same way: nothing of the label is left.
    assert controls.relabelled(controls.relabelled(PAIRS, "flipped", 0), "shuffled", 0) == shuffled
    assert controls.relabelled(PAIRS, "shuffled", 1) != shuffled
    assert controls.relabelled(PAIRS[::-1], "shuffled", 0) == shuffled[::-1]


@pytest.mark.slow
def test_what_is_judged_on_stays_as_given_and_what_is_learned_from_is_turned(plan):
    given, flipped = plan(), plan("control=flipped_reward")
    stage = flipped.stage("reward_model")
    assert flipped.rows(stage) == controls.relabelled(given.rows(given.stage("reward_model")), "flipped", 0)
    assert flipped.splits.final_pairs == given.splits.final_pairs
    assert flipped.splits.tuning_pairs == given.splits.tuning_pairs
    assert flipped.rows(flipped.stage("sft")) == given.rows(given.stage("sft"))


@pytest.mark.slow
def test_dpo_learns_from_the_same_labels(plan):
    def rows(made):
        return made.rows(made.stage("policy"))

    given, flipped = plan("optimizer=dpo"), plan("optimizer=dpo", "control=flipped_reward")
    assert rows(flipped) == controls.relabelled(rows(given), "flipped", 0)
    assert flipped.stage("policy").key != given.stage("policy").key


@pytest.mark.slow
def test_a_reward_model_of_other_labels_is_never_taken_from_the_cache(plan):
    made = [plan(f"reward_model.labels={labels}") for labels in controls.LABELS]
    assert len({p.stage("reward_model").key for p in made}) == 3
    assert len({p.stage("policy").key for p in made}) == 3
    assert len({p.stage("sft").key for p in made}) == 1  # shared: SFT does not read labels


@pytest.mark.parametrize("more", [["reward=length"], ["stages=[sft]"]])
def test_turned_labels_that_nothing_learns_from_are_refused(plan, more):
    with pytest.raises(ConfigError, match="nothing in this run learns from pairs"):
        plan("control=flipped_reward", *more)


def test_a_random_reward_that_nothing_learns_from_is_refused(plan):
    with pytest.raises(ConfigError, match="learns from pairs, not from the reward"):
        plan("control=random_reward", "optimizer=dpo", "optimizer.pairs=dataset")
    assert plan("control=random_reward", "optimizer=dpo").config.optimizer.pairs == "relabel"


# --- told as what it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", controls.MUST_GIVE)
def test_every_control_has_a_preset_that_names_itself_and_a_note_in_the_plan(plan, name):
    assert yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))["control"] == name
    assert any(f"this is a control ({name})" in note for note in plan(f"control={name}").notes)
    assert {file.stem for file in CONF.glob("*.yaml")} == set(controls.MUST_GIVE)


@pytest.mark.parametrize(
    ("setting", "control"),
    [("reward=random", "random_reward"), ("reward_model.labels=flipped", "flipped_reward"),
     ("reward_model.labels=shuffled", "shuffled_labels"), ("optimizer.adamw.lr=0", "no_learning"), ("seed=1", None)],
)  # fmt: skip
def test_a_run_with_the_settings_of_a_control_is_one_by_any_name(setting, control):
    assert controls.control_of(compose(setting)) == control


@pytest.mark.parametrize(
    "given", ["control=flipped_reward reward_model.labels=as_given", "control=no_learning optimizer.adamw.lr=1e-4"]
)
def test_a_control_with_its_setting_put_back_is_refused(plan, given):
    with pytest.raises(ConfigError, match="fixes"):
        plan(*given.split(), "profile_overrides=true")


def test_a_control_is_judged_by_another_reward_like_any_run(plan):
    saved = OmegaConf.to_container(plan("control=flipped_reward").config)
    assert saved["control"] == "flipped_reward"
    made = make_plan(recompose(saved, ["reward=orders_gold"]))
    assert (made.config.control, made.config.reward.name) == (None, "orders_gold")


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_learning_moves_nothing_and_its_kl_is_exactly_0(tiny_base, tmp_path, cache):
    run = train(tiny_base, tmp_path / "run", "control=no_learning", "reward=orders_gold")
    sft, policy = (read_adapter(run.adapter(name))[1] for name in ("sft", "policy"))
    assert sft.keys() == policy.keys()
    assert all(torch.equal(sft[name], policy[name]) for name in sft)
    assert run.summary["control"] == "no_learning"
    assert run.summary["policy"]["kl_to_reference"] == 0.0
    assert all(
        abs(row["objective/kl"]) < 1e-5 for row in run.metrics("policy")
    )  # sampling's arithmetic against reading's
    low, high = run.summary["policy"]["win_rate_ci95"]
    assert low <= 0.5 <= high


@pytest.mark.slow
def test_no_learning_moves_nothing_in_dpo_either(tiny_base, tmp_path, cache):
    run = train(tiny_base, tmp_path / "run", "control=no_learning", "optimizer=dpo")
    sft, policy = (read_adapter(run.adapter(name))[1] for name in ("sft", "policy"))
    assert all(torch.equal(sft[name], policy[name]) for name in sft)
    assert run.summary["policy"]["kl_to_reference"] == 0.0


def accuracy(base: Path, folder: Path, *more: str) -> dict[str, float]:
    """Of a reward model trained on a file of a user's own, on held-out pairs: the courteous answer is the better one."""
    rows = [
        {"prompt": p.text, "chosen": f"certainly {p.text[:9]}", "rejected": f"ugh whatever {p.text[:9]}"}
        for p in prompts(160)
    ]
    folder.mkdir()
    given = ("stages=[reward_model]", "reward_model.epochs=3", "reward_model.adamw.lr=5e-3", "reward_model.batch_size=16",
             "dataset=jsonl", f"dataset.path={jsonl(folder / 'pairs.jsonl', rows)}",
             "splits={sft: 10, reward_model: 40, prompts: 10, tuning: 10, final: 30}")  # fmt: skip
    summary = train(base, folder / "run", *given, *more).summary
    return summary["reward_model"] | {"control": summary.get("control")}


@pytest.mark.slow
def test_flipped_labels_put_accuracy_on_true_pairs_below_one_half(tiny_base, tmp_path, cache):
    given = accuracy(tiny_base, tmp_path / "given")
    flipped = accuracy(tiny_base, tmp_path / "flipped", "control=flipped_reward")
    assert given["accuracy_ci95"][0] > 0.5
    assert flipped["accuracy_ci95"][1] < 0.5
    assert (given["control"], flipped["control"]) == (None, "flipped_reward")


@pytest.mark.slow
def test_shuffled_labels_leave_one_half_in_the_interval(tiny_base, tmp_path, cache):
    """On the orders task, whose pairs differ in many ways: where one difference tells all pairs apart, as above, a model
    of shuffled labels leans to one side on all of them, and only the mean over seeds is one half."""
    more = ("stages=[reward_model]", "dataset.pairs=600", "reward_model.adamw.lr=5e-3",
            "splits={sft: 10, reward_model: 50, prompts: 10, tuning: 10, final: 20}")  # fmt: skip
    figures = train(tiny_base, tmp_path / "run", "control=shuffled_labels", *more).summary["reward_model"]
    low, high = figures["accuracy_ci95"]
    assert low <= 0.5 <= high


def test_a_control_is_told_first_wherever_its_figures_are(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {}, {"os": "x"})
    figures = {"status": "finished", "gold": {"win_rate_vs_reference": 0.9, "win_rate_ci95": [0.8, 1.0]}}
    for name in (*controls.MUST_GIVE, "<i>mine"):
        folder.write_summary(figures | {"control": name})
        page, card = write_report(folder).read_text("utf-8"), write_model_card(folder).read_text("utf-8")
        assert page.index(f"Control, not a result: {escape(name)}.") < page.index("The policy beats")
        assert card.index(f"Control, not a result: `{name}`") < card.index("## Figures")
        assert "<i>mine" not in page
    folder.write_summary(figures)
    assert "Control" not in write_report(folder).read_text("utf-8") + write_model_card(folder).read_text("utf-8")
