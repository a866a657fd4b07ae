"""Which round of a run something belongs to, and what it is called there. A run of one round names nothing by number."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_lora.records import named_seed


@dataclass(frozen=True)
class Turn:
    """One round of several.

    Attributes:
        number: from 1. of: how many rounds the run has.
    """

    number: int = 1
    of: int = 1

    def named(self, what: str) -> str:
        """`policy` in a run of one round, `policy_2` in the second of several."""
        return f"{what}_{self.number}" if self.of > 1 else what

    def stream(self, name: str) -> str:
        """The name of a random stream: the first round draws as a run of one round does."""
        return name if self.number == 1 else f"{name}/round {self.number}"

    def seed(self, seed: int) -> int:
        """The run's seed in the first round, one of its own in each later one: prompts and draws are others."""
        return seed if self.number == 1 else named_seed(seed, f"round {self.number}")

    @property
    def is_first(self) -> bool:
        return self.number == 1

    @property
    def is_last(self) -> bool:
        return self.number == self.of

    @property
    def next(self) -> Turn:
        return Turn(self.number + 1, self.of)
