"""`dataset=labels`: files, patterns, what is told of them, and which split a prompt of a run stays in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from label_examples import comparison

from rlhf_lora import cli
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.labels import files
from rlhf_lora.labels.conversion import row_of, rows_of
from rlhf_lora.labels.rows import LabelRow
from rlhf_lora.records import Data, Label, Pair, Prompt, Ranking, Rating
from rlhf_lora.registry import build
from rlhf_lora.splits import Shares, joined, split


def dataset(path: Any, **settings: Any) -> Any:
    given = [str(one) for one in path] if isinstance(path, list) else str(path)
    return build("dataset", {"name": "labels", "path": given, **settings})


def pairs(count: int, **more: Any) -> list[LabelRow]:
    return [comparison(prompt=f"please bring {i}", answers=("certainly tea", "no"), **more) for i in range(count)]


def test_every_kind_at_once(tmp_path):
    rows = [
        *pairs(4, rater="ann"), *pairs(4, rater="bob"),
        LabelRow(kind="ranking", prompt=Prompt("1"), answers=("a", "b", "c"), label=(1, 2, 2)),
        LabelRow(kind="choice", prompt=Prompt("2"), answers=("a", "b", "c"), label=1),
        LabelRow(kind="rating", prompt=Prompt("3"), answers=("a",), label=5, scale=(1, 7)),
        LabelRow(kind="verdict", prompt=Prompt("4"), answers=("a",), label="bad"),
    ]  # fmt: skip
    files.write(tmp_path / "l.jsonl", rows)
    data = dataset(tmp_path / "l.jsonl").load()
    assert len(data.pairs) == 4 + 2 + 2
    assert [ranking.best for ranking in data.rankings] == [0, 1]
    assert data.ratings == [Rating(Prompt("3"), "a", 5.0)]
    assert data.labels == [Label(Prompt("4"), "a", False)]
    assert data.rows == len(rows)
    assert data.format == (
        "labels/1: 8 comparisons, 1 rankings, 1 choices, 1 ratings, 1 verdicts by 2 raters; criterion overall"
    )
    assert [remark.partition(":")[0] for remark in data.remarks] == ["comparisons on overall"]


def test_pairs_and_rankings_of_another_reader_come_back_the_same(tmp_path):
    first = tmp_path / "ranked.jsonl"
    first.write_text("".join(
        json.dumps({"prompt": f"Q{i}", "completions": ["a", "b", f"c{i}"], "ranks": [2, 1 + i % 2, 3], "source": i}) + "\n"
        for i in range(30)
    ))  # fmt: skip
    read = build("dataset", {"name": "jsonl", "path": str(first)}).load()
    files.write(tmp_path / "l.jsonl", rows_of(read, rater="ann"))
    again = dataset(tmp_path / "l.jsonl").load()
    assert (again.pairs, again.rankings) == (read.pairs, read.rankings)
    assert split(again).pairs == split(read).pairs


def test_transcript_is_the_same_prompt_as_elsewhere(tmp_path):
    """With its turns, for the chat template, and with its first turn as the group, for the split."""
    text = "\n\nHuman: I lost my key.\n\nAssistant: Where?\n\nHuman: In the park.\n\nAssistant:"
    (tmp_path / "hh.jsonl").write_text(json.dumps({"chosen": text + " Look there.", "rejected": text + " Sing."}))
    (pair,) = build("dataset", {"name": "jsonl", "path": str(tmp_path / "hh.jsonl")}).load().pairs
    broken = comparison(prompt="\n\nHuman: Hi\n\nAssistant: Ho\n\nAssistant:")
    files.write(tmp_path / "l.jsonl", [comparison(prompt=text, answers=(" Look there.", " Sing.")), broken])
    data = dataset(tmp_path / "l.jsonl").load()
    assert data.pairs == [pair]
    assert [row.reason for row in data.unused] == ["no user turn right before the reply"]


def test_files_patterns_and_lists(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.write(tmp_path / name / "l.jsonl", [comparison(prompt=name), comparison("tie", prompt=name + name)])
    one, both = tmp_path / "a" / "l.jsonl", tmp_path / "*" / "l.jsonl"
    assert len(dataset(one).load().pairs) == 1
    assert [pair.prompt.text for pair in dataset(both).load().pairs] == ["a", "b"]
    data = dataset([one, tmp_path / "b" / "l.jsonl", one]).load()
    assert [pair.prompt.text for pair in data.pairs] == ["a", "b"]
    assert [row.where for row in data.unused] == [f"{tmp_path}/{name}/l.jsonl, line 3" for name in "ab"]
    assert dataset(both).fingerprint() == dataset([one, tmp_path / "b" / "l.jsonl"]).fingerprint()
    assert dataset(both).fingerprint() != dataset(one).fingerprint() != dataset(one, ties="half").fingerprint()
    held = dataset(one, test_path=str(tmp_path / "b" / "l.jsonl")).load()
    assert [pair.prompt.text for pair in held.test.pairs] == ["b"]
    with pytest.raises(ConfigError, match="to be learned from and judged on"):
        dataset(both, test_path=str(one)).load()
    with pytest.raises(DataError, match="no file fits"):
        dataset(tmp_path / "c*").load()
    with pytest.raises(DataError, match="no file"):
        dataset(tmp_path / "none.jsonl").load()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on_disagreement": "majorty"}, "did you mean 'majority'"),
        ({"ties": "keep"}, "there is no ties 'keep'"),
        ({"margins": "huge"}, "there is no margins 'huge'"),
        ({"min_raters": 0}, "min_raters is 0"),
        ({"min_agreement": 2}, "min_agreement is 2"),
        ({"path": ""}, "no labels file is given"),
        ({"path": 7}, "path is 7"),
        ({"test_path": [7]}, "test_path is"),
    ],
)
def test_settings_that_nothing_could_honour_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        build("dataset", {"name": "labels", "path": "l.jsonl"} | settings)


def test_file_without_a_usable_label_is_refused_with_the_reasons(tmp_path):
    files.write(tmp_path / "l.jsonl", [comparison("tie"), comparison(None, prompt="2", skipped=True)])
    with pytest.raises(
        DataError, match=r"none of the 2 labels can be used: skipped by its rater \(1 ×\); a tie"
    ) as caught:
        dataset(tmp_path / "l.jsonl").load()
    assert caught.value.where.endswith("l.jsonl; l.jsonl, line 3")


HEAD = '{"format": "labels/1"}\n'
LABEL = '{"kind": "comparison", "prompt": "tea?", "answers": ["yes", "no"], "label": "A"}'


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        ("", "there is no label in it", "dataset.path="),
        (HEAD, "there is no label in it", "dataset.path="),
        ("prompt,chosen,rejected", "malformed JSON", "l.jsonl, line 1"),
        (f"[{LABEL}]", "a row is not a JSON object but", "l.jsonl, line 1"),
        (HEAD + LABEL.replace("answers", "anwsers"), "did you mean 'answers'", "l.jsonl, line 2"),
        (HEAD + LABEL.replace('"A"', '"C"'), 'the label "C"; it is A, B or tie', "l.jsonl, line 2"),
        (LABEL, "does not name the format", "l.jsonl, line 1"),
    ],
)
def test_a_broken_file_says_what_and_where_and_what_to_do(tmp_path, content, what, where):
    (tmp_path / "l.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        dataset(tmp_path / "l.jsonl").load()
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.fix


# --- splits -----------------------------------------------------------------------------------------------------------


def run_data() -> Data:
    """Of a run whose prompts have groups that their texts do not tell."""
    prompts = [Prompt(f"please bring {i}", group=f"group {i // 3}") for i in range(600)]
    return Data(pairs=[Pair(prompt, "tea", "no") for prompt in prompts])


def test_prompt_of_a_run_stays_in_its_split(tmp_path):
    """What the labels file alone gives: the group went along, so the hash is the run's."""
    of_run = split(run_data())
    files.write(tmp_path / "l.jsonl", [row_of(pair, rater="ann") for pair in run_data().pairs])
    of_labels = split(dataset(tmp_path / "l.jsonl").load())
    for name in ("pairs", "tuning_pairs", "final_pairs"):
        assert getattr(of_labels, name) == getattr(of_run, name)


