"""The on-policy loop: what holds at the first update, what a missing score does, and that it learns."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiny import prompts, spec

from rlhf_lora.backbone import Backbone
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ContractError, DataError, Stopped
from rlhf_lora.records import Prompt, Sample, Score
from rlhf_lora.registry import build
from rlhf_lora.stages.on_policy import OnPolicy
from rlhf_lora.stages.scoring import Scorer


class Rule:
    """A reward from a function of one sample."""

    whole_batch = True  # some of the rules count

    def __init__(self, rule: Callable[[Sample], Any]):
        self.rule, self.seen = rule, []

    def score(self, samples: Sequence[Sample]) -> list[Any]:
        self.seen += [sample.prompt for sample in samples]
        return [self.rule(sample) for sample in samples]


def length(sample: Sample) -> float:
    return float(len(sample.tokens or ()))


def loop(
    base: Any,
    source: Any = length,
    asked: list[Prompt] | None = None,
    micro_batch: int = 64,
    missing_share: float = 0.5,
    missing: str = "drop",
    value_from_policy: bool = False,
    new_tokens: int = 6,
    temperature: float = 1.0,
    optimizer_name: str = "ppo",
    demonstrations: Sequence[Any] = (),
    **settings: Any,
) -> OnPolicy:
    """A loop on the tiny base, the policy a fresh adapter, the reference the bare base."""
    given = {
        "updates": 4,
        "prompts_per_update": 8,
        "minibatch_size": 4,
        "epochs": 1,
        "adamw": {"lr": 3e-3},
    }
    if optimizer_name == "ppo":
        given |= {"value_adamw": {"lr": 3e-3}, "value": "trunk" if value_from_policy else "adapter"}
    optimizer = build("optimizer", {"name": optimizer_name, **given, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone(spec(base), micro_batch=64)
        backbone.add_role("policy", trained=True)
        backbone.add_role("reference", bare=True)
        if "value" in optimizer.roles:
            backbone.add_role("value", trained=True)
        if optimizer_name == "ppo":
            backbone.add_head("value")
    engine = build("rollout", {"name": "native", "max_new_tokens": new_tokens, "temperature": temperature})
    scorer = Scorer(source if hasattr(source, "score") else Rule(source), "mine")
    return OnPolicy(
        backbone,
        engine,
        scorer,
        optimizer.open(Context()),
        asked or prompts(20),
        seed=1,
        micro_batch=micro_batch,
        missing=missing,
        missing_share=missing_share,
        demonstrations=demonstrations,
    )


def weights(made: OnPolicy) -> dict[str, torch.Tensor]:
    return {
        f"{role}.{n}": p.detach().clone()
        for role in ("policy", "value")
        for n, p in made.backbone.parameters(role).items()
    }


# --- the first update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("value_from_policy", [False, True])
def test_at_the_first_update_the_ratio_is_one_kl_is_zero_and_values_are_zero(tiny_base, temperature, value_from_policy):
    metrics = loop(tiny_base, temperature=temperature, value_from_policy=value_from_policy, minibatch_size=8).step()
    assert metrics["policy/first_ratio_error"] < 1e-5
    assert metrics["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/approxkl"] < 1e-9
    assert metrics["policy/clipfrac"] == 0
    assert abs(metrics["loss/policy"]) < 1e-4  # whitened advantages have mean 0
    assert abs(metrics["objective/kl"]) < 1e-5
    assert metrics["val/mean"] == 0


def test_at_every_update_the_first_ratio_is_one(tiny_base):
    made = loop(tiny_base)
    assert [m["policy/first_ratio_error"] < 1e-5 for m in (made.step() for _ in range(3))] == [True] * 3


def test_a_rollout_at_another_temperature_than_training_shows_in_the_first_ratio(tiny_base):
    made = loop(tiny_base)
    made.updater.temperature = 0.5
    assert made.step()["policy/first_ratio_error"] > 0.01


def test_equal_scores_give_no_policy_gradient_at_the_reference(tiny_base):
    # Scaled to zero, no KL yet, values zero: what is left is rounding, a thousandth of what a real reward gives.
    # Later there is KL, and the gradient is KL's: it leads back.
    constant, real = (loop(tiny_base, source, minibatch_size=8).step() for source in (lambda s: 3.0, length))
    assert constant["grad_norm/policy"] < 1e-3 * real["grad_norm/policy"]
    assert constant["objective/scores"] == 3.0


def test_a_learning_rate_of_zero_changes_nothing(tiny_base):
    made = loop(tiny_base, adamw={"lr": 0.0}, value_adamw={"lr": 0.0})
    before = weights(made)
    made.step()
    after = weights(made)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_reference_does_not_move(tiny_base):
    made = loop(tiny_base)
    ids = [made.backbone.chat.prompt_ids(p) for p in prompts(3)], [[5, 6, 7]] * 3
    before = made.backbone.sequence_logprobs("reference", *ids), made.backbone.sequence_logprobs("policy", *ids)
    made.step()
    assert made.backbone.sequence_logprobs("reference", *ids) == before[0]
    assert made.backbone.sequence_logprobs("policy", *ids) != before[1]


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients(base: Any, micro_batch: int, **settings: Any) -> dict[str, torch.Tensor]:
    """Of the first minibatch, before AdamW: lr 0, so that they are left standing."""
    made = loop(
        base,
        micro_batch=micro_batch,
        minibatch_size=8,
        adamw={"lr": 0.0},
        value_adamw={"lr": 0.0},
        max_grad_norm=None,
        **settings,
    )
    made.step()
    lengths = {len(ids) for ids in made.last.response_ids}
    assert len(lengths) > 1  # else every way of averaging is right
    return {
        f"{r}.{n}": p.grad
        for r in made.updater.trained
        for n, p in made.backbone.parameters(r).items()
        if p.grad is not None
    }


@pytest.mark.slow
@pytest.mark.parametrize(("micro_batch", "value_from_policy"), [(1, False), (3, True), (4, False)])
def test_micro_batches_change_no_gradient(tiny_base, micro_batch, value_from_policy):
    whole = gradients(tiny_base, 64, value_from_policy=value_from_policy)
    parts = gradients(tiny_base, micro_batch, value_from_policy=value_from_policy)
    assert whole.keys() == parts.keys()
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4)


def test_every_sample_is_trained_on_once_per_epoch(tiny_base, monkeypatch):
    made = loop(tiny_base, epochs=3)
    seen: list[list[int]] = []
    train = made.updater._train_on
    monkeypatch.setattr(
        made.updater, "_train_on", lambda rollout, rows, stream: seen.append(rows) or train(rollout, rows, stream)
    )
    made.step()
    epochs = [sorted(seen[i] + seen[i + 1]) for i in (0, 2, 4)]
    assert epochs == [list(range(8))] * 3
    assert len({tuple(rows) for rows in seen}) > 2  # in a fresh order each time


@pytest.mark.slow
def test_the_learning_rate_falls_from_its_peak_towards_its_last(tiny_base):
    made = loop(tiny_base, final_lr=0.1, adamw={"lr": 1e-3})
    # 1 − 0.9 · (u − 1) / 4
    assert [made.step()["lr"] for _ in range(4)] == pytest.approx([1e-3, 7.75e-4, 5.5e-4, 3.25e-4])


# --- scores -----------------------------------------------------------------------------------------------------------


def sometimes(value: Any, every: int = 4) -> Callable[[Sample], Any]:
    count = iter(range(10**6))
    return lambda sample: value if next(count) % every == 0 else length(sample)


@pytest.mark.parametrize(
    ("value", "abstained", "errors"),
    [
        (None, 2, 0),
        (math.nan, 0, 2),
        (math.inf, 0, 2),
        (Score.none("no idea"), 2, 0),
        (Score.none("timeout", "error"), 0, 2),
        (Score.none("?", "unreadable"), 0, 2),
    ],
    ids=["None", "nan", "inf", "abstain", "error", "unreadable"],
)
def test_a_missing_score_is_counted_and_its_sample_left_out_never_called_zero(tiny_base, value, abstained, errors):
    made = loop(tiny_base, sometimes(value), scale_scores="none")
    metrics = made.step()
    assert (made.state.abstained, made.state.errors, metrics["scores/missing"]) == (abstained, errors, 2.0)
    assert len(made.last.batch) == 6
    lengths = [len(ids) for ids in made.last.response_ids]
    assert made.last.batch.scores_B.tolist() == lengths  # what is left keeps its own score
    assert metrics["objective/scores"] == pytest.approx(sum(lengths) / 6)
    rows = made.last.rows()
    assert len(rows) == 8
    assert [row["score"] for row in rows[6:]] == [None, None]
    assert all(row["reason"] for row in rows[6:])


def test_tokens_prompts_and_groups_stay_together_when_samples_leave(tiny_base):
    made = loop(tiny_base, sometimes(None), samples_per_prompt=2, prompts_per_update=4, scale_scores="none")
    made.step()
    batch, rollout = made.last.batch, made.last
    asked = [p.text for p in made._prompts_of(1)]
    for i, sample in enumerate(rollout.samples):
        n = len(sample.tokens)
        assert batch.tokens_BT[i, :n].tolist() == list(sample.tokens)
        assert batch.mask_BT[i].sum() == n
        assert asked[batch.group_B[i]] == sample.prompt
        assert rollout.prompt_ids[i] == made.backbone.chat.prompt_ids(Prompt(sample.prompt))
    assert Counter(batch.group_B.tolist()) == {0: 1, 1: 2, 2: 1, 3: 2}


def test_no_score_at_all_stops_the_run(tiny_base):
    with pytest.raises(Stopped, match=r"8 of 8 samples have no score.*out of order"):
        loop(tiny_base, lambda s: Score.none("out of order", "error"), scale_scores="none").step()
    with pytest.raises(Stopped, match="nothing to learn from"):
        loop(tiny_base, lambda s: None).step()


def test_a_share_of_missing_scores_above_the_limit_stops_the_run_and_one_at_it_does_not(tiny_base):
    loop(tiny_base, sometimes(None, 2), missing_share=0.5, scale_scores="none").step()
    made = loop(tiny_base, sometimes(None, 2), missing_share=0.4, scale_scores="none")
    before = weights(made)
    with pytest.raises(Stopped, match="4 of 8 samples"):
        made.step()
    assert all(torch.equal(weights(made)[name], value) for name, value in before.items())
    assert made.state.update == 0
    assert (made.state.abstained, made.state.kinds(made.missing)) == (0, (4, 0))  # for the summary, not for the state


def test_any_missing_score_stops_a_run_that_is_told_so(tiny_base):
    with pytest.raises(Stopped, match="1 of 8 samples"):
        loop(tiny_base, sometimes(None, 8), missing="stop", scale_scores="none").step()


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_missing_score_can_be_its_groups_mean_and_has_no_say_in_what_the_others_are_measured_by(tiny_base, name):
    # Groups of four; the third of each has no score. The others' advantages are those of a group of three.
    count = iter(range(100))

    def rule(sample: Sample) -> float | None:
        i = next(count)
        return None if i % 4 == 2 else float((i * 7) % 5)

    more = {"whiten_advantages": False} if name == "rloo" else {}
    made = loop(tiny_base, rule, optimizer_name=name, missing="group_mean", prompts_per_update=2, samples_per_prompt=4,
                beta=0.0, scale_scores="none", kl_target=None, **more)  # fmt: skip
    metrics = made.step()
    batch, advantages_B = made.last.batch, made.last.batch.advantages_BT[:, 0]
    assert len(batch) == 8
    assert metrics["scores/missing"] == 2
    assert batch.scored_B.tolist() == [True, True, False, True] * 2
    for start in (0, 4):
        own = batch.scores_B[start : start + 4][batch.scored_B[start : start + 4]]
        assert batch.scores_B[start + 2] == pytest.approx(float(own.mean()))
        centred = own - own.mean()
        wanted = centred / own.std() if name == "grpo" else centred * 3 / 2
        torch.testing.assert_close(advantages_B[[start, start + 1, start + 3]], wanted, atol=1e-4, rtol=1e-4)
        assert float(advantages_B[start + 2]) == pytest.approx(0.0, abs=1e-6)
    assert metrics["objective/scores"] == pytest.approx(float(batch.scores_B[batch.scored_B].mean()))
    rows = made.last.rows()
    assert len(rows) == 8
    assert [row["score"] for row in rows].count(None) == 2  # what is on disk is what the reward said


def test_a_process_reward_is_given_to_the_tokens_it_was_earned_at(tiny_base):
    def steps(sample: Sample) -> Score:
        first = len(sample.text.split(" ")[0])
        return Score.of_steps([(first, 2.0), (len(sample.text), -0.5)])

    made = loop(tiny_base, steps, beta=0.0, kl_target=None, lam=1.0, gamma=1.0, whiten_advantages=False)
    made.state.score_shift, made.state.score_scale = 0.25, 2.0
    made._measure_scales = lambda: None
    made.step()
    batch = made.last.batch
    assert batch.scores_B.tolist() == [1.5] * 8
    for i, sample in enumerate(made.last.samples):
        n = len(sample.tokens)
        chat, first = made.backbone.chat, len(sample.text.split(" ")[0])
        at = next(k for k in range(n) if k == n - 1 or len(chat.decode(sample.tokens[: k + 1])) >= first)
        # values are 0 at the first update, so with γ = λ = 1 an advantage is what is still to come
        total = (1.5 - 0.25) * 2.0
        assert batch.advantages_BT[i, 0] == pytest.approx(total, abs=1e-5)
        if at + 1 < n:
            earned = 1.5 if len(sample.text) <= len(chat.decode(sample.tokens[: at + 1])) else 2.0  # both in one token
            assert batch.advantages_BT[i, at + 1] == pytest.approx(total - earned * 2.0, abs=1e-5)


@pytest.mark.slow
def test_scores_that_are_made_while_the_rollout_goes_on_are_the_same(tiny_base):
    class Apart(Rule):
        whole_batch = False

    one, other = loop(tiny_base, Rule(length)), loop(tiny_base, Apart(length))
    assert one.step() == other.step()
    assert (one.scorer.overlaps, other.scorer.overlaps) == (False, True)


def test_what_a_reward_finds_out_before_the_first_update_goes_on_with_the_run(tiny_base):
    class Calibrated(Rule):
        mean = 0.0

        def calibrate(self, samples: Sequence[Sample]) -> None:
            self.mean = sum(map(length, samples)) / len(samples)

        def score(self, samples: Sequence[Sample]) -> list[float]:
            return [length(sample) - self.mean for sample in samples]

        def state(self) -> dict[str, float]:
            return {"mean": self.mean}

        def restore(self, state: dict[str, float]) -> None:
            self.mean = state["mean"]

    made = loop(tiny_base, Calibrated(length), scale_scores="none")
    made.step()
    assert made.scorer.source.mean > 0
    gone_on = loop(tiny_base, Calibrated(length), scale_scores="none")
    gone_on.resume(*made.checkpoint())
    assert gone_on.scorer.source.mean == made.scorer.source.mean
    assert gone_on.step() == made.step()


def test_rewards_are_scaled_to_mean_zero_and_deviation_one_on_reference_samples(tiny_base):
    rule = Rule(lambda s: 100.0 + 7.0 * length(s))
    made = loop(tiny_base, rule, prompts(20))
    made._measure_scales()
    scores = torch.tensor(
        [
            100.0 + 7.0 * len(s.tokens)
            for s in made.engine.generate(
                made.backbone, [made.prompts[i] for i in made._order(0)], 1, made._seed("scale"), role="reference"
            )
        ]
    )
    assert made.state.score_shift == pytest.approx(float(scores.mean()))
    assert made.state.score_scale == pytest.approx(float(1 / scores.std(unbiased=False)))
    metrics = made.step()
    batch = made.last.batch
    torch.testing.assert_close(batch.rewards_B, (batch.scores_B - made.state.score_shift) * made.state.score_scale)
    assert metrics["objective/scores"] > 100  # what is shown stays raw


def test_a_linear_change_of_the_rewards_units_changes_no_update(tiny_base):
    one, other = loop(tiny_base, length), loop(tiny_base, lambda s: 1000.0 * length(s) - 5.0)
    for made in (one, other):
        made.step()
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, atol=2e-5, rtol=1e-3)


# --- the contract with rewards ----------------------------------------------------------------------------------------


class Columns:
    def score(self, samples: Sequence[Sample], *, answer: Sequence[int]) -> list[float]:
        return [float(a == int(s.columns["answer"])) + len(s.tokens) for s, a in zip(samples, answer, strict=True)]


def test_columns_that_a_reward_asks_for_are_handed_over_in_order(tiny_base):
    asked = [Prompt(p.text, columns={"answer": i, "other": None}) for i, p in enumerate(prompts(20))]
    made = loop(tiny_base, Columns(), asked, scale_scores="none")
    made.step()
    assert made.last.batch.scores_B.tolist() == [1.0 + len(ids) for ids in made.last.response_ids]


def test_a_column_that_the_data_lacks_is_told_by_name(tiny_base):
    asked = [Prompt(p.text, columns={"question": 1}) for p in prompts(20)]
    with pytest.raises(DataError, match="'mine' wants the column 'answer'") as error:
        loop(tiny_base, Columns(), asked).step()
    assert "question" in error.value.fix


class Broken:
    def __init__(self, given: Any):
        self.given = given

    def score(self, samples: Sequence[Sample]) -> Any:
        return self.given(samples)


def divide(samples: Sequence[Sample]) -> list[float]:
    return [1 / 0 for _ in samples]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (divide, "'mine' raised ZeroDivisionError"), (lambda s: [1.0], "'mine' returned 1 scores for 20"),
        (lambda s: "1.0", "'mine' returned str"), (lambda s: ["1.0"] * len(s), "'mine' returned '1.0' for sample 0"),
        (lambda s: None, "'mine' returned NoneType"), (lambda s: (x for x in s), "'mine' returned generator"),
    ],
    ids=["raises", "count", "string", "strings", "None", "generator"],
)  # fmt: skip
def test_a_reward_that_breaks_its_contract_is_named(tiny_base, given, told):
    with pytest.raises(ContractError, match=told):
        loop(tiny_base, Broken(given)).step()


def test_numbers_and_arrays_of_other_libraries_are_scores():
    import numpy

    samples = [Sample("p", "a"), Sample("p", "b")]
    for convert in (numpy.float32, numpy.asarray, torch.tensor, bool, int):
        assert [s.value for s in Scorer(Rule(lambda s, convert=convert: convert(1.0)), "mine")(samples)] == [1.0, 1.0]
    for scores in (torch.tensor([1.0, 2.0]), numpy.array([1.0, 2.0]), (1.0, 2.0)):
        assert [s.value for s in Scorer(Broken(lambda s, scores=scores: scores), "mine")(samples)] == [1.0, 2.0]


# --- the order of prompts ---------------------------------------------------------------------------------------------


def test_each_prompt_comes_once_per_pass_in_an_order_of_its_own(tiny_base):
    made = loop(tiny_base, asked=prompts(20), prompts_per_update=8)
    stream = [p.text for update in range(1, 11) for p in made._prompts_of(update)]  # 80 = 4 passes
    passes = [stream[i : i + 20] for i in range(0, 80, 20)]
    for one in passes:
        assert sorted(one) == sorted(p.text for p in prompts(20))
    assert len({tuple(one) for one in passes}) == 4


def test_fewer_prompts_than_a_rollout_needs_come_again(tiny_base):
    made = loop(tiny_base, asked=prompts(3), prompts_per_update=8)
    assert Counter(p.text for p in made._prompts_of(1)) <= Counter({p.text: 3 for p in prompts(3)})
    made.step()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_bit_for_bit(tiny_base):
    one, other = loop(tiny_base), loop(tiny_base)
    torch.manual_seed(5)  # the global stream has no say
    first = [one.step() for _ in range(2)]
    torch.manual_seed(6)
    assert [other.step() for _ in range(2)] == first
    assert all(torch.equal(weights(other)[name], value) for name, value in weights(one).items())


# --- stopping and going on --------------------------------------------------------------------------------------------


def test_a_run_from_a_checkpoint_is_the_run_that_went_on_bit_for_bit(tiny_base):
    kwargs = {"kl_target": 0.5, "kl_horizon": 100.0, "epochs": 2}
    one = loop(tiny_base, **kwargs)
    one.step()
    tensors, state = one.checkpoint()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    state = json.loads(json.dumps(state))
    rest = [one.step() for _ in range(2)]
    other = loop(tiny_base, **kwargs)
    other.resume(tensors, state)
    assert [other.step() for _ in range(2)] == rest
    assert all(torch.equal(weights(other)[name], value) for name, value in weights(one).items())
    assert other.optimizer.beta == one.optimizer.beta != 0.05


def test_an_update_that_is_not_finite_stops_the_run_and_leaves_no_state_to_save(tiny_base, monkeypatch):
    made = loop(tiny_base)
    made.step()
    loss = type(made.optimizer).loss

    def broken(self: Any, minibatch: Any) -> Any:
        value, metrics = loss(self, minibatch)
        return value * math.nan, metrics | {"loss/policy": math.nan}

    monkeypatch.setattr(type(made.optimizer), "loss", broken)
    with pytest.raises(Stopped, match="update 2 gave loss/policy = nan"):
        made.step()
    assert made.state.update == 1
    assert not made.between_updates


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_from_policy", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.slow
def test_ppo_learns_to_say_what_is_rewarded(tiny_base, value_from_policy):
    def share(sample: Sample) -> float:
        """Of the words that are from the second half of the vocabulary: 0.4 at first. The end token is no word."""
        said = [token for token in sample.tokens if token > 0]
        return sum(token >= 40 for token in said) / max(1, len(said))

    made = loop(
        tiny_base,
        share,
        value_from_policy=value_from_policy,
        updates=6,
        prompts_per_update=48,
        minibatch_size=24,
        epochs=3,
        beta=0.0,
        adamw={"lr": 2e-2},
        value_adamw={"lr": 2e-2},
        final_lr=1.0,
        new_tokens=4,
    )
    scores = [made.step()["objective/scores"] for _ in range(6)]
    assert sum(scores[-2:]) / 2 > scores[0] + 0.15  # 0.04 is one standard deviation


@pytest.mark.slow
def test_a_strong_penalty_keeps_the_policy_near_the_reference(tiny_base):
    def kl_after(beta: float) -> float:
        made = loop(
            tiny_base, beta=beta, updates=6, prompts_per_update=48, minibatch_size=24, epochs=2, final_lr=1.0,
            adamw={"lr": 5e-3}, value_adamw={"lr": 5e-3}, new_tokens=4,
        )  # fmt: skip
        return [made.step()["objective/kl"] for _ in range(6)][-1]

    assert kl_after(20.0) < 0.3 * kl_after(0.0)  # 0.16 beside 1.26; a larger rate overshoots whatever the penalty


# --- what PPO can be set to -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_epochs_end_when_the_policy_has_gone_too_far(tiny_base):
    far = loop(tiny_base, prompts_per_update=8, minibatch_size=4, epochs=4, adamw={"lr": 2e-2}, max_kl=1e-4)
    assert far.step()["policy/minibatches"] < 8
    near = loop(tiny_base, prompts_per_update=8, minibatch_size=4, epochs=4, adamw={"lr": 2e-2})
    assert near.step()["policy/minibatches"] == 8


def test_ptx_adds_the_gradient_of_the_demonstrations_and_nothing_else(tiny_base):
    from rlhf_lora.records import Demonstration

    asked = prompts(4)
    shown = [Demonstration(asked[0], "certainly tea soup and bread")] * 3

    def trained(**settings: Any) -> tuple[Any, dict[str, float]]:
        made = loop(tiny_base, lambda sample: 1.0, asked, beta=0.0, whiten_advantages=False, scale_scores="reference",
                    prompts_per_update=4, adamw={"lr": 1e-2}, demonstrations=shown, **settings)  # fmt: skip
        return made, made.step()

    def nll(made: Any) -> float:
        ids = [made.backbone.chat.prompt_ids(asked[0])]
        reply = [made.backbone.chat.response_ids("certainly tea soup and bread")]
        (row,) = made.backbone.sequence_logprobs("policy", ids, reply)
        return -sum(row) / len(row)

    without, _ = trained()
    with_ptx, metrics = trained(ptx=1.0)
    assert metrics["loss/ptx"] == pytest.approx(nll(without), abs=1e-4)  # a constant reward moves nothing
    assert nll(with_ptx) < nll(without) - 0.01


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_group_optimizers_run_on_the_same_loop(tiny_base, name):
    made = loop(tiny_base, optimizer_name=name, samples_per_prompt=4, prompts_per_update=4, minibatch_size=8, epochs=2)
    metrics = [made.step() for _ in range(2)]
    assert all(row["policy/first_ratio_error"] < 1e-4 for row in metrics)
    assert "value" not in made.backbone.heads


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_equal_rewards_within_every_group_move_no_group_optimizer(tiny_base, name):
    plain = {"whiten_advantages": False} if name == "rloo" else {}  # whitening would make much of what rounding leaves
    sizes = {"samples_per_prompt": 4, "prompts_per_update": 4, "minibatch_size": 8}
    made = loop(tiny_base, lambda sample: 1.0, optimizer_name=name, **sizes, **plain)
    assert made.step()["grad_norm/policy"] < 1e-6


@pytest.mark.slow
def test_without_a_limit_gradients_keep_their_length(tiny_base):
    before, after = ({}, {})
    for limit, found in ((None, before), (1e-3, after)):
        made = loop(tiny_base, adamw={"lr": 0.0}, value_adamw={"lr": 0.0}, max_grad_norm=limit, minibatch_size=8)
        told = made.step()["grad_norm/policy"]
        found |= {
            "told": told,
            "left": torch.stack([p.grad.norm() for p in made.backbone.parameters("policy").values()]).norm(),
        }
    assert before["told"] == pytest.approx(after["told"], rel=1e-4)
    assert float(before["left"]) == pytest.approx(before["told"], rel=1e-4)
    assert float(after["left"]) == pytest.approx(1e-3, rel=1e-3)
