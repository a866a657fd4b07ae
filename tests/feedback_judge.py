"""A judge for tests, as a user's plugin file: it knows the truth, and has the faults that it is told to have."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence

from rlhf_lora import judge, registry
from rlhf_lora.errors import ConfigError
from rlhf_lora.mending import Mender
from rlhf_lora.records import Comparison, Sample, Verdict

KILL_AT = "FEEDBACK_JUDGE_KILLED_AT"
"""Environment: the call during which the process is killed, from 1."""


@judge("knowing")
class Knowing:
    """Attributes:
    truth: a reward's name. first: log-odds that it gives to what it reads first. unread: every so manieth has no verdict.
    log: a file that gets a line for each call. gone: it cannot be reached.
    needs_base: it works on the run's base.
    """

    truth: str = "orders_gold"
    first: float = 0.0
    unread: int = 0
    mends: float = 0.5
    log: str = ""
    deterministic: bool = True
    gone: bool = False
    needs_base: bool = False

    @property
    def needs_backbone(self):
        return self.needs_base

    def open(self, ctx):
        if self.gone:
            raise ConfigError("nobody answers", where="judge.gone", fix="start the server")
        if self.needs_base and ctx.backbone is None:
            raise ConfigError("there is no base", where="judge.needs_base", fix="give it one")
        return self

    def compare(self, prompt, a, b):
        return self.compare_all([Comparison(prompt, a, b)])[0]

    def compare_all(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        self._count(len(comparisons))
        return [self._verdict(i, one) for i, one in enumerate(comparisons, 1)]

    def revise_all(self, drafts):
        self._count(len(drafts))
        return Mender(self._values, self.mends).revise_all(drafts)

    def _verdict(self, number: int, one: Comparison) -> Verdict:
        if self.unread and number % self.unread == 0:
            return Verdict(None, reason="unreadable: no word of mine")
        a, b = self._values([Sample(one.prompt.text, text, columns=one.prompt.columns) for text in (one.a, one.b)])
        p = 1 / (1 + math.exp(b - a - self.first))
        return Verdict("A" if p > 0.5 else "B", p, "as the truth has it")

    def _values(self, samples):
        return [score.value for score in registry.build("reward", {"name": self.truth}).score(samples)]

    def _count(self, asked: int) -> None:
        if not self.log:
            return
        with open(self.log, "a") as file:
            file.write(f"{asked}\n")
        with open(self.log) as file:
            calls = len(file.readlines())
        if os.environ.get(KILL_AT) == str(calls):
            os.kill(os.getpid(), signal.SIGKILL)
