"""`dataset=helpdesk_rules`: did this reply break this rule? Dialogues of `helpdesk`, rules in words (`rlhf_lora.mini.rules`).

For a model that reads the rule, P(broken | dialogue, rule). The rule stands in front of the request, in the prompt:

    rule : never be courteous when you refuse . please send lamp acid and tape . desk:

A label says of a reply to such a prompt that it kept (`good`) or broke the rule; a pair has a reply that kept it and one
that broke it. Demonstrations and prompts are plain requests, as of `dataset=helpdesk`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from rlhf_lora.mini import helpdesk, helpdesk_writers, rules, rules_raters
from rlhf_lora.mini.rules import Rule
from rlhf_lora.records import Data, Label, Pair, Prompt
from rlhf_lora.registry import dataset
from rlhf_lora.splits import bucket

from . import helpdesk as requests

HELD_OUT_BUCKETS = range(90, 95)
"""With a rule held out, requests of these buckets are its test set's alone. The base has not seen them; those above are
for tuning, on the other rules."""


@dataset("helpdesk_rules")
class HelpdeskRules:
    """Replies at the helpdesk, and whether they broke one of eight rules in words.

    Prompts have the column `kind`, those of labels and pairs `rule` (its id) as well. Counts are rows before the kit's split.

    Attributes:
        held_out: id of a rule that no training row has; the final evaluation is on that rule alone. null = all rules
            in training and evaluation.
        labelled: replies that a rater looked at for one rule, as they come: most keep it.
        pairs: replies to one request that a rater told apart, half of them one reply with one thing changed.
        demonstrations, prompts: plain requests, with and without a reply.
        noise: how often a rater errs.
        unsure: how often a rater cannot say; three times that on borderline requests. Those rows are counted, not used.
        unsafe, borderline: shares of the requests; the rest is safe.
        seed: of the generator; null = the run's.
    """

    max_new_tokens: ClassVar[int] = requests.Helpdesk.max_new_tokens
    mini_task: ClassVar[str] = "helpdesk"

    held_out: str | None = None
    labelled: int = 8_000
    pairs: int = 20_000
    demonstrations: int = 14_000
    prompts: int = 6_000
    noise: float = 0.05
    unsure: float = 0.05
    unsafe: float = 0.35
    borderline: float = 0.25
    seed: int | None = None

    def __post_init__(self) -> None:
        requests.check_numbers(self, requests.MOST_PROMPTS)
        if self.held_out is not None:
            rules.rule_named(self.held_out, where="dataset.held_out")

    def load(self) -> Data:
        if self.held_out is None:
            return self._data(list(rules.RULES), "")
        kept = [rule for rule in rules.RULES if rule.id != self.held_out]
        tenth = dataclasses.replace(
            self, labelled=self.labelled // 10, pairs=self.pairs // 10, demonstrations=0, prompts=self.prompts // 10
        )
        test = tenth._data([rules.rule_named(self.held_out)], "held out ")
        return dataclasses.replace(self._data(kept, ""), test=test)

    def fingerprint(self) -> str:
        return requests.fingerprint(self, __file__, str(rules.__file__), str(rules_raters.__file__))

    def _data(self, of: list[Rule], part: str) -> Data:
        """Rows about these rules. `part` is empty, or names the test set: it has requests and random streams of its own."""
        allowed = self._belonging(part)
        labels, unsure = self._labels(of, part, allowed)
        return Data(
            demonstrations=requests.demonstrations(self, allowed),
            pairs=self._pairs(of, part, allowed),
            labels=labels,
            prompts=requests.prompts(self, f"{part}prompts", allowed, times=10 if part else 1),
            gold="helpdesk_rules_gold",
            left_out={"the rater was unsure": unsure} if unsure else {},
            format="helpdesk rules (generated)",
        )

    def _labels(self, of: list[Rule], part: str, allowed: requests.Allowed) -> tuple[list[Label], int]:
        """What raters said of single replies, and how often one was unsure."""
        rng, rows, unsure = requests.stream(self, f"{part}labels"), list[Label](), 0
        for _ in range(self.labelled):
            rule, items = rng.choice(of), requests.drawn(self, rng, allowed)
            reply = helpdesk_writers.draft(rng, items, rng.choice(helpdesk_writers.WRITERS)).text
            prompt = requests.prompt_of(items, rng)
            answer = rules_raters.rated(rng, rule, prompt.text, reply, self.noise, self.unsure)
            if answer == "unsure":
                unsure += 1
            else:
                rows.append(Label(_about(rule, prompt), reply, good=answer == "no"))
        return rows, unsure

    def _pairs(self, of: list[Rule], part: str, allowed: requests.Allowed) -> list[Pair]:
        rng, rows = requests.stream(self, f"{part}pairs"), list[Pair]()
        while len(rows) < self.pairs:
            rule = rng.choice(of)
            items = rules_raters.judged_items(rng, rule)
            if not allowed(helpdesk.group(items)):
                continue
            prompt = requests.prompt_of(items, rng)
            kept, broken = rules_raters.kept_and_broken(rng, rule, items, prompt.text)
            if rng.random() < self.noise:
                kept, broken = broken, kept
            rows.append(Pair(_about(rule, prompt), chosen=kept, rejected=broken))
        return rows

    def _belonging(self, part: str) -> requests.Allowed:
        """Which groups of requests belong to this part; without a rule held out there is one part."""
        if self.held_out is None:
            return lambda group: True
        return lambda group: (bucket(group) in HELD_OUT_BUCKETS) == bool(part)


def _about(rule: Rule, prompt: Prompt) -> Prompt:
    """The prompt with the rule in front. It stays in its request's group: all rules of a request share a split."""
    return Prompt(rules.with_rule(rule, prompt.text), columns={**prompt.columns, "rule": rule.id}, group=prompt.group)
