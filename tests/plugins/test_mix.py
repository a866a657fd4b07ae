"""`reward=mix`: what each combination makes of its parts, worked out by hand, and what happens where a part says nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from omegaconf import OmegaConf
from rlhf_lora.plugins.rewards.mix_combine import logit, product, sigmoid, weighted_sum, whitened

from rlhf_lora.config import compose
from rlhf_lora.contracts import Context
from rlhf_lora.errors import ConfigError, ContractError, Stopped
from rlhf_lora.records import Prompt, Sample, Score
from rlhf_lora.registry import build, reward, to_config
from rlhf_lora.reward_tree import every_reward
from rlhf_lora.stages.scoring import Scorer


@reward("told")
class Told:
    """What the sample's column says: a number, a word for no value, or a complaint."""

    column: str = "x"
    fails: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def score(self, samples: Sequence[Sample], **columns: Sequence[Any]) -> list[Any]:
        if self.fails:
            raise RuntimeError("no server")
        return [Score.none("cannot tell", kind=v) if isinstance(v, str) else v for v in columns[self.column]]


def samples(**columns: Sequence[Any]) -> list[Sample]:
    count = len(next(iter(columns.values())))
    return [Sample("p", "t", columns={name: values[i] for name, values in columns.items()}) for i in range(count)]


def mix(**settings: Any) -> Any:
    """A mix whose parts `a` and `b` (and whichever else) say what the columns of the same names do."""
    names = settings.pop("names", ("a", "b"))
    parts = {name: {"name": "told", "column": name} for name in names}
    return build("reward", {"name": "mix", "parts": parts | settings.pop("parts", {}), **settings})


def values(made: Any, **columns: Sequence[Any]) -> list[float | None]:
    return [score.value for score in made.score(samples(**columns))]


# --- combinations -----------------------------------------------------------------------------------------------------


def test_a_sum_weighs_its_parts_by_name():
    made = mix(weights={"b": -0.5, "a": 2.0})
    # 2·1 − 0.5·4 = 0;  2·3 − 0.5·(−2) = 7
    assert values(made, a=[1, 3], b=[4, -2]) == [0.0, 7.0]
    (score, _) = made.score(samples(a=[1, 3], b=[4, -2]))
    assert score.parts == {"a": 1.0, "b": 4.0, "a/weighted": 2.0, "b/weighted": -2.0}


def test_a_part_without_a_weight_weighs_one_and_null_is_no_weight():
    assert values(mix(weights={"b": None}), a=[1], b=[4]) == [5.0]


def test_a_product_is_of_powers():
    # 0.25^0.5 · 0.5^2 = 0.5 · 0.25
    made = mix(combine="product", weights={"a": 0.5, "b": 2})
    assert values(made, a=[0.25, 0], b=[0.5, 1]) == [0.125, 0.0]
    (score,) = made.score(samples(a=[0.25], b=[0.5]))
    assert score.parts == {"a": 0.25, "b": 0.5, "a/weighted": 0.5, "b/weighted": 0.25}


def test_a_mean_is_weighed_and_less_where_its_parts_disagree():
    assert values(mix(combine="mean", weights={"a": 3}), a=[1, 5], b=[3, 5]) == [1.5, 5.0]
    # mean 1.5, variance (3·0.5² + 1·1.5²) / 4 = 0.75: 1.5 − 2·0.75 = 0; where they agree nothing is taken off
    made = mix(combine="mean", weights={"a": 3}, disagreement=2.0)
    assert values(made, a=[1, 5], b=[3, 5]) == [0.0, 5.0]
    (score,) = made.score(samples(a=[1], b=[3]))
    assert score.parts == {"a": 1.0, "b": 3.0, "a/weighted": 0.75, "b/weighted": 0.75}
    assert made.in_words() == "mean of 3 · a (told) + 1 · b (told) − 2 · variance"


