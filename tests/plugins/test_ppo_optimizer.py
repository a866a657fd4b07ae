"""PPO as functions of tensors: rewards per token, advantages, losses, and β that moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlhf_lora.contracts import Batch, Context, Minibatch
from rlhf_lora.errors import ConfigError
from rlhf_lora.objectives.advantages import gae, whiten
from rlhf_lora.registry import build


def ppo(**settings: Any) -> Any:
    return build("optimizer", {"name": "ppo", **settings})


def batch(**changes: Any) -> Batch:
    """Two rows, of 3 tokens and of 2; the second was cut."""
    mask_BT = torch.tensor([[True, True, True], [True, True, False]])
    given = {
        "tokens_BT": torch.zeros(2, 3, dtype=torch.long),
        "mask_BT": mask_BT,
        "logprobs_BT": torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 9.0]]),
        "ref_logprobs_BT": torch.tensor([[-1.5, -1.0, -0.5], [-2.0, -1.0, -9.0]]),
        "values_BT": torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]]),
        "scores_B": torch.tensor([10.0, 20.0]),
        "rewards_B": torch.tensor([1.0, 2.0]),
        "finished_B": torch.tensor([True, False]),
        "group_B": torch.tensor([0, 1]),
    }
    return Batch(**(given | changes))


def advantages(given: Batch, **settings: Any) -> tuple[Batch, dict[str, float]]:
    return ppo(**settings).open(Context()).advantages(given)


def test_rewards_are_minus_beta_kl_on_every_token_and_the_score_on_the_last():
    # β = 0.1, k1 = [0.5, −1, 0] and [1, 0]; λ = γ = 1 and V = 0, so the returns are what is left to come.
    made, metrics = advantages(batch(values_BT=torch.zeros(2, 3)), beta=0.1, lam=1.0, whiten_advantages=False)
    rewards_BT = torch.tensor([[-0.05, 0.1, 1.0], [-0.1, 2.0, 0.0]])
    torch.testing.assert_close(made.returns_BT, rewards_BT.flip(1).cumsum(1).flip(1))
    assert metrics["objective/non_score_reward"] == pytest.approx((0.05 - 0.1) / 2)
    assert metrics["objective/rlhf_reward"] == pytest.approx((1.05 + 1.9) / 2)


def test_the_reward_that_is_told_is_the_one_that_is_optimised():
    # The second answer was cut: −1 stands in the place of its reward of 2.
    _, metrics = advantages(batch(values_BT=torch.zeros(2, 3), finished_B=torch.tensor([True, False])), beta=0.1,
                            missing_end_reward=-1.0)  # fmt: skip
    assert metrics["objective/rlhf_reward"] == pytest.approx((1.05 - 1.1) / 2, abs=1e-6)


def test_what_is_optimised_is_the_scaled_reward_and_not_the_raw_score():
    one, _ = advantages(batch())
    other, _ = advantages(batch(scores_B=torch.tensor([-5.0, 3.0])))
    torch.testing.assert_close(one.advantages_BT, other.advantages_BT)


def test_returns_are_taken_before_advantages_are_whitened():
    given = batch()
    made, _ = advantages(given, beta=0.1, gamma=0.9, lam=0.8)
    rewards_BT = torch.tensor([[-0.05, 0.1, 1.0], [-0.1, 2.0, 0.0]])
    plain_BT, returns_BT = gae(rewards_BT, given.values_BT, given.mask_BT, 0.9, 0.8)
    torch.testing.assert_close(made.returns_BT, returns_BT)
    torch.testing.assert_close(made.advantages_BT, whiten(plain_BT, given.mask_BT))


def test_whitened_rewards_keep_their_mean():
    given = batch()
    made, _ = advantages(given, beta=0.1, gamma=0.9, lam=0.8, whiten_rewards=True, whiten_advantages=False)
    rewards_BT = whiten(torch.tensor([[-0.05, 0.1, 1.0], [-0.1, 2.0, 0.0]]), given.mask_BT, shift_mean=False)
    torch.testing.assert_close(made.advantages_BT, gae(rewards_BT, given.values_BT, given.mask_BT, 0.9, 0.8)[0])


def test_a_missing_end_replaces_the_reward_of_the_cut_answer_alone():
    settings = {"beta": 0.0, "lam": 1.0, "whiten_advantages": False}
    made, _ = advantages(batch(values_BT=torch.zeros(2, 3)), missing_end_reward=-1.0, **settings)
    assert made.returns_BT[:, 0].tolist() == [1.0, -1.0]
    kept, _ = advantages(batch(values_BT=torch.zeros(2, 3)), **settings)
    assert kept.returns_BT[:, 0].tolist() == [1.0, 2.0]


def test_advantages_are_zero_behind_the_end():
    assert advantages(batch())[0].advantages_BT[1, 2] == 0


def test_equal_rewards_at_the_reference_give_no_policy_gradient():
    # No KL yet, values still zero, reward scaled to 0: nothing to learn. With KL or values the advantages are theirs.
    same_BT = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -1.0, 0.0]])
    made, _ = advantages(
        batch(values_BT=torch.zeros(2, 3), logprobs_BT=same_BT, ref_logprobs_BT=same_BT, rewards_B=torch.zeros(2))
    )
    assert (made.advantages_BT == 0).all()


def test_losses_are_those_of_whatever_the_minibatch_holds():
    made, _ = advantages(batch())
    running = ppo(value="adapter").open(Context())
    new_BT = (made.logprobs_BT + 0.1).requires_grad_()
    values_BT = torch.ones(2, 3, requires_grad=True)
    loss, metrics = running.loss(Minibatch(made, new_logprobs_BT=new_BT))
    assert {"loss/policy", "policy/ratio", "policy/clipfrac", "policy/approxkl"} <= metrics.keys()
    assert "loss/value" not in metrics
    loss.backward()
    assert new_BT.grad is not None
    assert values_BT.grad is None
    value, metrics = running.loss(Minibatch(made, new_values_BT=values_BT))
    assert "loss/policy" not in metrics
    assert value.item() == pytest.approx(metrics["loss/value"])


def test_on_a_shared_trunk_the_value_loss_is_weighed():
    made, _ = advantages(batch())
    running = ppo(value="trunk", value_weight=0.25).open(Context())
    loss, metrics = running.loss(Minibatch(made, new_logprobs_BT=made.logprobs_BT, new_values_BT=torch.ones(2, 3)))
    assert loss.item() == pytest.approx(metrics["loss/policy"] + 0.25 * metrics["loss/value"])


def test_beta_follows_the_kl_where_a_target_is_given_and_stays_where_none_is():
    fixed, steered = (
        ppo(beta=0.1, kl_target=None).open(Context()),
        ppo(beta=0.1, kl_target=6.0, kl_horizon=1000.0).open(Context()),
    )
    for running in (fixed, steered):
        running.after_update({"objective/kl": 12.0}, 100)
    assert fixed.beta == 0.1
    assert steered.beta == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))


def test_a_restored_beta_goes_on_where_it_was():
    one, other = (ppo(beta=0.1, kl_target=6.0).open(Context()) for _ in range(2))
    one.after_update({"objective/kl": 12.0}, 512)
    other.restore(one.state())
    for running in (one, other):
        running.after_update({"objective/kl": 1.0}, 512)
    assert one.beta == other.beta != 0.1


def test_explained_variance_is_one_for_perfect_values_and_zero_for_the_mean():
    given = batch(values_BT=torch.zeros(2, 3))
    returns_BT = advantages(given, lam=1.0)[0].returns_BT
    for values_BT, expected in ((returns_BT, 1.0), (torch.full((2, 3), 0.3), 0.0)):
        metrics = advantages(batch(values_BT=values_BT * given.mask_BT), lam=1.0)[1]
        assert metrics["val/explained_variance"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("updates", 0), ("prompts_per_update", 0), ("samples_per_prompt", 0), ("epochs", 0), ("minibatch_size", 0),
        ("minibatch_size", 100), ("beta", -0.1), ("beta", float("nan")), ("clip", 0.0), ("clip", float("nan")),
        ("gamma", 1.1), ("lam", -0.1), ("final_lr", 2.0), ("max_grad_norm", 0.0), ("kl_target", 0.0),
        ("kl_target", float("nan")), ("value", "both"), ("adamw", {"lr": -1.0}), ("adamw", {"beta1": 1.0}),
        ("value_adamw", {"eps": 0.0}), ("adamw", {"rate": 1.0}), ("value_clip", -0.2), ("value_weight", -1.0),
        ("missing_end_reward", float("nan")), ("missing_end", "subtract"), ("scale_scores", True), ("score_position", "eos"),
        ("kl_horizon", 0.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ConfigError) as error:
        ppo(**{setting: value})
    assert setting.removeprefix("value_adam").split("_")[0] in str(error.value)
