"""C01 to C10, C15, C21: tokens, padding, sampling, and where a sequence is read. `docs/conformance.md` has the table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_loop import backbone, engine, loop
from tiny import prompts, stir, token_ids

from rlhf_lora.backbone import Backbone
from rlhf_lora.errors import ConfigError
from rlhf_lora.objectives.logprobs import selected
from rlhf_lora.padding import pad, positions
from rlhf_lora.records import Prompt, Sample


@pytest.fixture(scope="module")
def made(tiny_base) -> Backbone:
    return backbone(tiny_base, "policy", "reward")


@pytest.fixture(scope="module")
def gpt2(tiny_base, tmp_path_factory) -> Backbone:
    """A GPT-2: positions are learnt per place, and dropout is 0.1 in its configuration."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("tiny-gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, initializer_range=0.2,
                        bos_token_id=None, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    from rlhf_lora.model_spec import LoraSpec

    lora = LoraSpec(r=4, alpha=8, dropout=0.1)
    return backbone(folder, "policy", load_in_4bit=False, gradient_checkpointing=True, lora=lora)


def logprobs_beside(made: Backbone, extra: int) -> list[float]:
    """Log-probs of one answer that has `extra` tokens of padding on its left."""
    asked, answers = token_ids(made.chat, 1)
    longer = asked[0][:1] * (len(asked[0]) + extra)
    return made.sequence_logprobs("policy", [asked[0], longer], [answers[0]] * 2)[0]


def test_C01_padding_id_decides_nothing(made, monkeypatch):
    """The padding id is no end id, padding is never trained on, and another padding id changes no log-prob.

    Source: O `pad_token`; D `generate`, `forward`; S the same
    Profile: oai2019, tldr2024, kit
    """
    assert made.chat.fill_id not in made.chat.stop_ids
    ids = token_ids(made.chat, 6)
    expected, scores = made.sequence_logprobs("policy", *ids), made.sequence_scores("reward", *ids)
    for other in (made.chat.end_id, 7, len(made.chat.tokenizer) - 1):
        monkeypatch.setattr(made.chat, "fill_id", other)
        assert made.sequence_logprobs("policy", *ids) == expected
        assert made.sequence_scores("reward", *ids) == scores
        padded = pad(*ids, other)
        assert padded.response_mask_BT.sum(1).tolist() == [len(answer) for answer in ids[1]]  # the end token counts
    assert len(made.base.get_input_embeddings().weight) == made.base.config.vocab_size  # not resized


def test_C02_left_padding(made):
    """Any number of tokens of padding on the left changes log-probs by less than 1e-4.

    Source: O, D, S: queries are padded on the left
    Profile: oai2019, tldr2024, kit
    """
    expected = logprobs_beside(made, 0)
    for extra in (1, 5, 20):
        assert logprobs_beside(made, extra) == pytest.approx(expected, abs=1e-4)


def test_C03_positions(gpt2):
    """Positions count real tokens alone, cumsum(mask) − mask, so that a GPT-2 does not see the padding either.

    Source: O `positions_for`; D `forward`
    Profile: oai2019, kit
    """
    attention_BS = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    real = attention_BS.bool()
    assert torch.equal(positions(attention_BS)[real], (attention_BS.cumsum(1) - attention_BS)[real])
    assert positions(attention_BS)[0].tolist() == [0, 0, 0, 1, 2]
    expected = logprobs_beside(gpt2, 0)
    for extra in (1, 5, 20):
        assert logprobs_beside(gpt2, extra) == pytest.approx(expected, abs=1e-4)


def made_with_attention_dropout(folder: Path) -> Any:
    """A Llama whose attention layers hold their dropout as a plain number."""
    from rlhf_lora.checks.enumerable import build_model
    from rlhf_lora.checks.enumerable import spec as small

    file = build_model(folder / "model") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_dropout": 0.3}))
    backbone = Backbone(small(folder / "model"))
    backbone.add_role("policy", trained=True)
    return backbone


