"""One prompt, one split: which rows go to SFT, reward model, prompts, tuning and final evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import pytest

from rlhf_lora.errors import ConfigError, ContractError
from rlhf_lora.records import Data, Demonstration, Label, Pair, Prompt, Unused
from rlhf_lora.splits import SALT, Shares, Splits, bucket, split

PROMPTS = [Prompt(f"question {i}") for i in range(2_000)]
PAIRS = [Pair(prompt, "good", f"bad {i}") for prompt in PROMPTS for i in range(2)]


def prompt_in(low: int, high: int, number: int = 0) -> Prompt:
    """The `number`-th prompt whose bucket lies in [low, high]."""
    return [prompt for prompt in PROMPTS if low <= bucket(prompt.text) <= high][number]


def test_bucket_is_the_salted_hash_and_never_changes():
    """Results depend on it: another hash would move prompts from training into evaluation."""
    digest = hashlib.sha256((SALT + "question 0").encode()).hexdigest()
    assert bucket("question 0") == int(digest[:8], 16) % 100
    assert [bucket(f"question {i}") for i in range(5)] == [87, 38, 1, 64, 35]
    assert 0 <= bucket("half a pair \ud83d") <= 99


def test_split_of_a_file_that_was_cut_by_the_bare_hash_is_not_empty():
    """Public slices often keep the buckets 30-89 of sha256(prompt) % 100: by the same hash SFT would get no row."""
    cut = [p for p in PROMPTS if 30 <= int(hashlib.sha256(p.text.encode()).hexdigest()[:8], 16) % 100 < 90]
    counts = split(Data(pairs=[Pair(p, "a", "b") for p in cut])).counts()
    assert all(counts[name] for name in ("demonstrations", "pairs", "prompts", "tuning_pairs", "final_pairs"))


def test_shares_of_many_prompts_are_as_asked():
    counts = split(Data(pairs=PAIRS)).counts()
    wanted = {"demonstrations": 15, "pairs": 50, "prompts": 25, "tuning_prompts": 5, "final_prompts": 5}
    for name, percent in wanted.items():
        rows = len(PAIRS) if name == "pairs" else len(PROMPTS)
        # Four standard deviations of a binomial share.
        slack = 4 * (rows * percent / 100 * (1 - percent / 100)) ** 0.5 * (2**0.5 if name == "pairs" else 1)
        assert abs(counts[name] - rows * percent / 100) < slack, name
    assert counts["tuning_pairs"] == 2 * counts["tuning_prompts"]
    assert counts["final_pairs"] == 2 * counts["final_prompts"]


def test_no_prompt_is_in_two_splits():
    splits = split(Data(pairs=PAIRS, labels=[Label(p, "yes", True) for p in PROMPTS]))
    keys = {
        "sft": {row.prompt.split_key for row in splits.demonstrations},
        "reward_model": {row.prompt.split_key for row in (*splits.pairs, *splits.labels)},
        "prompts": {prompt.split_key for prompt in splits.prompts},
        "tuning": {prompt.split_key for prompt in splits.tuning_prompts},
        "final": {prompt.split_key for prompt in splits.final_prompts},
    }
    assert sum(len(part) for part in keys.values()) == len(set().union(*keys.values())) == len(PROMPTS)
    assert {row.prompt.split_key for row in splits.final_pairs} == keys["final"]


@pytest.mark.parametrize(
    ("low", "high", "where"),
    [
        (0, 14, "demonstrations"),
        (15, 64, "pairs"),
        (65, 89, "prompts"),
        (90, 94, "tuning_pairs"),
        (95, 99, "final_pairs"),
    ],
)
def test_splits_lie_in_order_from_sft_at_the_bottom_to_final_at_the_top(low, high, where):
    for prompt in (prompt_in(low, low), prompt_in(high, high)):
        assert split(Data(pairs=[Pair(prompt, "a", "b")])).counts()[where] == 1


def test_prompts_of_one_group_stay_together():
    prompts = [Prompt(f"turn {i}", group="one conversation") for i in range(50)]
    counts = split(Data(pairs=[Pair(p, "a", "b") for p in prompts])).counts()
    assert sum(1 for name in ("demonstrations", "pairs", "prompts", "tuning_pairs", "final_pairs") if counts[name]) == 1


def test_chosen_answers_are_demonstrated_only_where_nobody_wrote_demonstrations():
    low = prompt_in(0, 14)
    pairs = [Pair(low, "best", "worse"), Pair(low, "best", "worst"), Pair(low, "worse", "worst")]
    assert [row.completion for row in split(Data(pairs=pairs)).demonstrations] == ["best", "worse"]
    written = Demonstration(low, "by hand")
    assert split(Data(pairs=pairs, demonstrations=[written])).demonstrations == [written]


def test_only_answers_called_good_are_demonstrated():
    low = prompt_in(0, 14)
    labels = [Label(low, "yes", True), Label(low, "no", False)]
    assert split(Data(labels=labels)).demonstrations == [Demonstration(low, "yes")]


def test_shares_nothing_can_fill_go_to_what_the_data_has():
    prompts = split(Data(prompts=PROMPTS))
    assert prompts.shares == Shares(sft=0, reward_model=0, prompts=90)
    assert len(prompts.prompts) > 1_700
    answers = split(Data(demonstrations=[Demonstration(p, "yes") for p in PROMPTS]))
    assert answers.shares == Shares(sft=65, reward_model=0, prompts=25)


def test_labels_alone_are_sfts_unless_an_optimizer_learns_from_them():
    data = Data(labels=[Label(p, "yes", True) for p in PROMPTS])
    nobody, somebody = split(data), split(data, labels_read=True)
    assert nobody.shares == Shares(sft=65, reward_model=0, prompts=25)
    assert (len(nobody.demonstrations) > 1_200, list(nobody.labels)) == (True, [])
    assert somebody.shares == Shares()
    assert len(somebody.labels) > 900


def test_a_share_that_was_set_to_nothing_stays_empty():
    shares = Shares(sft=0, reward_model=0, prompts=90)
    splits = split(Data(demonstrations=[Demonstration(p, "yes") for p in PROMPTS]), shares)
    assert list(splits.demonstrations) == []


def test_each_prompt_is_asked_once_with_its_first_columns():
    high = prompt_in(65, 89)
    again = dataclasses.replace(high, columns={"answer": 4})
    splits = split(Data(prompts=[again, high]))
    assert splits.prompts == [again]
    assert [row.reason for row in splits.unused] == ["the same prompt again, with other columns"]
    assert split(Data(pairs=[Pair(again, "a", "b"), Pair(high, "a", "c")])).unused == []


def test_listed_prompts_are_asked_rather_than_those_of_pairs():
    listed, paired = prompt_in(65, 89), prompt_in(65, 89, 1)
    assert split(Data(prompts=[listed], pairs=[Pair(paired, "a", "b")])).prompts == [listed]


def test_test_data_is_the_whole_final_split_and_frees_the_share():
    low, top = prompt_in(0, 14), prompt_in(95, 99)
    test = Data(pairs=[Pair(low, "a", "b")])
    splits = split(Data(pairs=[Pair(top, "a", "b")], test=test))
    assert (splits.final_pairs, splits.final_prompts) == ([Pair(low, "a", "b")], [low])
    # Buckets 95-99 are tuning's now: reward_model grew to 60 per cent and all above moved up.
    assert splits.shares == Shares(reward_model=55, final=0)
    assert splits.tuning_pairs == [Pair(top, "a", "b")]


def test_prompts_of_the_test_data_are_taken_out_of_the_rest():
    ours, theirs = prompt_in(15, 64), prompt_in(15, 64, 1)
    test = Data(prompts=[dataclasses.replace(theirs, text=theirs.text + " ")], unused=[Unused("test, line 2", "empty")])
    splits = split(
        Data(pairs=[Pair(p, "a", "b") for p in (ours, theirs)], test=test, unused=[Unused("line 9", "same")])
    )
    assert splits.pairs == [Pair(ours, "a", "b")]
    leaked = Unused(f"prompt {theirs.id}", "its prompt is in the test data too")
    assert splits.unused == [Unused("line 9", "same"), Unused("test, line 2", "empty"), leaked]


@pytest.mark.parametrize(
    "shares", [{"sft": 30}, {"sft": -5, "final": 30}, {"sft": 20.0}, {"sft": True, "reward_model": 74}]
)
def test_shares_that_do_not_make_a_whole_are_refused(shares):
    with pytest.raises(ConfigError, match="share"):
        Shares(**shares)


def test_fingerprint_follows_what_a_stage_reads_and_nothing_else():
    pair, demonstration = Pair(prompt_in(15, 64), "a", "b"), Demonstration(prompt_in(0, 14), "yes")
    one, two = Splits(pairs=[pair], demonstrations=[demonstration]), Splits(pairs=[pair])
    assert one.fingerprint("pairs") == two.fingerprint("pairs")
    assert one.fingerprint() != two.fingerprint()
    assert two.fingerprint("pairs") != Splits(tuning_pairs=[pair]).fingerprint("tuning_pairs")
    for changed in (
        {"margin": 1.0},
        {"label": 0.9},
        {"chosen": "c"},
        {"prompt": Prompt(pair.prompt.text, columns={"x": 1})},
    ):
        other = Splits(pairs=[dataclasses.replace(pair, **changed)])
        assert other.fingerprint("pairs") != two.fingerprint("pairs"), changed
    with pytest.raises(ContractError, match="hold a set"):
        Splits(prompts=[Prompt("a", columns={"x": {1, 2}})]).fingerprint()


def test_fingerprint_is_the_same_in_another_process():
    code = "from rlhf_lora.splits import *; from rlhf_lora.records import *; "
    code += "print(Splits(prompts=[Prompt('ä', columns={'x': 1, 'b': [None]})]).fingerprint())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Splits(prompts=[Prompt("ä", columns={"b": [None], "x": 1})]).fingerprint()