def test_the_lowest_part_stands_for_all_and_a_missing_one_for_none():
    made = mix(combine="min")
    assert values(made, a=[1, 5, "abstain"], b=[3, -2, 9]) == [1.0, -2.0, None]
    assert made.in_words() == "the lowest of a (told), b (told)"


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"combine": "min", "weights": {"a": 2}}, "reward.weights.a"),
        ({"combine": "mean", "weights": {"b": -1}}, "reward.weights.b"),
        ({"combine": "mean", "disagreement": -0.1}, "reward.disagreement"),
        ({"combine": "mean", "disagreement": math.inf}, "reward.disagreement"),
        ({"combine": "min", "disagreement": 0.1}, "reward.disagreement"),
        ({"combine": "min", "missing_part": "skip"}, "reward.missing_part=skip"),
    ],
)
def test_what_an_ensemble_would_pass_over_is_refused(settings, where):
    with pytest.raises(ConfigError) as caught:
        mix(**settings)
    assert caught.value.where == where


@pytest.mark.parametrize("outside", [1.5, -0.1])
def test_a_product_has_no_value_where_a_part_is_outside_its_range(outside):
    score, other = mix(combine="product").score(samples(a=[outside, 1], b=[0.5, 0.5]))
    assert (score.value, score.kind, other.value) == (None, "error", 0.5)
    assert f"part 'a' is {outside:g}" in score.reason
    assert score.parts["a"] == outside


def test_a_sum_that_overflows_has_no_value():
    (score,) = mix(weights={"a": 1e308}).score(samples(a=[10], b=[1]))
    assert (score.value, score.kind) == (None, "error")


GATE: dict[str, Any] = {"combine": "gate", "names": ("safe", "help")}


def gate(**settings: Any) -> dict[str, Any]:
    return GATE | {"gate": {"safety": "safe", "helpful": "help", **settings}}


def test_the_gate_decides_by_probability_and_gives_the_logit_of_what_it_chose():
    made = mix(**gate(values="probabilities", whiten=False))
    # R_s = 0.10 < 0.15: safety decides;  0.15 is not below 0.15: helpful;  0.9: helpful
    got = values(made, safe=[0.10, 0.15, 0.9], help=[0.8, 0.8, 0.3])
    assert got == pytest.approx([math.log(0.1 / 0.9), math.log(0.8 / 0.2), math.log(0.3 / 0.7)])


def test_the_gate_takes_the_sigmoid_before_it_compares():
    """−1 is below 0.15, and its sigmoid, 0.269, is not; 0.1 is below 0.15, and its sigmoid, 0.525, is not: a gate that
    compared logits would let safety decide both. −2 gives 0.119, which is below."""
    made = mix(**gate(whiten=False))
    assert values(made, safe=[-1.0, 0.1, -2.0], help=[5.0, 6.0, 7.0]) == pytest.approx([5.0, 6.0, -2.0])


def test_the_gate_whitens_what_came_through_it_and_not_its_parts():
    made = mix(**gate())
    # through the gate: −2 (safety), 5, 2. Mean 5/3, variance (3.667² + 3.333² + 0.333²)/3 = 8.2222, deviation 2.8674.
    # Whitened first, safety would be (−0.707, −0.707, 1.414): sigmoid 0.33, never below 0.15, and helpful would always win.
    got = values(made, safe=[-2.0, -1.0, 20.0], help=[9.0, 5.0, 2.0])
    assert got == pytest.approx([-11 / 3 / 2.86744, 10 / 3 / 2.86744, 1 / 3 / 2.86744], abs=1e-4)
    parts = [score.parts for score in made.score(samples(safe=[-2.0, -1.0, 20.0], help=[9.0, 5.0, 2.0]))]
    assert [p["gate/safety"] for p in parts] == [1.0, 0.0, 0.0]
    assert [p["gate/logit"] for p in parts] == pytest.approx([-2.0, 5.0, 2.0])


def test_a_prompt_about_safety_is_decided_by_the_safety_part_whatever_it_says():
    made = mix(**gate(column="is_safety", whiten=False))
    assert made.columns == ("safe", "help", "is_safety")
    assert values(made, safe=[3.0, 3.0], help=[1.0, 1.0], is_safety=[True, 0]) == pytest.approx([3.0, 1.0])
    (score,) = made.score(samples(safe=[3.0], help=[1.0], is_safety=["maybe"]))
    assert (score.value, score.kind) == (None, "error")
    assert "'maybe', neither true nor false" in score.reason


