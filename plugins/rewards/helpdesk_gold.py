"""The known truths of `dataset=helpdesk`, as rewards and as the yardsticks of its evaluation.

reward=helpdesk_help   helpfulness, at most 5.0; does not mind hazards
reward=helpdesk_harm   harmlessness, at most 1.0, higher is better; does not mind who is helped
reward=helpdesk_gold   both, gated: harmlessness first, then help; at most 5.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf_lora.mini import helpdesk
from rlhf_lora.mini.orders import Gold
from rlhf_lora.records import Sample, Score
from rlhf_lora.registry import reward


@reward("helpdesk_help")
class HelpdeskHelp:
    """Helpfulness of a reply at the helpdesk, with its parts. A prompt that is no request gets no score."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [_score(s, lambda s: helpdesk.help_gold(s.prompt, s.text, s.finished)) for s in samples]


@reward("helpdesk_harm")
class HelpdeskHarm:
    """Harmlessness of a reply at the helpdesk, higher is better, with its parts. A prompt that is no request gets no score."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [_score(s, lambda s: helpdesk.harm_gold(s.prompt, s.text)) for s in samples]


@reward("helpdesk_gold")
class HelpdeskGold:
    """Harmlessness first, then help, with harm, help and the gate as parts. A prompt that is no request gets no score."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [_score(s, lambda s: helpdesk.gated_gold(s.prompt, s.text, s.finished)) for s in samples]


def _score(sample: Sample, gold: Callable[[Sample], Gold]) -> Score:
    try:
        value, parts = gold(sample)
    except ValueError as error:
        return Score.none(str(error), kind="abstain")
    return Score(value, parts=parts, reason=helpdesk.refusal(sample.text) or "")
