"""What the off-policy stages share: TRL's stable trainers (SFT, Reward, DPO), fed with rows that are tokens already.

The trainers keep the loop, the loss and the metric names. What comes in from here, and why:

- Rows are tokens from our `Chat`, so that no template, end token or prompt extraction of TRL's touches them.
- A loss that is not finite ends the stage. The Trainer's default writes it down as 0.0 and goes on.
- Adapters are float32 again after the constructors, which round them to bf16 on a 4-bit base (`adapters.restore`).
- Nothing goes to the network, nothing is printed: metrics go to `ctx.log`.

One process, one device; several GPUs are not used here.
"""

from __future__ import annotations

import logging
import math
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from rlhf_lora import adapters, loading
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import ConfigError, Interrupted, Stopped
from rlhf_lora.model_spec import ModelSpec, adapter_hash
from rlhf_lora.progress import Progress
from rlhf_lora.token_rows import Batches, Rows
from rlhf_lora.train_settings import TrainSettings
from rlhf_lora.trainer_checkpoints import Checkpoints, fingerprint

# --- the trainers' common part ----------------------------------------------------------------------------------------


class Fed:
    """Goes before a TRL trainer in the bases of a class: `class Trainer(Fed, SFTTrainer)`."""

    rows: Rows
    batches: Batches
    description: str
    _metrics: dict[str, dict[str, list[Any]]]

    def before_training(self) -> None:
        """Called once the weights are what training starts from."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        rows: Any = self.rows
        loader: Any = DataLoader(rows, batch_sampler=self.batches, collate_fn=self.data_collator)  # type: ignore[attr-defined]
        return self.accelerator.prepare(loader)  # type: ignore[attr-defined]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not math.isfinite(loss.item()):
            step = self.state.global_step + 1  # type: ignore[attr-defined]
            raise Stopped(f"the loss is {loss.item()} at step {step}; lower the learning rate, or look at the data")
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Metrics stay tensors until here: reading them out at every step would wait for the GPU each time.
        for values in self._metrics["train"].values():
            values[:] = [float(value) for value in values]
        super().log(logs, start_time)  # type: ignore[misc]

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counts all parameters at every step, for a number that nobody reads

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # is tokens already

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass  # the run folder has its own

    def _send_telemetry(self) -> None:
        pass  # this kit calls nobody


class Report(TrainerCallback):
    """Hands metrics to `ctx.log` and shows progress; stops on what is not finite."""

    def __init__(self, ctx: FitContext):
        self.ctx = ctx
        self.last: dict[str, float] = {}
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = Progress(self.ctx.description, state.max_steps, start=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.bar is not None
        self.bar.update(1, loss=self.last.get("loss"))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}):  # the Trainer's last words: run time and speed
            return
        # TRL counts tokens from the start of the process: a stage that goes on would count from 0 again.
        metrics = {name: float(value) for name, value in (logs or {}).items() if name != "num_tokens"}
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise Stopped(f"{broken[0]} is {metrics[broken[0]]} at step {state.global_step}; lower the learning rate")
        self.last = metrics
        if self.ctx.log is not None:
            self.ctx.log(state.global_step, metrics)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def arguments(spec: ModelSpec, settings: TrainSettings, rows: int, ctx: FitContext, **options: Any) -> dict[str, Any]:
    """What every stage tells TRL, as keyword arguments of `SFTConfig`, `RewardConfig` or `DPOConfig`.

    Raises:
        ConfigError: the learning rate is still None.
    """
    if settings.lr is None:
        raise ConfigError("the learning rate is not given", where="adamw.lr", fix="give a number, such as 5e-5")
    steps = settings.steps(rows)
    schedule = {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule)
    seed = ctx.seed % 2**32
    return {
        "per_device_train_batch_size": settings.rows_at_a_time,
        "gradient_accumulation_steps": settings.batch_size // settings.rows_at_a_time,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": schedule,
        "warmup_steps": round(settings.warmup * steps),
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "adam_epsilon": settings.eps,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,  # rows are cut out by us, and counted
        "bf16": spec.dtype == "bfloat16",
        "fp16": False,
        "use_cpu": spec.device == "cpu",
        "gradient_checkpointing": spec.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": seed,
        "data_seed": seed,
        "logging_steps": max(1, steps // 50),
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        **options,
    }  # fmt: skip


# --- one stage --------------------------------------------------------------------------------------------------------


def run(
    load: Callable[[], Any],
    make: Callable[[Any, str, list[Any], Any], Any],
    rows: Rows,
    settings: TrainSettings,
    ctx: FitContext,
    inputs: Any,
    files: Callable[[], dict[str, str]] | None = None,
) -> dict[str, float]:
    """Train a model on `rows`, publish its adapter at `ctx.out`, and give its memory back.

    Args:
        load: the model with its adapter.
        make: builds the trainer from (model, output folder, callbacks, a data set of one row). TRL looks at the first
            row of a data set to see what it is; the rows themselves come from `Fed`.
        inputs: what else decides the result; a checkpoint is gone on with only if all of it is the same.
        files: text files to put beside the adapter.

    Returns:
        Final metrics: `train_loss`, `steps`, `rows`, `rows_too_long`, and the last that were logged.
    """
    try:
        with own_random_streams(ctx.seed), _folder(ctx) as folder, _quiet():
            return _run(load(), make, rows, settings, ctx, inputs, files, folder)
    finally:
        loading.free()


def _run(
    model: Any, make: Any, rows: Rows, settings: TrainSettings, ctx: FitContext, inputs: Any, files: Any, folder: Path
) -> dict[str, float]:
    from datasets import Dataset

    report = Report(ctx)
    weights = adapters.trained(model)
    checkpoints = None
    if ctx.work_dir is not None:
        start = ctx.start_adapter and adapter_hash(ctx.start_adapter)
        key = fingerprint(settings, ctx.seed, start, inputs, rows.items)
        checkpoints = Checkpoints(folder, key, ctx.interrupted)
    callbacks = [report] if checkpoints is None else [report, checkpoints]
    trainer = make(model, str(folder), callbacks, Dataset.from_list([rows[0]]))
    trainer.remove_callback(PrinterCallback)
    trainer.rows, trainer.description = rows, ctx.description
    trainer.batches = Batches(rows.lengths, settings, ctx.seed)
    adapters.restore(trainer.model, weights)
    trainer.before_training()
    resumed = None if checkpoints is None else checkpoints.newest()
    try:
        output = trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    finally:
        report.close()
    if checkpoints is not None and checkpoints.signal:
        at = f"interrupted at step {trainer.state.global_step}; the state is on disk"
        raise Interrupted(checkpoints.signal, at)
    adapters.save(trainer.model, ctx.out, files() if files else None)
    if checkpoints is not None:
        checkpoints.clear()
    metrics = {"train_loss": float(output.training_loss), "steps": float(trainer.state.global_step)}
    metrics |= {"rows": float(len(rows)), "rows_too_long": float(rows.too_long)}
    return report.last | metrics


@contextmanager
def own_random_streams(seed: int) -> Iterator[None]:
    """Seed the global random streams for a stage, and leave them to the caller as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _folder(ctx: FitContext) -> Iterator[Path]:
    if ctx.work_dir is not None:
        ctx.work_dir.mkdir(parents=True, exist_ok=True)
        yield ctx.work_dir
        with suppress(OSError):  # not empty: a checkpoint to go on from
            ctx.work_dir.rmdir()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what is known and harmless off the screen: special tokens that follow the tokenizer's, and the old name of
    activation checkpointing, which TRL goes by."""
    logger = logging.getLogger("transformers.trainer_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "PAD/BOS/EOS tokens" not in record.getMessage()

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(keep)
