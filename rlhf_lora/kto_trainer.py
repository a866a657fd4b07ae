"""KTO on TRL's KTOTrainer: rows that are tokens, mismatched answers for the KL estimate, and the loss of `objectives`.

The KL estimate z₀ is a mean over a micro-batch of log π(y'|x) − log ρ(y'|x), y' an answer to another prompt of the same
micro-batch (arXiv 2402.01306, §4.2). So `micro_batch`, which elsewhere only trades memory for time, is part of the loss
here. TRL's own loss is a mean that leaves out what is not a number; ours ends the stage on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import KTOConfig, KTOTrainer

from rlhf_lora import adapters, token_rows, trainers
from rlhf_lora.chat import Chat
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import DataError
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec, adapter_hash, base_hash
from rlhf_lora.objectives import preference
from rlhf_lora.progress import track
from rlhf_lora.records import Label
from rlhf_lora.train_settings import TrainSettings


class Trainer(trainers.Fed, KTOTrainer):
    """TRL's KTO trainer. The reference is `ref`, TRL's frozen copy of the adapter that training starts from, or the
    adapter that `ctx.reference` names. Its log-probs are computed once, before training, as those of DPO are."""

    ctx: FitContext
    longest: int

    def before_training(self) -> None:
        adapters.load_reference(self.model, self.ctx)
        self.batches.set_epoch(0)
        mismatch(self.rows, list(self.batches), self.longest)
        description = f"{self.description}: reference"
        for batch in track(self.batches, description, len(self.batches)):
            rows = [self.rows[i] for i in batch]
            inputs = {name: tensor.to(self.args.device) for name, tensor in self.data_collator(rows).items()}
            both = [tensor_B.tolist() for tensor_B in self.compute_ref_log_probs(self.model, inputs)]
            for row, answer, mismatched in zip(rows, *both, strict=True):
                row["ref_logps"], row["ref_KL_logps"] = answer, mismatched
        self.precompute_ref_logps = True
        self.model.delete_adapter("ref")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with torch.no_grad():
            mismatched_B = _logprobs(model, inputs, "KL_")
        policy_B, ref_B, good_B = _logprobs(model, inputs), inputs["ref_logps"], inputs["label"]
        kl = preference.kto_kl(mismatched_B, inputs["ref_KL_logps"])
        loss = preference.kto(
            policy_B, ref_B, good_B, kl, self.beta, self.desirable_weight, self.undesirable_weight
        )  # fmt: skip
        self._note(policy_B.detach(), ref_B, good_B, kl)
        return (loss, {"logps": policy_B}) if return_outputs else loss

    def _note(self, policy_B: Tensor, ref_B: Tensor, good_B: Tensor, kl: Tensor) -> None:
        """TRL's metrics. A micro-batch without good or without bad answers says nothing of these."""
        metrics, rewards_B = self._metrics["train"], self.beta * (policy_B - ref_B)
        metrics["kl"].append(kl)
        means = {}
        for name, rows_B in (("chosen", good_B), ("rejected", ~good_B)):
            if bool(rows_B.any()):
                means[name] = rewards_B[rows_B].mean()
                metrics[f"rewards/{name}"].append(means[name])
                metrics[f"logps/{name}"].append(policy_B[rows_B].mean())
        if len(means) == 2:
            metrics["rewards/margins"].append(means["chosen"] - means["rejected"])