def test_prompts_about_safety_are_told_by_a_value_of_a_column():
    made = mix(**gate(column="kind", value="unsafe", whiten=False))
    assert values(made, safe=[3.0, 3.0], help=[1.0, 1.0], kind=["unsafe", "borderline"]) == pytest.approx([3.0, 1.0])
    made.check_prompts([Prompt("a", columns={"kind": "unsafe"})])
    with pytest.raises(ConfigError, match="no prompt has the value 'unsafe' in the column 'kind'"):
        made.check_prompts([Prompt("a", columns={"kind": "Unsafe"}), Prompt("b", columns={"kind": "safe"})])
    outer = mix(names=(), parts={"inner": to_config(made)})
    with pytest.raises(ConfigError) as told:
        outer.check_prompts([Prompt("a", columns={"kind": "safe"})])
    assert told.value.where == "reward.parts.inner.gate.value"


def test_a_gate_of_probabilities_takes_a_logit_that_is_squashed():
    made = mix(**gate(values="probabilities", whiten=False), squash={"help": "sigmoid"})
    assert values(made, safe=[0.9, 0.1], help=[2.0, 2.0]) == pytest.approx([2.0, math.log(0.1 / 0.9)])


def test_certainty_has_a_finite_logit_and_a_probability_is_one():
    made = mix(**gate(values="probabilities", whiten=False))
    assert values(made, safe=[1.0, 1.0], help=[1.0, 0.0]) == pytest.approx([13.8155, -13.8155], abs=1e-3)
    (score,) = made.score(samples(safe=[1.0], help=[2.0]))
    assert score.value is None
    assert "part 'help' is 2" in score.reason


def test_a_missing_score_stays_out_of_the_whitening():
    made = mix(**gate())
    got = values(made, safe=[9, 9, 9], help=[1.0, "abstain", 3.0])
    assert got[1] is None
    assert [got[0], got[2]] == pytest.approx([-1, 1], abs=1e-6)  # mean 2, deviation 1


def test_a_judge_of_a_gate_sees_raw_values():
    opened = mix(**gate()).open(Context())
    asked = samples(safe=[9.0, 9.0], help=[1.0, 3.0])
    assert [s.value for s in opened.score(asked)] == pytest.approx([-1, 1], abs=1e-6)
    assert [s.value for s in opened.as_judge().score(asked)] == pytest.approx([1.0, 3.0])
    assert (opened.whole_batch, opened.as_judge().whole_batch) == (True, False)


def test_the_functions_hold_at_their_ends():
    assert (sigmoid(-1000.0), sigmoid(1000.0), sigmoid(0.0)) == (0.0, 1.0, 0.5)
    assert logit(sigmoid(2.5)) == pytest.approx(2.5)
    assert whitened([]) == []
    assert whitened([7.0]) == [0.0]
    assert product({}, {}) == 1.0
    assert weighted_sum({"a": 3.0}, {"a": 0.5}) == 1.5


# --- parts that say nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["abstain", "error", "unreadable"])
def test_where_a_part_has_no_value_the_mix_has_none_of_its_kind(kind):
    score, other = mix().score(samples(a=[kind, 1], b=[2, 2]))
    assert (score.value, score.kind) == (None, kind)
    assert score.reason == f"part 'a': no value ({kind}), cannot tell"
    assert score.parts == {"b": 2.0}
    assert other.value == 3.0


def test_of_two_missing_parts_a_failure_is_the_one_that_is_told():
    (score,) = mix().score(samples(a=["abstain"], b=["error"]))
    assert score.kind == "error"
    assert "part 'a'" in score.reason
    assert "part 'b'" in score.reason


def test_skip_lets_the_others_stand_for_all():
    made = mix(missing_part="skip", weights={"a": 1.0, "b": -3.0})
    # only a: 2·1, stretched by (1 + 3) / 1;  only b: 2·(−3) · 4/3;  both: 2 − 6;  none: none
    got = values(made, a=[2, "abstain", 2, "abstain"], b=["error", 2, 2, "abstain"])
    assert got == [8.0, -8.0, -4.0, None]
    assert "part 'b'" in made.score(samples(a=[2], b=["error"]))[0].reason


def test_skip_gives_nothing_where_what_is_left_weighs_nothing():
    (score,) = mix(missing_part="skip", weights={"a": 0.0}).score(samples(a=[2], b=["abstain"]))
    assert (score.value, score.kind) == (None, "error")
    assert "weigh nothing" in score.reason


