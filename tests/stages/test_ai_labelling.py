"""Many comparisons by a judge, many answers by a policy, many revisions: nothing is done twice, and nothing is lost."""

import pytest

from rlhf_lora.comparison_rows import in_a_coins_order, newest
from rlhf_lora.errors import ContractError, Interrupted, Stopped
from rlhf_lora.records import Prompt, Sample, Verdict
from rlhf_lora.revising import Principle, Revision
from rlhf_lora.row_file import RowFile
from rlhf_lora.stages import ai_labelling, revisions

COMPARISONS = [in_a_coins_order(Prompt(f"prompt {i}"), "one", "other") for i in range(150)]


class Judge:
    """Likes what is longer; has no verdict where `mute` says so. Is killed before the portion `dies`."""

    def __init__(self, mute=lambda one: False, dies=None):
        self.mute, self.dies, self.calls = mute, dies, []

    def compare_all(self, comparisons):
        if len(self.calls) == self.dies:
            raise KeyboardInterrupt
        self.calls.append(len(comparisons))
        return [
            Verdict(None, reason="unreadable: ?")
            if self.mute(one)
            else Verdict("A" if len(one.a) > len(one.b) else "B")
            for one in comparisons
        ]


def label(judge, file, **settings):
    return ai_labelling.label(judge, COMPARISONS, file, "judge", **settings)


def test_every_comparison_is_asked_about_once_in_both_orders(tmp_path):
    judge = Judge()
    rows = label(judge, RowFile(tmp_path / "labels.jsonl"))
    assert judge.calls == [128, 128, 44]
    assert len(newest(rows)) == 150
    assert rows[0] == {"format": "labels/1"}
    assert all(row["answers"]["AB".index(row["label"])] == "other" for row in rows[1:])


def test_killed_and_taken_up_again_nothing_is_asked_twice_and_the_file_is_the_same(tmp_path):
    whole, file = RowFile(tmp_path / "whole.jsonl"), RowFile(tmp_path / "labels.jsonl")
    label(Judge(), whole)
    for dies in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            label(Judge(dies=dies), file)
    with open(file.path, "ab") as torn:
        torn.write(b'{"kind": "compari')
    judge = Judge()
    label(judge, file)
    assert judge.calls == [128, 44]  # the portion of the second start was kept
    assert file.path.read_bytes() == whole.path.read_bytes()


def test_a_finished_file_is_not_asked_about_again(tmp_path):
    file = RowFile(tmp_path / "labels.jsonl")
    rows = label(Judge(), file)
    judge = Judge()
    assert label(judge, file) == rows
    assert judge.calls == []


def test_a_comparison_that_comes_several_times_is_asked_about_once(tmp_path):
    judge = Judge()
    ai_labelling.label(judge, COMPARISONS[:3] * 5, RowFile(tmp_path / "labels.jsonl"), "judge", orders="once")
    assert judge.calls == [3]


def test_too_many_verdicts_that_cannot_be_read_end_the_stage_and_what_was_read_is_kept(tmp_path):
    file = RowFile(tmp_path / "labels.jsonl")
    with pytest.raises(Stopped, match=r"40 of 64 comparisons.*missing_share=0\.5.*unreadable: \?"):
        label(Judge(mute=lambda one: int(one.prompt.text.split()[1]) < 40), file)
    judge = Judge()
    rows = label(judge, file)
    assert judge.calls == [128, 124]  # the 40, and the 86 that had not come up
    assert sum("label" in row for row in newest(rows).values()) == 150


def test_few_that_cannot_be_read_again_do_not_end_a_stage_that_has_most(tmp_path):
    file, mute = RowFile(tmp_path / "labels.jsonl"), lambda one: one.prompt.text in ("prompt 3", "prompt 4")
    for _ in range(2):  # the second time, only these two are asked about
        rows = label(Judge(mute), file)
    assert sum("label" not in row for row in newest(rows).values()) == 2


def test_a_judge_that_raises_is_named_with_its_place_and_the_file_can_be_gone_on_with(tmp_path):
    class Raises(Judge):
        def compare_all(self, comparisons):
            raise KeyError("score")

    file = RowFile(tmp_path / "labels.jsonl")
    with pytest.raises(
        ContractError, match=r"the judge 'judge' raised KeyError: 'score' \(test_ai_labelling.py, line \d+\)"
    ):
        label(Raises(), file)
    assert len(label(Judge(), file)) == 1 + len(COMPARISONS)


def test_a_signal_ends_it_between_two_portions(tmp_path):
    file, judge = RowFile(tmp_path / "labels.jsonl"), Judge()
    with pytest.raises(Interrupted) as left:
        label(judge, file, interrupted=lambda: 15 if judge.calls else None)
    assert left.value.exit_code == 143
    assert len(newest(file.rows())) == 64


def test_a_principle_is_written_down_where_the_judge_says_it(tmp_path):
    judge = Judge()
    judge.principle_of = lambda one: f"rule of {one.prompt.text}"
    rows = label(judge, RowFile(tmp_path / "labels.jsonl"))
    assert rows[1]["principle"] == "rule of prompt 0"


