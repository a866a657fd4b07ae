"""A judge that is a role on a backbone: probabilities as a plain forward pass has them, and no trace left behind."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import tiny

from rlhf_lora.errors import ModelError
from rlhf_lora.judging.asked import Asked
from rlhf_lora.judging.own_model import OwnModel, masses
from rlhf_lora.judging.questions import Question
from rlhf_lora.judging.settings import JudgingSettings
from rlhf_lora.records import Comparison, Prompt

CHATML = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
PROMPT = Prompt("bring tea")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Qwen2 with random weights, byte pairs, and room for a whole question."""
    folder = tmp_path_factory.mktemp("judge")
    tiny.build_qwen2(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="module")
def backbone(model):
    from rlhf_lora.backbone import Backbone

    made = Backbone(tiny.spec(model, load_in_4bit=False), micro_batch=3)
    made.add_role("policy", trained=True)
    made.add_role("judge", bare=True)
    tiny.stir(made, "policy", 0.5)
    return made


def ask(backbone, *questions, **settings):
    return OwnModel(backbone, "judge", **settings).ask(questions)


def bare(text, choices=("A", "B"), id="q"):
    return Question(id, ({"role": "user", "content": text},), choices)


def plain_probability(backbone, text, choice, longer=()):
    """P(choice) by one forward pass over text and choice, without any of ours: its tokens, and nothing that goes on."""
    import torch

    chat = backbone.chat
    spelt = {tuple(chat._encode(f" {choice}"))} | {tuple(one) for one in [chat._encode(choice)] if len(one) == 1}
    total = 0.0
    for tokens in spelt:
        ids = chat.prompt_ids(Prompt(text))
        with torch.no_grad(), backbone.role("judge"):
            logits = backbone.base(input_ids=torch.tensor([[*ids, *tokens]])).logits[0].float().softmax(-1)
        p = math.prod(float(logits[len(ids) - 1 + k, token]) for k, token in enumerate(tokens))
        goes_on = {
            chat._encode(f" {word}")[len(tokens)]
            for word in longer
            if tuple(chat._encode(f" {word}")[: len(tokens)]) == tokens
        }
        total += p * (1 - sum(float(logits[-1, token]) for token in goes_on))
    return total


def test_probabilities_are_those_of_a_forward_pass_whatever_is_asked_with_it(backbone):
    texts = [
        "x | A: tea | B: soup | better:",
        "y",
        "a longer one | A: bread | B: rice with fish | better:",
        "z z",
        "tea",
    ]
    answers = ask(backbone, *(bare(text, id=text) for text in texts), bare=True)
    assert [answer.id for answer in answers] == texts
    for text, answer in zip(texts, answers, strict=True):
        a, b = (plain_probability(backbone, text, choice) for choice in "AB")
        assert answer.probabilities == pytest.approx({"A": a / (a + b), "B": b / (a + b)}, abs=1e-5)
        assert answer.text == ("A" if a > b else "B")


def test_ten_is_not_taken_for_one():
    """p("1") = 0.5, behind it p("0") = 0.4: 0.3 for 1 and 0.2 for 10; a way to spell 2 with a space adds to it."""
    sequences = {(1,): "1", (1, 0): "10", (2,): "2", (9, 2): "2"}
    found = masses(sequences, {(): {1: 0.5, 2: 0.2, 9: 0.1}, (1,): {0: 0.4}, (9,): {2: 0.5}})
    assert found == pytest.approx({"1": 0.3, "10": 0.2, "2": 0.25})


def test_ratings_have_the_probabilities_of_a_forward_pass(backbone):
    numbers = tuple(str(i) for i in range(1, 11))
    (answer,) = ask(backbone, bare("x | answer: tea | 1 to 10:", numbers), bare=True)
    plain = {
        n: plain_probability(backbone, "x | answer: tea | 1 to 10:", n, ("10",) if n == "1" else ()) for n in numbers
    }
    total = sum(plain.values())
    assert answer.probabilities == pytest.approx({n: p / total for n, p in plain.items()}, abs=1e-5)
    assert len(backbone.chat._encode(" 10")) > 1  # else nothing was shown