def fit(
    spec: ModelSpec, labels: Sequence[Label], settings: TrainSettings, beta: float, weights: tuple[float, float | None],
    ctx: FitContext,
) -> dict[str, float]:  # fmt: skip
    """Train a policy adapter on answers called good or bad, and publish it at `ctx.out`.

    Args:
        weights: λ_D and λ_U; λ_U None = what makes good and bad answers weigh the same in all.

    Returns:
        Final metrics in TRL's names (`loss`, `kl`, `rewards/chosen`, …), with `rows`, `rows_too_long`, `rows_good` and
        `undesirable_weight`.

    Raises:
        DataError: no label, labels of one kind alone, or most are too long. Stopped: a loss is not finite.
    """
    chat = load_chat(spec)
    rows = token_rows.rows_of(tokenised(chat, labels), settings, "labels")
    good = sum(bool(row["label"]) for row in rows.items)
    if good in (0, len(rows)):
        raise DataError(
            f"the {len(rows)} labels to learn from are all {'good' if good else 'bad'}", where="optimizer=kto",
            fix="give answers that are called good and answers that are called bad, or another optimizer.threshold",
        )  # fmt: skip
    desirable, undesirable = weights[0], weights[1]
    if undesirable is None:
        undesirable = desirable * good / (len(rows) - good)

    def load() -> Any:
        return adapters.attach(load_base(spec), spec, "CAUSAL_LM", ctx.start_adapter)

    def make(model: Any, folder: str, callbacks: list[Any], like: Any) -> Any:
        options = trainers.arguments(spec, settings, len(rows), ctx)
        args = KTOConfig(
            folder, **options, beta=beta, desirable_weight=desirable, undesirable_weight=undesirable
        )  # fmt: skip
        trainer = Trainer(
            model, None, args, Collator(chat.fill_id), like, processing_class=chat.tokenizer, callbacks=callbacks
        )
        trainer.ctx, trainer.longest = ctx, settings.max_length
        return trainer

    reference = ctx.bare_reference or (ctx.reference and adapter_hash(ctx.reference))
    inputs = ("kto", base_hash(spec.path, spec.revision), spec, beta, desirable, undesirable, reference)
    metrics = trainers.run(load, make, rows, settings, ctx, inputs)
    return metrics | {"rows_good": float(good), "undesirable_weight": float(undesirable)}


def tokenised(chat: Chat, labels: Sequence[Label]) -> Iterator[tuple[token_rows.Row, int]]:
    """(row, length) of each label, under TRL's names."""
    for label in labels:
        prompt = chat.prompt_ids(label.prompt)
        answer = chat.response_ids(label.completion, label.finished, label.prompt)
        yield {"prompt_ids": prompt, "completion_ids": answer, "label": label.good}, len(prompt) + len(answer)


def mismatch(rows: token_rows.Rows, batches: Sequence[Sequence[int]], longest: int) -> None:
    """Give each row `KL_completion_ids`: the answer of the next row of its micro-batch that has another prompt.

    A micro-batch of one prompt alone takes from the rows behind it; a data set of one prompt has nothing but itself.
    Cut to `longest` tokens with the prompt, as TRL does.
    """
    order = [i for batch in batches for i in batch]
    start = 0
    for batch in batches:
        behind = order[start + len(batch) :] + order[:start]
        for place, i in enumerate(batch):
            others = [*batch[place + 1 :], *batch[:place]]
            row = rows[i]
            found = next((j for j in others if rows[j]["prompt_ids"] != row["prompt_ids"]), None)
            if found is None:
                found = next(
                    (j for j in behind if rows[j]["prompt_ids"] != row["prompt_ids"]), [*others, *behind, i][0]
                )
            room = max(1, longest - len(row["prompt_ids"]))
            row["KL_completion_ids"] = rows[found]["completion_ids"][:room]
        start += len(batch)


class Collator:
    """B labels → B right-padded rows of prompt and answer, and as many of prompt and another prompt's answer (`KL_…`)."""

    def __init__(self, fill_id: int):
        self.fill_id = fill_id

    def __call__(self, rows: Sequence[token_rows.Row]) -> dict[str, Tensor]:
        batch = {"label": torch.tensor([bool(row["label"]) for row in rows])}
        for prefix, answer in (("", "completion_ids"), ("KL_", "KL_completion_ids")):
            ids_BS, lengths_B = token_rows.pad([row["prompt_ids"] + row[answer] for row in rows], self.fill_id)
            mask_BS = token_rows.mask_of(lengths_B, ids_BS.shape[1])
            prompts_B = torch.tensor([len(row["prompt_ids"]) for row in rows])
            batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"] = ids_BS, mask_BS
            batch[f"{prefix}completion_mask"] = mask_BS - token_rows.mask_of(prompts_B, ids_BS.shape[1])
        numbers = [name for name in ("ref_logps", "ref_KL_logps") if name in rows[0]]
        return batch | {name: torch.tensor([float(row[name]) for row in rows]) for name in numbers}


def _logprobs(model: Any, inputs: Any, prefix: str = "") -> Tensor:
    """Log-probs of whole answers, shape (B,)."""
    ids_BS = inputs[f"{prefix}input_ids"]
    labels_BS = ids_BS.masked_fill(inputs[f"{prefix}completion_mask"] == 0, -100)
    outputs = model(
        input_ids=ids_BS, attention_mask=inputs[f"{prefix}attention_mask"], labels=labels_BS, use_cache=False,
        fused_lm_head=True,
    )  # fmt: skip
    return outputs.log_probs.sum(1)
