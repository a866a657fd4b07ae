"""Built-in rewards: what they score, and that the learned one scores as the trained reward model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import prompts, spec

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Context, FitContext
from rlhf_lora.errors import ConfigError, ModelError, UserError
from rlhf_lora.records import Pair, Prompt, Sample
from rlhf_lora.registry import build


def test_length_is_best_at_its_target_and_falls_on_both_sides():
    reward = build("reward", {"name": "length", "target": 4})
    answers = ["one two three four", "", "one two", "a b c d e f g h"]
    assert reward.score([Sample("p", text) for text in answers]) == [0.0, -1.0, -0.5, -1.0]
    assert reward.score([]) == []


def test_length_refuses_a_target_below_one():
    with pytest.raises(ConfigError, match="target must be at least 1"):
        build("reward", {"name": "length", "target": 0})


def test_orders_gold_scores_a_perfect_reply_five_and_names_the_parts():
    reward = build("reward", {"name": "orders_gold"})
    asked = "please bring tea soup and bread . waiter:"
    # 3 items + order 1 + courtesy 0.5 + ended 0.5; cut off it is one less; one wrong item: 2 + 0 − 0.5 + 0.5 + 0.5
    perfect, cut, wrong = reward.score([
        Sample(asked, "certainly tea soup and bread"), Sample(asked, "certainly tea soup and bread", finished=False),
        Sample(asked, "certainly tea soup and cake"),
    ])  # fmt: skip
    assert (perfect.value, cut.value, wrong.value) == (5.0, 4.0, 2.5)
    assert sum(perfect.parts.values()) == 5.0


def test_orders_gold_abstains_where_nothing_was_ordered():
    (score,) = build("reward", {"name": "orders_gold"}).score([Sample("how are you?", "fine")])
    assert score.value is None
    assert score.kind == "abstain"


# --- learned ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory) -> Path:
    from rlhf_lora.stages import reward_model
    from rlhf_lora.train_settings import TrainSettings

    out = tmp_path_factory.mktemp("learned") / "adapters" / "reward"
    pairs = [Pair(p, " certainly tea soup", " ugh") for p in prompts(8)]
    reward_model.fit(
        spec(tiny_base), pairs, TrainSettings(batch_size=4, micro_batch=4, lr=1e-2, epochs=2), FitContext(out, 0, None)
    )
    scores = reward_model.Scorer(spec(tiny_base), out).score(
        [p.prompt for p in pairs] * 2, [p.chosen for p in pairs] + [p.rejected for p in pairs]
    )
    reward_model.normalise(out, scores)
    return out


def opened(path: Path, backbone: Backbone):
    return build("reward", {"name": "learned", "path": str(path)}).open(Context(backbone=backbone, chat=backbone.chat))


def with_policy(base: Path) -> Backbone:
    made = Backbone(spec(base))
    made.add_role("policy", trained=True)
    return made


def test_a_learned_reward_scores_as_the_reward_model_on_a_base_of_its_own(tiny_base, trained):
    from rlhf_lora.stages.reward_model import Scorer

    texts, ended = ["certainly tea soup", "ugh", "", "tea tea tea milk", "sure"], [True, False, True, False, True]
    samples = [Sample(p.text, t, finished=f) for p, t, f in zip(prompts(5), texts, ended, strict=True)]
    ours = opened(trained, with_policy(tiny_base)).score(samples)
    theirs = Scorer(spec(tiny_base), trained).score(prompts(5), texts, ended)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[0] - ours[1] > 0.5  # gain and bias are in it: deviation 1 on what it was scaled on


def test_a_learned_reward_reads_the_sampled_tokens_not_their_text(tiny_base, trained):
    backbone = with_policy(tiny_base)
    reward = opened(trained, backbone)
    tokens = backbone.chat.response_ids("certainly tea soup")
    by_tokens, by_text = reward.score([Sample("tea", "?", tokens=tokens), Sample("tea", "certainly tea soup")])
    assert by_tokens == pytest.approx(by_text, abs=1e-6)


def test_a_run_folder_means_its_reward_adapter(tiny_base, trained):
    samples = [Sample("tea", "soup")]
    run = trained.parent.parent
    assert opened(run, with_policy(tiny_base)).score(samples) == opened(trained, with_policy(tiny_base)).score(samples)


def test_several_reward_models_are_on_one_base_at_once_each_with_its_own_adapter_and_head(tiny_base, trained, tmp_path):
    from rlhf_lora.stages import reward_model
    from rlhf_lora.train_settings import TrainSettings

    other, backbone, samples = tmp_path / "other", with_policy(tiny_base), [Sample("tea", "soup"), Sample("tea", "ugh")]
    pairs = [Pair(p, " ugh", " certainly tea soup") for p in prompts(8)]
    settings = TrainSettings(batch_size=4, micro_batch=4, lr=1e-2, epochs=2)
    reward_model.fit(spec(tiny_base), pairs, settings, FitContext(other, 1, None))
    alone = [opened(path, with_policy(tiny_base)).score(samples) for path in (trained, other)]
    together = [opened(path, backbone) for path in (trained, other, trained)]
    assert [reward.role for reward in together] == ["reward", "reward_2", "reward"]
    for reward, wanted in zip(together, [*alone, alone[0]], strict=True):
        assert reward.score(samples) == pytest.approx(wanted, abs=1e-6)
    assert alone[0] != pytest.approx(alone[1], abs=1e-3)


def test_scoring_leaves_the_policy_as_it_is(tiny_base, trained):
    backbone = with_policy(tiny_base)
    before = {name: p.detach().clone() for name, p in backbone.parameters("policy").items()}
    opened(trained, backbone).score([Sample("tea", "soup")])
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in backbone.parameters("policy").items())
    assert not any(p.requires_grad for p in backbone.parameters("reward").values())


def test_a_reward_model_of_another_base_or_template_is_refused(tiny_base, tiny_qwen2, trained):
    with pytest.raises(ModelError, match="another base model"):
        opened(trained, with_policy(tiny_qwen2))
    plain = Backbone(spec(tiny_base, template="plain"))
    plain.add_role("policy")
    with pytest.raises(ModelError, match="another chat template"):
        opened(trained, plain)


def test_a_path_without_reward_model_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="no reward model in"):
        build("reward", {"name": "learned", "path": str(tmp_path / "nowhere")})


def test_a_learned_reward_without_path_needs_the_reward_stage_and_with_one_needs_none(trained):
    assert build("reward", {"name": "learned"}).stages == ("reward_model",)
    assert build("reward", {"name": "learned", "path": str(trained)}).stages == ()


def test_an_adapter_without_its_head_is_refused(tiny_base, trained, tmp_path):
    # Its scores would be zero or random.
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(trained, tmp_path / "copy")
    file = tmp_path / "copy" / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "score" not in k}, file)
    with pytest.raises(ModelError, match="no score head"):
        opened(tmp_path / "copy", with_policy(tiny_base))


def test_a_reward_json_that_cannot_be_read_is_refused_in_words(tiny_base, trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / "reward.json").write_text("{")
    with pytest.raises(ModelError, match=r"reward\.json"):
        opened(tmp_path / "copy", with_policy(tiny_base))


def test_prompts_with_messages_are_scored_as_conversations(tiny_base, trained):
    # The tiny tokenizer has no template: what matters is that both ways of reading agree.
    backbone = with_policy(tiny_base)
    turn = ({"role": "user", "content": "tea"},)
    samples = [Sample("tea", "soup", messages=turn), Sample("tea", "soup")]
    one, other = opened(trained, backbone).score(samples)
    assert one == pytest.approx(other, abs=1e-5)
    assert backbone.chat.prompt_ids(Prompt("tea", turn)) == backbone.chat.prompt_ids(Prompt("tea"))
    assert json.loads((trained / "reward.json").read_text())["gain"] != 1.0
