"""`reward=helpdesk_rules_gold`: the truth about the helpdesk's rules, as a reward and as the yardstick of its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lora.mini import rules
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward


@reward("helpdesk_rules_gold")
class HelpdeskRulesGold:
    """Minus the number of rules that a reply breaks, each rule a part. Where the prompt names a rule, that rule alone
    counts. A prompt that is no request, or whose rule is not known, gets no score."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [_score(sample) for sample in samples]


def _score(sample: Sample) -> Score:
    try:
        rule, request = rules.rule_and_request(sample.prompt)
        asked = rules.RULES if rule is None else (rule,)
        parts = {each.id: -1.0 if each.broken(request, sample.text) else 0.0 for each in asked}
    except ValueError as error:
        return Score.none(str(error), kind="abstain")
    broken = [name for name, value in parts.items() if value]
    return Score(sum(parts.values()), parts=parts, reason=f"broken: {', '.join(broken)}" if broken else "")
