from __future__ import annotations

from rlhf_lora_brevity import BrevityWords

from rlhf_lora import Sample
from rlhf_lora.testing import check_reward


def test_it_keeps_its_promises():
    check_reward(BrevityWords(target=5))


def test_each_word_over_the_target_costs():
    short, long = BrevityWords(target=2, per_word=0.5).score(
        [Sample("p", "one two"), Sample("p", "one two three four")]
    )
    assert short.value == 0
    assert long.value == -1.0  # 2 words over at 0.5
    assert long.parts == {"words": 4, "over": 2}


def test_an_empty_answer_gets_no_score():
    (score,) = BrevityWords().score([Sample("p", " ")])
    assert score.value is None
