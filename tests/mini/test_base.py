"""The tiny base: it loads as any model does, the same settings give the same bytes, and the cache never shows half of it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import multiprocessing
from pathlib import Path

import pytest

from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import base, orders, pretraining
from rlhf_lora.splits import bucket

QUICK = base.BaseSettings(items=6, steps=3, batch=8)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def build_in(cache: Path) -> str:
    return str(base.ensure_base(cache, QUICK))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return base.ensure_base(tmp_path_factory.mktemp("cache"), QUICK)


def test_it_loads_with_the_auto_classes_and_fits_four_bits(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == len(orders.vocabulary())
    assert model.config.eos_token_id == tokenizer.eos_token_id
    linear = {n: m for n, m in model.model.named_modules() if type(m).__name__ == "Linear"}
    assert linear
    assert all(m.in_features % 64 == 0 and m.out_features % 64 == 0 for m in linear.values())  # the block of NF4


def test_words_come_back_as_they_went_in(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "table two : tea , soup , bread . waiter: certainly tea soup and bread"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.split())
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_equal_settings_give_equal_bytes_and_another_seed_gives_others(folder, tmp_path):
    again = base.ensure_base(tmp_path, QUICK)
    assert again.name == folder.name
    assert digests(again) == digests(folder)
    other = base.ensure_base(tmp_path, dataclasses.replace(QUICK, seed=1))
    assert other.name != folder.name
    assert digests(other)["model.safetensors"] != digests(folder)["model.safetensors"]


def test_building_leaves_torch_as_it_was(tmp_path):
    import torch

    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    base.build_base(tmp_path, QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_what_is_cached_is_not_built_again(folder, monkeypatch):
    monkeypatch.setattr(base, "build_base", lambda *_: pytest.fail("built again"))
    assert base.ensure_base(folder.parent.parent, QUICK) == folder


def test_a_build_that_fails_leaves_nothing_and_the_next_one_works(tmp_path):
    def fail(done, total):
        raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        base.ensure_base(tmp_path, QUICK, fail)
    assert [path for path in (tmp_path / "bases").iterdir() if path.is_dir()] == []
    assert (base.ensure_base(tmp_path, QUICK) / "model.safetensors").is_file()


@pytest.mark.slow
def test_two_processes_that_race_end_with_one_whole_folder(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(build_in, [tmp_path, tmp_path])
    assert first == second
    assert (Path(first) / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "bases").iterdir() if path.is_dir()] == [Path(first).name]


def test_without_a_working_lock_the_second_takes_the_winners(tmp_path):
    winner, late = tmp_path / "target", tmp_path / "late"
    for path, text in ((winner, "winner"), (late, "late")):
        path.mkdir()
        (path / "file").write_text(text)
    base._publish(late, winner)
    assert (winner / "file").read_text() == "winner"


def test_progress_is_told_step_by_step(tmp_path):
    seen = []
    base.build_base(tmp_path, QUICK, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_no_document_shows_an_order_that_is_kept_for_judging():
    settings = base.BaseSettings(items=6)  # 120 triples, about 12 held out
    held_out = {t for t in orders.triples(6) if bucket(orders.group(t)) >= pretraining.HELD_OUT_BUCKET}
    assert held_out
    texts = list(itertools.islice(base.documents(settings), 3000))
    shown = set()
    for text in texts:
        head = text.partition(" served ")[0] if text.startswith("slip") else text.partition(" waiter:")[0]
        shown.add(orders.asked(head))
    assert not shown & held_out
    assert len(shown) == 120 - len(held_out)  # all the rest are


@pytest.mark.parametrize("settings", [{"items": 3}, {"items": 25}, {"steps": 0}, {"batch": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        base.BaseSettings(**settings)


def test_learning_rate_goes_up_then_down_to_a_tenth():
    rates = [pretraining.rate(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)  # first of ten warm-up steps
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)
