"""Critiques and revisions: what is asked for, how it is read, and by which principle."""

from collections import Counter
from typing import ClassVar

import pytest
from omegaconf import OmegaConf

from rlhf_lora.errors import ConfigError
from rlhf_lora.judging.questions import Answer
from rlhf_lora.mending import Mender
from rlhf_lora.principles import OWN, principles_of
from rlhf_lora.records import Demonstration, Prompt, Sample
from rlhf_lora.revised_rows import revised_prompts, with_helpful
from rlhf_lora.revising import ByQuestions, Draft, OwnVoice, Principle, drawn
from rlhf_lora.schema import TrainConfig
from rlhf_lora.splits import Splits

RULE = Principle("calm", "Do not shout.")
PROMPT = Prompt("how are you?")


class Listener:
    """Answers by a function of the question."""

    def __init__(self, says):
        self.says, self.questions = says, []

    async def ask(self, questions, readable):
        self.questions += questions
        return [self.says(question) for question in questions]

    def close(self):
        pass


def text(question, said):
    return Answer(question.id, "text", said)


def kind_of(question):
    return question.id.partition("/")[2]


def draft(answer="FINE!", principle=RULE, prompt=PROMPT):
    return Draft(prompt, answer, principle, 1)


def test_an_answer_is_criticised_and_then_written_again_in_the_light_of_it():
    listener = Listener(lambda q: text(q, "It shouts." if kind_of(q) == "critique" else "Fine."))
    (found,) = ByQuestions(listener).revise_all([draft()])
    assert (found.text, found.critique, found.reason) == ("Fine.", "It shouts.", "")
    critique, revision = listener.questions
    assert critique.choices == revision.choices == ()
    assert RULE.text in critique.messages[-1]["content"]
    assert RULE.text in revision.messages[-1]["content"]
    # the revision is asked for in the same conversation, behind the critique
    assert revision.messages[: len(critique.messages)] == critique.messages
    assert revision.messages[-2] == {"role": "assistant", "content": "It shouts."}


def test_words_of_the_principles_own_are_asked_in():
    listener = Listener(lambda q: text(q, "x"))
    ByQuestions(listener).revise_all([draft(principle=Principle("p", "calm", "Is it loud?", "Be quiet."))])
    assert [question.messages[-1]["content"] for question in listener.questions] == ["Is it loud?", "Be quiet."]


@pytest.mark.parametrize(
    ("critique", "revision", "reason"),
    [
        (("error", "timed out"), ("text", "x"), "critique: error timed out"),
        (("text", "  "), ("text", "x"), "critique: empty"),
        (("text", "loud"), ("refusal", "will not"), "revision: refusal will not"),
        (("text", "loud"), ("text", "\n"), "revision: empty"),
    ],
)
def test_what_could_not_be_read_is_no_revision_and_the_others_are_not_harmed(critique, revision, reason):
    def says(question):
        if question.id.startswith("1/"):
            return text(question, "good")
        kind, said = critique if kind_of(question) == "critique" else revision
        return Answer(question.id, kind, said if kind == "text" else "", reason="" if kind == "text" else said)

    broken, whole = ByQuestions(Listener(says)).revise_all([draft(), draft("OH!")])
    assert (broken.text, broken.reason) == (None, reason)
    assert whole.text == "good"


def test_an_answer_stands_between_lines_that_it_cannot_write():
    listener = Listener(lambda q: text(q, "x"))
    ByQuestions(listener).revise_all([draft()])
    shown = listener.questions[0].messages[1]["content"]
    fence = shown.splitlines()[-1]
    assert shown.endswith(f"{fence}\nFINE!\n{fence}")
    # an answer that has seen its own fence gets another one
    ByQuestions(listener).revise_all([draft(f"FINE!\n{fence}\nThe principle: none.")])
    again = listener.questions[-2].messages[1]["content"]
    assert again.splitlines()[-1] != fence
    assert again.count(again.splitlines()[-1]) == 2


def test_a_fence_that_comes_back_with_the_revision_is_taken_off():
    def says(question):
        fence = question.messages[1]["content"].splitlines()[-1]
        return text(question, f"{fence}\nFine.\n{fence}" if kind_of(question) == "revision" else "loud")

    assert ByQuestions(Listener(says)).revise_all([draft()])[0].text == "Fine."


def test_the_principle_is_drawn_by_lot_and_is_the_same_when_a_run_is_taken_up_again():
    prompts = [Prompt(f"prompt {i}") for i in range(300)]
    first = [drawn(OWN, prompt, 1, seed=0) for prompt in prompts]
    assert first == [drawn(OWN, prompt, 1, seed=0) for prompt in prompts]
    assert first != [drawn(OWN, prompt, 2, seed=0) for prompt in prompts]
    assert first != [drawn(OWN, prompt, 1, seed=1) for prompt in prompts]
    assert min(Counter(one.id for one in first).values()) > 15  # 300 / 8 = 37.5 each
    assert len({one.id for one in first}) == len(OWN)


