"""DPO on TRL's DPOTrainer: rows that are tokens, and a loss that honours soft labels.

TRL's `sigmoid` loss ignores `label_smoothing`; ours is cDPO's, with each pair's own label too. Every other loss type is
TRL's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from rlhf_lora import adapters, token_rows, trainers
from rlhf_lora.chat import Chat
from rlhf_lora.contracts import FitContext
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec, adapter_hash, base_hash
from rlhf_lora.objectives import preference
from rlhf_lora.progress import track
from rlhf_lora.records import Pair
from rlhf_lora.train_settings import TrainSettings


class Trainer(trainers.Fed, DPOTrainer):
    """TRL's DPO trainer. The reference is `ref`, TRL's frozen copy of the adapter that training starts from, or the
    adapter that `ctx.reference` names.

    Its log-probs are computed once, before training, in the batches of the first epoch: the same shapes give the same
    rounding, so that margins are exactly 0 at the first step from the reference. Then the copy is dropped.
    """

    ctx: FitContext

    def before_training(self) -> None:
        adapters.load_reference(self.model, self.ctx)
        self.batches.set_epoch(0)
        description = f"{self.description}: reference"
        for batch in track(self.batches, description, len(self.batches)):
            rows = [self.rows[i] for i in batch]
            inputs = {name: tensor.to(self.args.device) for name, tensor in self.data_collator(rows).items()}
            both = [tensor_B.tolist() for tensor_B in self.compute_ref_log_probs(self.model, inputs)]
            for row, chosen, rejected in zip(rows, *both, strict=True):
                row["ref_chosen_logps"], row["ref_rejected_logps"] = chosen, rejected
        self.precompute_ref_logps = True
        self.model.delete_adapter("ref")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        smoothing_B = inputs.pop("smoothing")
        if self.loss_types != ["sigmoid"]:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels_BS = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels_BS,
            use_cache=False, fused_lm_head=True,
        )  # fmt: skip
        chosen_B, rejected_B = outputs.log_probs.sum(1).chunk(2)
        ref_chosen_B, ref_rejected_B = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        loss = preference.dpo(chosen_B, rejected_B, ref_chosen_B, ref_rejected_B, self.beta, smoothing_B)
        self._note(chosen_B.detach(), rejected_B.detach(), ref_chosen_B, ref_rejected_B)
        return (loss, outputs) if return_outputs else loss

    def _note(self, chosen_B: Tensor, rejected_B: Tensor, ref_chosen_B: Tensor, ref_rejected_B: Tensor) -> None:
        """TRL's metrics, without waiting for the device."""
        won_B, lost_B = self.beta * (chosen_B - ref_chosen_B), self.beta * (rejected_B - ref_rejected_B)
        values = {
            "rewards/chosen": won_B, "rewards/rejected": lost_B, "rewards/margins": won_B - lost_B,
            "rewards/accuracies": (won_B > lost_B).float(), "logps/chosen": chosen_B, "logps/rejected": rejected_B,
        }  # fmt: skip
        for name, value_B in values.items():
            self._metrics["train"][name].append(value_B.mean())


def fit(
    spec: ModelSpec,
    pairs: Sequence[Pair],
    settings: TrainSettings,
    beta: float,
    loss_type: str,
    label_smoothing: float,
    ctx: FitContext,
) -> dict[str, float]:
    """Train a policy adapter on pairs and publish it at `ctx.out`.

    Starts from `ctx.start_adapter`, whose frozen copy is the reference unless `ctx.reference` names another; without one
    the reference is the bare base.

    Returns:
        Final metrics in TRL's names (`loss`, `rewards/margins`, `rewards/accuracies`, …), with `rows`, `rows_too_long`.

    Raises:
        DataError: no pair, or most are too long. Stopped: a loss is not finite.
    """
    chat = load_chat(spec)
    rows = token_rows.rows_of(tokenised(chat, pairs, label_smoothing), settings, "pairs")

    def load() -> Any:
        return adapters.attach(load_base(spec), spec, "CAUSAL_LM", ctx.start_adapter)

    def make(model: Any, folder: str, callbacks: list[Any], like: Any) -> Any:
        options = trainers.arguments(spec, settings, len(rows), ctx)
        # TRL's sigmoid loss ignores the smoothing; there it is in the rows already.
        smoothing = {} if loss_type == "sigmoid" else {"label_smoothing": label_smoothing}
        args = DPOConfig(folder, **options, **smoothing, beta=beta, loss_type=[loss_type])
        collator = Collator(chat.fill_id)
        trainer = Trainer(model, None, args, collator, like, processing_class=chat.tokenizer, callbacks=callbacks)
        trainer.ctx = ctx
        return trainer

    reference = ctx.bare_reference or (ctx.reference and adapter_hash(ctx.reference))
    inputs = ("dpo", base_hash(spec.path, spec.revision), spec, beta, loss_type, label_smoothing, reference)
    return trainers.run(load, make, rows, settings, ctx, inputs)


def tokenised(chat: Chat, pairs: Sequence[Pair], label_smoothing: float = 0.0) -> Iterator[tuple[token_rows.Row, int]]:
    """(row, length of its longer side) of each pair. `smoothing` = P(the label is wrong).

    A pair's own label p and the loss's ε are two independent chances of being wrong: p' = p(1−ε) + (1−p)ε.
    """
    for pair in pairs:
        prompt = chat.prompt_ids(pair.prompt)
        chosen = chat.response_ids(pair.chosen, pair.finished[0], pair.prompt)
        rejected = chat.response_ids(pair.rejected, pair.finished[1], pair.prompt)
        wrong = (1 - pair.label) * (1 - label_smoothing) + pair.label * label_smoothing
        row = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "smoothing": wrong}
        yield row, len(prompt) + max(len(chosen), len(rejected))


class Collator:
    """B pairs → 2B right-padded rows of prompt and response, the chosen first; `completion_mask` is 1 on responses."""

    def __init__(self, fill_id: int):
        self.fill_id = fill_id

    def __call__(self, rows: Sequence[token_rows.Row]) -> dict[str, Tensor]:
        sides = [(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
        ids_BS, lengths_B = token_rows.pad([prompt + response for prompt, response in sides], self.fill_id)
        mask_BS = token_rows.mask_of(lengths_B, ids_BS.shape[1])
        prompts_BS = token_rows.mask_of(torch.tensor([len(prompt) for prompt, _ in sides]), ids_BS.shape[1])
        batch = {"input_ids": ids_BS, "attention_mask": mask_BS, "completion_mask": mask_BS - prompts_BS}
        numbers = [name for name in ("smoothing", "ref_chosen_logps", "ref_rejected_logps") if name in rows[0]]
        return batch | {name: torch.tensor([float(row[name]) for row in rows]) for name in numbers}
