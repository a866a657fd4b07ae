"""SFT on TRL's SFTTrainer: rows that are tokens. The stage `sft` and rejection sampling imitate with it.

Cross-entropy on the response's tokens, its end token included; the prompt gets no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from trl import SFTConfig, SFTTrainer

from rlhf_lora import adapters, token_rows, trainers
from rlhf_lora.chat import Chat
from rlhf_lora.contracts import FitContext
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec, base_hash
from rlhf_lora.records import Demonstration, Prompt, transcript
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
    rows = token_rows.rows_of(tokenised(chat, demonstrations), settings, "demonstrations")

    def load() -> Any:
        return adapters.attach(load_base(spec), spec, "CAUSAL_LM", ctx.start_adapter)

    def make(model: Any, folder: str, callbacks: list[Any], like: Any) -> Any:
        options = trainers.arguments(spec, settings, len(rows), ctx)
        args = SFTConfig(folder, **options, dataset_kwargs={"skip_prepare_dataset": True}, packing=False)
        collator = Collator(chat.fill_id)
        return Trainer(model, args, collator, like, processing_class=chat.tokenizer, callbacks=callbacks)

    inputs = ("sft", base_hash(spec.path, spec.revision), spec)
    return trainers.run(load, make, rows, settings, ctx, inputs)


def tokenised(chat: Chat, demonstrations: Sequence[Demonstration]) -> Iterator[tuple[token_rows.Row, int]]:
    """(row, length) of each demonstration; labels are the assistant's tokens, and `NO_LOSS` on everybody else's.

    A conversation with several replies is one row as long as each prompt begins with the tokens before it. Where it does
    not (plain transcripts have no end token inside, some templates drop old reasoning), the next reply begins a row of
    its own, so that every reply is learnt behind exactly what a rollout would put before it.
    """
    for demonstration in demonstrations:
        ids: list[int] = []
        labels: list[int] = []
        for prompt, reply, finished in _replies(demonstration):
            prompt_ids = chat.prompt_ids(prompt)
            if ids and prompt_ids[: len(ids)] != ids:
                yield {"input_ids": ids, "labels": labels}, len(ids)
                ids, labels = [], []
            response = chat.response_ids(reply, finished, prompt)
            labels = labels + [NO_LOSS] * (len(prompt_ids) - len(ids)) + response
            ids = prompt_ids + response
        yield {"input_ids": ids, "labels": labels}, len(ids)


def _replies(demonstration: Demonstration) -> Iterator[tuple[Prompt, str, bool]]:
    """What is imitated, and whether it came to its end: the completion, and before it, of a conversation that is an
    example as a whole, each reply."""
    messages = demonstration.prompt.messages or ()
    if demonstration.every_turn:
        for i, turn in enumerate(messages):
            if turn["role"] == "assistant" and any(before["role"] == "user" for before in messages[:i]):
                yield Prompt(transcript(messages[:i]), messages[:i]), turn["content"], True
    yield demonstration.prompt, demonstration.completion, demonstration.finished


class Collator:
    """Rows → `input_ids`, `labels` and `attention_mask` of shape (B, S), padded on the right."""

    def __init__(self, fill_id: int):
        self.fill_id = fill_id

    def __call__(self, rows: Sequence[token_rows.Row]) -> dict[str, Tensor]:
        ids_BS, lengths_B = token_rows.pad([row["input_ids"] for row in rows], self.fill_id)
        labels_BS, _ = token_rows.pad([row["labels"] for row in rows], NO_LOSS)
        mask_BS = token_rows.mask_of(lengths_B, ids_BS.shape[1])
        return {"input_ids": ids_BS, "labels": labels_BS, "attention_mask": mask_BS}
