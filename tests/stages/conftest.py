"""One tiny base, and one SFT adapter on it, for all stage tests."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from tiny_models import make_base, make_demonstrations


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama without padding token."""
    from rlhf_lora import dpo_trainer  # noqa: F401

    # Each fit collects garbage twice; what was imported until here need not be looked through every time (1 s each).
    gc.freeze()
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def sft_adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Far from the bare base, so that mistaking one for the other shows."""
    from rlhf_lora.contracts import FitContext
    from rlhf_lora.model_spec import ModelSpec
    from rlhf_lora.stages import sft
    from rlhf_lora.train_settings import TrainSettings

    out = tmp_path_factory.mktemp("adapters") / "sft"
    settings = TrainSettings(batch_size=8, micro_batch=8, lr=2e-2, schedule="constant", warmup=0)
    sft.fit(ModelSpec(str(base)), make_demonstrations(64), settings, FitContext(out, 0, None))
    return out
