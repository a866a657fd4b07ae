"""What a classifier that is not told the rule can know: labels of `dataset=helpdesk_rules` with the rule taken out.

For `plugins=[benchmarks/any_rule.py] dataset=any_rule`: the same replies and the same labels, so that the held-out AUC stands
beside that of a model which reads the rule. Used by benchmarks/helpdesk.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rlhf_lora.plugins.datasets.helpdesk_rules import HelpdeskRules

from rlhf_lora.mini import rules
from rlhf_lora.records import Data, Label, Sample
from rlhf_lora.registry import dataset, reward


@dataset("any_rule")
class AnyRule(HelpdeskRules):
    """Replies at the helpdesk and whether they broke some rule; which one, nobody is told."""

    def load(self) -> Data:
        data = super().load()
        test = None if data.test is None else _without_rules(data.test)
        return dataclasses.replace(_without_rules(data), test=test)


def _without_rules(data: Data) -> Data:
    labels = [_without_rule(label) for label in data.labels]
    return dataclasses.replace(data, labels=labels, pairs=(), gold="any_rule_gold")


def _without_rule(label: Label) -> Label:
    _, request = rules.rule_and_request(label.prompt.text)
    return dataclasses.replace(label, prompt=dataclasses.replace(label.prompt, text=request))


@reward("any_rule_gold")
def any_rule_gold(samples: Sequence[Sample], *, rule: Sequence[str]) -> list[float]:
    """0 where the reply kept the rule that its label is about, else −1."""
    return [-float(rules.rule_named(r).broken(s.prompt, s.text)) for s, r in zip(samples, rule, strict=True)]
