"""Many comparisons by a judge or by simulated people, many answers by a policy, many revisions: nothing is done twice, and
nothing is lost."""

import math

import pytest

from rlhf_lora.comparison_rows import Sampled, in_a_coins_order, newest, pair_of
from rlhf_lora.errors import ContractError, Interrupted, Stopped
from rlhf_lora.records import Comparison, Prompt, Sample, Score, Verdict, named_seed
from rlhf_lora.revising import Principle, Revision
from rlhf_lora.row_file import RowFile
from rlhf_lora.stages import answers, labelling, revisions
from rlhf_lora.stages.labelling import Judging, People
from rlhf_lora.stages.scoring import Scorer

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
    return labelling.label(Judging(judge, "judge"), COMPARISONS, file, **settings)


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
    labelling.label(Judging(judge, "judge", "once"), COMPARISONS[:3] * 5, RowFile(tmp_path / "labels.jsonl"))
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
        ContractError, match=r"the judge 'judge' raised KeyError: 'score' \(test_labelling.py, line \d+\)"
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


# --- simulated people -------------------------------------------------------------------------------------------------


class Length:
    """The answer's length, as `tokens` where they are known; none of a cut one. It counts what it is asked."""

    def __init__(self):
        self.asked = 0

    def score(self, samples):
        self.asked += len(samples)
        return [float(len(s.tokens or s.text)) if s.finished else Score.none("cut") for s in samples]


def people(tau, sampled=None, reward=None):
    return People(Scorer(reward or Length(), "length"), tau, 3, sampled or Sampled())


def test_simulated_people_err_as_often_as_tau_says():
    asked = [Comparison(Prompt(f"p{i}"), *pair) for i in range(500) for pair in (("xx", "x"), ("x", "xx"))]

    def right(tau):
        rows = people(tau).rows(asked)
        return sum(row["answers"]["AB".index(row["label"])] == "xx" for row in rows) / len(rows)

    assert right(0.0) == 1.0
    assert right(1.0) == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.04)
    assert people(1.0).rows(asked)[7:20] == people(1.0).rows(asked[7:20])  # whatever was asked before
    (tie,) = people(0.0).rows([Comparison(Prompt("p"), "x", "y")])
    assert (tie["label"], tie["p"], tie["rater"], tie["source"]) == ("tie", 0.5, "length", "program")


def test_simulated_people_see_answers_as_they_were_sampled_and_are_asked_once(tmp_path):
    """Tokens and the cut are in no comparison; who scores needs them, and what is learned must not end where an answer was cut."""
    prompts = [Prompt("p"), Prompt("q")]
    rows = [
        {"id": prompts[0].id, "answers": ["long text", "x"], "tokens": [[1], [1, 2, 3]], "finished": [True, True]},
        {"id": prompts[1].id, "answers": ["a", "b"], "tokens": [[1], [1, 2]], "finished": [False, True]},
    ]
    sampled, file, reward = Sampled(prompts, rows), RowFile(tmp_path / "labels.jsonl"), Length()
    said = labelling.label(people(0.0, sampled, reward), sampled.comparisons(), file)
    by_prompt = {row["prompt"]: row for row in said[1:]}
    assert by_prompt["p"]["answers"]["AB".index(by_prompt["p"]["label"])] == "x"
    assert by_prompt["q"]["skipped"] == "cut"
    pairs = [pair_of(one, {"label": "A", "p": 1.0}, sampled=sampled) for one in sampled.comparisons()]
    assert [pair.finished for pair in pairs] == [(True, True), (pairs[1].chosen == "b", pairs[1].chosen == "a")]
    assert reward.asked == 4
    labelling.label(people(0.0, sampled, reward), sampled.comparisons(), file)
    assert reward.asked == 6  # what could not be read, again


def test_a_judges_bias_for_what_it_reads_first_becomes_no_pair(tmp_path):
    class Longer(Judge):
        def compare_all(self, comparisons):
            return [Verdict(*(("A", 0.9) if len(one.a) >= len(one.b) else ("B", 0.1))) for one in comparisons]

    asked = [Comparison(Prompt("p"), *pair) for pair in (("xx", "x"), ("x", "xx"), ("ab", "cd"))]
    rows = labelling.label(Judging(Longer(), "longer"), asked, RowFile(tmp_path / "labels.jsonl"))[1:]
    pairs = [pair_of(one, row) for one, row in zip(asked, rows, strict=True)]
    assert [(p.chosen, p.label) for p in pairs[:2]] == [("xx", pytest.approx(0.9))] * 2
    assert pairs[2] is None
    assert rows[2]["more"]["flipped"]


