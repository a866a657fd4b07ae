"""Each generated task gets a base that knows its words, and the base of orders is what it always was."""

from __future__ import annotations

import functools
import hashlib
import itertools
from pathlib import Path

import pytest

from rlhf_lora import cli, derive, registry
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import __main__ as command
from rlhf_lora.mini import base, bases, helpdesk, helpdesk_base, orders, pretraining, rules
from rlhf_lora.plan import make_plan
from rlhf_lora.plan_tokens import plan_tokens
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.splits import bucket

QUICK = helpdesk_base.HelpdeskBase(steps=3, batch=8)
FEW = ("dataset.demonstrations=200", "dataset.pairs=300", "dataset.prompts=200", "hardware.device=cpu")

ORDERS_KEY = "b5395817ae4e06ac"
"""Of `BaseSettings()`. Whoever changes this makes every user build the base of the default run again, and every figure
measured on it is of another base: the source of base.py, orders.py or pretraining.py has changed. Only on purpose."""


HELPDESK_KEY = "efd10b6566fcb289"
"""Of `HelpdeskBase()`, likewise; helpdesk.py, helpdesk_writers.py and helpdesk_base.py decide it too."""


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """`model=mini` for the helpdesk in a second, in a cache of its own."""
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(derive, "HelpdeskBase", functools.partial(derive.HelpdeskBase, steps=3, batch=8))


# --- orders -----------------------------------------------------------------------------------------------------------


def test_the_bases_keep_their_keys():
    if any(b"\r\n" in Path(m.__file__).read_bytes() for m in (base, orders, pretraining, helpdesk, helpdesk_base)):
        pytest.skip("this checkout has other line ends, and so another key")
    assert bases.content_hash(base.BaseSettings()) == base.content_hash(base.BaseSettings()) == ORDERS_KEY
    assert bases.content_hash(helpdesk_base.HelpdeskBase()) == HELPDESK_KEY
    plan = make_plan(compose(*FEW))
    assert plan.mini == base.BaseSettings()
    assert plan.inputs["the base"] == ORDERS_KEY


def test_the_base_of_orders_is_built_bit_for_bit_as_before(tmp_path):
    settings = base.BaseSettings(items=6, steps=3, batch=8)
    made = bases.ensure(tmp_path / "cache", settings)
    (tmp_path / "direct").mkdir()
    base.build_base(tmp_path / "direct", settings)
    assert made.name == f"orders-{base.content_hash(settings)}"
    assert digests(made) == digests(tmp_path / "direct")


# --- helpdesk ---------------------------------------------------------------------------------------------------------


def test_the_base_of_the_helpdesk_knows_its_words_and_those_of_the_rules(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = bases.ensure(tmp_path, QUICK)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == len(helpdesk.vocabulary())
    text = rules.with_rule(rules.RULES[0], "my job needs lamp , acid song , tape . desk:") + " sure lamp"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert bases.ensure(tmp_path, QUICK) == folder


def test_equal_settings_give_equal_bytes_and_another_seed_gives_others(tmp_path):
    one, same = bases.ensure(tmp_path / "1", QUICK), bases.ensure(tmp_path / "2", QUICK)
    assert digests(one) == digests(same)
    other = bases.ensure(tmp_path / "1", helpdesk_base.HelpdeskBase(steps=3, batch=8, seed=1))
    assert other.name != one.name
    assert digests(other)["model.safetensors"] != digests(one)["model.safetensors"]


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(done, total):
        raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        bases.ensure(tmp_path, QUICK, fail)
    assert [path for path in (tmp_path / "bases").iterdir() if path.is_dir()] == []


def test_no_document_shows_a_request_that_is_kept_for_judging_nor_a_rule():
    known = set(helpdesk.vocabulary())
    for text in itertools.islice(helpdesk_base.documents(QUICK), 3000):
        assert known.issuperset(text.split())
        head = text.partition(" desk:")[0].removeprefix("note : ")
        assert bucket(helpdesk.group(helpdesk.asked(head))) < pretraining.HELD_OUT_BUCKET
        assert "rule" not in text.split()
        assert "always" not in text.split()


# --- model=mini -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_base_follows_the_dataset(quick):
    of = {name: make_plan(compose(f"dataset={name}", *FEW)) for name in ("helpdesk", "helpdesk_rules")}
    assert isinstance(of["helpdesk"].mini, helpdesk_base.HelpdeskBase)
    assert of["helpdesk"].mini == of["helpdesk_rules"].mini  # one base for both
    plan = of["helpdesk"]
    assert plan.config.rollout.max_new_tokens == 25
    counted = plan_tokens(plan.spec, plan.mini)
    assert counted.exact
    assert counted.prompt_lengths([plan.splits.prompts[0]]) == [len(plan.splits.prompts[0].text.split())]
    assert "<unk>" not in counted.prompt(plan.splits.prompts[0])


@pytest.mark.slow
def test_stages_may_read_datasets_of_one_task_and_not_of_two(quick):
    rows = [word.replace("dataset.", "reward_model.dataset.") for word in FEW[:3]]
    both = make_plan(compose("dataset=helpdesk", *FEW, "reward_model.dataset=helpdesk_rules", *rows))
    assert all("rule" in pair.prompt.columns for pair in both.splits.pairs)
    with pytest.raises(ConfigError, match="only the words of dataset=helpdesk") as caught:
        make_plan(compose("dataset=helpdesk", *FEW, "reward_model.dataset=orders", *rows))
    assert caught.value.fix


def test_data_from_elsewhere_has_no_base(tmp_path):
    assert bases.task_of(registry.build("dataset", {"name": "jsonl", "path": "x.jsonl"})) is None


def test_a_strangers_field_called_items_makes_no_orders_of_its_data():
    class Shop:
        items = 3

    assert bases.task_of(Shop()) is None
    assert bases.task_of(registry.build("dataset", {"name": "orders"})) == "orders"


def test_the_command_builds_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bases, "HelpdeskBase", functools.partial(bases.HelpdeskBase, steps=3, batch=8))
    monkeypatch.setattr(
        bases, "build", lambda folder, settings, report: helpdesk_base.build_base(folder, settings, report)
    )
    assert command.main(["helpdesk", "--to", str(tmp_path / "base")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "base")
    assert '"task": "helpdesk"' in (tmp_path / "base" / "base.json").read_text()
    assert command.main(["helpdesk", "--to", str(tmp_path / "base")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "gold"), [("helpdesk", "helpdesk_gold"), ("helpdesk_rules", "helpdesk_rules_gold")]
)
def test_a_small_run_goes_through_sft_and_reward_model(dataset, gold, quick, tmp_path):
    few = [f"dataset={dataset}", *FEW, "sft.epochs=1", "reward_model.epochs=1", f"run_dir={tmp_path / 'run'}"]
    assert cli.run(["train", *few, "stages=[sft,reward_model]"]) == 0
    summary = RunFolder(tmp_path / "run").summary
    assert summary["status"] == "finished"
    assert summary["reward_model"]["gold_pairs"] > 0  # judged by the task's own truth
    assert make_plan(compose(*few)).data.gold == gold
