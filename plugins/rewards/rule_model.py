"""`reward=rule_model`: rules in words, each judged by one model that reads the rule: P(kept | dialogue, rule). After Sparrow.

The model is a reward model that was trained on labels (`reward_model.loss=labels`): replies to prompts with a rule in them,
good = the rule was kept. How to train and use one, alone and beside a learned preference: docs/rule_model.md.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lora.errors import ConfigError, ModelError
from rlhf_lora.mini import rules as helpdesk
from rlhf_lora.records import Sample, Score, transcript
from rlhf_lora.registry import reward

from .learned import OpenLearned, reward_folder
from .mix_combine import product, sigmoid
from .mix_parts import refuse_unknown

if TYPE_CHECKING:
    from rlhf_lora.contracts import Context

FIELDS = ("rule", "request")


@reward("rule_model")
class RuleModel:
    """Rules in words, judged by a trained model that reads rule, request and reply: how far all of them are kept, 0 to 1.

    Attributes:
        path: run folder or adapter folder of a reward model trained with `reward_model.loss=labels`.
        rules: name → the rule as a sentence, in the words that the model was trained with.
        rules_file: or a file with one rule a line, `NAME: SENTENCE` or the sentence alone; `#` begins a comment.
        template: how a rule is put into what was asked, as the model's training data has it; `{rule}` and `{request}`.
        combine: of P(kept): `mean`; `min`; `product` = the geometric mean, near 0 as soon as one rule is surely broken.
    """

    path: str | None = None
    rules: dict[str, str] = field(default_factory=dict)
    rules_file: str | None = None
    template: str = helpdesk.TEMPLATE
    combine: str = "mean"

    def __post_init__(self) -> None:
        refuse_unknown(self.combine, ("mean", "min", "product"), "reward.combine", "choice")
        _check_template(self.template)
        if not self.sentences:
            raise ConfigError(
                "there is no rule to judge", where="reward.rules",
                fix="'reward.rules={polite: always be courteous}', or reward.rules_file=FILE with one rule a line",
            )  # fmt: skip
        if self.path is None:
            raise ConfigError(
                "rules in words need the model that was trained to read them", where="reward.path=null",
                fix="reward.path=RUN of rlhf-lora train reward_model.loss=labels stages=[sft,reward_model] …",
            )  # fmt: skip
        _check_is_of_labels(reward_folder(self.path))

    @cached_property
    def sentences(self) -> Mapping[str, str]:
        """Name → rule."""
        if self.rules and self.rules_file is not None:
            raise ConfigError(
                "rules come from reward.rules or from reward.rules_file, not both", where="reward.rules_file"
            )
        named = dict(self.rules) if self.rules_file is None else _read(self.rules_file)
        for name, sentence in named.items():
            where = f"reward.rules.{name}"
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
                raise ConfigError(
                    f"'{name}' cannot name a rule: it stands in metrics", where=where,
                    fix="letters, digits and underscores, a letter first",
                )  # fmt: skip
            if not isinstance(sentence, str) or not sentence.strip():
                raise ConfigError(
                    f"the rule '{name}' is {sentence!r}, no sentence", where=where, fix="the rule in words"
                )
        return {str(name): sentence.strip() for name, sentence in named.items()}

    @property
    def folder(self) -> Path:
        """The adapter folder that `path` means."""
        assert self.path is not None
        return reward_folder(self.path)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        raise ModelError(
            "rules in words need their model", where="reward=rule_model", fix="use it in a run, where it is opened"
        )

    def open(self, ctx: Context) -> OpenRuleModel:
        assert ctx.backbone is not None
        return OpenRuleModel(self, OpenLearned(ctx.backbone, self.folder))


class OpenRuleModel:
    """The model's role on the backbone, asked about each rule.

    Args:
        model: gives the log-odds that a reply is good, of samples whose prompts have the rule in them.
    """

    def __init__(self, settings: RuleModel, model: Any):
        self.settings, self.model = settings, model

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """P(kept) of each rule as a part; the rules that are more likely broken than kept as the reason."""
        named = self.settings.sentences
        asked = [about(sample, rule, self.settings.template) for sample in samples for rule in named.values()]
        kept = iter([sigmoid(logit) for logit in self.model.score(asked)])
        return [combined({name: next(kept) for name in named}, self.settings.combine) for _ in samples]


def combined(kept: Mapping[str, float], how: str) -> Score:
    """One score of P(kept) by rule. The product is Sparrow's (Π p)^(1/n), so that more rules do not make it smaller."""
    if how == "product":
        value = product(kept, dict.fromkeys(kept, 1 / len(kept)))
    else:
        value = min(kept.values()) if how == "min" else sum(kept.values()) / len(kept)
    broken = [f"{name} ({1 - p:.2f})" for name, p in kept.items() if 1 - p > 0.5]
    return Score(value, parts=dict(kept), reason=f"broken: {', '.join(broken)}" if broken else "")


