"""benchmarks/real_rewards.py: a base that has read nothing it is judged on, arms that are planned, tables, one arm in small."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import measured
import pytest
import real_base
import real_rewards
from tiny import few

from rlhf_lora.config import compose
from rlhf_lora.plan import make_plan

WORDS = "tea soup bread rice fish milk cake salt lamp road river stone cloud paper wheel garden window letter".split()
SMALL = {"params": 300_000, "vocabulary": 320, "layers": 2, "context": 128, "batch": 2, "steps": 2, "seed": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file in its own shape. helpful-ai-pairs and alpaca_eval_k share their prompts, as the real ones do."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)

    def said(n: int = 8) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randrange(2, n)))

    def hh(i: int) -> dict[str, Any]:
        start = f"\n\nHuman: question {i} {said()}\n\nAssistant:"
        return {"chosen": f"{start} {said()} yes {i}", "rejected": f"{start} {said()} no {i}"}

    def shared(i: int) -> str:
        return f"prompt {i} of both files"

    def helpful(i: int) -> dict[str, Any]:
        return {"prompt": shared(i), "chosen": f"{said()} good {i}", "rejected": f"{said()} bad {i}"}

    def auto_j(i: int) -> dict[str, Any]:
        replies = {"response 1": f"{said()} first {i}", "response 2": f"{said()} second {i}"}
        return {"prompt": f"topic {i} {said()}", "label": i % 3, **replies}

    def ranked(i: int) -> dict[str, Any]:
        return {
            "prompt": shared(i),
            "completions": [f"{said()} {i} {k}" for k in range(4)],
            "scores": [0.4, 0.1, 0.3, 0.2],
        }

    def feedback(i: int) -> dict[str, Any]:
        replies = {f"prediction {k}": f"{said()} answer {i} {k}" for k in range(1, 5)}
        return {"question": f"which {i} {said()}", **replies, "preference": [1, 1, 1, 1, 1, 0]}

    lines = {
        "hh-harmless/train.jsonl.gz": [hh(i) for i in range(60)],
        "hh-harmless/test.jsonl.gz": [hh(i) for i in range(60, 80)],
        "helpful-ai-pairs/train.jsonl.gz": [helpful(i) for i in range(60)],
        "helpful-ai-pairs/test.jsonl.gz": [helpful(i) for i in range(60, 80)],
        "human-pairs/autoj_pairwise.jsonl.gz": [auto_j(i) for i in range(80)],
        "ranked/alpaca_eval_k.jsonl.gz": [ranked(i) for i in range(80)],
    }
    files = {name: "".join(json.dumps(row) + "\n" for row in rows) for name, rows in lines.items()}
    files["ranked/qa_feedback_human.json.gz"] = json.dumps([feedback(i) for i in range(80)])
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "small"
    real_base.ensure(data, folder, SMALL)
    return folder


def places(arm: str, data: Path, base: Path) -> list[str]:
    where = real_base.settings_of(data, real_rewards.ARMS[arm].files)
    return [f"model.path={base}", *(f"dataset.{name}={file}" for name, file in where.items())]


def twelve_rows(overrides: list[str]) -> list[str]:
    return [re.sub(r"reward_model.rows=\d+", "reward_model.rows=12", override) for override in overrides]


def test_the_base_has_read_no_prompt_that_any_file_keeps_for_judging(data):
    """Each file's own test prompts would not be enough: what one is judged on, the other learns from."""
    splits = real_base.splits_of(data)
    own = [one.held_out() for one in splits]
    trained = [{pair.prompt.split_key for pair in one.pairs} for one in splits]
    held = real_base.held_out(splits)
    assert not any(a & b for a, b in zip(own, trained, strict=True))
    assert own[1] & trained[3], "a prompt is judged on in helpful-ai-pairs and learned from in alpaca_eval_k"
    assert own[3] & trained[1]
    read = real_base.texts(splits)
    assert not [text for text in read if any(f"{key}\n" in text for key in held)]
    assert len(read) == len(set(read)) > 200
    for good, bad in (("good 3", "bad 3"), ("yes 7", "no 7")):
        assert any(text.endswith(good) for text in read) == any(text.endswith(bad) for text in read)


