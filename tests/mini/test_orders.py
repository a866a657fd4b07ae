"""The orders task: its gold score by hand, its splits, its writers and its annotator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import subprocess
import sys
import time

import pytest

from rlhf_lora import registry
from rlhf_lora.errors import ConfigError
from rlhf_lora.mini import orders, orders_rankings
from rlhf_lora.records import Sample

ROWS_OF_SEED_3 = "7e3bec1b3e4a586a3dc0435e065e4e246ab8cffd9b93bd1d993698baf83acddf"
PROMPT = "may i have tea soup and bread ? waiter:"


@pytest.mark.parametrize(
    ("reply", "finished", "value"),
    [
        ("certainly tea soup and bread", True, 5.0),  # 3 items + order 1 + courtesy 0.5 + end 0.5: the best there is
        ("tea soup and bread", True, 4.5),
        ("tea soup and bread", False, 3.5),  # cut: -0.5 in place of +0.5
        ("soup tea and bread", True, 3.5),  # all three, not in order
        ("tea and bread", True, 2.5),  # order counts only when all three are there
        ("tea tea soup bread", True, 4.0),  # said again: -0.5
        ("tea soup fish bread", True, 4.0),  # not asked for: -0.5, and the order of those asked for stands
        ("tea soup bread ugh", True, 3.5),  # rude -1
        ("ugh hurry tea soup bread", True, 3.5),  # rude once is rude enough
        ("sure tea soup bread thanks", True, 5.0),  # courtesy counts once
        ("well so tea um soup just bread then okay maybe", True, 4.5 - 0.3),  # ten words: 2 x -0.15
        ("", True, 0.5),
        ("", False, -0.5),
        ("Certainly: Tea, soup and BREAD!", True, 5.0),  # other models write capitals and commas
    ],
)
def test_gold_is_what_its_rules_add_up_to(reply, finished, value):
    result = orders.gold(PROMPT, reply, finished)
    assert result.value == pytest.approx(value)
    assert sum(result.parts.values()) == pytest.approx(result.value)


@pytest.mark.parametrize("prompt", ["", "hello", "tea and soup", "tea soup bread fish", "tea tea soup"])
def test_a_prompt_that_is_no_order_has_no_gold_score(prompt):
    with pytest.raises(ValueError, match="three different items"):
        orders.gold(prompt, "tea")
    reward = registry.build("reward", {"name": "orders_gold"})
    (score,) = reward.score([Sample(prompt, "tea")])
    assert score.value is None
    assert score.kind == "abstain"
    assert score.reason


def test_the_gold_reward_gives_parts_and_minds_the_end():
    reward = registry.build("reward", {"name": "orders_gold"})
    ended, cut = reward.score([Sample(PROMPT, "tea"), Sample(PROMPT, "tea", finished=False)])
    assert (ended.value, cut.value) == (1.5, 0.5)
    assert set(ended.parts) == {"items", "order", "courtesy", "extra", "rude", "length", "eos"}
    assert reward.score([]) == []


def test_every_text_is_made_of_known_words_and_is_short():
    known = set(orders.vocabulary())
    rng = random.Random(0)
    every = orders.triples(len(orders.ITEMS))
    for _ in range(2000):
        triple = rng.choice(every)
        prompt = orders.prompt_text(triple, rng.randrange(len(orders.TEMPLATES)))
        replies = [orders.draft(rng, triple, 24, habits).text for habits in orders.WRITERS]
        replies += orders.compared(rng, triple, 24)
        assert orders.asked(prompt) == triple
        assert len(prompt.split()) <= 12
        assert max(len(reply.split()) for reply in replies) <= orders.MAX_RESPONSE_TOKENS
        for text in (prompt, *replies, orders.slip(rng, triple, 24)):
            assert known.issuperset(text.split()), text


def test_vocabulary_has_each_word_once_and_end_first():
    words = orders.vocabulary()
    assert len(words) == len(set(words)) <= 128
    assert words[0] == orders.END


def test_better_writers_write_better_replies():
    rng = random.Random(1)
    every = orders.triples(12)

    def mean(habits):
        drafts = [(t, orders.draft(rng, t, 12, habits)) for t in rng.choices(every, k=2000)]
        return sum(orders.gold(orders.prompt_text(t, 0), d.text, d.finished).value for t, d in drafts) / len(drafts)

    web, demo, careful = (mean(habits) for habits in orders.WRITERS)
    assert web + 1.0 < demo < careful - 0.5  # room above the demonstrations is what RLHF is for
    assert careful < 5.0


def test_compared_replies_differ():
    rng = random.Random(2)
    for triple in orders.triples(5):
        a, b = orders.compared(rng, triple, 5)
        assert a != b


def test_annotator_errs_as_often_as_the_logistic_says():
    rng = random.Random(3)
    # sigmoid(1 / 0.5) = 0.8808; of 20,000 draws the standard error is 0.0023
    share = sum(orders.prefers(rng, 2.0, 1.0, tau=0.5) for _ in range(20_000)) / 20_000
    assert share == pytest.approx(0.8808, abs=0.01)
    assert sum(orders.prefers(rng, 1.0, 1.0, tau=0.5) for _ in range(20_000)) / 20_000 == pytest.approx(0.5, abs=0.015)


def test_annotator_can_be_as_good_as_sure():
    rng = random.Random(4)
    assert all(orders.prefers(rng, 5.0, -5.0, tau=0.001) for _ in range(100))
    assert not any(orders.prefers(rng, -5.0, 5.0, tau=0.001) for _ in range(100))


# --- the dataset ------------------------------------------------------------------------------------------------------


def small(**settings):
    counts = {"demonstrations": 200, "pairs": 400, "prompts": 300}
    return registry.build("dataset", {"name": "orders", **counts, **settings})


def test_equal_settings_give_equal_rows_and_another_seed_gives_others():
    assert small(seed=1).load() == small(seed=1).load()
    assert small(seed=1).fingerprint() == small(seed=1).fingerprint()
    assert small(seed=1).load().pairs != small(seed=2).load().pairs
    assert small(seed=1).fingerprint() != small(seed=2).fingerprint()


def test_more_of_one_list_changes_no_row_of_another():
    few, many = small(pairs=10).load(), small(pairs=400).load()
    assert few.demonstrations == many.demonstrations
    assert few.pairs == many.pairs[:10]


def test_prompts_are_all_different_and_wordings_of_one_order_share_a_group():
    data = small(items=5, prompts=5 * 4 * 3 * 6).load()  # all there are
    assert len({prompt.text for prompt in data.prompts}) == 360
    assert len({prompt.group for prompt in data.prompts}) == 60
    assert {orders.group(orders.asked(prompt.text)) for prompt in data.prompts} == {p.group for p in data.prompts}


def test_pairs_mostly_agree_with_gold_and_a_surer_annotator_agrees_more():
    def agreement(tau):
        gaps = [
            orders.gold(p.prompt.text, p.chosen).value - orders.gold(p.prompt.text, p.rejected).value
            for p in small(pairs=3000, tau=tau).load().pairs
        ]
        return sum(gap > 0 for gap in gaps) / sum(gap != 0 for gap in gaps)

    noisy, surer, sure = agreement(1.0), agreement(0.5), agreement(0.01)
    assert 0.72 < noisy < surer < sure == 1.0


def test_two_answers_are_the_pairs_that_they_always_were():
    """Locked: figures that are published stand on these rows."""
    data = small(demonstrations=50, prompts=60, seed=3).load()
    text = json.dumps(
        [
            *(
                [dataclasses.astuple(row)[:-1] for row in rows] for rows in (data.demonstrations, data.pairs)
            ),  # but `finished`
            [dataclasses.astuple(row) for row in data.prompts],
        ]
    )
    assert hashlib.sha256(text.encode()).hexdigest() == ROWS_OF_SEED_3
    assert data.rankings == ()


def test_more_answers_are_rankings_of_different_replies():
    two, four = small().load(), small(answers=4).load()
    assert (four.pairs, len(four.rankings)) == ((), 400)
    assert (four.demonstrations, four.prompts) == (two.demonstrations, two.prompts)
    for ranking in four.rankings:
        assert sorted(ranking.ranks) == [1, 2, 3, 4]
        assert len(ranking.pairs()) == 6  # so all four differ
    assert small(answers=4).fingerprint() != small().fingerprint()


def test_rankings_are_plackett_luce():
    rng, golds, tau = random.Random(5), [1.0, 0.0, 0.5], 0.5
    drawn = [tuple(orders_rankings.ranked(rng, golds, tau)) for _ in range(20_000)]
    worth = [math.exp(gold / tau) for gold in golds]
    # first A, then C of what is left; standard error 0.0035
    expected = worth[0] / sum(worth) * worth[2] / (worth[1] + worth[2])
    assert drawn.count((1, 3, 2)) / 20_000 == pytest.approx(expected, abs=0.014)
    # any two of them are as if compared alone: sigmoid(0.5 / 0.5) = 0.7311
    assert sum(ranks[0] < ranks[2] for ranks in drawn) / 20_000 == pytest.approx(0.7311, abs=0.013)
    assert orders_rankings.ranked(rng, [3.0, 1.0, 5.0, 4.0], 1e-6) == [3, 4, 1, 2]


@pytest.mark.slow
def test_the_default_loads_in_seconds():
    began = time.process_time()
    data = registry.build("dataset", {"name": "orders"}).load()
    assert time.process_time() - began < 6.0  # about 1.5 s on a quiet machine
    assert data.gold == "orders_gold"
    assert not data.unused


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"items": 3}, "dataset.items"),
        ({"tau": float("nan")}, "dataset.tau"),
        ({"tau": float("inf")}, "dataset.tau"),
        ({"items": 25}, "dataset.items"),
        ({"tau": 0.0}, "dataset.tau"),
        ({"answers": 1}, "dataset.answers"),
        ({"answers": 10}, "dataset.answers"),
        ({"pairs": -1}, "dataset.pairs"),
        ({"items": 4, "prompts": 145}, "dataset.prompts"),  # 4 * 3 * 2 * 6 = 144
    ],
)
def test_settings_out_of_range_are_refused_in_words(settings, where):
    with pytest.raises(ConfigError) as caught:
        small(**settings)
    assert caught.value.where == where
    assert caught.value.fix


def test_the_task_needs_no_torch():
    code = (
        "import sys, rlhf_lora.mini.orders, rlhf_lora.mini.base, rlhf_lora.mini.text_base, rlhf_lora.mini.__main__, "
        "rlhf_lora.plugins.datasets.orders; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
