"""`reward=rules`: weights, parts, reasons, and what is refused."""

from __future__ import annotations

import pickle

import pytest

from rlhf_lora import compose
from rlhf_lora.errors import ConfigError, DataError
from rlhf_lora.records import Sample
from rlhf_lora.registry import build, to_config
from rlhf_lora.stages.scoring import Scorer

THREE = (
    "reward.rules={brief: {rule: length, least: 5, most: 80}, polite: {rule: keywords, any: [please, thanks], weight: 0.5},"
    " noloop: {rule: repetition, n: 4, most: 0.2}}"
)


def rules(**given: object):
    return build("reward", {"name": "rules", **given})


def test_it_works_without_settings():
    reward = build("reward", compose("optimizer=ppo", "reward=rules").reward)
    good, cut, empty = reward.score([
        Sample("p", "certainly, tea and soup"), Sample("p", "certainly, tea and soup", finished=False), Sample("p", ""),
    ])  # fmt: skip
    assert (good.value, cut.value, empty.value) == (1.0, 0.75, 0.5)
    assert set(good.parts) == {"not_empty", "ended", "repetition", "length"}
    assert empty.parts == {"not_empty": 0, "ended": 1, "repetition": 1, "length": 0}


def test_the_value_is_the_weighted_mean_and_the_parts_have_each_rule():
    reward = build("reward", compose("reward=rules", THREE).reward)
    (score,) = reward.score([Sample("p", "at once")])
    # 2 of 5 words: 0.4; not polite: 0; no loop: 1. (1·0.4 + 0.5·0 + 1·1) / 2.5 = 0.56
    assert score.value == pytest.approx(0.56)
    assert score.parts == {"brief": 0.4, "polite": 0.0, "noloop": 1.0}
    assert score.reason == "broken: brief (words: 2, wanted 5 to 80); polite (none of 'please', 'thanks')"


def test_the_product_is_a_weighted_geometric_mean():
    half = {"a": {"rule": "length", "least": 2}, "b": {"rule": "length", "least": 4, "weight": 3}}
    samples = [Sample("p", "tea"), Sample("p", "")]
    # values ½ and ¼, weights 1 and 3: (½ · ¼³)^¼ = 2^(−7/4)
    tea, nothing = rules(rules=half, combine="product").score(samples)
    assert (tea.value, nothing.value) == (pytest.approx(2 ** (-7 / 4)), 0.0)
    assert rules(rules=half).score(samples)[0].value == pytest.approx((0.5 + 3 * 0.25) / 4)


@pytest.mark.parametrize("combine", ["mean", "product"])
def test_a_rule_of_weight_zero_is_recorded_and_does_not_count(combine):
    (score,) = rules(
        rules={"ended": None, "shadow": {"rule": "regex", "pattern": "x", "weight": 0}}, combine=combine
    ).score([Sample("p", "tea")])
    assert (score.value, score.parts) == (1.0, {"ended": 1.0, "shadow": 0.0})


def test_where_one_rule_cannot_judge_there_is_no_score():
    reward = rules(rules={"ended": {}, "own": {"rule": "regex", "pattern_column": "wanted"}})
    assert reward.columns == ("wanted",)
    fine, bad = Scorer(reward, "rules")([Sample("p", "tea", columns={"wanted": wanted}) for wanted in ("tea", "(")])
    assert fine.value == 1
    assert (bad.value, bad.kind) == (None, "unreadable")
    assert bad.reason.startswith("own: the pattern /(/ cannot be read")
    with pytest.raises(DataError, match="wants the column 'wanted'"):
        Scorer(reward, "rules")([Sample("p", "tea")])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{x: {rule: lenght}}", r"no rule 'lenght'; did you mean 'length'\?[\s\S]*reward.rules.x[\s\S]*rules: "),
        ("{x: {rule: length, leest: 3}}", r"no setting 'leest'; did you mean 'least'\?[\s\S]*reward.rules.x.leest"),
        ("{x: {rule: length, weight: -1}}", "a weight is a number from 0 on, got -1"),
        ("{x: {rule: length, weight: heavy}}", "a weight is a number"),
        ("{x: {rule: length, weight: true}}", "a weight is a number"),
        ("{x: {rule: length, weight: 0}}", "every rule has weight 0"),
        ("{length: {weight: 1.0e+308}, ended: {weight: 1.0e+308}}", "the weights add up to more"),
        (f"{{x: {{rule: length, weight: {10**400}}}}}", "a weight is a number from 0 on"),
        ("{x: {}}", "'x' does not say which rule it is"),
        ("{x: 3}", "the rule 'x' is 3, not settings"),
    ],
)
def test_what_cannot_be_a_set_of_rules_is_refused_with_the_place(given, says):
    with pytest.raises(ConfigError, match=says):
        build("reward", compose("reward=rules", f"reward.rules={given}").reward)


def test_an_unknown_way_to_combine_is_refused():
    with pytest.raises(ConfigError, match="combine is one of mean, product"):
        rules(combine="sum")


def test_the_command_line_says_so_in_one_message_and_ends_with_2(capsys):
    from rlhf_lora import cli

    assert cli.run(["plan", "reward=rules", "reward.rules={x: {rule: lenght}}"]) == 2
    out, err = capsys.readouterr()
    assert "did you mean 'length'?" in out + err
    assert "Traceback" not in out + err


def test_it_is_equal_after_its_own_configuration_and_can_be_sent_to_a_process():
    reward = build("reward", compose("reward=rules", THREE).reward)
    again = build("reward", to_config(reward))
    assert again == reward == pickle.loads(pickle.dumps(reward))
    assert again.score([Sample("p", "at once")]) == reward.score([Sample("p", "at once")])