def test_a_base_is_taken_up_and_one_of_other_texts_is_refused(data, base, tmp_path):
    facts = json.loads((base / real_base.FACTS).read_text("utf-8"))
    assert real_base.ensure(data, base, SMALL) == facts
    with pytest.raises(RuntimeError, match="no base of these texts"):
        real_base.ensure(data, base, SMALL | {"steps": 3})
    (tmp_path / "stranger").mkdir()
    with pytest.raises(RuntimeError, match="no base of these texts"):
        real_base.ensure(data, tmp_path / "stranger", SMALL)


@pytest.mark.parametrize("arm", few(real_rewards.ARMS, 2))
def test_every_arm_is_planned_on_its_files_and_judged_on_what_the_base_was_kept_from(arm, data, base, tmp_path):
    overrides = twelve_rows(real_rewards.overrides_of(arm, 1))
    plan = make_plan(compose(*overrides, *places(arm, data, base), f"run_dir={tmp_path / 'run'}"))
    assert [stage.name for stage in plan.stages] == ["reward_model"]
    assert plan.stage("reward_model").reads == ("rankings" if "K together" in arm else "pairs")
    splits = real_base.splits_of(data)
    of_arm = splits[list(real_base.FILES).index(real_rewards.ARMS[arm].files)]
    assert plan.splits.held_out() == of_arm.held_out() <= real_base.held_out(splits)
    assert plan.splits.final_pairs == of_arm.final_pairs
    assert of_arm.final_pairs


def max_tokens(given: list[str]) -> int:
    """Of the longest held-out answer with its prompt."""
    from rlhf_lora.loading import load_chat

    plan = make_plan(compose(*given))
    chat = load_chat(plan.spec)
    sides = [(pair.prompt, side) for pair in plan.splits.final_pairs for side in (pair.chosen, pair.rejected)]
    return max(len(chat.prompt_ids(prompt)) + len(chat.response_ids(side, prompt=prompt)) for prompt, side in sides)


@pytest.mark.slow
def test_every_row_is_counted_as_used_or_with_its_reason(data, base):
    held = real_base.held_out(real_base.splits_of(data))
    arm = "human-pairs/autoj"
    given = [*real_rewards.overrides_of(arm, 1), *places(arm, data, base)]
    rows = real_rewards.rows_of(given, held)
    assert (rows["in_files"], rows["unused"]) == (80, {"a tie": 26})
    assert rows["held_out_longer"] == 0
    assert rows["held_out_pairs"] == rows["held_out_prompts"] > 0
    assert (rows["trained_on"], rows["too_long"]) == (len(make_plan(compose(*given)).splits.pairs), 0)
    longest = max_tokens(given)
    cut = real_rewards.rows_of([*given, f"reward_model.max_length={longest - 1}"], held)
    assert 0 < cut["held_out_longer"] < rows["held_out_pairs"]
    assert cut["trained_on"] + cut["too_long"] == rows["trained_on"]
    with pytest.raises(RuntimeError, match="may have read"):
        real_rewards.rows_of(given, set(list(held)[:1]))


def test_together_and_in_pairs_read_as_much_in_as_many_steps():
    def number(arm: str, name: str, default: float) -> float:
        return float(
            dict(o.split("=", 1) for o in real_rewards.ARMS[arm].overrides).get(f"reward_model.{name}", default)
        )

    together, pairs = (f"ranked/alpaca_eval_k, {how}" for how in ("K together", "in pairs"))
    # All of these prompts have eight answers; of a pair two are read.
    read = (
        8 * number(together, "rows", 0) * number(together, "epochs", 4),
        2 * number(pairs, "rows", 0) * number(pairs, "epochs", 4),
    )
    assert read[0] == pytest.approx(read[1], rel=0.1)
    steps = [
        number(arm, "rows", 0) / number(arm, "batch_size", 32) * number(arm, "epochs", 4) for arm in (together, pairs)
    ]
    assert steps[0] == pytest.approx(steps[1], rel=0.1)


