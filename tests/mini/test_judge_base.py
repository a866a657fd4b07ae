"""The tiny judge: what it is shown is what a judge is asked, and the folder it becomes is a model like any other."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging import texts
from rlhf_lora.mini import __main__ as command
from rlhf_lora.mini import judge_lessons as lessons
from rlhf_lora.mini import orders
from rlhf_lora.mini.judge_base import JudgeBaseSettings, build_judge_base
from rlhf_lora.mini.pretraining import HELD_OUT_BUCKET
from rlhf_lora.records import Prompt
from rlhf_lora.splits import bucket

SMALL = JudgeBaseSettings(steps=4, warm_up=0.25, batch=4)
TRIPLE = ("tea", "soup", "bread")


def drawn(lesson, count: int = 200, seed: str = "test") -> list[lessons.Lesson]:
    rng = random.Random(seed)
    return [lesson(rng, rng.choice(orders.triples(12)), 12) for _ in range(count)]


def test_words_of_orders_keep_their_places():
    """So what was measured with the base of `orders` can be measured with this one."""
    assert lessons.vocabulary()[: len(orders.vocabulary())] == orders.vocabulary()
    assert {"A", "B", "A:", "B:", "better:", "1", "10"} <= set(lessons.vocabulary())


def parts(lesson: lessons.Lesson) -> list[str]:
    return [part.strip() for part in " ".join(lesson.words[:-1]).split("|")]


def test_a_comparison_is_asked_word_for_word_as_a_judge_asks_it():
    for lesson in drawn(lessons.comparison, 40):
        *principle, prompt, a, b, _ = parts(lesson)
        a, b = a.removeprefix("A:").strip(), b.removeprefix("B:").strip()
        assert texts.bare_pair("".join(principle), Prompt(prompt), a, b).split() == lesson.words[:-1]


def test_answers_follow_the_truth_and_differ_from_it_where_it_is_close():
    right = {True: [0, 0], False: [0, 0]}
    for lesson in drawn(lessons.comparison, 700):
        *_, prompt, a, b, _ = parts(lesson)
        difference = orders.gold(prompt, a[2:]).value - orders.gold(prompt, b[2:]).value
        if difference:
            right[abs(difference) >= 1][0] += (lesson.words[-1] == "A") == (difference > 0)
            right[abs(difference) >= 1][1] += 1
    far, close = (hits / count for hits, count in (right[True], right[False]))
    assert far > 0.96  # σ(1 / 0.3) = 0.965 at the edge
    assert 0.7 < close < 0.97  # σ(0.5 / 0.3) = 0.84
    assert 290 < sum(lesson.words[-1] == "A" for lesson in drawn(lessons.comparison, 700)) < 410  # a place says nothing


def test_ratings_are_two_steps_for_each_point():
    for lesson in drawn(lessons.rating, 100):
        *_, prompt, reply, asked = parts(lesson)
        gold = orders.gold(prompt, reply.removeprefix("answer:")).value
        assert int(lesson.words[-1]) == max(1, min(10, round(2 * gold)))
        assert asked == "1 to 10:"


def test_notes_say_what_each_word_of_a_reply_is_and_what_it_is_worth_so_far():
    prompt = orders.prompt_text(TRIPLE, 0)
    line = texts.bare_pair("", Prompt(prompt), "sure tea ham tea", "bread and tea")
    lesson = lessons.question(line, "A", TRIPLE, prompt)
    at = dict(zip(lesson.words, lesson.notes, strict=False))
    first = lesson.words.index("A:") + 1
    assert at["soup"][:3] == [0.0, 1.0, 0.0]
    by_word = [lesson.notes[first + i][3:] for i in range(5)]
    #                   tea  soup bread other again | items order extra rude polite
    assert by_word[0][:10] == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert by_word[2][:10] == [0.0, 0.0, 0.0, 1.0, 0.0, 1 / 3, 1.0, 0.5, 0.0, 1.0]
    assert by_word[3][:10] == [1.0, 0.0, 0.0, 0.0, 1.0, 1 / 3, 1.0, 1.0, 0.0, 1.0]
    assert by_word[4][10] == (orders.gold(prompt, "sure tea ham tea").value - 2) / 2  # behind the last
    second = lesson.words.index("B:") + 1
    assert lesson.notes[second + 2][3 + 6] == 0.0  # bread before tea


def test_no_held_out_order_is_learned_from():
    from rlhf_lora.mini.judge_base import _batches

    table = {word: i for i, word in enumerate(lessons.vocabulary())}
    names = {i: word for word, i in table.items()}
    batches = _batches(table, JudgeBaseSettings(warm_up=0, batch=16))
    for batch in (next(batches) for _ in range(6)):
        for row in batch.ids_BS.tolist():
            words = [names[i] for i in row]
            end = words.index("waiter:") if "waiter:" in words else words.index("served") if "served" in words else 0
            asked = [word for word in words[:end] if word in lessons.ITEMS][-3:]
            assert bucket(" ".join(asked)) < HELD_OUT_BUCKET


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("judge")
    build_judge_base(made, SMALL)
    return made


def test_it_is_a_model_folder_like_any_other_and_the_same_twice(folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    facts = json.loads((folder / "base.json").read_text())
    assert 200_000 < facts["parameters"] == model.num_parameters() < 500_000
    assert len(tokenizer(" A", add_special_tokens=False)["input_ids"]) == 1
    assert tokenizer.decode(tokenizer("please bring tea")["input_ids"]) == "please bring tea"
    build_judge_base(tmp_path / "again", SMALL)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_command_makes_a_folder_and_refuses_one_that_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLHF_LORA_QUIET", "1")
    assert command.main(["judge", "--to", str(tmp_path / "made"), "--steps", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").is_file()
    assert command.main(["judge", "--to", str(tmp_path / "made")]) == 2
    assert "exists" in capsys.readouterr().err


def test_settings_that_cannot_be_built_are_refused():
    with pytest.raises(ConfigError, match="3 items"):
        JudgeBaseSettings(items=3)
    with pytest.raises(ConfigError, match="five layers"):
        JudgeBaseSettings(layers=4)


@pytest.mark.slow
def test_after_a_minute_it_judges_better_than_by_lot_through_the_judge_that_is_asked(tmp_path):
    from rlhf_lora.judge_measured import measure

    build_judge_base(tmp_path / "judge", JudgeBaseSettings(steps=400))
    asked = (
        "judge=local",
        "judge.style=bare",
        f"judge.path={tmp_path / 'judge'}",
        "dataset=orders",
        "hardware.device=cpu",
    )
    told = measure(*asked, "dataset.pairs=2000", pairs=300).figures
    assert told["pairs_read"] == 300
    assert told["gold"]["agreement_far_ci95"][0] > 0.7  # half-way there