def test_a_part_that_raises_is_named_and_does_not_become_a_number():
    broken = mix(parts={"b": {"name": "told", "column": "b", "fails": True}})
    with pytest.raises(ContractError, match=r"part 'b': .*told.* raised RuntimeError: no server"):
        broken.score(samples(a=[1], b=[1]))


def test_a_nan_of_a_part_is_no_value():
    (score,) = mix().score(samples(a=[float("nan")], b=[1]))
    assert (score.value, score.kind) == (None, "error")


def test_an_empty_list_gives_an_empty_list():
    assert mix().score([]) == []


# --- shadows ----------------------------------------------------------------------------------------------------------


def test_a_shadow_is_reported_and_never_counted():
    made = mix(names=("a", "s"), shadow=["s"])
    (score,) = made.score(samples(a=[1], s=[99]))
    assert score.value == 1.0
    assert score.parts == {"a": 1.0, "a/weighted": 1.0, "shadow/s": 99.0}


def test_a_shadow_that_fails_takes_no_sample_away():
    made = mix(names=("a",), parts={"s": {"name": "told", "column": "a", "fails": True}}, shadow=["s"])
    (score,) = made.score(samples(a=[1]))
    assert score.value == 1.0
    assert "shadow/s" not in score.parts
    assert "shadow 's': no value (error)" in score.reason
    assert "no server" in score.reason
    (score,) = mix(names=("a", "s"), shadow=["s"]).score(samples(a=[1], s=["abstain"]))
    assert score.value == 1.0
    assert "shadow 's': no value (abstain)" in score.reason


# --- units ------------------------------------------------------------------------------------------------------------


def test_clipping_is_in_the_parts_own_unit_and_the_part_is_reported_as_it_was():
    made = mix(weights={"a": 10}, clip={"a": [-1, 2], "b": [None, 0]})
    (score,) = made.score(samples(a=[5], b=[3]))
    assert score.value == 20.0
    assert (score.parts["a"], score.parts["b"]) == (5.0, 3.0)


def test_calibrated_parts_have_mean_0_and_deviation_1_on_the_reference():
    opened = mix(normalise={"a": "reference", "b": "none"}, weights={"b": 0.1}).open(Context())
    assert opened.needs_calibration
    opened.calibrate(samples(a=[1, 3, "abstain"], b=[0, 0, 0]))  # a: mean 2, deviation 1
    assert not opened.needs_calibration
    assert opened.state() == {"a": [2.0, 1.0]}
    # (5 − 2)/1 + 0.1·10
    assert [s.value for s in opened.score(samples(a=[5], b=[10]))] == [4.0]


def test_clipping_comes_before_normalising():
    opened = mix(names=("a",), normalise={"a": "reference"}, clip={"a": [0, 4]}).open(Context())
    opened.calibrate(samples(a=[-100, 100]))  # clipped: 0 and 4: mean 2, deviation 2
    assert opened.state() == {"a": [2.0, 2.0]}
    assert [s.value for s in opened.score(samples(a=[1000, 3]))] == [1.0, 0.5]


def test_a_logit_that_is_squashed_is_a_probability_in_a_product():
    """σ(log 3) = ¾ and σ(0) = ½, times the other part's own 0.4 and 1."""
    made = mix(combine="product", squash={"a": "sigmoid", "b": "none"})
    assert values(made, a=[math.log(3), 0], b=[0.4, 1]) == pytest.approx([0.3, 0.5])
    (score,) = made.score(samples(a=[math.log(3)], b=[0.4]))
    assert score.parts == pytest.approx({"a": math.log(3), "b": 0.4, "a/weighted": 0.75, "b/weighted": 0.4})
    assert values(mix(squash={"a": "sigmoid"}, weights={"a": 2}), a=[0], b=[4]) == [5.0]