def test_C04_no_dropout(gpt2, tmp_path):
    """Dropout is 0 in base and adapters, whatever their configurations say: two forward passes are equal.

    Source: O never passes `do_dropout`; S `disable_dropout`
    Profile: oai2019, tldr2024, kit
    """
    assert gpt2.base.config.resid_pdrop == 0.1
    numbers = [
        vars(m)[name]
        for m in made_with_attention_dropout(tmp_path).model.modules()
        for name in vars(m)
        if "dropout" in name
    ]
    assert numbers
    assert not any(numbers)
    assert not [name for name, m in gpt2.model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    padded = pad(*token_ids(gpt2.chat, 4), gpt2.chat.fill_id)
    with gpt2.role("policy"):
        assert gpt2.model.training  # as in an update with gradient checkpointing
        one, other = gpt2.response_hidden(padded), gpt2.response_hidden(padded)
    assert torch.equal(one, other)


def test_C05_stopping_early(made, monkeypatch):
    """An answer that stops at its end is what generating on and cutting afterwards gives: tokens, log-probs, mask.

    Source: D, S: `min_new_tokens = max_new_tokens`; the kit stops early and must show that nothing differs
    Profile: kit
    """
    asked, early, on = prompts(8), [], []
    for ends, found in ((made.chat.stop_ids, early), (frozenset({10**6}), on)):
        monkeypatch.setattr(made.chat, "stop_ids", ends)
        # One by one: side by side, rows that leave the batch change what the others draw.
        for seed, prompt in enumerate(asked):
            found += engine(max_new_tokens=12, temperature=1.5).generate(made, [prompt], 1, seed)
    monkeypatch.undo()
    ends = [next((i + 1 for i, t in enumerate(s.tokens) if t in made.chat.stop_ids), len(s.tokens)) for s in on]
    assert {len(s.tokens) for s in on} == {12}
    assert any(end < 12 for end in ends)
    assert [list(s.tokens) for s in early] == [list(s.tokens)[:end] for s, end in zip(on, ends, strict=True)]
    assert [list(s.logprobs) for s in early] == [list(s.logprobs)[:end] for s, end in zip(on, ends, strict=True)]
    masks = [pad([[5]] * len(early), [list(s.tokens) for s in early], 0).response_mask_BT.sum(1).tolist(), ends]
    assert masks[0] == masks[1]


def test_C06_temperature(tiny_base):
    """Log-probs are log softmax(logits / T), the same T for rollout, reference and update, at the state before a token.

    Source: O `analyze_responses_op`; S `ppo.py`
    Profile: oai2019, tldr2024, kit
    """
    # Logits 1, 2, 3 at T = 0.7: log p(third) = −log(1 + e^(−1/0.7) + e^(−2/0.7)) = −0.260118.
    hidden_BTD = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert selected(hidden_BTD, torch.eye(3), torch.tensor([[2]]), 0.7).item() == pytest.approx(-0.260118, abs=1e-5)
    made = loop(tiny_base, temperature=0.7)
    made.step()
    rollout = made.last
    prompt, answer = rollout.prompt_ids[0], rollout.response_ids[0]
    with torch.no_grad(), made.backbone.role("reference"):
        logits_SV = made.backbone.base(torch.tensor([prompt + answer])).logits[0]
    by_hand_TV = (logits_SV[len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
    by_hand_T = by_hand_TV.gather(1, torch.tensor(answer)[:, None])[:, 0]
    torch.testing.assert_close(rollout.batch.ref_logprobs_BT[0, : len(answer)], by_hand_T, atol=1e-4, rtol=0)
    torch.testing.assert_close(rollout.batch.logprobs_BT[0, : len(answer)], by_hand_T, atol=1e-4, rtol=0)
    assert made.updater.temperature == 0.7


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_C07_sampled_is_scored(made, temperature, monkeypatch):
    """Tokens are drawn from the very distribution that their log-probs are of; settings that break it are refused.

    Source: O, D, S: `top_k=0, top_p=1`
    Profile: oai2019, tldr2024, kit
    """
    monkeypatch.setattr(made, "rollout_batch", 750)
    # E[−log p] over what is drawn is the entropy: top-k, top-p or another temperature would miss it.
    samples = engine(max_new_tokens=1, temperature=temperature).generate(made, prompts(1), 1500, 3)
    surprise_N = -torch.tensor([s.logprobs[0] for s in samples])
    with torch.no_grad(), made.role("policy"):
        logits_V = made.base(torch.tensor([made.chat.prompt_ids(prompts(1)[0])])).logits[0, -1] / temperature
    entropy = float(-(logits_V.softmax(0) * logits_V.log_softmax(0)).sum())
    assert abs(float(surprise_N.mean()) - entropy) < 4 * float(surprise_N.std()) / len(samples) ** 0.5
    wants = made.base.generation_config
    assert (wants.repetition_penalty, wants.min_p, wants.bad_words_ids, wants.temperature) == (None,) * 4
    for broken in ({"top_p": 0.9}, {"top_k": 50}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            engine(**broken)


@pytest.mark.parametrize("name", ["native", "hf"])
def test_C08_rollout_is_training(made, name):
    """Log-probs as they were captured while sampling are those of a training forward pass: max |Δ| < 1e-4.

    Source: O takes the sampler's, D computes them anew, S takes the generation's scores
    Profile: oai2019, tldr2024, kit
    """
    samples = engine(name, temperature=0.7).generate(made, prompts(6), 2, 3)
    ids = [made.chat.prompt_ids(Prompt(s.prompt)) for s in samples], [list(s.tokens) for s in samples]
    for sample, again in zip(samples, made.sequence_logprobs("policy", *ids, 0.7), strict=True):
        assert sample.logprobs == pytest.approx(again, abs=1e-4)


def test_C08_rollout_is_training_and_every_update_tells(tiny_base):
    """Every update writes down how far the first minibatch's ratio is from 1, and a mistake shows there.

    Source: checklist of OpenAI's PPO in numbers (C08: logged every update)
    Profile: kit
    """
    made = loop(tiny_base)
    assert [made.step()["policy/first_ratio_error"] < 1e-4 for _ in range(2)] == [True, True]
    made.updater.temperature = 0.5
    assert made.step()["policy/first_ratio_error"] > 1e-2


def test_C09_prompts_cycle(tiny_base):
    """Prompts come shuffled, each once per pass, and passes follow one another for ever, each in its own order.

    Source: O `language/datasets.py`
    Profile: oai2019, tldr2024, kit
    """
    made = loop(tiny_base, asked=20, prompts_per_update=8)
    stream = [p.text for update in range(1, 16) for p in made._prompts_of(update)]
    passes = [tuple(stream[i : i + 20]) for i in range(0, 120, 20)]
    assert [Counter(one) for one in passes] == [Counter(p.text for p in prompts(20))] * 6
    assert len(set(passes)) == 6


def test_C10_last_token(made):
    """A reward is the head at the last real token, whatever stands on either side of the sequence.

    Source: O (last position after packing to the left); S `first_pad − 1`
    Profile: oai2019, tldr2024, kit
    """
    asked, answers = token_ids(made.chat, 6)
    scores = made.sequence_scores("reward", asked, answers)
    for prompt, answer, score in zip(asked, answers, scores, strict=True):
        ids_BS = torch.tensor([prompt + answer])
        with torch.no_grad(), made.role("reward"):
            hidden_SD = made.hidden(ids_BS, torch.ones_like(ids_BS), torch.arange(ids_BS.shape[1])[None])[0]
        assert score == pytest.approx(float(made.read_head("reward", hidden_SD[-1])), abs=1e-5)
    assert len({round(score, 4) for score in scores}) == 6


def test_C10_last_token_in_training():
    """The reward model is trained on the same position, found by length: padding may have the end token's id.

    Source: as C10; Transformers finds the position by padding id
    Profile: oai2019, tldr2024, kit
    """
    from rlhf_lora.stages.reward_model import pooled_scores

    def base_model(input_ids: Any, use_cache: bool) -> Any:
        return SimpleNamespace(last_hidden_state=torch.arange(10.0).reshape(2, 5, 1))

    head = torch.nn.Linear(1, 1)
    with torch.no_grad():
        head.weight.fill_(1.0)
        head.bias.zero_()
    classifier = SimpleNamespace(base_model=base_model, score=head)
    model = SimpleNamespace(get_base_model=lambda: classifier)
    # States 0…4 and 5…9; lengths 3 and 5: positions 2 and 4.
    assert pooled_scores(model, torch.zeros(2, 5, dtype=torch.long), torch.tensor([3, 5])).tolist() == [2.0, 9.0]


def test_C15_reward_reads_what_is_shown(made):
    """A reward reads the answer as it is shown, cut before its stop string; the policy keeps every token it drew.

    Source: O `response_tokens` against `truncated`; S `postprocessed_response`
    Profile: oai2019, tldr2024, kit
    """
    from rlhf_lora.plugins.rewards.learned import OpenLearned

    free = max(engine(max_new_tokens=12).generate(made, prompts(6), 3, 3), key=lambda s: len(s.text))
    stop = free.text[len(free.text) // 2 : len(free.text) // 2 + 3]
    stopped = [s for s in engine(max_new_tokens=12, stop=[stop]).generate(made, prompts(6), 3, 3)
               if stop in made.chat.decode(s.tokens)]  # fmt: skip
    assert stopped
    read: list[list[int]] = []

    def scores(role: str, asked: Any, answers: list[list[int]]) -> list[float]:
        read.extend(answers)
        return [0.0] * len(answers)

    opened = object.__new__(OpenLearned)
    opened.backbone, opened.gain, opened.bias = SimpleNamespace(chat=made.chat, sequence_scores=scores), 1.0, 0.0
    opened.role = "reward"
    opened.score(stopped)
    for sample, ids in zip(stopped, read, strict=True):
        assert sample.text == made.chat.decode(sample.tokens).partition(stop)[0]
        assert stop not in made.chat.decode(ids)
        assert ids == made.chat.response_ids(sample.text, True, Prompt(sample.prompt))
        assert len(sample.logprobs) == len(sample.tokens)


def test_C21_nothing_behind_the_end(made):
    """What is kept of an answer is mask = cumsum(hit) − hit = 0: the first end token, and nothing strictly after it.

    Source: O `truncate`; S `truncate_response`
    Profile: tldr2024, kit
    """
    from rlhf_lora.plugins.rollouts.hf import _until_stop

    tokens_BT = torch.randint(0, 4, (50, 8), generator=torch.Generator().manual_seed(0))
    hit_BT = (tokens_BT == 3).long()
    kept_B = ((hit_BT.cumsum(1) - hit_BT) == 0).sum(1)
    assert [len(_until_stop(row, frozenset({3}))) for row in tokens_BT.tolist()] == kept_B.tolist()
    assert set(kept_B.tolist()) >= {1, 2, 3, 8}
    for sample in engine(max_new_tokens=12, temperature=2.0).generate(made, prompts(6), 3, 3):
        assert not made.chat.stop_ids & set(sample.tokens[:-1])
        assert sample.finished == (sample.tokens[-1] in made.chat.stop_ids)


@pytest.mark.parametrize("after", [0, 1, 3, 16])
def test_C21_truncate_after(after):
    """A stop string counts from token `stop_after` on: mask = cumsum(hit) − hit = 0, hit = the string at index ≥ that.

    Source: O `truncate_after=16`, `truncate_token=13` (a full stop)
    Profile: oai2019
    """
    from rlhf_lora.plugins.rollouts.stops import RowsThatStopped, StopRule

    chat, rule = (
        SimpleNamespace(decode=lambda tokens: "".join("ab.c"[token] for token in tokens)),
        StopRule(["."], after),
    )
    tokens_BT = torch.randint(0, 4, (60, 24), generator=torch.Generator().manual_seed(0))
    hit_BT = ((tokens_BT == 2) & (torch.arange(24) >= after)).long()
    kept_B = ((hit_BT.cumsum(1) - hit_BT) == 0).sum(1)
    assert [len(rule.until_end(chat, row)) for row in tokens_BT.tolist()] == kept_B.tolist()
    finished_B = [rule.text_before(chat, row) is not None for row in tokens_BT.tolist()]
    assert finished_B == hit_BT.any(1).tolist()
    watching, lengths_B = RowsThatStopped(chat, rule, 60), torch.zeros(60, dtype=torch.long)
    for t in range(24):  # as both engines watch while they draw
        lengths_B += ~torch.tensor(watching.stopped)
        watching.add(range(60), tokens_BT[:, t].tolist())
    assert lengths_B.tolist() == kept_B.tolist()
    assert kept_B.min() == after + 1


def test_C20_values_start_at_zero(tiny_base):
    """A new value head is zero, so that all values are 0 at step 0, on an adapter of its own or on the policy's trunk.

    Source: O `value` head, zero initialisation
    Profile: oai2019, kit
    """
    for value in ("adapter", "trunk"):
        made = loop(tiny_base, value=value)
        stir(made.backbone, "policy")
        samples, _ = made._roll_out(made._prompts_of(1), 1)
        rollout = made._look_back(samples, made.scorer(samples))
        assert rollout.batch.values_BT is not None
        assert not rollout.batch.values_BT.any()
        assert not any(parameter.any() for parameter in made.backbone.heads["value"].parameters())


def test_C22_stop_rule_knows_who_was_cut(made):
    """What the stop rule goes by: an answer is finished where it ended by itself, and cut where the tokens ran out.

    Source: O `filter_response`; S `missing_eos`
    Profile: oai2019, tldr2024, kit
    """
    samples: list[Sample] = engine(max_new_tokens=5, temperature=2.0).generate(made, prompts(6), 6, 3)
    assert {s.finished for s in samples} == {True, False}
    assert all(s.finished or len(s.tokens) == 5 for s in samples)
    assert all(s.finished == (s.tokens[-1] in made.chat.stop_ids) for s in samples)
