"""What the TRL stages share: batches that follow from the seed, and going on where a stage was interrupted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import few
from tiny_models import make_demonstrations, make_pairs

from rlhf_lora import dpo_trainer, token_rows, trainer_checkpoints
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import Interrupted
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.stages import reward_model, sft
from rlhf_lora.train_settings import TrainSettings

SETTINGS = TrainSettings(epochs=2, batch_size=8, micro_batch=4, lr=5e-3, warmup=0.2)
STEPS = 10  # 36 rows: 5 batches in an epoch, the last one with half the rows


def batches(lengths: list[int], seed: int = 0, epoch: int = 0, **settings: int) -> list[list[int]]:
    made = token_rows.Batches(lengths, TrainSettings(**{"batch_size": 8, "micro_batch": 4} | settings), seed)
    made.set_epoch(epoch)
    assert len(list(made)) == len(made)
    return list(made)


@pytest.mark.parametrize("rows", [1, 4, 8, 15, 16, 803])
def test_every_row_is_used_once_in_an_epoch(rows: int):
    seen = [i for batch in batches([5] * rows) for i in batch]
    assert sorted(seen) == list(range(rows))


def test_order_follows_from_seed_and_epoch():
    lengths = list(range(1, 101))
    assert batches(lengths) == batches(lengths)
    assert batches(lengths) != batches(lengths, seed=1)
    assert batches(lengths) != batches(lengths, epoch=1)


def test_batches_hold_rows_of_like_length():
    lengths = [i % 40 + 1 for i in range(800)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches(lengths))
    assert padded < 1.06 * sum(lengths)


def test_sorting_by_length_brings_rows_of_one_prompt_together_and_a_shuffle_does_not():
    lengths = [5 + i // 6 % 13 for i in range(1800)]  # six rows of a prompt, all of one length

    def together(by_length: bool) -> float:
        found = batches(lengths, batch_size=12, micro_batch=12, sort_by_length=by_length)
        return sum(len({i // 6 for i in batch}) < len(batch) for batch in found) / len(found)

    # By chance: 12 of 1800 rows without two of a prompt has P = Π (1 - 5k/1800) over k < 12, about 0.83.
    assert together(False) == pytest.approx(0.17, abs=0.09)
    assert together(True) > 0.5
    assert sorted(i for batch in batches(lengths, sort_by_length=False) for i in batch) == list(range(1800))
    assert batches(lengths) == batches(lengths, sort_by_length=True)


def test_steps_are_what_the_trainer_does():
    assert SETTINGS.steps(36) == STEPS
    assert TrainSettings(epochs=0.5, batch_size=8).steps(40) == 3
    assert TrainSettings(batch_size=8).steps(1) == 1


def test_mask_follows_from_lengths_and_never_from_ids():
    ids_BS, lengths_B = token_rows.pad([[7, 7], [7, 7, 7]], fill=7)
    assert ids_BS.tolist() == [[7, 7, 7], [7, 7, 7]]
    assert token_rows.mask_of(lengths_B, 3).tolist() == [[1, 1, 0], [1, 1, 1]]


# --- going on ---------------------------------------------------------------------------------------------------------

Fit = Callable[[ModelSpec, FitContext], dict[str, float]]


def _sft(spec: ModelSpec, ctx: FitContext) -> dict[str, float]:
    return sft.fit(spec, make_demonstrations(36), SETTINGS, ctx)


def _reward_model(spec: ModelSpec, ctx: FitContext) -> dict[str, float]:
    return reward_model.fit(spec, make_pairs(36), SETTINGS, ctx)


def _dpo(spec: ModelSpec, ctx: FitContext) -> dict[str, float]:
    return dpo_trainer.fit(spec, make_pairs(36), SETTINGS, 0.1, "sigmoid", 0.0, ctx)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("fit", "after"), few([(_dpo, 5), (_sft, 3), (_reward_model, 7)], 1))  # 5: between two epochs
def test_interrupted_stage_goes_on_to_the_same_bytes(
    base: Path, sft_adapter: Path, tmp_path: Path, fit: Fit, after: int
):
    spec = ModelSpec(str(base))
    fit(spec, FitContext(tmp_path / "whole", 0, None, sft_adapter))

    asked = iter(range(1, 100))
    halt = FitContext(
        tmp_path / "halved", 0, None, sft_adapter, work_dir=tmp_path / "work",
        interrupted=lambda: signal.SIGTERM if next(asked) == after else None,
    )  # fmt: skip
    with pytest.raises(Interrupted, match=f"step {after}") as stopped:
        fit(spec, halt)
    assert stopped.value.exit_code == 143
    assert not (tmp_path / "halved").exists()
    assert [f.name for f in (tmp_path / "work").iterdir()] == [f"checkpoint-{after}"]

    steps: list[int] = []
    log = lambda step, metrics: steps.append(step)  # noqa: E731
    metrics = fit(spec, FitContext(tmp_path / "halved", 0, log, sft_adapter, work_dir=tmp_path / "work"))
    assert steps == list(range(after + 1, STEPS + 1))
    assert metrics["steps"] == STEPS
    assert content(tmp_path / "halved") == content(tmp_path / "whole")
    assert not (tmp_path / "work").exists()


@pytest.fixture
def halted(base: Path, tmp_path: Path) -> FitContext:
    """A stage that was interrupted after three steps."""
    asked = iter(range(1, 100))
    ctx = FitContext(
        tmp_path / "out", 0, None, work_dir=tmp_path / "work",
        interrupted=lambda: signal.SIGINT if next(asked) == 3 else None,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        _sft(ModelSpec(str(base)), ctx)
    return ctx


def _flip(folder: Path) -> None:
    file = folder / "optimizer.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _add(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def _unsign(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("harm", [_flip, _add, _unsign])
def test_checkpoint_that_is_not_as_we_wrote_it_is_never_loaded(
    base: Path, halted: FitContext, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
):
    assert halted.work_dir is not None
    harm(halted.work_dir / "checkpoint-3")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch, "load", refuse)
    steps: list[int] = []
    ctx = FitContext(halted.out, 0, lambda step, metrics: steps.append(step), work_dir=halted.work_dir)
    _sft(ModelSpec(str(base)), ctx)
    assert steps[0] == 1


def test_checkpoint_of_other_inputs_is_not_gone_on_with(base: Path, halted: FitContext):
    steps: list[int] = []
    ctx = FitContext(halted.out, 1, lambda step, metrics: steps.append(step), work_dir=halted.work_dir)
    _sft(ModelSpec(str(base)), ctx)
    assert steps[0] == 1


def test_checkpoints_come_now_and_then_and_only_the_newest_stays(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trainer_checkpoints, "EVERY_S", 0.0)
    seen: list[list[str]] = []

    def look(step: int, metrics: dict[str, float]) -> None:
        seen.append([f.name for f in (tmp_path / "work").iterdir()])

    _sft(ModelSpec(str(base)), FitContext(tmp_path / "out", 0, look, work_dir=tmp_path / "work"))
    # A step is logged before it is saved.
    assert seen == [[], *([f"checkpoint-{step}"] for step in range(1, STEPS))]
