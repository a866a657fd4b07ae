"""Supervised fine-tuning: imitate demonstrations. First box of InstructGPT's figure.

Cross-entropy on the response's tokens, its end token included; the prompt gets no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from trl import SFTConfig, SFTTrainer

from rlhf_lora import adapters, trainers
from rlhf_lora.chat import Chat
from rlhf_lora.contracts import FitContext
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec, base_hash
from rlhf_lora.records import Demonstration
from rlhf_lora.train_settings import TrainSettings

NO_LOSS = -100


class Trainer(trainers.Fed, SFTTrainer):
    """TRL's SFT trainer on rows that are tokens."""


def fit(
    spec: ModelSpec, demonstrations: Sequence[Demonstration], settings: TrainSettings, ctx: FitContext
) -> dict[str, float]:
    """Train an adapter on demonstrations and publish it at `ctx.out`.

    Returns:
        Final metrics, in TRL's names (`loss`, `mean_token_accuracy`, …), with `rows` and `rows_too_long`.

    Raises:
        DataError: no demonstration, or most are too long. Stopped: a loss is not finite.
    """
    chat = load_chat(spec)
    rows = trainers.rows_of(tokenised(chat, demonstrations), settings, "demonstrations")

    def load() -> Any:
        return adapters.attach(load_base(spec), spec, "CAUSAL_LM", ctx.start_adapter)

    def make(model: Any, folder: str, callbacks: list[Any], like: Any) -> Any:
        options = trainers.arguments(spec, settings, len(rows), ctx)
        args = SFTConfig(folder, **options, dataset_kwargs={"skip_prepare_dataset": True}, packing=False)
        collator = Collator(chat.fill_id)
        return Trainer(model, args, collator, like, processing_class=chat.tokenizer, callbacks=callbacks)

    inputs = ("sft", base_hash(spec.path, spec.revision), spec)
    return trainers.run(load, make, rows, settings, ctx, inputs)


def tokenised(chat: Chat, demonstrations: Sequence[Demonstration]) -> Iterator[tuple[trainers.Row, int]]:
    """(row, length) of each demonstration; labels are the response's tokens, and `NO_LOSS` on the prompt."""
    for demonstration in demonstrations:
        prompt = chat.prompt_ids(demonstration.prompt)
        response = chat.response_ids(demonstration.completion, prompt=demonstration.prompt)
        row = {"input_ids": prompt + response, "labels": [NO_LOSS] * len(prompt) + response}
        yield row, len(prompt) + len(response)


class Collator:
    """Rows → `input_ids`, `labels` and `attention_mask` of shape (B, S), padded on the right."""

    def __init__(self, fill_id: int):
        self.fill_id = fill_id

    def __call__(self, rows: Sequence[trainers.Row]) -> dict[str, Tensor]:
        ids_BS, lengths_B = trainers.pad([row["input_ids"] for row in rows], self.fill_id)
        labels_BS, _ = trainers.pad([row["labels"] for row in rows], NO_LOSS)
        mask_BS = trainers.mask_of(lengths_B, ids_BS.shape[1])
        return {"input_ids": ids_BS, "labels": labels_BS, "attention_mask": mask_BS}