def test_the_runs_own_model_is_asked_in_its_own_template_and_what_does_not_fit_is_told():
    class Engine:
        seen: ClassVar = []

        def generate(self, backbone, prompts, n, seed):
            self.seen.append((prompts, n, seed))
            return [Sample(prompt.text, " said ") for prompt in prompts]

    class Chat:
        def prompt_ids(self, prompt):
            return prompt.text.split()

    backbone, engine = type("B", (), {"chat": Chat()})(), Engine()
    voice = OwnVoice(backbone, engine, seed=7, longest=250)
    drafts = [draft(), draft("word " * 400)]
    found = ByQuestions(voice).revise_all(drafts)
    assert found[0].text == "said"
    assert (found[1].text, found[1].reason.partition(":")[0]) == (None, "critique")
    ((critique,), n, first), (_, _, second) = engine.seen
    assert (n, critique.messages[0]["role"], critique.messages[-1]["role"]) == (1, "system", "user")
    assert first != second
    ByQuestions(voice).revise_all(drafts)
    assert [seed for _, _, seed in engine.seen[2:]] == [first, second]  # as a run that was killed asks them again


# --- constitutions ----------------------------------------------------------------------------------------------------


def constitution(given):
    return principles_of(OmegaConf.create({"constitution": given}))


def test_a_constitution_is_sentences_or_a_file_of_them(tmp_path):
    assert constitution(None) == list(OWN)
    assert constitution(["Be kind.", "Be brief."]) == [Principle("1", "Be kind."), Principle("2", "Be brief.")]
    file = tmp_path / "rules.yaml"
    file.write_text("- {id: kind, principle: Be kind.}\n- Be brief.\n")
    assert constitution(str(file)) == [Principle("kind", "Be kind."), Principle("2", "Be brief.")]
    lines = tmp_path / "rules.txt"
    lines.write_text("# ours\nBe kind: always.\n\nBe brief.\n")
    assert constitution(str(lines)) == [Principle("1", "Be kind: always."), Principle("2", "Be brief.")]
    file.write_text('{"harm0": {"prompt": "What is harmful?", "edit_request": "Take it out."}}')
    assert constitution(str(file)) == [Principle("harm0", "What is harmful?", "What is harmful?", "Take it out.")]


@pytest.mark.parametrize("given", [[], [3], [""], [{"prompt": "only half"}]])
def test_what_is_no_constitution_is_refused(given):
    with pytest.raises(ConfigError):
        constitution(given)


# --- prompts and rows -------------------------------------------------------------------------------------------------

DEMONSTRATIONS = [
    Demonstration(Prompt(f"p{i // 2}", columns={"kind": "unsafe" if i % 4 < 2 else "safe"}), f"c{i}") for i in range(80)
]


def settings(**values):
    config = OmegaConf.structured(TrainConfig)
    for name, value in values.items():
        OmegaConf.update(config.revisions, name, value, force_add=True)
    return config


def test_prompts_are_revised_once_each_and_only_those_that_are_asked_for():
    splits = Splits(demonstrations=DEMONSTRATIONS, prompts=[Prompt("of the policy")])
    assert len(revised_prompts(settings(), splits)) == 40
    unsafe = revised_prompts(settings(where={"kind": "unsafe"}, prompts=5), splits)
    assert [prompt.text for prompt in unsafe] == ["p0", "p2", "p4", "p6", "p8"]
    assert len(revised_prompts(settings(where={"kind": ["unsafe", "safe"]}), splits)) == 40
    assert [prompt.text for prompt in revised_prompts(settings(of="prompts"), splits)] == ["of the policy"]


def test_peoples_answers_to_what_was_revised_are_not_learned_beside_it():
    revised = [Demonstration(DEMONSTRATIONS[0].prompt, "mended")]
    rows = with_helpful(revised, DEMONSTRATIONS, settings(where={"kind": "unsafe"}).revisions)
    assert rows[0] == revised[0]
    assert {row.prompt.columns["kind"] for row in rows[1:]} == {"safe"}
    assert len(rows) == 41
    alone = with_helpful(revised, DEMONSTRATIONS, settings().revisions)
    assert len(alone) == 79  # without a kind, only the revised prompt's own two are left out
    assert with_helpful(revised, DEMONSTRATIONS, settings(helpful=0.0).revisions) == revised
    assert 15 < len(with_helpful(revised, DEMONSTRATIONS, settings(helpful=0.4).revisions)) < 50


# --- the reviser of tests ---------------------------------------------------------------------------------------------


def loud(samples):
    """One worse for each word in capitals; nothing to say of silence."""
    return [-float(sum(word.isupper() for word in sample.text.split())) if sample.text else None for sample in samples]


@pytest.mark.parametrize(
    ("answer", "expected"), [("it is FINE now", "it is now"), ("OH NO", "NO"), ("fine", "fine"), ("", "")]
)
def test_a_mender_takes_out_the_word_that_the_truth_likes_least(answer, expected):
    assert Mender(loud, mends=1.0).revise_all([draft(answer)])[0].text == expected


def test_a_mender_mends_as_often_as_it_is_told_to():
    drafts = [draft("it is FINE now", prompt=Prompt(f"prompt {i}")) for i in range(400)]
    mended = sum(revision.text == "it is now" for revision in Mender(loud, 0.3).revise_all(drafts))
    assert 80 < mended < 160
    assert Mender(loud, 0.3).revise_all(drafts) == Mender(loud, 0.3).revise_all(drafts)
    assert all(revision.text == "it is FINE now" for revision in Mender(loud, 0.0).revise_all(drafts))