# --- answers ----------------------------------------------------------------------------------------------------------


class Engine:
    def __init__(self, dies=None):
        self.dies, self.seeds = dies, []

    def generate(self, backbone, prompts, n, seed):
        if len(self.seeds) == self.dies:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        return [
            Sample(p.text, f"{p.text}/{seed % 97}/{i}", tokens=[i], finished=i < 2) for p in prompts for i in range(n)
        ]


def test_answers_are_the_same_after_a_kill(tmp_path):
    prompts = [Prompt(f"prompt {i}") for i in range(600)]

    def sampled(engine, file):
        return answers.sampled(None, engine, prompts, 3, file, lambda first: named_seed(5, str(first)), lambda: None)

    first = Engine()
    whole = sampled(first, RowFile(tmp_path / "whole.jsonl"))
    assert len(set(first.seeds)) == len(first.seeds) == 3
    file = RowFile(tmp_path / "answers.jsonl")
    with pytest.raises(KeyboardInterrupt):
        sampled(Engine(dies=2), file)
    file.append([{"prompt": "of a portion", "id": "?", "answers": ["that was cut"]}])
    again = Engine()
    assert sampled(again, file) == whole
    assert len(again.seeds) == 1
    assert whole[0]["answers"][1].startswith("prompt 0/")
    assert whole[0]["answers"][1].endswith("/1")
    assert (whole[0]["tokens"], whole[0]["finished"]) == ([[0], [1], [2]], [True, True, False])
    assert sampled(Engine(dies=0), file) == whole
    assert file.path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


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
    file = RowFile(tmp_path / "steps.jsonl")
    with pytest.raises(Stopped, match="64 of 64 revisions"):
        revise(Reviser(silent=1), file)
    assert len(file.rows()) == 64  # to be looked at
    # One that was out of order and is not any more is asked again: its silence would stop the run for ever.
    assert revise(Reviser(), file) == [["xxxx", "xxx", "xx", "x"]] * 100
    assert all(row["text"] is not None for row in file.rows())


def test_a_reviser_must_give_one_revision_for_each_draft(tmp_path):
    reviser = Reviser()
    for given, told in (
        ([], "gave 0 revisions for 64 drafts"),
        (None, "gave NoneType"),
        (["text"] * 64, "list of Revisions"),
    ):
        reviser.revise_all = lambda drafts, given=given: given
        with pytest.raises(ContractError, match=f"the reviser 'Reviser' .*{told}"):
            revise(reviser, RowFile(tmp_path / "steps.jsonl"))


def test_a_reviser_that_raises_is_named_with_its_place_and_the_file_can_be_gone_on_with(tmp_path):
    class Raises(Reviser):
        def revise_all(self, drafts):
            if drafts[0].round == 2:
                raise KeyError("text")
            return super().revise_all(drafts)

    file = RowFile(tmp_path / "steps.jsonl")
    place = r"the reviser 'Raises' raised KeyError: 'text' \(test_labelling.py, line \d+\)"
    with pytest.raises(ContractError, match=place):
        revise(Raises(), file)
    assert revise(Reviser(), file) == [["xxxx", "xxx", "xx", "x"]] * 100


def test_violations_are_counted_at_every_revision_where_something_can_tell_them(tmp_path):
    from rlhf_lora.records import Score

    def measure(samples):
        return [Score(float(2 - len(s.text))) if s.text != "xxxx" else Score.none("too long") for s in samples]

    texts = [["xxx", "xx", "x"], ["xxxx", "xxx", "xxx"]]
    found = revisions.figures(PROMPTS[:2], texts, [], {"short": measure, "mute": lambda s: [Score.none("?")] * len(s)})
    assert found["measures"] == {"short": {"mean": [-1.0, -0.5, 0.0], "violations": [1.0, 0.5, 0.5]}}
