"""The conformance kits: one call says whether a plugin keeps the promises of its contract (`rlhf_lora/contracts.py`).

    from rlhf_lora.testing import check_reward

    def test_brevity_keeps_its_promises():
        check_reward(Brevity(target=80))

A kit takes a plugin object, its class, a decorated function or a registered name, and returns a report: one row for each
promise, with an id that does not change, and in `why` what was given, what was wanted and what to do. `raises=False` returns
the report of a plugin that fails instead of raising `ContractError`.

No kit needs a model, and those of rewards, judges, datasets and trackers load no torch.
"""

from __future__ import annotations

from rlhf_lora.testing.datasets import check_dataset
from rlhf_lora.testing.findings import Report, Row
from rlhf_lora.testing.judges import check_judge
from rlhf_lora.testing.optimizers import check_optimizer
from rlhf_lora.testing.rewards import check_reward
from rlhf_lora.testing.rollouts import check_rollout
from rlhf_lora.testing.trackers import check_tracker

__all__ = [
    "Report", "Row", "check_dataset", "check_judge", "check_optimizer", "check_reward", "check_rollout", "check_tracker",
]  # fmt: skip
