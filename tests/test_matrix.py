"""The matrix: every cell composes or is refused in a sentence, one run per row and per column, a page of the measurement."""

from __future__ import annotations

from pathlib import Path

import gold_server
import matrix
import measured
import pytest
from tiny import overrides

from rlhf_lora import cli
from rlhf_lora.mini.judge_base import JudgeBaseSettings, build_judge_base
from rlhf_lora.run_folder import RunFolder

REFUSED = {
    (row, "dpo, dataset") for row in ("ai_feedback/local", "ai_feedback/openai_api", "gold rule", "user's file", "mix")
}
"""A reward that is not learned from the data's labels has no part in what they teach."""
ROOT = Path(__file__).resolve().parent.parent
RUNS = [
    ("learned", "ppo"), ("ai_feedback/local", "rloo"), ("ai_feedback/openai_api", "dpo, rollouts"), ("gold rule", "grpo"),
    ("user's file", "kto"), ("mix", "dpo, relabel"), ("labels", "dpo, dataset"), ("gold rule", "rejection_sampling"),
]  # fmt: skip


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory):
    judge = tmp_path_factory.mktemp("judge")
    build_judge_base(judge, JudgeBaseSettings(steps=1, batch=4))  # it knows the words and no better
    with gold_server.serving() as url:
        sizes = {"pairs": 200, "demonstrations": 80, "prompts": 240}
        yield matrix.Room(1, tmp_path_factory.mktemp("matrix"), url, judge, sizes)


def test_sources_and_optimizers_are_those_that_the_kit_promises():
    assert list(matrix.ROWS) == [
        "learned", "ai_feedback/local", "ai_feedback/openai_api", "gold rule", "user's file", "mix", "labels",
    ]  # fmt: skip
    optimizers = {column.partition(",")[0] for column in matrix.COLUMNS}
    assert optimizers == {"ppo", "rloo", "grpo", "dpo", "kto", "rejection_sampling"}
    assert {cell[0] for cell in RUNS} == set(matrix.ROWS)
    assert {cell[1] for cell in RUNS} == set(matrix.COLUMNS)


def test_every_cell_composes_or_is_refused_in_a_sentence(room: matrix.Room):
    said = {cell: matrix.refusal(cell, room) for cell in matrix.CELLS}
    assert {cell for cell, sentence in said.items() if sentence} == REFUSED
    assert all("has no part in them" in str(said[cell]) for cell in REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("cell", RUNS, ids=" x ".join)
def test_one_run_for_each_source_and_each_optimizer(
    cell: matrix.Cell, room: matrix.Room, tiny_base: Path, tmp_path: Path
):
    given = overrides(tiny_base, tmp_path / "run", *matrix.overrides(cell, room))
    assert cli.run(["train", *given]) == 0
    summary = RunFolder.open(tmp_path / "run").summary
    assert summary["status"] == "finished"
    assert 0 <= summary["gold"]["win_rate_vs_reference"] <= 1
    if cell[0] != "ai_feedback/local":  # a judge that was hardly trained has no opinion on many
        assert summary.get("errors", 0) == 0


def test_the_server_judges_what_the_kit_asks_and_errs_as_an_annotator():
    from rlhf_lora.judging import texts
    from rlhf_lora.records import Prompt

    prompt = Prompt("please bring tea soup and bread . waiter:")
    good, bad = "certainly tea soup and bread", "ugh"

    def says(a: str, b: str, seed: int) -> str:
        turns, _ = texts.pair_turns("", prompt, a, b)
        return gold_server.verdict(list(texts.then(turns, texts.which(("A", "B")))), seed)

    assert [says(good, bad, seed) for seed in range(20)].count("A") >= 19
    assert [says(bad, good, seed) for seed in range(20)].count("B") >= 19
    assert 20 < [says(good, "certainly tea soup with bread", seed) for seed in range(100)].count("A") < 80


# --- the page ---------------------------------------------------------------------------------------------------------

rows = measured.read(matrix.RESULT)


def test_the_page_is_of_the_measurement():
    written = matrix.PAGE.read_text("utf-8")
    assert matrix.page(written, rows) == written, "run python benchmarks/matrix.py --page"
    assert "Not measured yet" not in written
    assert "not measured yet" not in (ROOT / "README.md").read_text("utf-8")


def test_every_sensible_cell_is_above_one_half_or_explained():
    for cell in matrix.CELLS:
        runs = matrix.of(rows, cell)
        assert runs, f"{cell} was not measured"
        if cell in REFUSED:
            assert all("refused" in run for run in runs)
        else:
            assert matrix.is_above_half(runs) or cell in matrix.EXPLAINED


def test_what_page_and_readme_say_in_words_is_so():
    run = [row for row in rows if "refused" not in row]
    assert f"all {len(run)}\n  cells that have a meaning beat SFT" in (ROOT / "README.md").read_text("utf-8")
    assert all(row["summary"]["gold"]["win_rate_ci95"][0] > 0.5 for row in run)
    online = {row["column"] in ("ppo", "rloo", "grpo"): [] for row in run}
    for row in run:
        online[row["column"] in ("ppo", "rloo", "grpo")].append(row["summary"]["policy"]["kl_to_reference"])
    assert 3 <= min(online[True]) < max(online[True]) <= 10
    assert 0.05 <= min(online[False]) < max(online[False]) <= 4