@pytest.mark.parametrize("group_known", [True, False])
def test_prompt_of_the_final_split_trains_no_reward_model(tmp_path, group_known):
    """Also where somebody wrote the labels by hand, from the texts: a file without groups beside the run's dataset."""
    of_run = split(run_data())
    held_out = [*of_run.final_prompts, *of_run.tuning_prompts]
    rows = [
        row_of(Pair(p if group_known else Prompt(p.text), "tea", "no"))
        for p in (*held_out, Prompt("new"), Prompt("newer"))
    ]
    files.write(tmp_path / "l.jsonl", rows)
    own = split(dataset(tmp_path / "l.jsonl").load(), Shares(0, 100, 0, 0, 0), uses=["reward_model"])
    assert len(own.pairs) == len(rows)
    together = joined(of_run, {"policy": of_run, "reward_model": own})
    assert {pair.prompt.text for pair in together.pairs} == {"new", "newer"}
    assert len(together.unused) >= len(held_out)


def test_ties_are_learned_from_and_not_judged_on(tmp_path):
    rows = [*pairs(60), *(comparison("tie", prompt=f"tie {i}") for i in range(60))]
    files.write(tmp_path / "l.jsonl", rows)
    splits = split(dataset(tmp_path / "l.jsonl", ties="half").load(), Shares(20, 40, 0, 20, 20))
    assert {pair.label for pair in splits.pairs} == {0.5, 1.0}
    assert {pair.label for pair in (*splits.tuning_pairs, *splits.final_pairs)} == {1.0}
    assert all("tie" not in shown.prompt.text for shown in splits.demonstrations)