def about(sample: Sample, rule: str, template: str) -> Sample:
    """The sample as the model reads it: the rule put into what was asked, in a conversation into its last turn."""
    if not sample.messages:
        return replace(sample, prompt=template.format(rule=rule, request=sample.prompt))
    *before, last = sample.messages
    messages = (*before, {**last, "content": template.format(rule=rule, request=last["content"])})
    return replace(sample, prompt=transcript(messages), messages=messages)


# --- what it refuses --------------------------------------------------------------------------------------------------


def _check_template(template: str) -> None:
    """`{rule}` and `{request}` stand in it, and no other field: the reply is always the answer to what is put together."""
    fix = f"{' and '.join(f'{{{name}}}' for name in FIELDS)} in it, as in '{helpdesk.TEMPLATE}'"
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"the template cannot be read: {error}", where="reward.template", fix=fix) from error
    found = [name for _, name, _, _ in pieces if name is not None]
    for name in FIELDS:
        if name not in found:
            raise ConfigError(f"the template has no {{{name}}}", where="reward.template", fix=fix)
    for _, field_name, form, conversion in pieces:
        if field_name is not None and (field_name not in FIELDS or form or conversion):
            why = ", and the reply is given as the reply" if field_name == "reply" else ""
            raise ConfigError(
                f"the template has a field that is not filled: '{{{field_name}{f'!{conversion}' if conversion else ''}"
                f"{f':{form}' if form else ''}}}'{why}",
                where="reward.template", fix=f"no other field than {fix}",
            )  # fmt: skip


def _check_is_of_labels(folder: Path) -> None:
    """A model of pairs or ratings is refused: its score orders the answers to one prompt, and its zero is where the answers
    of its data happened to lie. The sigmoid of that is no probability, yet every rule would get a number."""
    try:
        about_model = json.loads((folder / "reward.json").read_text("utf-8"))
        is_of_labels = about_model.get("logit_of") == "good"
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"reward.json cannot be read: {error}",
            where=str(folder / "reward.json"),
            fix="train the reward model again",
        ) from error
    if not is_of_labels:
        raise ModelError(
            "this reward model was not trained on labels, so its score is no probability that a rule was kept",
            where=f"reward.path: {folder}", fix="train it with reward_model.loss=labels; as it is, use reward=learned",
        )  # fmt: skip


def _read(file: str) -> dict[str, str]:
    """Name → rule of a file; a sentence without a name is `rule_N`, N its place among the rules."""
    try:
        lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"rules_file={file} cannot be read: {error}", where="reward.rules_file", fix="a text file"
        ) from error
    found: dict[str, str] = {}
    for place, line in enumerate((line for line in lines if line and not line.startswith("#")), 1):
        named = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*):\s+(.*)", line)
        name, sentence = (named[1], named[2]) if named else (f"rule_{place}", line)
        if name in found:
            raise ConfigError(f"two rules are called '{name}'", where=f"reward.rules_file={file}", fix="a name each")
        found[name] = sentence
    return found