# --- answers ----------------------------------------------------------------------------------------------------------


class Engine:
    def __init__(self, dies=None):
        self.dies, self.seeds = dies, []

    def generate(self, backbone, prompts, n, seed):
        if len(self.seeds) == self.dies:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        return [Sample(p.text, f"{p.text}/{seed % 97}/{i}") for p in prompts for i in range(n)]


def test_answers_are_the_same_after_a_kill(tmp_path):
    prompts = [Prompt(f"prompt {i}") for i in range(600)]
    whole = ai_labelling.answer(None, Engine(), prompts, 3, RowFile(tmp_path / "whole.jsonl"), 5)
    file = RowFile(tmp_path / "answers.jsonl")
    with pytest.raises(KeyboardInterrupt):
        ai_labelling.answer(None, Engine(dies=2), prompts, 3, file, 5)
    file.append([{"prompt": "of a portion", "id": "?", "answers": ["that was cut"]}])
    again = Engine()
    assert ai_labelling.answer(None, again, prompts, 3, file, 5) == whole
    assert len(again.seeds) == 1
    assert whole[0][1].startswith("prompt 0/")
    assert whole[0][1].endswith("/1")
    assert len(set(Engine().seeds)) == len(Engine().seeds)
    assert ai_labelling.answer(None, Engine(dies=0), prompts, 3, file, 5) == whole


# --- revisions --------------------------------------------------------------------------------------------------------

PROMPTS = [Prompt(f"prompt {i}") for i in range(100)]
RULES = [Principle("a", "a"), Principle("b", "b")]


class Reviser:
    """Takes a letter off each answer; of round `silent` it says nothing."""

    def __init__(self, silent=0, dies=None):
        self.silent, self.dies, self.rounds = silent, dies, []

    def revise_all(self, drafts):
        if len(self.rounds) == self.dies:
            raise KeyboardInterrupt
        self.rounds.append(drafts[0].round)
        return [
            Revision(None, reason="refusal")
            if one.round == self.silent
            else Revision(one.answer[:-1], one.principle.id)
            for one in drafts
        ]


def revise(reviser, file, rounds=3, share=0.5):
    return revisions.revise(reviser, PROMPTS, ["xxxx"] * 100, RULES, rounds, file, 0, share)


def test_each_round_begins_with_what_the_last_one_left(tmp_path):
    reviser = Reviser()
    assert revise(reviser, RowFile(tmp_path / "steps.jsonl")) == [["xxxx", "xxx", "xx", "x"]] * 100
    assert reviser.rounds == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("dies", range(6))
def test_revisions_killed_anywhere_are_those_of_a_whole_run(tmp_path, dies):
    whole, file = RowFile(tmp_path / "whole.jsonl"), RowFile(tmp_path / "steps.jsonl")
    expected = revise(Reviser(), whole)
    with pytest.raises(KeyboardInterrupt):
        revise(Reviser(dies=dies), file)
    again = Reviser()
    assert revise(again, file) == expected
    assert len(again.rounds) == 6 - dies
    assert file.path.read_bytes() == whole.path.read_bytes()


def test_a_revision_that_could_not_be_read_leaves_the_text_as_it_was(tmp_path):
    file = RowFile(tmp_path / "steps.jsonl")
    texts = revise(Reviser(silent=2), file)
    assert texts == [["xxxx", "xxx", "xxx", "xx"]] * 100
    found = revisions.figures(PROMPTS, texts, file.rows(), {})
    assert (found["steps"], found["unread"], found["changed"]) == (300, 100, pytest.approx(2 / 3))
    assert sum(found["by_principle"].values()) == 300
    assert revise(Reviser(dies=0), file) == texts  # and reading them again gives the same


def test_a_reviser_that_says_nothing_is_not_gone_on_with(tmp_path):
    with pytest.raises(Stopped, match="64 of 64 revisions"):
        revise(Reviser(silent=1), RowFile(tmp_path / "steps.jsonl"))


def test_a_reviser_must_give_one_revision_for_each_draft(tmp_path):
    reviser = Reviser()
    reviser.revise_all = lambda drafts: []
    with pytest.raises(ContractError):
        revise(reviser, RowFile(tmp_path / "steps.jsonl"))


def test_violations_are_counted_at_every_revision_where_something_can_tell_them(tmp_path):
    from rlhf_lora.records import Score

    def measure(samples):
        return [Score(float(2 - len(s.text))) if s.text != "xxxx" else Score.none("too long") for s in samples]

    texts = [["xxx", "xx", "x"], ["xxxx", "xxx", "xxx"]]
    found = revisions.figures(PROMPTS[:2], texts, [], {"short": measure, "mute": lambda s: [Score.none("?")] * len(s)})
    assert found["measures"] == {"short": {"mean": [-1.0, -0.5, 0.0], "violations": [1.0, 0.5, 0.5]}}