def test_ties_are_refused_by_a_loss_that_would_take_them_for_wins(tmp_path, capsys, tiny_base):
    files.write(tmp_path / "l.jsonl", [*pairs(60), *(comparison("tie", prompt=f"tie {i}") for i in range(60))])
    given = ["plan", f"model.path={tiny_base}", "dataset=labels", f"dataset.path={tmp_path / 'l.jsonl'}", "optimizer=dpo",
             "hardware.device=cpu", "rollout.max_new_tokens=8", "dataset.ties=half"]  # fmt: skip
    assert cli.run(given) == 0
    capsys.readouterr()
    assert cli.run([*given, "optimizer.loss=hinge"]) == 2
    assert "pairs are ties, and the loss hinge would take one" in capsys.readouterr().err


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_plan_shows_labels_and_agreement(tmp_path, capsys, tiny_base):
    rows = [*pairs(40, rater="ann", strength="better"), *pairs(39, rater="bob", strength="slightly")]
    files.write(tmp_path / "l.jsonl", [*rows, *pairs(40, rater="bob", label="B")[-1:]])
    given = [
        "plan", f"model.path={tiny_base}", "dataset=labels", f"dataset.path={tmp_path / 'l.jsonl'}", "hardware.device=cpu",
        "rollout.max_new_tokens=8",
    ]  # fmt: skip
    assert cli.run(given) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "labels/1: 80 comparisons by 2 raters; criterion overall → 39 pairs" in said
    assert "80 = 78 used + 2 not used" in said
    assert "raters disagree, as many for each side (l.jsonl, line 41; l.jsonl, line 81)" in said
    assert "comparisons on overall: 2 raters, 40 things labelled by two or more; the same 0.97 [0.93, 1.00]" in said
    assert cli.run([*given, "--json"]) == 0
    (view,) = json.loads(capsys.readouterr().out)["data"]
    assert view["remarks"][0].startswith("comparisons on overall")


def test_broken_file_is_one_message_and_exit_code_2(tmp_path: Path, capsys):
    (tmp_path / "l.jsonl").write_text('{"format": "labels/3"}\n')
    given = ["plan", "dataset=labels", f"dataset.path={tmp_path / 'l.jsonl'}", "dataset.mini_task=orders"]
    assert cli.run([*given, "rollout.max_new_tokens=8"]) == 2
    said = capsys.readouterr().err
    assert 'the format "labels/3" is none that this version reads; did you mean' in said
    assert "l.jsonl, line 1" in said


def test_rankings_alone_train_by_rank(tmp_path):
    rows = [
        LabelRow(kind="ranking", prompt=Prompt(str(i)), answers=("a", "b", "c"), label=(1, 2, 3)) for i in range(20)
    ]
    files.write(tmp_path / "l.jsonl", rows)
    data = dataset(tmp_path / "l.jsonl").load()
    assert isinstance(data.rankings[0], Ranking)
    assert len(split(data, Shares(0, 100, 0, 0, 0)).rankings) == 20


def test_labels_on_a_generated_task_know_its_base(tmp_path, capsys):
    """The embedded default with people's labels on its answers; other words it refuses."""
    files.write(tmp_path / "l.jsonl", pairs(40))
    few = ["dataset.demonstrations=99", "dataset.pairs=99", "dataset.prompts=99"]
    given = ["plan", *few, "reward_model.dataset=labels", f"reward_model.dataset.path={tmp_path / 'l.jsonl'}"]
    assert cli.run(given) == 2
    said = capsys.readouterr().err
    assert "the embedded base knows only the words of dataset=orders" in said
    assert "reward_model.dataset.mini_task=orders where the answers are of that task" in said
    assert cli.run([*given, "reward_model.dataset.mini_task=orders", "--json"]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert 30 <= stages["reward_model"]["rows"] <= 40  # but for what is kept for judging


def test_labels_of_a_generated_task_fit_the_embedded_base(tmp_path, monkeypatch, capsys):
    """It takes 64 tokens in all: replies are as long as the task's, not as those of real data."""
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    task = {"name": "orders", "items": 16, "demonstrations": 1, "pairs": 100, "prompts": 1, "seed": 0}
    files.write(tmp_path / "l.jsonl", rows_of(build("dataset", task).load(), rater="ann"))
    given = ["plan", "--json", "dataset=labels", f"dataset.path={tmp_path / 'l.jsonl'}"]
    assert cli.run([*given, "dataset.mini_task=orders"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["rollout"]["max_new_tokens"], config["max_prompt_tokens"]) == (20, 44)
    assert cli.run(given) == 2
    assert "dataset.mini_task=orders where" in capsys.readouterr().err