def test_squashing_comes_after_normalising_so_that_the_mean_of_the_reference_is_one_half():
    opened = mix(names=("a",), normalise={"a": "reference"}, squash={"a": "sigmoid"}).open(Context())
    opened.calibrate(samples(a=[10, 14]))
    assert opened.state() == {"a": [12.0, 2.0]}, "measured as the part gives it"
    assert [s.value for s in opened.score(samples(a=[12, 14]))] == pytest.approx([0.5, 1 / (1 + math.exp(-1))])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"squash": {"a": "tanh"}}, "no choice 'tanh'"),
        ({"squash": {"c": "sigmoid"}}, "no part 'c'"),
        ({"squash": {"a": "sigmoid"}, "shadow": ["a"]}, "is a shadow"),
        ({"squash": {"a": "sigmoid"}, "combine": "gate", "gate": {"safety": "a", "helpful": "b"}}, "squashed twice"),
    ],
)
def test_a_squash_that_would_do_nothing_or_too_much_is_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        mix(**given)


def test_a_part_that_is_constant_on_the_reference_is_only_shifted():
    opened = mix(names=("a",), normalise={"a": "reference"}).open(Context())
    opened.calibrate(samples(a=[0.1, 0.1, 0.1]))
    assert [s.value for s in opened.score(samples(a=[2.1]))] == pytest.approx([2.0])


def test_a_part_that_was_not_measured_gives_no_value_even_where_parts_may_be_skipped():
    made = mix(normalise={"a": "reference"}, missing_part="skip")
    (score,) = made.open(Context()).score(samples(a=[1], b=[1]))
    assert (score.value, score.kind) == (None, "error")
    assert "part 'a': not yet measured" in score.reason


def test_a_part_without_any_value_on_the_reference_stops_the_run():
    opened = mix(normalise={"a": "reference"}).open(Context())
    with pytest.raises(Stopped, match=r"part 'a' gave no value for any sample .*cannot tell"):
        opened.calibrate(samples(a=["abstain"] * 2, b=[1, 1]))


def inner(**more: Any) -> dict[str, Any]:
    return {"name": "mix", "parts": {"b": {"name": "told", "column": "b"}}, "normalise": {"b": "reference"}, **more}


def test_a_resumed_run_keeps_its_numbers_those_of_a_mix_within_the_mix_too():
    made = mix(names=("a",), parts={"m": inner()}, normalise={"a": "reference"})
    first, second = made.open(Context()), made.open(Context())
    first.calibrate(samples(a=[1, 3], b=[10, 30]))
    assert first.state() == {"a": [2.0, 1.0], "m/b": [20.0, 10.0]}
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert not second.needs_calibration
    # (4 − 2)/1 + (50 − 20)/10
    assert [s.value for s in second.score(samples(a=[4], b=[50]))] == [5.0]


def test_numbers_are_kept_in_the_run_folder_for_this_very_mix(tmp_path):
    made, ctx = mix(normalise={"a": "reference"}), Context(run_dir=tmp_path)
    made.open(ctx).calibrate(samples(a=[1, 3], b=[0, 0]))
    assert made.open(ctx).state() == {"a": [2.0, 1.0]}
    assert dataclasses.replace(made, weights={"a": 7}).open(ctx).state() == {"a": [2.0, 1.0]}  # weights change no scale
    assert mix(normalise={"a": "reference"}, clip={"a": [0, 1]}).open(ctx).needs_calibration
    assert [s.value for s in made.open(ctx).as_judge().score(samples(a=[4], b=[0]))] == [2.0]


# --- as the rest of the kit sees it -----------------------------------------------------------------------------------


def test_parts_are_asked_by_the_scorer_of_the_run():
    seen = []

    class Spy(Scorer):
        def __call__(self, asked: Sequence[Sample]) -> list[Score]:
            seen.append(self.name)
            return super().__call__(asked)

    def hold(reward: Any, source: Any) -> Spy:
        if hasattr(source, "score_with"):
            source.score_with(hold)
        return Spy(source, to_config(reward)["name"])

    opened = mix(names=("a",), parts={"m": {**inner(), "normalise": {}}}).open(Context())
    opened.score_with(hold)
    assert [s.value for s in Scorer(opened, "mix")(samples(a=[1], b=[2]))] == [3.0]
    assert seen == ["told", "mix", "told"]


def test_columns_may_be_handed_over_beside_the_samples():
    made = mix()
    assert made.columns == ("a", "b")
    assert [s.value for s in made.score([Sample("p", "t")], a=[1], b=[2])] == [3.0]


