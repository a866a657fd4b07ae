"""Which comparisons a judge is asked about, and what its answers come to."""

import pytest
from omegaconf import OmegaConf

from rlhf_lora import ai_labels
from rlhf_lora.comparison_rows import row_of
from rlhf_lora.judging.orders import compare
from rlhf_lora.records import Comparison, Pair, Prompt, Verdict
from rlhf_lora.schema import TrainConfig
from rlhf_lora.splits import Splits

PAIRS = [Pair(Prompt(f"prompt {i // 2}", group=f"g{i // 2}"), f"good {i}", f"bad {i}") for i in range(400)]


def config(pairs="relabel", **settings):
    made = OmegaConf.structured(TrainConfig)
    made.reward_model.pairs = pairs
    for place, value in settings.items():
        OmegaConf.update(made, place.replace("__", "."), value)
    return made


def asked(judge, comparisons, orders="both"):
    return [row_of(one, said, "j") for one, said in zip(comparisons, compare(judge, comparisons, orders), strict=True)]


class First:
    def compare(self, prompt, a, b):
        return Verdict("A", 0.9)


class Right:
    """P of what the truth has."""

    def compare(self, prompt, a, b):
        return Verdict("A", 0.8) if a.startswith("good") else Verdict("B", 0.2)


class Mute:
    def compare(self, prompt, a, b):
        return Verdict(None, reason=f"refusal: not {a}")


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_relabelling_asks_about_every_pair_of_the_reward_models_split():
    work = ai_labels.work_of(config(), Splits(pairs=PAIRS))
    assert (work.kept, work.people, work.prompts) == ([], PAIRS, ())
    assert (work.rows, work.most_pairs(2)) == (400, 400)


def test_rollouts_answer_each_prompt_of_the_pairs_once():
    work = ai_labels.work_of(config("rollouts"), Splits(pairs=PAIRS, prompts=[Prompt("of the policy")]))
    assert [prompt.text for prompt in work.prompts] == [f"prompt {i}" for i in range(200)]
    assert work.people == ()
    assert work.most_pairs(4) == 200 * 6


def test_rollouts_answer_the_policys_prompts_where_nobody_compared_anything():
    prompts = [Prompt("one"), Prompt("two")]
    assert ai_labels.work_of(config("rollouts"), Splits(prompts=prompts)).prompts == prompts


@pytest.mark.parametrize("how", ["relabel", "rollouts"])
def test_people_keep_their_share_of_the_prompts_and_no_prompt_is_labelled_by_both(how):
    splits = Splits(pairs=PAIRS)
    work = ai_labels.work_of(config(how, ai_labels__keep_dataset=0.5), splits)
    kept = {pair.prompt.text for pair in work.kept}
    others = {pair.prompt.text for pair in work.people} | {prompt.text for prompt in work.prompts}
    assert not kept & others
    assert len(kept | others) == 200
    assert 70 < len(kept) < 130
    more = ai_labels.work_of(config(how, ai_labels__keep_dataset=0.7), splits)
    assert kept < {pair.prompt.text for pair in more.kept}  # a larger share adds to a smaller one
    assert ai_labels.work_of(config(how, ai_labels__keep_dataset=1.0), splits).rows == 0


def test_no_more_is_asked_than_the_reward_model_is_to_learn_from():
    assert ai_labels.work_of(config(reward_model__rows=30), Splits(pairs=PAIRS)).people == PAIRS[:30]
    assert ai_labels.work_of(config(ai_labels__prompts=3), Splits(pairs=PAIRS)).people == PAIRS[:6]
    halves = [
        ai_labels.work_of(config(reward_model__half=half), Splits(pairs=PAIRS)).rows for half in ("first", "second")
    ]
    assert sum(halves) == 400
    assert min(halves) > 100


def test_the_people_s_label_is_not_to_be_seen_in_what_is_asked():
    turned = [Pair(pair.prompt, pair.rejected, pair.chosen) for pair in PAIRS]
    assert ai_labels.asked(PAIRS) == ai_labels.asked(turned)


# --- what it came to --------------------------------------------------------------------------------------------------


def test_a_judge_that_takes_what_it_reads_first_shows_it_and_teaches_nothing_when_both_orders_are_asked():
    comparisons = ai_labels.asked(PAIRS)
    rows = asked(First(), comparisons)
    found = ai_labels.figures(comparisons, rows, PAIRS)
    assert (found["flips"], found["first_chosen"], found["labels"], found["ties"]) == (1.0, 1.0, 0, 400)
    assert found["agreement"] == 0.5
    assert found["calls"] == 800
    assert ai_labels.learned_from([], comparisons, rows, hard=False) == []


def test_asked_once_the_same_judge_labels_everything_by_a_coin():
    comparisons = ai_labels.asked(PAIRS)
    rows = asked(First(), comparisons, "once")
    found = ai_labels.figures(comparisons, rows, PAIRS)
    assert (found["labels"], found["calls"], found["first_chosen"]) == (400, 400, 1.0)
    assert "flips" not in found  # nobody asked
    assert 0.4 < found["agreement"] < 0.6


def test_a_judge_that_is_right_agrees_with_people_and_with_the_truth():
    comparisons = ai_labels.asked(PAIRS)

    def gold(answers):
        return [1.0 if text.startswith("good") else None if text == "bad 3" else 0.0 for _, text in answers]

    rows = asked(Right(), comparisons)
    found = ai_labels.figures(comparisons, rows, PAIRS, gold)
    assert (found["agreement"], found["agreement_of"], found["flips"], found["first_chosen"]) == (1.0, 400, 0.0, 0.5)
    assert (found["gold_agreement"], found["gold_agreement_of"]) == (1.0, 399)
    assert found["agreement_ci95"] == [pytest.approx(400 / (400 + 3.8415), abs=1e-4), 1.0]  # Wilson's, 400 of 400
    assert found["certainty"] == pytest.approx(0.8)
    learned = ai_labels.learned_from(PAIRS[:1], comparisons, rows, hard=False)
    assert learned[0] == PAIRS[0]
    assert learned[1] == Pair(PAIRS[0].prompt, "good 0", "bad 0", label=pytest.approx(0.8))
    assert len(learned) == 401


def test_what_was_not_read_is_counted_by_its_reason_and_is_no_label():
    comparisons = ai_labels.asked(PAIRS[:5])
    rows = asked(Mute(), comparisons)
    found = ai_labels.figures(comparisons, rows, PAIRS, lambda answers: [0.0 for _ in answers])
    assert (found["unread"], found["unread_by"], found["labels"], found["ties"]) == (5, {"refusal": 5}, 0, 0)
    assert not {"agreement", "gold_agreement", "certainty", "flips", "first_chosen"} & found.keys()


def test_what_was_asked_again_is_counted_as_a_cost_and_once_as_a_label():
    comparisons = ai_labels.asked(PAIRS[:3])
    rows = [*asked(Mute(), comparisons), *asked(Right(), comparisons)]
    found = ai_labels.figures(comparisons, rows, PAIRS)
    assert (found["asked"], found["labels"], found["unread"], found["calls"]) == (3, 3, 0, 12)


def test_a_pair_that_people_labelled_both_ways_is_held_against_nobody():
    both = [Pair(Prompt("p"), "x", "y"), Pair(Prompt("p"), "y", "x")]
    comparisons = [Comparison(Prompt("p"), "x", "y")]
    assert "agreement" not in ai_labels.figures(comparisons, asked(First(), comparisons, "once"), both)
