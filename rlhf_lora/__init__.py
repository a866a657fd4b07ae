"""The whole of RLHF on one consumer GPU, as 4-bit LoRA adapters, with any reward source.

The public names; everything heavy (torch, transformers) is loaded when it is first used.
"""

from __future__ import annotations

import logging
from typing import Any

from rlhf_lora.records import Comparison, Data, Demonstration, Label, Pair, Prompt, Sample, Score, Verdict
from rlhf_lora.registry import dataset, judge, optimizer, reward, rollout, tracker

# On CPUs with AVX512-BF16 it tells of a kernel that it could not fetch from the hub, as if something were wrong; it has its own.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = [
    "Comparison", "Data", "Demonstration", "Label", "Pair", "Prompt", "Sample", "Score", "Verdict",
    "answer", "compose", "dataset", "evaluate", "judge", "optimizer", "reward", "rollout", "start", "tracker", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("compose", "train", "start"):
        from rlhf_lora import notebook

        return getattr(notebook, name)
    if name == "answer":
        from rlhf_lora.finished_run import answer

        return answer
    if name == "evaluate":
        from rlhf_lora.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'rlhf_lora' has no attribute '{name}'")