@pytest.mark.parametrize("template", [None, CHATML, NO_SYSTEM], ids=["plain", "chat", "no_system"])
@pytest.mark.parametrize("reasoning", ["none", "steps"])
def test_whole_questions_go_through_whatever_template_the_model_has(backbone, monkeypatch, template, reasoning):
    monkeypatch.setattr(backbone.chat.tokenizer, "chat_template", template)
    monkeypatch.setattr(
        type(backbone.chat), "decode", lambda self, ids: "Tea is what was asked for."
    )  # not its own noise
    settings = JudgingSettings(reasoning=reasoning, reasoning_tokens=6)
    judge = Asked(OwnModel(backbone, "judge"), settings)
    first, second = Comparison(PROMPT, "certainly tea", "no"), Comparison(PROMPT, "tea", "ugh whatever")
    verdicts = judge.compare_all([first, second])
    assert all(verdict.probability_a is not None for verdict in verdicts), verdicts
    assert verdicts == pytest.approx(judge.compare_all([first, second]))
    scores = judge.rate_all([(PROMPT, "tea")])
    assert 1 < scores[0].value < 10


def test_the_backbone_is_left_as_it_was(backbone):
    import torch

    def state():
        return {name: (p.requires_grad, p.grad is None) for name, p in backbone.model.named_parameters()}

    def gradients():
        ids, responses = tiny.token_ids(backbone.chat, 4)
        from rlhf_lora.padding import pad

        padded = pad(ids, responses, backbone.chat.fill_id)
        with backbone.role("policy"):
            backbone.response_hidden(padded).square().sum().backward()
        found = {name: p.grad.clone() for name, p in backbone.parameters("policy").items()}
        backbone.model.zero_grad()
        return found

    before, grads = state(), gradients()
    judge = Asked(OwnModel(backbone, "judge"), JudgingSettings(reasoning="steps", reasoning_tokens=4))
    assert judge.compare(PROMPT, "tea", "no").choice
    after = gradients()
    assert state() == before
    assert all(torch.equal(grads[name], after[name]) for name in grads)
    assert any(grad.abs().sum() > 0 for grad in after.values())


def test_the_judge_is_the_base_and_not_the_policy(backbone):
    question = bare("x | A: tea | B: soup | better:")
    base, policy = (OwnModel(backbone, role, bare=True).ask([question])[0] for role in ("judge", "policy"))
    assert abs(base.probabilities["A"] - policy.probabilities["A"]) > 1e-3


def test_what_the_model_would_not_have_said_is_unreadable(backbone):
    (answer,) = ask(backbone, bare("x"), bare=True, least_mass=0.9)
    assert answer.kind == "unreadable"
    assert "about to say" in answer.reason


def test_a_question_that_does_not_fit_has_no_answer_and_the_others_do(backbone):
    long = bare("tea " * 400, id="long")
    answers = ask(
        backbone, long, bare("x", id="short"), replace(bare("x", (), id="free"), max_tokens=3), bare=True, longest=60
    )
    assert [(a.id, a.kind) for a in answers] == [("long", "error"), ("short", "text"), ("free", "text")]
    assert answers[0].reason.startswith("too long")


def test_free_text_is_the_same_when_it_is_asked_again_and_what_was_thought_is_not_said(backbone, monkeypatch):
    question = Question(
        "q", ({"role": "system", "content": "be brief"}, {"role": "user", "content": "tea?"}), max_tokens=8
    )
    first, again = ask(backbone, question), ask(backbone, question)
    assert first == again
    assert first[0].text
    monkeypatch.setattr(type(backbone.chat), "decode", lambda self, ids: "<think>soup is better</think>\nTea.")
    assert ask(backbone, question)[0].text == "Tea."


def test_a_vocabulary_without_the_words_is_refused(tiny_base):
    from rlhf_lora.backbone import Backbone

    made = Backbone(tiny.spec(tiny_base, load_in_4bit=False))
    made.add_role("judge", bare=True)
    with pytest.raises(ModelError, match="does not tell"):
        OwnModel(made, "judge")
