"""The default tracker: the run folder and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_lora.registry import tracker


@tracker("local")
class Local:
    """Adds nothing: metrics.jsonl, samples and report.html are written whatever the tracker is."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        return

    def close(self) -> None:
        return
