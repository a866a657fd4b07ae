"""Rankings, choices, ratings and labels, from the data to the stage: which loss learns from what, and what a run says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import jsonl, overrides

from rlhf_lora import cli, controls, data_view, reward_labels
from rlhf_lora.config import compose, recompose
from rlhf_lora.derived_rows import with_pairs
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.mini import orders
from rlhf_lora.plan import Plan, make_plan
from rlhf_lora.records import Data, Demonstration, Label, Pair, Prompt, Ranking, Rating
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.splits import Shares, split

REPLIES = ("gladly tea soup and bread", "tea soup and bread", "tea", "ugh whatever soup")
PROMPTS = [orders.prompt_text(triple, 0) for triple in orders.triples(8)]
FULL = {"sft": 20, "reward_model": 60, "prompts": 0, "tuning": 10, "final": 10}


def ranks(count: int, best: int = 4) -> list[dict[str, Any]]:
    """Of two, three or four replies each, the worst first."""
    sizes = [2 + i % (best - 1) for i in range(count)]
    return [
        {"prompt": p, "completions": list(REPLIES[:k])[::-1], "ranks": list(range(k, 0, -1))}
        for p, k in zip(PROMPTS, sizes, strict=False)
    ]


def choices(count: int) -> list[dict[str, Any]]:
    return [{"prompt": p, "completions": list(REPLIES), "best": 0} for p in PROMPTS[:count]]


def ratings(count: int, each: int = 1) -> list[dict[str, Any]]:
    return [
        {"prompt": p, "completion": REPLIES[(i + n) % 4], "rating": 10 - 3 * ((i + n) % 4)}
        for i, p in enumerate(PROMPTS[:count]) for n in range(each)
    ]  # fmt: skip


def labels(count: int, each: int = 1) -> list[dict[str, Any]]:
    """A file for KTO; the first two replies are good ones."""
    return [
        {"prompt": p, "completion": REPLIES[(i + n) % 4], "label": (i + n) % 4 < 2}
        for i, p in enumerate(PROMPTS[:count]) for n in range(each)
    ]  # fmt: skip


@pytest.fixture
def plan(tiny_base, tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))

    def make(rows: list[dict[str, Any]], *more: str) -> Plan:
        file = jsonl(tmp_path / "rows.jsonl", rows)
        return make_plan(compose(*own(tiny_base, tmp_path / "run", file, *more)))

    return make


def own(base: Path, run: Path, file: Path, *more: str) -> list[str]:
    shares = "splits={" + ", ".join(f"{name}: {share}" for name, share in FULL.items()) + "}"
    given = ("dataset=jsonl", f"dataset.path={file}", "stages=[reward_model]", shares)
    return [*overrides(base, run, *given, "reward_model.batch_size=8", *more)]


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_ranking_gives_every_pair_that_is_no_tie_the_better_one_first():
    ranking = Ranking(Prompt("p"), ("a", "b", "c"), (2.0, 1.0, 2.0))
    assert [(pair.chosen, pair.rejected) for pair in ranking.pairs()] == [("b", "a"), ("b", "c")]
    assert ranking.best == 1
    assert replace(ranking, ranks=(1.0, 1.0, 2.0)).best is None
    assert Ranking.choice(Prompt("p"), ("a", "b", "c"), 1).pairs() == ranking.pairs()


@pytest.mark.parametrize(
    ("completions", "ranks"),
    [(("a",), (1.0,)), (("a", "b"), (1.0,)), (("a", "b"), (1.0, 1.0)), (("a", "b"), (1.0, float("nan")))],
)
def test_a_ranking_that_orders_nothing_cannot_be_made(completions, ranks):
    with pytest.raises(ValueError, match="Ranking"):
        Ranking(Prompt("p"), completions, ranks)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_rating_is_a_finite_number(value):
    with pytest.raises(ValueError, match="finite"):
        Rating(Prompt("p"), "a", value)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_dataset_that_gives_rankings_or_ratings_alone_has_their_pairs():
    ranking = Ranking(Prompt("p"), ("a", "b", "c"), (3.0, 2.0, 1.0))
    assert with_pairs(Data(rankings=[ranking])).pairs == ranking.pairs()
    rated = [Rating(Prompt("p"), text, value) for text, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    made = with_pairs(Data(ratings=[*rated, Rating(Prompt("q"), "alone", 2.0)]))
    assert [r.completions for r in made.rankings] == [("a", "b", "c")]
    assert made.pairs == ranking.pairs()
    given = Data(pairs=[Pair(Prompt("p"), "b", "a")], ratings=rated)
    assert with_pairs(given).pairs == given.pairs  # what a dataset says itself stays


def test_a_prompts_rankings_ratings_and_pairs_land_in_one_split():
    prompts = [Prompt(f"prompt {i}") for i in range(200)]
    data = Data(
        rankings=[Ranking(p, ("a", "b", "c"), (1.0, 2.0, 3.0)) for p in prompts],
        ratings=[Rating(p, text, value) for p in prompts for text, value in (("a", 3.0), ("b", 2.0), ("c", 1.0))],
    )
    parts = split(data)
    keys = [
        {row.prompt.text for row in rows}
        for rows in ((*parts.rankings, *parts.ratings, *parts.pairs), (*parts.tuning_pairs, *parts.tuning_ratings),
                     (*parts.final_pairs, *parts.final_ratings), parts.demonstrations)
    ]  # fmt: skip
    assert all(keys)
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert (len(parts.pairs), len(parts.ratings)) == (3 * len(parts.rankings), 3 * len(parts.rankings))
    assert {d.completion for d in parts.demonstrations} == {"a"}, "the second worst is not imitated"
    assert parts.held_out() >= keys[1] | keys[2]
    without = parts.without({parts.rankings[0].prompt.split_key})
    assert len(without.ratings) == len(parts.ratings) - 3
    assert sum("among the ratings" in row.reason for row in without.unused) == 3


def test_ratings_of_a_test_file_are_judged_on_and_taken_from_training():
    prompts = [Prompt(f"prompt {i}") for i in range(100)]
    test = Data(ratings=[Rating(p, "a", 1.0) for p in prompts[:10]])
    parts = split(Data(ratings=[Rating(p, "a", 1.0) for p in prompts], test=test))
    assert parts.final_ratings == list(test.ratings)
    assert not {r.prompt.text for r in parts.ratings} & {p.text for p in prompts[:10]}


def test_a_prompts_labels_land_in_one_split_and_are_held_out_with_it():
    prompts = [Prompt(f"rule {n}. prompt {i}", group=f"prompt {i}") for i in range(200) for n in range(3)]
    data = Data(labels=[Label(p, "a", good) for p in prompts for good in (True, False)])
    parts = split(data, labels_read=True)
    keys = [{row.prompt.group for row in rows} for rows in (parts.labels, parts.tuning_labels, parts.final_labels)]
    assert all(keys)
    assert len(parts.labels) == 6 * len(keys[0])
    assert sum(map(len, keys)) == len(set.union(*keys))
    assert not {d.prompt.group for d in parts.demonstrations} & set.union(*keys)
    assert parts.held_out() >= keys[1] | keys[2]
    assert not split(data).labels, "nobody learns from them: the good ones are imitated"
    test = Data(labels=[Label(p, "a", True) for p in prompts[:10]])
    parts = split(replace(data, test=test), labels_read=True)
    assert parts.final_labels == list(test.labels)
    assert not {row.prompt.group for row in parts.labels} & {p.group for p in prompts[:10]}


ALL = Shares(sft=0, reward_model=100, prompts=0, tuning=0, final=0)


def test_the_fingerprint_knows_ranks_and_ratings():
    ranking, rating = Ranking(Prompt("p"), ("a", "b"), (1.0, 2.0)), Rating(Prompt("p"), "a", 1.0)
    one = split(Data(rankings=[ranking], ratings=[rating]), ALL)
    other = split(Data(rankings=[replace(ranking, ranks=(2.0, 1.0))], ratings=[replace(rating, value=2.0)]), ALL)
    assert one.fingerprint("rankings") != other.fingerprint("rankings")
    assert one.fingerprint("ratings") != other.fingerprint("ratings")


# --- which loss -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "loss", "reads"),
    [
        (ranks(60), "kwise", "rankings"),
        (ranks(60, best=2), "pairwise", "pairs"),
        (ratings(60), "regression", "ratings"),
        (ratings(60, each=3), "kwise", "rankings"),
        (ratings(60, each=2), "pairwise", "pairs"),
        (choices(60), "kwise", "rankings"),
        (labels(60), "labels", "labels"),
    ],
)
def test_auto_takes_what_the_data_says_most_with(plan, rows, loss, reads):
    made = plan(rows)
    stage = made.stage("reward_model")
    assert (made.config.reward_model.loss, stage.reads) == (loss, reads)
    assert stage.rows == len(made.rows(stage)) > 0


def test_rankings_give_their_pairs_to_the_pairwise_loss_and_ratings_to_any(plan):
    made = plan(ranks(60), "reward_model.loss=pairwise")
    stage = made.stage("reward_model")
    assert (stage.reads, stage.rows) == ("pairs", sum(len(r.pairs()) for r in made.splits.rankings))
    assert plan(ratings(60, each=3), "reward_model.loss=regression").stage("reward_model").reads == "ratings"


@pytest.mark.parametrize(
    ("rows", "loss", "wants"),
    [
        (ratings(60), "kwise", "needs rankings (several answers with scores or ranks) for reward_model.loss=kwise"),
        (ratings(60), "best_of_n", "needs choices (several answers, one of them the best)"),
        (ranks(60), "regression", "needs ratings (answers with a number each)"),
        (ratings(60), "pairwise", "needs pairs (chosen and rejected)"),
        (ratings(60), "labels", "needs labels (answers called good or bad) for reward_model.loss=labels"),
    ],
)
def test_a_loss_without_its_labels_is_refused_with_what_the_data_holds(plan, rows, loss, wants):
    with pytest.raises(DataError) as caught:
        plan(rows, f"reward_model.loss={loss}")
    assert wants in caught.value.what
    assert ("it holds 60 ratings" if "rating" in rows[0] else "60 rankings") in caught.value.what


def test_best_of_n_without_a_single_best_is_refused_and_tied_ones_are_told(plan):
    tied = [{**row, "ranks": [2, *[1] * (len(row["ranks"]) - 1)]} for row in ranks(60) if len(row["ranks"]) > 2]
    with pytest.raises(DataError, match="needs choices"):
        plan(tied, "reward_model.loss=best_of_n")
    two = [row for row in ranks(60) if len(row["ranks"]) == 2]
    made = plan([*tied, *two], "reward_model.loss=best_of_n")
    left_out = len(made.splits.rankings) - made.stage("reward_model").rows
    assert 0 < left_out < len(tied)
    assert any(note.startswith(f"{left_out} rankings have several best answers") for note in made.notes)


def test_a_loss_that_is_not_there_is_refused(plan):
    with pytest.raises(ConfigError, match="did you mean 'kwise'"):
        plan(ranks(60), "reward_model.loss=kwize")


@pytest.mark.slow
def test_another_loss_is_another_stage_in_the_cache(plan):
    keys = {plan(ranks(60), f"reward_model.loss={loss}").stage("reward_model").key for loss in ("kwise", "pairwise")}
    assert len(keys) == 2
    one, two = plan(ranks(60)), plan([{**row, "ranks": row["ranks"][::-1]} for row in ranks(60)])
    assert one.stage("reward_model").key != two.stage("reward_model").key


@pytest.mark.slow
def test_the_first_rows_alone_are_learned_from_and_all_that_is_held_out_judges(plan):
    every, few = (
        plan(ranks(60), "reward_model.loss=pairwise"),
        plan(ranks(60), "reward_model.loss=pairwise", "reward_model.rows=7"),
    )
    stage = few.stage("reward_model")
    assert few.rows(stage) == every.splits.pairs[:7]
    assert stage.rows == 7
    assert few.splits == every.splits  # held-out pairs, too
    assert stage.key != every.stage("reward_model").key
    turned = plan(ranks(60), "reward_model.loss=pairwise", "reward_model.rows=7", "reward_model.labels=flipped")
    assert [pair.chosen for pair in turned.rows(turned.stage("reward_model"))] == [p.rejected for p in few.rows(stage)]
    assert recompose(few.config, []).reward_model.rows is None  # other data may have fewer


@pytest.mark.slow
def test_two_halves_share_no_prompt_and_are_all_there_is(plan):
    every = plan(ranks(60), "reward_model.loss=pairwise")
    halves = [
        plan(ranks(60), "reward_model.loss=pairwise", f"reward_model.half={half}") for half in ("first", "second")
    ]
    rows = [made.rows(made.stage("reward_model")) for made in halves]
    prompts = [{row.prompt.text for row in half} for half in rows]
    assert not prompts[0] & prompts[1]
    assert {*map(repr, rows[0]), *map(repr, rows[1])} == set(map(repr, every.splits.pairs))
    assert all(0.2 < len(half) / len(every.splits.pairs) < 0.8 for half in rows)
    assert [made.stage("reward_model").rows for made in halves] == [len(half) for half in rows]
    assert len({made.stage("reward_model").key for made in (every, *halves)}) == 3
    assert halves[0].splits == every.splits  # judged on the same
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        plan(ranks(60), "reward_model.half=frist")


@pytest.mark.parametrize(("rows", "said"), [(0, "reward_model.rows is 0"), (10_000, "learn from 10,000 rows")])
def test_more_rows_than_there_are_or_none_are_refused(plan, rows, said):
    with pytest.raises(ConfigError, match=said) as caught:
        plan(ranks(60), f"reward_model.rows={rows}")
    assert caught.value.where == "reward_model.rows"


def test_pairs_beside_rankings_that_are_in_none_are_told():
    ranking = Ranking(Prompt("p"), ("a", "b", "c"), (1.0, 2.0, 3.0))
    parts = replace(split(Data()), rankings=[ranking], pairs=[*ranking.pairs(), Pair(Prompt("q"), "x", "y")])
    (note,) = reward_labels.notes("kwise", parts)
    assert note.startswith("1 pairs stand in no ranking")
    assert reward_labels.notes("pairwise", parts) == []
    tied = replace(ranking, ranks=(1.0, 1.0, 2.0))
    (note,) = reward_labels.notes("best_of_n", replace(parts, rankings=[ranking, tied], pairs=[]))
    assert note.startswith("1 rankings have several best answers")


def test_evaluating_with_other_data_chooses_the_loss_anew(plan):
    saved = plan(ranks(60)).config
    assert saved.reward_model.loss == "kwise"
    assert recompose(saved, []).reward_model.loss == "auto"


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_ranking_takes_no_more_answers_into_memory_than_pairs_do(plan):
    """hardware.micro_batch=4: four pairs are eight answers, so two rankings of four at a time."""
    by_ranking = plan(ranks(60), "hardware.micro_batch=4")
    by_pairs = plan(ranks(60), "hardware.micro_batch=4", "reward_model.loss=pairwise")
    assert by_ranking.settings("reward_model").micro_batch == 2
    assert by_pairs.settings("reward_model").micro_batch == 4
    memory = [made.stage("reward_model").memory for made in (by_ranking, by_pairs)]
    assert memory[0] == memory[1]
    one = plan(ranks(60), "hardware.micro_batch=1")  # four answers cannot be taken apart
    assert one.settings("reward_model").micro_batch == 1
    assert one.stage("reward_model").memory.training == pytest.approx(memory[0].training / 2, rel=0.02)
    assert plan(ratings(60), "hardware.micro_batch=4").stage("reward_model").memory.training == pytest.approx(
        memory[0].training / 2, rel=0.02
    )


# --- controls ---------------------------------------------------------------------------------------------------------

MANY = [Ranking(Prompt(f"p{i}"), ("good", "fair", "bad"), (1.0, 2.0, 3.0)) for i in range(600)]
RATED = [Rating(Prompt(f"p{i}"), f"a{i}", float(i % 5)) for i in range(200)]


def test_flipped_rankings_are_read_from_their_end_and_a_choice_has_one_best_still():
    turned = controls.relabelled(MANY, "flipped", 0)
    assert {r.ranks for r in turned} == {(-1.0, -2.0, -3.0)}
    assert controls.relabelled(turned, "flipped", 0) == MANY
    picked = [Ranking.choice(Prompt(f"p{i}"), ("a", "b", "c", "d"), 1) for i in range(300)]
    best = [r.best for r in controls.relabelled(picked, "flipped", 0)]
    assert set(best) == {0, 2, 3}, "one that was not picked, and not always the same"
    assert all(best.count(i) > 70 for i in (0, 2, 3))
    assert controls.relabelled(MANY, "as_given", 0) is MANY


def test_shuffled_rankings_are_dealt_by_a_hash_that_does_not_know_the_order():
    shuffled = controls.relabelled(MANY, "shuffled", 0)
    assert all(sorted(r.ranks) == [1.0, 2.0, 3.0] for r in shuffled)
    for answer in range(3):  # 600 coins of three sides: 200 each, four deviations are 46
        assert all(abs(sum(r.ranks[answer] == rank for r in shuffled) - 200) < 47 for rank in (1.0, 2.0, 3.0))
    other = [replace(r, ranks=(3.0, 1.0, 2.0)) for r in MANY]
    assert controls.relabelled(other, "shuffled", 0) == shuffled
    assert controls.relabelled(MANY, "shuffled", 1) != shuffled


def test_flipped_ratings_are_mirrored_and_shuffled_ones_change_hands():
    assert [r.value for r in controls.relabelled(RATED, "flipped", 0)] == [4 - r.value for r in RATED]
    shuffled = controls.relabelled(RATED, "shuffled", 0)
    assert sorted(r.value for r in shuffled) == sorted(r.value for r in RATED)
    assert 20 < sum(a.value == b.value for a, b in zip(shuffled, RATED, strict=True)) < 60  # one in five by chance: 40
    assert [(r.prompt, r.completion) for r in shuffled] == [(r.prompt, r.completion) for r in RATED]
    assert controls.relabelled(RATED, "shuffled", 1) != shuffled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "loss"),
    [(ranks(60), "kwise"), (choices(60), "best_of_n"), (ratings(60), "regression"), (labels(60), "labels")],
)
@pytest.mark.parametrize("labels", ["flipped", "shuffled"])
def test_a_plan_learns_from_labels_as_its_control_says(plan, rows, loss, labels):
    given, told = (
        plan(rows, f"reward_model.loss={loss}"),
        plan(rows, f"reward_model.loss={loss}", f"reward_model.labels={labels}"),
    )
    stage = told.stage("reward_model")
    assert told.rows(stage) == controls.relabelled(given.rows(given.stage("reward_model")), labels, 0)
    assert told.rows(stage) != given.rows(stage)
    assert told.splits.final_pairs == given.splits.final_pairs, "what is judged on stays as given"
    if loss == "best_of_n":
        assert all(choice.best is not None for choice in told.rows(stage))


def test_flipped_labels_are_turned_and_shuffled_ones_change_hands():
    given = [Label(Prompt(f"p{i}"), f"a{i}", i % 4 > 0) for i in range(200)]
    assert [row.good for row in controls.relabelled(given, "flipped", 0)] == [not row.good for row in given]
    shuffled = controls.relabelled(given, "shuffled", 0)
    assert sum(row.good for row in shuffled) == 150, "as many are good"
    # Both the same by chance: ¾·¾ + ¼·¼ = 0.625 of 200 = 125, three deviations are 21.
    assert 104 < sum(a.good == b.good for a, b in zip(shuffled, given, strict=True)) < 146
    assert [(row.prompt, row.completion) for row in shuffled] == [(row.prompt, row.completion) for row in given]


# --- what people see --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_plan_shows_rankings_and_ratings_and_where_they_go(plan):
    made = plan(ranks(60))
    (view,) = data_view.view(made)
    assert view.gives["rankings"] == 60
    assert view.goes_to["rankings"] == made.stage("reward_model").rows
    assert "pairs" not in view.goes_to, "they are in the rankings"
    assert [example.kind for example in view.examples] == ["pair", "demonstration", "ranking"]
    assert [*view.examples[2].replies] == ["rank 1", "rank 2"]
    (view,) = data_view.view(plan(ratings(60)))
    assert (view.gives, [*view.examples[0].replies]) == ({"ratings": 60}, ["rated 10"])
    assert {lengths.what for lengths in view.lengths} == {"prompts", "replies", "rows"}
    ties = Ranking(Prompt("p"), ("a", "b", "c"), (2.0, 1.0, 2.0))
    from rlhf_lora.data_lengths import replies_of

    assert replies_of(ties) == {"rank 1": "b", "rank 2a": "a", "rank 2b": "c"}


# --- end to end -------------------------------------------------------------------------------------------------------


def train(base: Path, run: Path, rows: list[dict[str, Any]], *more: str) -> RunFolder:
    file = jsonl(run.with_suffix(".jsonl"), rows)
    assert cli.run(["train", *own(base, run, file, "reward_model.epochs=4", "reward_model.adamw.lr=5e-3", *more)]) == 0
    return RunFolder(run)


@pytest.mark.slow
def test_a_run_on_rankings_goes_from_the_file_to_the_report(tiny_base, tmp_path):
    folder = train(tiny_base, tmp_path / "run", ranks(60), "reward_model.epochs=1")
    figures = folder.summary["reward_model"]
    assert folder.config["reward_model"]["loss"] == "kwise"
    assert 0 <= figures["calibration_error"] <= 1
    assert sum(row["pairs"] for row in figures["calibration"]) == figures["pairs"]
    report = (folder.path / "report.html").read_text()
    assert "How sure the reward model is of held-out pairs" in report
    assert json.loads((folder.adapter("reward") / "reward.json").read_text())["gain"] != 1.0, "normalised, as ever"


@pytest.mark.slow
def test_a_reward_model_learns_an_order_from_rankings(tiny_base, tmp_path):
    folder = train(tiny_base, tmp_path / "run", ranks(120), "stages=[sft,reward_model]", "sft.epochs=1")
    assert folder.summary["reward_model"]["accuracy"] > 0.8


@pytest.mark.slow
def test_a_reward_model_learns_which_was_picked(tiny_base, tmp_path):
    folder = train(tiny_base, tmp_path / "run", choices(120), "reward_model.loss=best_of_n")
    assert folder.summary["reward_model"]["accuracy"] > 0.8
    assert folder.config["reward_model"]["loss"] == "best_of_n"


@pytest.mark.slow
def test_a_reward_model_learns_ratings_on_their_own_scale(tiny_base, tmp_path, capsys):
    folder = train(tiny_base, tmp_path / "run", ratings(120, each=2), "reward_model.loss=regression")
    figures = folder.summary["reward_model"]
    assert figures["rating_mse"] < 0.5 * figures["rating_mse_of_mean"]
    assert figures["rating_spearman"] > 0.7
    assert figures["accuracy"] > 0.8, "of the pairs of one prompt"
    info = json.loads((folder.adapter("reward") / "reward.json").read_text())
    assert (info["gain"], info["bias"]) == (info["rating_deviation"], info["rating_mean"])
    assert "held-out ratings, the mean alone" in "".join(capsys.readouterr())
    assert "Squared error of ratings" in (folder.path / "report.html").read_text()


@pytest.mark.slow
def test_a_reward_model_learns_to_tell_good_from_bad(tiny_base, tmp_path, capsys):
    folder = train(tiny_base, tmp_path / "run", labels(120, each=2))
    figures = folder.summary["reward_model"]
    assert folder.config["reward_model"]["loss"] == "labels", "there is nothing else to learn from"
    assert figures["label_auc"] > 0.9
    assert figures["label_accuracy"] > 0.8
    assert figures["label_brier"] < 0.6 * figures["label_brier_of_share"]
    assert "accuracy" not in figures, "no two answers are compared"
    info = json.loads((folder.adapter("reward") / "reward.json").read_text())
    assert (info["gain"], info["logit_of"]) == (1.0, "good")
    assert "AUC" in "".join(capsys.readouterr())
    assert "Good told from bad (AUC)" in (folder.path / "report.html").read_text()
    turned = train(tiny_base, tmp_path / "turned", labels(120, each=2), "reward_model.labels=flipped")
    assert turned.summary["reward_model"]["label_auc"] < 0.1


@pytest.mark.slow
def test_flipped_rankings_give_a_model_that_is_wrong(tiny_base, tmp_path):
    folder = train(tiny_base, tmp_path / "run", ranks(120), "reward_model.labels=flipped")
    assert folder.summary["reward_model"]["accuracy"] < 0.2


def test_an_order_by_ratings_alone_has_no_demonstrations():
    assert split(Data(ratings=RATED)).demonstrations == []
    assert split(Data(ratings=RATED, demonstrations=[Demonstration(Prompt("x"), "y")])).ratings