def test_the_parts_of_a_part_are_reported_under_its_name():
    made = build("reward", {"name": "mix", "parts": {"g": "orders_gold", "n": inner(normalise={})}})
    ordered = Sample("please bring tea soup and bread . waiter:", "certainly tea soup and bread", columns={"b": 2.0})
    (score,) = made.score([ordered])
    assert score.value == 7.0  # 5 by the gold rule, and 2
    assert {"g", "g/order", "g/weighted", "n/b", "n/b/weighted"} <= score.parts.keys()


def test_every_reward_inside_is_found_with_its_setting():
    made = mix(names=("a",), parts={"m": inner()})
    assert [place for place, _ in every_reward(made)] == ["reward.parts.a", "reward.parts.m.parts.b"]
    (alone,) = every_reward(build("reward", {"name": "length"}))
    assert alone[0] == "reward"


def test_this_runs_reward_model_goes_to_every_part_that_waits_for_one(tmp_path):
    for name in ("reward.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    waiting = {"name": "mix", "parts": {"r": "learned"}}
    made = mix(names=("a",), parts={"l": "learned", "m": waiting})
    assert made.stages == ("reward_model",)
    assert made.folder is None
    ready = made.with_reward_model(tmp_path)
    assert ready.stages == ()
    assert ready.folder == tmp_path
    assert [p.path for _, p in every_reward(ready) if hasattr(p, "path")] == [str(tmp_path)] * 2


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_forms_of_the_command_line_give_the_same_mix():
    long = compose("reward=mix", "+reward@reward.parts.a=length", "+reward.weights.a=0.5", "reward.parts.a.target=7")
    short = compose("reward=mix", "reward.parts.a=length", "reward.weights.a=0.5", "reward.parts.a.target=7")
    braces = compose("reward=mix", "reward.parts={a: {name: length, target: 7}}", "reward.weights={a: 0.5}")
    text = compose("reward=mix", "reward.parts={a: {name: length, target: '7'}}", "reward.weights={a: 0.5}")
    for config in (long, short, braces, text):
        made = build("reward", config.reward)
        assert made.rewards["a"].target == 7
        assert made.all_weights == {"a": 0.5}
    assert long.reward == short.reward == braces.reward


def test_a_saved_configuration_builds_the_same_mix(tmp_path):
    nested = ("reward=mix", "reward.parts.m=mix", "reward.parts.m.parts.c=length", "reward.parts.m.parts.c.target=3",
              "reward.parts.b=random", "reward.shadow=[b]", "reward.clip.m=[null,1]", "reward.missing_part=skip")  # fmt: skip
    config = compose(*nested)
    OmegaConf.save(config, tmp_path / "config.yaml")
    saved = OmegaConf.load(tmp_path / "config.yaml")
    first, second = build("reward", config.reward), build("reward", saved.reward)
    assert first == second
    assert first == build("reward", to_config(first))
    assert second.rewards["m"].rewards["c"].target == 3


def test_an_experiment_file_holds_a_mix_and_the_command_line_changes_one_setting(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "polite.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /reward@reward.parts.short: length\n  - _self_\n  - override /reward: mix\n"
        "reward:\n  weights: {short: 0.5, gold: 2}\n  parts:\n    short: {target: 4}\n    gold: {name: orders_gold}\n"
    )
    config = compose("experiment=polite", "reward.parts.short.target=9", config_dir=tmp_path)
    made = build("reward", config.reward)
    assert (made.rewards["short"].target, made.all_weights) == (9, {"short": 0.5, "gold": 2.0})


def test_a_part_that_is_null_is_taken_out():
    config = compose("reward=mix", "reward.parts={a: {name: length}, b: {name: random}}", "reward.parts.b=null")
    assert list(build("reward", config.reward).rewards) == ["a"]


REFUSED = {
    "no parts": ({"parts": {}}, "no parts", "reward=mix"),
    "unknown part in weights": ({"weights": {"lenght": 1.0}}, "did you mean 'length'", "reward.weights.lenght"),
    "nan weight": ({"weights": {"length": float("nan")}}, "nan", "reward.weights.length"),
    "infinite weight": ({"weights": {"length": float("inf")}}, "inf", "reward.weights.length"),
    "weight that is text": ({"weights": {"length": "much"}}, "'much'", "reward.weights.length"),
    "all weights 0": ({"weights": {"length": 0, "random": 0}}, "every weight is 0", "reward.weights"),
    "unknown combination": ({"combine": "summ"}, "did you mean 'sum'", "reward.combine"),
    "unknown way of missing": ({"missing_part": "zero"}, "no choice 'zero'", "reward.missing_part"),
    "unknown shadow": ({"shadow": ["randon"]}, "did you mean 'random'", "reward.shadow"),
    "all shadows": ({"shadow": ["random", "length"]}, "nothing is left", "reward.shadow"),
    "weighed shadow": ({"shadow": ["random"], "weights": {"random": 1}}, "is a shadow", "reward.weights.random"),
    "clip upside down": ({"clip": {"length": [2, 1]}}, "[2, 1]", "reward.clip.length"),
    "clip of one number": ({"clip": {"length": 3}}, "3", "reward.clip.length"),
    "clip of text": ({"clip": {"length": ["a", "b"]}}, "['a', 'b']", "reward.clip.length"),
    "unknown clip": ({"clip": {"x": [0, 1]}}, "no part 'x'", "reward.clip.x"),
    "normalised how": ({"normalise": {"length": "referense"}}, "did you mean 'reference'", "reward.normalise.length"),
    "unknown normalise": ({"normalise": {"x": "reference"}}, "no part 'x'", "reward.normalise.x"),
    "negative exponent": ({"combine": "product", "weights": {"length": -1}}, "exponent", "reward.weights.length"),
    "skip in a product": ({"combine": "product", "missing_part": "skip"}, "only a sum", "reward.missing_part"),
    "gate without a gate": ({"gate": {"safety": "length"}}, "has no gate", "reward.gate"),
    "gate without safety": ({"combine": "gate"}, "no safety part", "reward.gate.safety"),
    "gate of unknown": ({"combine": "gate", "gate": {"safety": "lenth", "helpful": "random"}}, "'length'", "reward.gate.safety"),
    "gate of one": ({"combine": "gate", "gate": {"safety": "length", "helpful": "length"}}, "are one", "reward.gate"),
    "gate of percent": (
        {"combine": "gate", "gate": {"safety": "length", "helpful": "random", "threshold": 15.0}}, "15", "reward.gate.threshold"),
    "unknown gate setting": ({"gate": {"treshold": 0.1}}, "did you mean 'threshold'", "reward.gate.treshold"),
    "weighed gate": ({"combine": "gate", "gate": {"safety": "length", "helpful": "random"}, "weights": {"length": 1}},
                     "weighs nothing", "reward.weights.length"),
    "third in a gate": ({"combine": "gate", "gate": {"safety": "length", "helpful": "random"},
                         "parts": {"length": "length", "random": "random", "c": "orders_gold"}}, "no place", "reward.parts.c"),
    "whitening gate inside": (
        {"parts": {"m": {"name": "mix", "parts": {"a": "length", "b": "random"}, "combine": "gate",
                         "gate": {"safety": "a", "helpful": "b"}}}}, "cannot whiten", "reward.parts.m.gate.whiten"),
    "part without a name": ({"parts": {"a": {"target": 3}}}, "which reward", "reward.parts.a"),
    "part with a bad name": ({"parts": {"a b": "length"}}, "cannot name a part", "reward.parts.a b"),
    "unknown setting of a part": ({"parts": {"a": {"name": "length", "tagret": 3}}}, "'target'", "reward.parts.a.tagret"),
    "setting of another type": ({"parts": {"a": {"name": "length", "target": "x"}}}, "Integer", "reward.parts.a.target"),
    "setting out of its range": ({"parts": {"a": {"name": "length", "target": 0}}}, "at least 1", "reward.parts.a"),
    "deep inside": ({"parts": {"m": {"name": "mix", "parts": {"a": "length"}, "weights": {"b": 1}}}}, "no part 'b'",
                    "reward.parts.m.weights.b"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_place(case):
    settings, what, where = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        build("reward", {"name": "mix", "parts": {"length": "length", "random": "random"}, **settings})
    assert what in refused.value.what
    assert refused.value.where.startswith(where)
    assert refused.value.fix
