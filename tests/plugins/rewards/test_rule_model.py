"""Rules in words, judged by a model that reads them: what is asked of it, what is made of its answers, what is refused."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rlhf_lora.plugins.rewards.rule_model import OpenRuleModel, RuleModel, about, combined
from tiny import labels_model, overrides

from rlhf_lora import cli
from rlhf_lora.config import compose
from rlhf_lora.errors import ConfigError, ModelError
from rlhf_lora.mini import rules
from rlhf_lora.plan import make_plan
from rlhf_lora.records import Sample
from rlhf_lora.registry import build
from rlhf_lora.run_folder import RunFolder

FEW = ("dataset.demonstrations=100", "dataset.prompts=100", "hardware.device=cpu")
RULES = {"polite": "always be courteous", "safe": "never give a hazard"}


class Fixed:
    """A model whose log-odds are given by words of the prompt and of the reply."""

    def __init__(self, **logits: float):
        self.logits, self.asked = logits, list[Sample]()

    def score(self, samples: list[Sample]) -> list[float]:
        self.asked += samples
        return [sum(x for word, x in self.logits.items() if word in f"{s.prompt} {s.text}".split()) for s in samples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a model of labels leaves, without its weights."""
    labels_model(tmp_path / "run" / "adapters" / "reward")
    return tmp_path / "run"


def settings(folder: Path, **given: Any) -> RuleModel:
    return build("reward", {"name": "rule_model", "path": str(folder), "rules": RULES} | given)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_each_rule_is_asked_about_as_the_data_of_its_training_has_it(folder):
    model = Fixed()
    OpenRuleModel(settings(folder), model).score([Sample("glue . desk:", "no", columns={"kind": "safe"})])
    rule = rules.Rule("r", "always", "courteous", "refusing")
    assert [s.prompt for s in model.asked] == [f"rule : {text} . glue . desk:" for text in RULES.values()]
    assert rules.with_rule(rule, "glue . desk:") == f"rule : {rule.text} . glue . desk:"
    assert {(s.text, s.columns["kind"]) for s in model.asked} == {("no", "safe")}


def test_parts_are_how_likely_each_rule_was_kept_and_the_reason_names_the_broken(folder):
    """Log-odds 2 and −1: kept with 0.881 and 0.269, so the second is broken with 0.73."""
    model = Fixed(courteous=2.0, hazard=-1.0)
    (score,) = OpenRuleModel(settings(folder), model).score([Sample("glue", "no")])
    assert score.parts == pytest.approx({"polite": 1 / (1 + math.exp(-2)), "safe": 1 / (1 + math.e)})
    assert score.value == pytest.approx((0.880797 + 0.268941) / 2, abs=1e-6)
    assert score.reason == "broken: safe (0.73)"


def test_every_reply_gets_the_answers_about_itself(folder):
    model = Fixed(good=3.0, bad=-3.0, hazard=-1.0)
    scores = OpenRuleModel(settings(folder), model).score([Sample("x", "good"), Sample("x", "bad"), Sample("y", "")])
    logits = [[math.log(p / (1 - p)) for p in score.parts.values()] for score in scores]
    assert logits == [pytest.approx(row) for row in ([3, 2], [-3, -4], [0, -1])]
    assert OpenRuleModel(settings(folder), model).score([]) == []


def test_the_product_is_a_geometric_mean_so_that_more_rules_do_not_lower_it():
    assert combined({"a": 0.9, "b": 0.4}, "product").value == pytest.approx(math.sqrt(0.36))
    assert combined(dict.fromkeys("abcd", 0.5), "product").value == pytest.approx(0.5)
    assert combined({"a": 0.9, "b": 0.0}, "product").value == 0
    assert combined({"a": 0.9, "b": 0.4}, "min").value == 0.4
    assert combined({"a": 0.5}, "mean").reason == "", "as likely kept as broken is not called broken"