def run(seed: int, arm: str) -> dict[str, Any]:
    names = ("accuracy", "accuracy_where_longer_chosen", "accuracy_where_shorter_chosen")
    model = dict.fromkeys(names, 0.5 + seed / 10) | {f"{name}_ci95": [0.4, 0.9] for name in names}
    model |= {"length_baseline": 0.37, "length_baseline_ci95": [0.3, 0.45], "calibration_error": 0.03}
    model |= {"pairs": 243, "pairs_where_shorter_chosen": 150}
    rows = {"in_files": 1651, "unused": {"a tie": 7}, "left_out": {"a tie": 211}, "learned_from": "pairs", "trained_on": 1330,
            "too_long": 2, "held_out_pairs": 243, "held_out_prompts": 227, "held_out_longer": 5}  # fmt: skip
    return {"seed": seed, "arm": arm, "cpu_seconds": 99.0, "summary": {"reward_model": model}, "rows": rows}


BASE = {"parameters": 1_803_392, "texts": 9786, "tokens": 2_471_022, "first_loss": 8.4, "last_loss": 5.0, "cpu_seconds": 271.0,
        "held_out_prompts": 700, "settings": real_base.SETTINGS}  # fmt: skip


def test_the_page_has_a_place_for_each_table_and_every_arm_a_line():
    runs = [run(seed, arm) for arm in real_rewards.ARMS for seed in (1, 2)]
    filled = real_rewards.page(real_rewards.PAGE.read_text("utf-8"), runs, BASE)
    share = "**0.650**: 0.600 [0.400, 0.900], 0.700 [0.400, 0.900]"
    for arm in real_rewards.ARMS:
        assert f"| {arm} | {share} | 0.370 [0.300, 0.450] | {share} | {share} | 0.030, 0.030 | 99, 99 |" in filled
        assert f"| {arm} | 1,651 | 7 a tie; 211 comparisons: a tie | 1,330 pairs | 2 | 243 (227) | 150 | 5 |" in filled
    assert "1,803,392 parameters" in filled
    assert real_rewards.page(filled, runs, BASE) == filled


def test_a_share_over_no_pairs_is_a_dash():
    model = {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6]}
    assert real_rewards.one_rate([model, model], "accuracy_where_shorter_chosen") == "–"
    assert real_rewards.one_rate([model, model], "accuracy") == "0.500 [0.400, 0.600]"


def test_help_says_what_it_takes_and_the_data_must_be_named(capsys):
    with pytest.raises(SystemExit):
        real_rewards.main(["--help"])
    assert re.search(r"CPU minutes, about: \d+ for base, all arms and three seeds", capsys.readouterr().out)
    assert real_rewards.minutes() < 65, "what one sits down to wait for"
    with pytest.raises(SystemExit):
        real_rewards.main(["--seeds", "1"])
    assert "--data FOLDER is needed" in capsys.readouterr().err


@pytest.mark.slow
def test_one_arm_goes_from_the_script_to_the_table_and_no_text_into_the_figures(data, base, tmp_path, capsys):
    to, arm = tmp_path / "figures.json", "ranked/qa_feedback, K together"

    def measure(base: Path, settings: dict[str, Any]) -> None:
        given = ["--data", str(data), "--base", str(base), "--base-settings", json.dumps(settings), "--to", str(to)]
        real_rewards.main([*given, "--seeds", "0", "--arms", arm, "--", "reward_model.epochs=1"])

    measure(base, SMALL)
    (one,) = measured.read(to)
    assert one["summary"]["reward_model"]["pairs"] == one["rows"]["held_out_pairs"] > 0
    written = to.read_text("utf-8")
    assert not any(word in written for word in (*WORDS, str(tmp_path), str(data), str(base)))
    measure(base, SMALL)  # it is there already
    assert len(measured.read(to)) == 1
    assert f"| {arm} | 0." in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="on another base"):
        measure(tmp_path / "other", SMALL | {"seed": 1})
