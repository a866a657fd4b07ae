"""Both engines keep the promises of `RolloutEngine`; the one log-prob captured while sampling is the true one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny import prompts, spec, stir

from rlhf_lora.backbone import Backbone
from rlhf_lora.errors import ConfigError
from rlhf_lora.records import Prompt
from rlhf_lora.registry import build

ENGINES = pytest.mark.parametrize("name", ["native", "hf"])
ONE_ENGINE = pytest.mark.parametrize("name", ["native", pytest.param("hf", marks=pytest.mark.slow)])  # many answers
ASKED = prompts(6)


@pytest.fixture(scope="module", params=["tiny_base", pytest.param("tiny_qwen2", marks=pytest.mark.slow)])
def backbone(request) -> Backbone:
    made = Backbone(spec(request.getfixturevalue(request.param)), micro_batch=3, rollout_batch=4)
    made.add_role("policy", trained=True)
    made.add_role("reference", bare=True)
    stir(made, "policy", 0.1)
    return made


def engine(name: str, temperature: float = 1.0, **settings: Any) -> Any:
    return build("rollout", {"name": name, "max_new_tokens": 7, "temperature": temperature, **settings})


def texts(samples: list[Any]) -> list[list[int]]:
    return [list(sample.tokens) for sample in samples]


@ENGINES
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_captured_logprobs_are_those_of_a_fresh_pass_at_the_same_temperature(backbone, name, temperature):
    samples = engine(name, temperature).generate(backbone, ASKED, 2, 3)
    ids = [backbone.chat.prompt_ids(Prompt(s.prompt)) for s in samples]
    again = backbone.sequence_logprobs("policy", ids, texts(samples), temperature)
    for sample, logprobs in zip(samples, again, strict=True):
        assert sample.logprobs == pytest.approx(logprobs, abs=2e-5)


@ENGINES
def test_answers_come_in_the_order_of_the_prompts_n_for_each(backbone, name):
    samples = engine(name).generate(backbone, ASKED, 3, 3)
    assert [s.prompt for s in samples] == [p.text for p in ASKED for _ in range(3)]


@ENGINES
def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(backbone, name):
    first = texts(engine(name).generate(backbone, ASKED, 1, 3))
    assert texts(engine(name).generate(backbone, ASKED, 1, 3)) == first
    assert texts(engine(name).generate(backbone, ASKED, 1, 4)) != first


@ENGINES
def test_the_global_random_streams_are_left_alone(backbone, name):
    torch.manual_seed(7)
    before, python = torch.get_rng_state(), random.getstate()
    engine(name).generate(backbone, ASKED, 1, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python


@ENGINES
def test_an_answer_ends_at_its_end_token_or_is_cut_and_says_which(backbone, name):
    backbone.rollout_batch, before = 64, backbone.rollout_batch
    samples = engine(name, 2.0, max_new_tokens=20).generate(backbone, ASKED, 5, 3)
    backbone.rollout_batch = before
    assert {s.finished for s in samples} == {True, False} or backbone.chat.end_id > 100  # Qwen's hardly ever ends
    for sample in samples:
        assert 1 <= len(sample.tokens) <= 20
        assert len(sample.logprobs) == len(sample.tokens)
        assert backbone.chat.end_id not in list(sample.tokens)[:-1]
        assert sample.finished == (sample.tokens[-1] == backbone.chat.end_id)
        assert sample.finished or len(sample.tokens) == 20
        assert "<end>" not in sample.text
        assert "<|im_end|>" not in sample.text


def test_tokens_are_drawn_from_the_policys_distribution(backbone):
    # 4000 first tokens against the exact probabilities: the largest difference of the cumulative curves.
    asked = [ASKED[0]] * 4000
    backbone.rollout_batch, before = 4000, backbone.rollout_batch
    samples = engine("native", 0.8, max_new_tokens=1).generate(backbone, asked, 1, 11)
    backbone.rollout_batch = before
    ids = torch.tensor([backbone.chat.prompt_ids(ASKED[0])])
    with torch.no_grad(), backbone.role("policy"):
        exact_V = (backbone.base(ids).logits[0, -1].float() / 0.8).softmax(0)
    drawn_V = torch.bincount(torch.tensor([s.tokens[0] for s in samples]), minlength=len(exact_V)) / 4000
    assert (drawn_V.cumsum(0) - exact_V.cumsum(0)).abs().max() < 1.95 / 4000**0.5  # Kolmogorov-Smirnov, p = 0.001


@ENGINES
def test_a_prompt_is_answered_as_if_it_were_alone(backbone, name):
    # Left padding: log-probs of what the batch drew do not know of the batch.
    samples = engine(name).generate(backbone, ASKED, 1, 3)
    for sample in samples:
        ids = backbone.chat.prompt_ids(Prompt(sample.prompt))
        alone = backbone.sequence_logprobs("policy", [ids], [list(sample.tokens)])[0]
        assert sample.logprobs == pytest.approx(alone, abs=2e-5)


@ENGINES
def test_the_reference_can_be_sampled_and_is_not_the_policy(backbone, name):
    samples = engine(name).generate(backbone, ASKED, 1, 3, role="reference")
    ids = [backbone.chat.prompt_ids(p) for p in ASKED]
    ours = [x for row in backbone.sequence_logprobs("reference", ids, texts(samples)) for x in row]
    assert [x for s in samples for x in s.logprobs] == pytest.approx(ours, abs=2e-5)
    policy = [x for row in backbone.sequence_logprobs("policy", ids, texts(samples)) for x in row]
    assert policy != pytest.approx(ours, abs=1e-2)


@ENGINES
def test_columns_and_messages_go_along(backbone, name):
    turn = ({"role": "user", "content": "tea"},)
    (sample,) = engine(name).generate(backbone, [Prompt("tea", messages=turn, columns={"answer": 7})], 1, 0)
    assert sample.columns == {"answer": 7}
    assert sample.messages == turn


@ENGINES
@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", 0.0), ("temperature", -1.0), ("temperature", float("nan")), ("max_new_tokens", 0)],
)
def test_settings_out_of_range_are_refused(name, setting, value):
    with pytest.raises(ConfigError, match=setting):
        build("rollout", {"name": name, setting: value})


def test_at_the_same_temperature_both_engines_find_the_same_likely_answer(backbone):
    # Nearly greedy, nothing is left to chance: one engine checks the other's cache and positions.
    cold = [texts(engine(name, 1e-5).generate(backbone, ASKED, 1, 3)) for name in ("native", "hf")]
    assert cold[0] == cold[1]


# --- stop strings -----------------------------------------------------------------------------------------------------


def stops_for(backbone: Any) -> list[str]:
    """Two strings that answers of this model contain: one inside an answer, over a token's edge where there is one."""
    free = engine("native", 2.0, max_new_tokens=20).generate(backbone, ASKED, 3, 3)
    long = max(free, key=lambda sample: len(sample.text)).text
    return [long[len(long) // 2 : len(long) // 2 + 3], "no such string anywhere"]


@pytest.mark.slow
@ONE_ENGINE
def test_an_answer_ends_with_the_token_that_completes_a_stop_string_and_is_shown_without_it(backbone, name):
    stop = stops_for(backbone)
    samples = engine(name, 2.0, max_new_tokens=20, stop=stop).generate(backbone, ASKED, 6, 3)
    decode = backbone.chat.decode
    stopped = [s for s in samples if stop[0] in decode(s.tokens)]
    assert stopped
    assert len(stopped) < len(samples)
    for sample in samples:
        assert stop[0] not in decode(list(sample.tokens)[:-1])  # not one token more than the one that completed it
        assert stop[0] not in sample.text
        assert len(sample.logprobs) == len(sample.tokens)
    for sample in stopped:
        assert sample.finished
        assert sample.text == decode(sample.tokens).partition(stop[0])[0]


@ENGINES
@pytest.mark.slow
def test_logprobs_of_stopped_answers_are_those_of_a_fresh_pass(backbone, name):
    samples = engine(name, stop=stops_for(backbone)).generate(backbone, ASKED, 3, 3)
    ids = [backbone.chat.prompt_ids(Prompt(s.prompt)) for s in samples]
    for sample, logprobs in zip(samples, backbone.sequence_logprobs("policy", ids, texts(samples)), strict=True):
        assert sample.logprobs == pytest.approx(logprobs, abs=2e-5)


def test_a_stop_string_only_shortens_what_would_have_been_drawn(backbone):
    def drawn(stop: list[str], seed: int) -> list[int]:
        (sample,) = engine("native", max_new_tokens=12, stop=stop).generate(backbone, [ASKED[seed % 6]], 1, seed)
        return list(sample.tokens)

    free = [drawn([], seed) for seed in range(6)]
    text = max((backbone.chat.decode(tokens) for tokens in free), key=len)
    stop = [text[len(text) // 2 : len(text) // 2 + 2], "no such string anywhere"]
    both = [(tokens, drawn(stop, seed)) for seed, tokens in enumerate(free)]
    assert any(len(stopped) < len(free) for free, stopped in both)
    assert all(free[: len(stopped)] == stopped for free, stopped in both)


def test_without_stop_strings_nothing_is_decoded_while_sampling(backbone, monkeypatch):
    from rlhf_lora.plugins.rollouts import stops

    monkeypatch.setattr(stops.StopRule, "ends", lambda *args: pytest.fail("decoded"))
    assert engine("native").generate(backbone, ASKED, 1, 3)


@ENGINES
@pytest.mark.parametrize("stop", [[""], ["\\nHuman:"], ["end", "\\n"]])
def test_stop_strings_that_cannot_be_meant_are_refused(name, stop):
    with pytest.raises(ConfigError, match=r"rollout\.stop"):
        engine(name, stop=stop)


@ENGINES
def test_line_breaks_and_words_that_begin_with_a_backslash_are_fine(name):
    assert engine(name, stop=["\nHuman:", "\\nabla"]).stop == ["\nHuman:", "\\nabla"]


class Letters:
    """A chat whose tokens are letters; `é` is two, of which neither is whole alone."""

    def decode(self, tokens: Any) -> str:
        joined = "".join(tokens).replace("<e>", "é")
        return joined.replace("<e", "\N{REPLACEMENT CHARACTER}")


def before(text: str, stop: list[str], after: int = 0) -> str | None:
    from rlhf_lora.plugins.rollouts.stops import StopRule

    return StopRule(stop, after).text_before(Letters(), list(text))


def test_the_earliest_stop_string_cuts_the_text():
    assert before("a; b. c", [".", ";"]) == "a"
    assert before("; b", [";"]) == ""
    assert before("a b", [";"]) is None


@pytest.mark.parametrize(
    ("text", "stop", "after", "shown"),
    [
        ("a.b.c.", ["."], 1, "a"),  # the first full stop is token 1
        ("a.b.c.", ["."], 2, "a.b"),
        ("a.b.c.", ["."], 4, "a.b.c"),
        ("a.b.c.", ["."], 6, None),
        ("a;b.c;", [".", ";"], 2, "a;b"),  # of several, the first that counts
        ("a--b--", ["--"], 2, "a"),  # what counts is the token that completes it: token 2 of 0…
        ("a--b--", ["--"], 3, "a--b"),
        ("a.b", ["."], 99, None),
        ("", ["."], 2, None),
    ],
)
def test_a_stop_string_counts_from_its_token_on(text, stop, after, shown):
    assert before(text, stop, after) == shown


def test_a_letter_that_is_cut_in_two_is_completed_by_a_token_that_counts():
    from rlhf_lora.plugins.rollouts.stops import StopRule

    tokens = ["a", "<e", ">", "b"]
    assert [StopRule(["é"], after).text_before(Letters(), tokens) for after in (0, 2, 3)] == ["a", "a", None]


@pytest.mark.slow
@ONE_ENGINE
def test_stop_strings_before_their_time_are_a_part_of_the_answer(backbone, name):
    stop = stops_for(backbone)[:1]
    after, decode = 9, backbone.chat.decode
    samples = engine(name, 2.0, max_new_tokens=20, stop=stop, stop_after=after).generate(backbone, ASKED, 12, 3)
    early = [s for s in samples if stop[0] in decode(list(s.tokens)[:after])]
    assert any(len(s.tokens) > after for s in early)
    late = [s for s in samples if stop[0] in decode(s.tokens)[len(decode(list(s.tokens)[:after])) :]]
    assert late
    for sample in late:
        assert sample.finished
        assert len(sample.tokens) > after
        assert sample.text + stop[0] == decode(sample.tokens)[: len(sample.text) + len(stop[0])]
    for sample in early:
        assert sample in late or sample.text == decode(sample.tokens)


@ENGINES
def test_a_token_that_stop_strings_count_from_is_not_below_zero(name):
    with pytest.raises(ConfigError, match=r"rollout\.stop_after"):
        engine(name, stop_after=-1)