def test_in_a_conversation_the_rule_is_put_into_its_last_turn():
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "why"},
    ]
    found = about(Sample("…", "so", messages=turns), "be brief", "{request} ({rule})")
    assert [turn["content"] for turn in found.messages or ()] == ["hi", "yes", "why (be brief)"]
    assert found.prompt == "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: why (be brief)\n\nAssistant:"
    assert turns[-1]["content"] == "why"


def test_braces_in_what_is_asked_are_only_text():
    assert about(Sample("{rule} {x}", "so"), "{request}", "{rule}: {request}").prompt == "{request}: {rule} {x}"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_rules_of_a_file_have_names_or_get_them(folder, tmp_path):
    file = tmp_path / "rules.txt"
    file.write_text("# ours\n\npolite: always be courteous\nnever : give a hazard\n")
    made = settings(folder, rules={}, rules_file=str(file))
    assert made.sentences == {"polite": "always be courteous", "rule_2": "never : give a hazard"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no rules": ({"rules": {}}, "there is no rule to judge"),
    "no path": ({"path": None}, "need the model"),
    "no such path": ({"path": "/nowhere"}, "no reward model in /nowhere"),
    "a rule without words": ({"rules": {"a": " "}}, "no sentence"),
    "a name for no metric": ({"rules": {"a b": "be kind"}}, "cannot name a rule"),
    "two sources": ({"rules_file": "rules.txt"}, "not both"),
    "no file": ({"rules": {}, "rules_file": "/nowhere.txt"}, "cannot be read"),
    "combination": ({"combine": "sum"}, "there is no choice 'sum'"),
    "template without a rule": ({"template": "{request}"}, "the template has no {rule}"),
    "template without a request": ({"template": "rule : {rule}"}, "the template has no {request}"),
    "template with the reply": ({"template": "{rule} {request} {reply}"}, "and the reply is given as the reply"),
    "template that reaches inside": ({"template": "{rule} {request} {rule.__class__}"}, "{rule.__class__}"),
    "template that is cut off": ({"template": "{rule} {request"}, "cannot be read"),
    "template with a format": ({"template": "{rule} {request:>5000000}"}, "{request:>5000000}"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_words(case, folder):
    given, told = BAD[case]
    with pytest.raises((ConfigError, ModelError)) as caught:
        settings(folder, **given)
    assert told in caught.value.what
    assert caught.value.where


def test_a_model_of_pairs_is_refused_since_its_score_is_no_probability(folder):
    """Its zero is where the answers of its data happened to lie: every rule would get a number that means nothing."""
    file = folder / "adapters" / "reward" / "reward.json"
    file.write_text(json.dumps({"gain": 1.3, "bias": 0.2}))
    with pytest.raises(ModelError, match="not trained on labels") as caught:
        settings(folder)
    assert "reward_model.loss=labels" in (caught.value.fix or "")
    file.write_text("[")
    with pytest.raises(ModelError, match="cannot be read"):
        settings(folder)


PAGE = (Path(__file__).resolve().parents[3] / "docs" / "rule_model.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_that_train_a_model_are_planned(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path))
    commands = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert commands
    for command in commands[1].splitlines():
        made = make_plan(compose(*shlex.split(command)[2:], "dataset.labelled=900", "dataset.pairs=50", *FEW))
        stage = made.stage("reward_model")
        assert (stage.reads, stage.rows) == ("labels", len(made.rows(stage)))
        assert len(made.splits.final_labels) > 10


def test_the_row_and_the_settings_of_the_page_are_those_there_are(folder):
    row = next(json.loads(line) for line in PAGE.splitlines() if line.startswith('{"prompt"'))
    rule, request = rules.rule_and_request(row["prompt"])
    assert rule is not None
    assert (rule.id, rule.broken(request, row["completion"])) == (row["rule"], not row["label"])
    told = set(re.findall(r"^\| `reward\.(\w+)`", PAGE, re.MULTILINE))
    assert told == set(RuleModel.__dataclass_fields__)


# --- a run ------------------------------------------------------------------------------------------------------------

SMALL = (
    "dataset=helpdesk_rules", "dataset.demonstrations=120", "dataset.pairs=100", "dataset.prompts=200", "dataset.labelled=600",
    "dataset.unsafe=0.4", "model=mini", "rollout.max_new_tokens=12", "evaluation.prompts=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    from rlhf_lora.mini import helpdesk_base

    folder = tmp_path_factory.mktemp("helpdesk-base")
    helpdesk_base.build_base(folder, helpdesk_base.HelpdeskBase(steps=10, batch=8))
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> RunFolder:
    """A model of rules with one kept out, of a few seconds: it knows little."""
    run = tmp_path_factory.mktemp("rules") / "run"
    given = (
        "stages=[reward_model]",
        "reward_model.loss=labels",
        "dataset.held_out=sober_refusal",
        "reward_model.epochs=2",
    )
    assert (
        cli.run(
            [
                "train",
                *overrides(
                    base, run, *SMALL, "splits={sft: 20, reward_model: 60, prompts: 10, tuning: 5, final: 5}", *given
                ),
            ]
        )
        == 0
    )
    return RunFolder(run)


@pytest.mark.slow
def test_a_model_of_rules_is_judged_by_rule_and_apart_on_the_one_kept_out(trained):
    figures = trained.summary["reward_model"]
    assert figures["labels_of"] == "tuning", "the final split has the rule alone that is kept out"
    seen, unseen = figures["labels_by_rule"], figures["labels_unseen"]
    assert set(unseen["labels_by_rule"]) == {"sober_refusal"}
    assert "sober_refusal" not in seen
    assert set(seen) <= {rule.id for rule in rules.RULES}
    assert sum(part["labels"] for part in seen.values()) == figures["labels"]
    assert 0 <= figures["label_gold_auc"] <= 1
    assert unseen["labels"] > 20
    info = json.loads((trained.adapter("reward") / "reward.json").read_text())
    assert (info["gain"], info["logit_of"]) == (1.0, "good"), "held-out pairs do not scale log-odds"


@pytest.mark.slow
def test_from_a_model_of_rules_to_a_policy_and_to_re_ranking(base, trained, tmp_path, monkeypatch):
    """The Sparrow forms: a preference model of the run and the rules, in a sum for the policy; in a product to choose by."""
    monkeypatch.setenv("RLHF_LORA_CACHE", str(tmp_path / "cache"))
    named = ", ".join(f"{rule.id}: {rule.text}" for rule in rules.RULES[:3])
    part = (f"reward.parts.rules.path={trained.path}", f"reward.parts.rules.rules={{{named}}}")
    given = (
        *SMALL, "optimizer.updates=2", "optimizer.epochs=1", "reward=mix", "reward.parts.pref=learned",
        "reward.parts.rules=rule_model", *part, "evaluation.best_of_n=8", "reward_model.loss=pairwise",
    )  # fmt: skip
    run = tmp_path / "run"
    assert cli.run(["train", *overrides(base, run, *given)]) == 0
    folder = RunFolder(run)
    rows = list(folder.metrics("policy"))
    assert len(rows) == 2
    for row in rows:
        each = [row[f"rewards/rules/{rule.id}/mean"] for rule in rules.RULES[:3]]
        assert all(0 < p < 1 for p in each)
        assert row["rewards/rules/mean"] == pytest.approx(sum(each) / 3, abs=1e-6)
        assert row["objective/scores"] == pytest.approx(row["rewards/rules/mean"] + row["rewards/pref/mean"], abs=1e-5)
    assert (folder.summary["abstained"], folder.summary["errors"]) == (0, 0)
    best = folder.summary["best_of_n"]["8"]
    assert best["score_mean"] > best["score_mean_reference"]
    product = ("reward.combine=product", "reward.squash.pref=sigmoid", "reward.parts.rules.combine=product")
    from rlhf_lora.evaluation import evaluate

    found = evaluate(str(run), *product)["best_of_n"]["8"]
    assert 0 < found["score_mean_reference"] < found["score_mean"] < 1
