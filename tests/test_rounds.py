"""Where rows come from, what rounds need, what is refused in words; and whole runs of each optimizer with each source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import few, jsonl, overrides

from rlhf_lora import cli, refresh, registry, rounds, row_source, summary_text, taking_up
from rlhf_lora.adapter_stages import AdapterStages, StageRecords
from rlhf_lora.assembly import Assembly
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, DataError, UserError
from rlhf_lora.made_rows import drawn
from rlhf_lora.records import Label, Pair, Prompt
from rlhf_lora.report import page
from rlhf_lora.report import rounds as report_rounds
from rlhf_lora.row_file import RowFile
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.turns import Turn

ROLL = ("optimizer=dpo", "optimizer.pairs=rollouts")


def names(made: Any) -> list[str]:
    return [stage.name for stage in made.stages]


@pytest.mark.parametrize(
    ("more", "stages", "reads"),
    [
        (["optimizer=dpo"], ["sft", "policy"], "pairs"),
        ([*ROLL], ["sft", "reward_model", "answers", "policy"], "pairs of answers"),
        ([*ROLL, "reward=length"], ["sft", "answers", "policy"], "pairs of answers"),
        (["optimizer=dpo", "optimizer.pairs=relabel", "reward=length"], ["sft", "answers", "policy"], "pairs of answers"),
        (["optimizer=kto"], ["sft", "policy"], "pairs"),
        (["optimizer=kto", "optimizer.labels=rollouts", "reward=length"], ["sft", "answers", "policy"], "labels of answers"),
        (["optimizer=rejection_sampling", "reward=length"], ["sft", "answers", "policy"], "demonstrations of answers"),
        ([*ROLL, "reward=length", "stages=[policy]"], ["answers", "policy"], "pairs of answers"),
    ],
)  # fmt: skip
def test_the_reward_and_its_stages_run_where_it_makes_the_rows(plan, more, stages, reads):
    made = plan(*more)
    assert names(made) == stages
    assert made.stage("policy").reads == reads


def test_kto_reads_labels_where_there_are_labels_and_pairs_where_there_are_none(plan, tmp_path):
    assert plan("optimizer=kto").config.optimizer.labels == "pairs"
    rows = [{"prompt": f"bring {i}", "completion": "tea", "label": i % 2 == 0} for i in range(200)]
    given = ("dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'labels.jsonl', rows)}")
    labelled = plan("optimizer=kto", *given)
    assert labelled.config.optimizer.labels == "dataset"
    assert plan("optimizer=kto", *given, "reward=length").config.optimizer.labels == "relabel"
    assert all(isinstance(row, Label) for row in labelled.rows(labelled.stage("policy")))
    with pytest.raises(DataError, match="policy needs pairs"):
        plan("optimizer=kto", "optimizer.labels=pairs", *given)


def test_pairs_become_labels_with_the_control_that_they_have(plan):
    given, flipped = (
        plan("optimizer=kto", *more) for more in ((), ("reward_model.labels=flipped", "stages=[sft,policy]"))
    )
    labels = given.rows(given.stage("policy"))
    assert [label.good for label in labels[:4]] == [True, False, True, False]
    assert {(label.completion, not label.good) for label in labels[:2]} == {
        (label.completion, label.good) for label in flipped.rows(flipped.stage("policy"))[:2]
    }
    cut = row_source.as_labels([Pair(Prompt("p"), "a", "b", finished=(False, True))])
    assert [(label.completion, label.finished) for label in cut] == [("a", False), ("b", True)]


REFUSED: list[tuple[list[str], str]] = [
    (["optimizer=dpo", "rounds=2"], "optimizer.pairs is dataset"),
    (["optimizer=kto", "rounds=2"], "optimizer.labels is pairs"),
    (["optimizer=dpo", "optimizer.pairs=relabel", "rounds=2"], "optimizer.pairs=rollouts, whose rows follow"),
    (["rounds=0"], "at least 1"),
    (["rounds=2", "stages=[sft,reward_model]"], "rounds train a policy"),
    (["rounds=2", "evaluation.every=1"], "each round is judged when it ends"),
    (["refresh.by=orders_gold"], "there is one round"),
    (["rounds=2", "refresh.by=orders_gold", "reward=length"], "no reward model of this run"),
    (["rounds=2", "refresh.by=judge"], "refresh.by=judge asks a judge, and the run has none"),
    (["rounds=2", "refresh.by=learned"], "cannot label for itself"),
    (["rounds=2", "refresh.by=orders_golt"], "did you mean 'orders_gold'"),
    (["rounds=2", "refresh.by=orders_gold", "refresh.tau=-1"], "refresh.tau is -1"),
    (["rounds=2", "refresh.by=orders_gold", "refresh.pairs=0"], "at least 1"),
    (["rounds=2", "refresh.by=regex"], "pattern"),
    (["optimizer=rejection_sampling", "optimizer.pool=true"], "the pool is of the rounds before"),
    ([*ROLL, "scoring.missing=group_mean"], "an answer without a score is in no row"),
    (["optimizer=dpo", "stages=[sft,answers,policy]"], "none here asks for them"),
    ([*ROLL, "stages=[sft,policy]"], "needs the stage reward_model"),
    (["optimizer=dpo", "optimizer.loss=hinge", "optimizer.soft_labels=true"], "knows no soft labels"),
    (["optimizer=kto", "hardware.micro_batch=1"], "at least 2 for KTO"),
    (["control=random_reward", "optimizer=kto", "optimizer.labels=pairs"], "learns from pairs, not from the reward"),
    (["control=shuffled_labels", *ROLL, "reward=length"], "nothing in this run learns from pairs"),
]


@pytest.mark.parametrize(("more", "words"), few(REFUSED, 9))
def test_what_has_no_meaning_is_refused_in_a_sentence(more, words, plan):
    with pytest.raises(UserError, match=words):
        plan(*more)


def test_a_column_that_the_reward_wants_is_asked_for_where_answers_are_scored(plan, tmp_path):
    rows = [{"prompt": f"bring {i}", "chosen": "tea", "rejected": "no"} for i in range(200)]
    given = ("dataset=jsonl", f"dataset.path={jsonl(tmp_path / 'pairs.jsonl', rows)}", "reward=math_answer")
    with pytest.raises(UserError, match="column 'answer'"):
        plan("optimizer=dpo", "optimizer.pairs=relabel", *given)


def test_random_reward_is_a_control_where_it_makes_the_rows(plan):
    assert names(plan("control=random_reward", *ROLL)) == ["sft", "answers", "policy"]


def test_the_answers_of_two_optimizers_are_the_same_and_the_policies_are_not(plan):
    """What is sampled and scored once serves every setting of what is made of it."""
    one, margin, more = (
        plan(*ROLL, "reward=length", *o) for o in ([], ["optimizer.min_margin=2"], ["optimizer.samples_per_prompt=5"])
    )
    keys = [[made.stage(name).key for name in ("answers", "policy")] for made in (one, margin, more)]
    assert keys[0][0] == keys[1][0] != keys[2][0]
    assert len({key[1] for key in keys}) == 3


def test_making_answers_needs_no_more_memory_than_rolling_out_and_learns_nothing(plan):
    made = plan(*ROLL)
    memory = made.stage("answers").memory
    assert (memory.gradients, memory.moments, memory.training) == (0, 0, 0)
    assert memory.rollout > 0


def test_rounds_are_told_in_the_plan(plan):
    (note,) = [n for n in plan("rounds=3", "refresh.by=orders_gold").notes if "3 rounds" in n]
    assert (
        "3 updates each; the KL is measured from SFT in all of them; before each but the first, reward=orders_gold"
        in note
    )


@pytest.mark.slow
def test_a_round_is_known_by_all_that_decides_it(plan):
    def key(*more: str, number: int = 2, what: str = "answers") -> str:
        return rounds.key(plan(*ROLL, "reward=length", *more), what, Turn(number, 3))

    same = key("rounds=3")
    assert same == key("rounds=2") == key("rounds=3", "evaluation.prompts=5")
    others = [
        key("rounds=3", "optimizer.beta=0.3"),
        key("rounds=3", "stages=[policy]"),
        key("rounds=3", number=3),
        key("rounds=3", what="policy"),
        key("rounds=3", "seed=1"),
    ]
    assert len({same, *others}) == 6


def test_one_round_names_and_draws_as_a_run_without_rounds():
    assert (Turn().named("policy"), Turn().stream("policy"), Turn().seed(7)) == ("policy", "policy", 7)
    assert (Turn(1, 3).named("policy"), Turn(1, 3).seed(7)) == ("policy_1", 7)
    assert Turn(2, 3).seed(7) not in (7, Turn(3, 3).seed(7))


def test_each_round_answers_other_prompts_until_all_had_their_turn():
    prompts = [Prompt(str(i)) for i in range(10)]
    first, second, third = (drawn(prompts, 4, number, seed=0) for number in (1, 2, 3))
    assert len({p.text for p in (*first, *second)}) == 8
    assert {p.text for p in (*first, *second, *third)} == {p.text for p in prompts}
    assert drawn(prompts, None, 2, 0) == drawn(prompts, 10, 1, 0) == prompts
    assert len(drawn(prompts, 25, 1, 0, repeat=True)) == 25


@pytest.mark.parametrize("optimizer", ["ppo", "dpo", "kto", "rejection_sampling"])
def test_the_source_of_rows_is_read_off_the_optimizer(optimizer: str):
    source = row_source.of(compose(f"optimizer={optimizer}").optimizer)
    assert source.is_own == (optimizer == "ppo")
    assert source.name == {"ppo": "own", "dpo": "auto", "kto": "auto", "rejection_sampling": "rollouts"}[optimizer]
    assert hasattr(registry.lookup("optimizer", optimizer).cls, "rows_of") == (optimizer != "ppo")


@pytest.mark.parametrize(("more", "pairs"), [
    ((), "dataset"),
    (("reward=length",), "relabel"),
    (("reward=mix", "reward.parts.a=learned", "reward.parts.b=length"), "relabel"),
    (("optimizer.pairs=rollouts", "reward=length"), "rollouts"),
])  # fmt: skip
def test_unless_told_a_policy_learns_from_what_its_reward_says(plan, more, pairs):
    assert plan("optimizer=dpo", *more).config.optimizer.pairs == pairs


def test_labels_that_a_reward_has_no_part_in_are_refused_beside_it(plan):
    with pytest.raises(ConfigError, match="reward=length has no part in them"):
        plan("optimizer=dpo", "optimizer.pairs=dataset", "reward=length")


# --- whole runs -------------------------------------------------------------------------------------------------------

SHORT = ("evaluation.prompts=4", "rollout.max_new_tokens=6", "optimizer.batch_size=16", "optimizer.prompts=12")
CELLS = [
    f"optimizer=dpo optimizer.pairs={pairs} reward={reward}"
    for pairs in ("relabel", "rollouts") for reward in ("learned", "orders_gold", "mine")
] + [
    f"optimizer=kto optimizer.labels={labels} reward={reward}"
    for labels, reward in (("pairs", "learned"), ("relabel", "learned"), ("rollouts", "learned"),
                           ("relabel", "orders_gold"), ("rollouts", "orders_gold"))
] + [f"optimizer=rejection_sampling reward={reward}" for reward in ("learned", "orders_gold", "mine", "mix")]  # fmt: skip
MINE = "from rlhf_lora import reward\n@reward('mine')\ndef mine(samples):\n    return [-float(len(s.text)) for s in samples]\n"
MIX = ("reward=mix", "+reward@reward.parts.a=length", "+reward@reward.parts.b=learned")


def train(base: Path, run: Path, *more: str) -> RunFolder:
    assert cli.run(["train", *overrides(base, run, *more)]) == 0
    return RunFolder(run)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_each_optimizer_learns_from_each_source_with_each_kind_of_reward(cell, tiny_base, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    given = [word for word in cell.split() if word != "reward=mix"] + list(MIX if "reward=mix" in cell else ())
    more = [f"plugins=[{tmp_path / 'mine.py'}]"] if "mine" in cell else []
    run = train(tiny_base, tmp_path / "run", *SHORT, *given, *more)
    assert run.summary["status"] == "finished"
    assert (run.adapter("policy") / "adapter_model.safetensors").is_file()
    if "labels=pairs" in cell:
        assert "answers" not in run.summary
        return
    told, rows = run.summary["answers"], run.read_samples("answers")
    assert told["answers"] == len(rows)
    assert told["rows"] > 0
    assert "gold_agreement" in told or "gold_gain" in told
    if "orders_gold" in cell and "rejection" not in cell:
        assert told["gold_agreement"] == 1.0
    assert cli.run(["evaluate", str(run.path)]) == 0


@pytest.mark.slow
def test_a_reward_that_tells_nothing_apart_stops_the_run_in_words(tiny_base, tmp_path, capsys):
    (tmp_path / "same.py").write_text(
        "from rlhf_lora import reward\n@reward('same')\ndef same(samples):\n    return [1.0] * len(samples)\n"
    )
    given = overrides(tiny_base, tmp_path / "run", *SHORT, *ROLL, "reward=same", f"plugins=[{tmp_path / 'same.py'}]")
    assert cli.run(["train", *given]) == 3
    assert "make no pairs to learn from (12 × equal scores)" in capsys.readouterr().err


@pytest.mark.slow
def test_scores_that_are_missing_are_counted_and_too_many_stop_the_run(tiny_base, tmp_path, capsys):
    (tmp_path / "picky.py").write_text(
        "from rlhf_lora import reward\n@reward('picky')\ndef picky(samples, *, most=3):\n"
        "    return [None if len(s.text) % most == 0 else float(len(s.text)) for s in samples]\n"
    )
    picky = (*SHORT, *ROLL, "reward=picky", f"plugins=[{tmp_path / 'picky.py'}]")
    run = train(tiny_base, tmp_path / "some", *picky)
    assert run.summary["answers"]["abstained"] == run.summary["abstained"] > 0
    assert cli.run(["train", *overrides(tiny_base, tmp_path / "all", *picky, "reward.most=1")]) == 3
    assert "stopped rather than learn from the rest" in capsys.readouterr().err


@pytest.mark.slow
def test_answers_are_taken_from_the_cache_by_another_policy_of_the_same_start(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    one = train(tiny_base, tmp_path / "one", *SHORT, *ROLL, "reward=length")
    two = train(tiny_base, tmp_path / "two", *SHORT, *ROLL, "reward=length", "optimizer.pairs_from=all")
    assert "answers" not in one.summary["reused"]
    assert "answers" in two.summary["reused"]
    assert two.read_samples("answers") == one.read_samples("answers")
    assert two.summary["answers"]["rows"] > one.summary["answers"]["rows"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "refreshed"),
    [("ppo", True), ("rloo", False), ("dpo optimizer.pairs=rollouts", True), ("rejection_sampling", False)],
)
def test_a_run_of_two_rounds_begins_as_a_run_of_one(optimizer, refreshed, tiny_base, tmp_path):
    """Its first round is that run, bit for bit; the second starts from it, and only the reward model that is refreshed changes."""
    short = SHORT if optimizer.startswith(("dpo", "rej")) else (
        "evaluation.prompts=4", "rollout.max_new_tokens=6", "optimizer.updates=1", "optimizer.prompts_per_update=6",
        "optimizer.minibatch_size=3", "optimizer.epochs=1",
    )  # fmt: skip
    given = (*short, *f"optimizer={optimizer}".split(), "reward=learned")
    refresh = ("refresh.by=orders_gold", "refresh.pairs=10") if refreshed else ()
    once = train(tiny_base, tmp_path / "once", *given)
    run = train(tiny_base, tmp_path / "run", *given, *refresh, "rounds=2")

    def weights(folder: RunFolder, name: str) -> bytes:
        return (folder.adapter(name) / "adapter_model.safetensors").read_bytes()

    assert weights(run, "policy_1") == weights(once, "policy")
    assert weights(run, "policy_2") == weights(run, "policy") != weights(run, "policy_1")
    assert [row["round"] for row in run.summary["rounds"]] == [1, 2]
    assert run.summary["rounds"][1]["policy"] == run.summary["policy"]
    assert run.summary["rounds"][0]["policy"] == once.summary["policy"]
    if refreshed:
        assert weights(run, "reward_1") == weights(once, "reward") != weights(run, "reward_2")
        assert weights(run, "reward_2") == weights(run, "reward")
        new = run.summary["rounds"][1]["reward_model"]["new"]
        assert new["asked"] + new["same_words"] == 10
        assert new["labels"] + new["ties"] == new["asked"]
        assert new.get("gold_agreement", 1.0) == 1.0
        assert run.summary["seconds"]["comparisons_2"] > 0
        assert "adapters/policy_1`, `adapters/policy_2`, `adapters/reward_1`" in (run.path / "README.md").read_text()
    else:
        assert not run.adapter("reward_1").exists()
        assert weights(run, "reward") == weights(once, "reward")
    if optimizer.startswith("dpo"):  # in the second round gains are told from SFT still, not from where it starts
        first, second = run.metrics("policy")  # of one step each
        assert first["rewards/chosen"] == 0.0 != second["rewards/chosen"]
        assert (first["step"], second["step"]) == (1, 2)
    assert cli.run(["report", str(run.path)]) == 0


@pytest.mark.slow
def test_a_judge_refreshes_the_reward_model(tiny_base, tmp_path):
    (tmp_path / "longer.py").write_text(
        "from rlhf_lora.records import Verdict\nfrom rlhf_lora.registry import judge\n@judge('longer')\nclass Longer:\n"
        "    def compare(self, prompt, a, b):\n"
        "        return Verdict('A' if len(a) >= len(b) else 'B', 0.8 if len(a) >= len(b) else 0.2)\n"
    )
    given = (*SHORT, *ROLL, "reward=learned", "rounds=2", "judge=longer", "refresh.by=judge", "refresh.pairs=20",
             f"plugins=[{tmp_path / 'longer.py'}]")  # fmt: skip
    run = train(tiny_base, tmp_path / "run", *given)
    new = run.summary["rounds"][1]["reward_model"]["new"]
    assert new["asked"] + new["same_words"] == 20
    assert new["flips"] * new["asked"] == pytest.approx(new["ties"])  # of the same length: the order decides
    folder = run.path / "comparisons_2"
    rows = RowFile(folder / "labels.jsonl").rows()[1:]
    labelled = [row for row in rows if row["label"] != "tie"]
    assert all(len(max(row["answers"], key=len)) == len(row["answers"]["AB".index(row["label"])]) for row in labelled)
    assert all(max(row["p"], 1 - row["p"]) == pytest.approx(0.8) for row in labelled)
    data = registry.build("dataset", {"name": "labels", "path": str(folder / "labels.jsonl")}).load()
    read = [row for row in labelled if all(row["answers"])]  # a dataset takes no empty answer
    assert {(pair.chosen, pair.rejected) for pair in data.pairs} == {
        (row["answers"][row["label"] == "B"], row["answers"][row["label"] == "A"]) for row in read
    }


# --- what is shown ----------------------------------------------------------------------------------------------------

SUMMARY = {
    "status": "finished", "reward": "learned",
    "answers": {"prompts": 5, "answers": 20, "rows": 4, "left_out": {"equal scores": 1}, "gold_agreement": 0.75},
    "rounds": [
        {"round": 1, "policy": {"win_rate_vs_reference": 0.6, "kl_to_reference": 1.5},
         "gold": {"win_rate_vs_reference": 0.55, "win_rate_ci95": [0.5, 0.6]}},
        {"round": 2, "policy": {"win_rate_vs_reference": 0.7, "kl_to_reference": 2.5}, "gold": {"win_rate_vs_reference": 0.65},
         "reward_model": {"accuracy": 0.8, "new": {
             "by": "judge", "asked": 48, "labels": 40, "ties": 7, "unread": 1, "same_words": 2, "flips": 0.25,
             "gold_agreement": 0.9, "accuracy_before": 0.625}}},
    ],
}  # fmt: skip


def test_the_rounds_are_told_in_lines_and_in_the_report():
    lines = summary_text.lines(SUMMARY)
    assert "round 1: gold wins 0.550 [0.500, 0.600], wins by its reward 0.600, KL 1.50 nats" in lines
    told = "refreshed with 40 labels of 48 comparisons by judge: in the true order 0.900, as the model before orders them 0.625"
    assert any(line.endswith(f"reward model 0.800; {told}") for line in lines)
    assert any("20 to 5 prompts were scored, 4 rows made of them (1 × equal scores)" in line for line in lines)
    shown = report_rounds.section(SUMMARY, "SFT")
    assert shown.count("<tr>") == 5  # heads, two rounds; heads, one refresh
    assert all(text in shown for text in ("65.0 %", "KL is measured from SFT", "New comparisons by judge"))
    assert (
        '<th scope="row">2</th>'
        + "".join(f'<td class="n">{cell}</td>' for cell in ("48", "40", "7", "1", "2", "25.0 %", "90.0 %", "62.5 %"))
        in shown
    )
    assert "left out: equal scores" in report_rounds.answers(SUMMARY)
    assert report_rounds.section({}, "SFT") == report_rounds.answers({}) == ""


def test_the_report_says_nothing_of_a_refresh_where_there_was_none():
    one, two = ({"round": n, "gold": {"win_rate_vs_reference": 0.5}} for n in (1, 2))
    frozen = report_rounds.section({"rounds": [one | {"reward_model": {"accuracy": 0.7}}, two]}, "SFT")
    assert "of the first round serves all" in frozen
    assert "refresh" not in frozen
    assert "New comparisons" not in frozen
    assert "learned from" not in frozen  # no column without a figure
    assert "same held-out pairs in every round" in report_rounds.section(SUMMARY, "SFT")
    assert "reward model" not in report_rounds.section({"rounds": [one, two]}, "SFT")


def test_in_the_report_a_refreshed_reward_model_has_its_round_and_the_figures_of_the_newest(tmp_path):
    folder = RunFolder.create(tmp_path / "folder", {}, {})
    for stage in ("reward_model", "reward_model_2"):
        folder.log(stage, 1, {"loss": 0.5})
        folder.log(stage, 2, {"loss": 0.4})
    sure = [{"from": 0.5, "to": 0.55, "pairs": 5, "sure": 0.5, "right": 0.4}]
    folder.write_summary({"reward_model": {"calibration": sure, "calibration_error": 0.1}})
    shown = page.render(folder)
    first, second = shown.index("<h3>Reward model</h3>"), shown.index("<h3>Reward model, round 2</h3>")
    assert first < second < shown.index("How sure the reward model is")


def test_the_summarys_reward_model_is_the_one_that_the_last_round_was_trained_against(plan, tmp_path):
    made = plan("rounds=2", "refresh.by=orders_gold")
    records = {"reward_model": {"figures": {"accuracy": 0.2}}, "reward_model_2": {"figures": {"accuracy": 0.4}}}
    folder = RunFolder.create(tmp_path / "folder", {}, {})
    assert taking_up.summarise(made, folder, "finished", records, None, 1.0, {})["reward_model"] == {"accuracy": 0.4}


def test_a_run_that_is_gone_on_with_under_another_budget_is_in_the_round_where_it_was(plan):
    given = (
        "judge=openai_api",
        "judge.model=m",
        "judge.base_url=http://127.0.0.1:1/v1",
        "rounds=2",
        "refresh.by=judge",
    )
    made = [plan(*given, *more) for more in ((), ("judge.concurrency=2", "judge.max_calls=9"), ("judge.model=n",))]
    same, as_well, other = (rounds.key(one, "evaluation", Turn(1, 2)) for one in made)
    assert same == as_well != other


def test_a_round_is_another_one_where_the_reward_that_labels_was_written_anew(plan, tmp_path):
    file = tmp_path / "people.py"
    found = []
    for value in ("1.0", "2.0"):
        file.write_text(
            f"from rlhf_lora import reward\n\n@reward('people')\ndef people(samples):\n    return [{value} for _ in samples]\n"
        )
        found.append(rounds.key(plan(f"plugins=[{file}]", "rounds=2", "refresh.by=people"), "reward_model", Turn(2, 2)))
    assert len(set(found)) == 2


def test_a_control_run_has_its_labels_in_every_round(plan, tmp_path):
    made = plan("rounds=2", "refresh.by=orders_gold", "reward_model.labels=flipped")
    parts = Assembly(made, RunFolder.create(tmp_path / "folder", {}, {}), turn=Turn(2, 2))
    old, new = list(made.splits.pairs), [Pair(Prompt("p"), "better", "worse")]
    turned = refresh.learned_from(parts, new)
    assert [(pair.chosen, pair.rejected) for pair in turned] == [(pair.rejected, pair.chosen) for pair in [*old, *new]]


def test_comparisons_are_made_once_and_those_of_other_inputs_are_not_gone_on_with(plan, tmp_path, monkeypatch):
    made = plan("rounds=2", "refresh.by=orders_gold")
    folder = RunFolder.create(tmp_path / "folder", {}, {})
    parts = Assembly(made, folder, turn=Turn(2, 2))
    found: list[list[str]] = []

    def label(stages: AdapterStages, place: Path) -> dict[str, Any]:
        found.append(sorted(file.name for file in place.iterdir()))
        (place / "answers.jsonl").write_text("")
        if len(found) == 1:
            raise KeyboardInterrupt
        return {"asked": len(found)}

    monkeypatch.setattr(refresh, "_label", label)
    stages = AdapterStages(parts, StageRecords(folder.path), None, lambda: None)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        refresh._compared(stages, "one")
    assert [refresh._compared(stages, key)["asked"] for key in ("one", "one", "two")] == [2, 2, 3]
    assert found == [["key"], ["answers.jsonl", "key"], ["key"]]
