"""The reward model: from comparisons, ratings or labels to a score. Second box of InstructGPT's figure.

A LoRA on the base and one linear head on the last token's hidden state, trained on TRL's RewardTrainer with one of the
losses of `reward_losses`. The head starts at zero, the LoRA from the SFT adapter. The last token is found by length: Transformers
finds it by padding id, and reads the wrong one when pad = end.

    adapters/reward/  adapter_config.json  adapter_model.safetensors  reward.json (gain, bias, template and base hash)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import RewardConfig, RewardTrainer

from rlhf_lora import adapters, progress, token_rows, trainers
from rlhf_lora.atomic import write_text
from rlhf_lora.chat import Chat
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import DataError, ModelError
from rlhf_lora.loading import load_base, load_chat, read_adapter
from rlhf_lora.model_spec import ModelSpec, base_hash
from rlhf_lora.records import Label, Pair, Prompt, Ranking, Rating
from rlhf_lora.stages.accuracy import accuracy
from rlhf_lora.stages.reward_losses import Labels, Loss, Regression, loss_of
from rlhf_lora.train_settings import TrainSettings

__all__ = ["Scorer", "accuracy", "fit", "normalise", "pooled_scores"]

INFO = "reward.json"


def pooled_scores(model: Any, ids_BS: Tensor, lengths_B: Tensor) -> Tensor:
    """Float32 scores of right-padded rows, read at each row's last token, shape (B,).

    No attention mask: the model is causal, and what is on the right of the last token cannot reach it.
    """
    classifier = model.get_base_model()
    hidden_BSD = classifier.base_model(input_ids=ids_BS, use_cache=False).last_hidden_state
    last_BD = hidden_BSD[torch.arange(len(ids_BS), device=ids_BS.device), lengths_B - 1]
    head = adapters.score_head(model)
    with torch.autocast(ids_BS.device.type, enabled=False):
        return head(last_BD.float()).squeeze(1)


# --- training ---------------------------------------------------------------------------------------------------------


class Trainer(trainers.Fed, RewardTrainer):
    """TRL's reward trainer, with losses of our own, and pooling by length."""

    learning: Loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with self.accelerator.autocast():
            scores_R = pooled_scores(model, inputs["input_ids"], inputs["lengths"])
        loss, delta_P = self.learning.loss(scores_R, inputs)
        metrics = self._metrics["train"]
        if len(delta_P):
            metrics["accuracy"].append((delta_P > 0).float().mean().detach())
            metrics["margin"].append(delta_P.mean().detach())
        metrics["mean_reward"].append(scores_R.mean().detach())
        metrics["min_reward"].append(scores_R.min().detach())
        metrics["max_reward"].append(scores_R.max().detach())
        return (loss, {"scores": scores_R}) if return_outputs else loss


def fit(
    spec: ModelSpec, records: Sequence[Pair] | Sequence[Ranking] | Sequence[Rating] | Sequence[Label],
    settings: TrainSettings, ctx: FitContext, loss: str = "pairwise",
) -> dict[str, float]:  # fmt: skip
    """Train a reward adapter and publish it, with its `reward.json`, at `ctx.out`.

    `ctx.start_adapter` is the SFT adapter, or a reward adapter to go on with.

    Args:
        records: what the loss learns from: pairs, rankings (for `best_of_n` with one best each), ratings or labels.
        settings: a row is one record, so that `batch_size` counts prompts where a record holds several answers.
        loss: one of `reward_losses`.

    Returns:
        Final metrics in TRL's names (`loss`, `accuracy`, `margin`, `mean_reward`, …), with `rows` and `rows_too_long`.

    Raises:
        DataError: nothing to learn from, or most of it is too long. Stopped: a loss is not finite.
    """
    chat, learning = load_chat(spec), loss_of(loss, records)
    rows = token_rows.rows_of(learning.rows(chat, records), settings, learning.learns_from)  # type: ignore[arg-type]

    def load() -> Any:
        return adapters.attach(load_base(spec, num_labels=1), spec, "SEQ_CLS", ctx.start_adapter)

    def make(model: Any, folder: str, callbacks: list[Any], like: Any) -> Any:
        args = RewardConfig(folder, **trainers.arguments(spec, settings, len(rows), ctx))
        collator = Collator(learning, chat.fill_id)
        trainer = Trainer(model, args, collator, like, processing_class=chat.tokenizer, callbacks=callbacks)
        trainer.learning = learning
        return trainer

    def files() -> dict[str, str]:
        return {INFO: _json(new_info(chat, spec) | _scale(learning))}

    inputs = ("reward_model", base_hash(spec.path, spec.revision), spec, loss)
    return trainers.run(load, make, rows, settings, ctx, inputs, files)


class Collator:
    """Rows → a batch of the loss."""

    def __init__(self, learning: Loss, fill_id: int):
        self.learning, self.fill_id = learning, fill_id

    def __call__(self, rows: Sequence[token_rows.Row]) -> dict[str, Tensor]:
        return self.learning.batch(rows, self.fill_id)


# --- the folder -------------------------------------------------------------------------------------------------------


def new_info(chat: Chat, spec: ModelSpec) -> dict[str, Any]:
    """`reward.json` of a fresh reward model: score = gain × head + bias."""
    hashes = {"template_hash": chat.template_hash, "base_hash": base_hash(spec.path, spec.revision)}
    return {"gain": 1.0, "bias": 0.0, **hashes, "pooling": "last"}


def _scale(learning: Loss) -> dict[str, Any]:
    """What brings scores back to the labellers' scale: of ratings, which were learned with mean 0 and deviation 1; of
    labels to the log-odds of good."""
    if isinstance(learning, Labels):
        return {"bias": learning.bias, "logit_of": "good", "good_share": learning.good_share}
    if not isinstance(learning, Regression):
        return {}
    mean, deviation = learning.mean, learning.deviation
    return {"gain": deviation, "bias": mean, "rating_mean": mean, "rating_deviation": deviation}


def read_info(folder: Path) -> dict[str, Any]:
    """`reward.json` of a reward adapter; gain 1 and bias 0 when it has none.

    Raises:
        ModelError: it cannot be read, or pools in a way that is not known here.
    """
    try:
        info = {"gain": 1.0, "bias": 0.0, "pooling": "last"} | json.loads((folder / INFO).read_text("utf-8"))
        info |= {"gain": float(info["gain"]), "bias": float(info["bias"])}
    except FileNotFoundError:
        return {"gain": 1.0, "bias": 0.0, "pooling": "last"}
    except (ValueError, TypeError) as error:
        what, fix = f"{INFO} cannot be read: {error}", "train the reward model again"
        raise ModelError(what, where=str(folder / INFO), fix=fix) from error
    if info["pooling"] != "last":
        raise ModelError(f"pooling '{info['pooling']}' is not known", where=str(folder / INFO), fix="'last' is known")
    return info


def normalise(folder: Path, scores: Sequence[float]) -> tuple[float, float]:
    """Set gain and bias so that these scores get mean 0 and standard deviation 1 (Ziegler et al. 2019, §2.1).

    With g = 1/σ and b = −gμ over samples of the reference, the KL coefficient means the same for every reward model.

    Args:
        scores: as `Scorer.score` returns them now, with the present gain and bias; at least two. σ is the population's.

    Returns:
        The new gain and bias.

    Raises:
        DataError: fewer than two scores, or all the same.
    """
    values = torch.tensor(list(scores), dtype=torch.float64)
    spread = float(values.std(correction=0)) if len(values) > 1 else 0.0
    if not spread > 0:
        raise DataError(
            f"{len(values)} scores of reference samples that are all the same set no scale",
            where=str(folder),
            fix="give more reference samples; if every text scores the same, train the reward model longer",
        )
    info = read_info(folder)
    gain, bias = info["gain"] / spread, (info["bias"] - float(values.mean())) / spread
    write_text(folder / INFO, _json(info | {"gain": gain, "bias": bias}))
    return gain, bias


def _json(info: Mapping[str, Any]) -> str:
    return json.dumps(info, indent=2, allow_nan=False) + "\n"


# --- scoring ----------------------------------------------------------------------------------------------------------


class Scorer:
    """A trained reward model in memory, on its own base.

    Raises:
        ModelError: the folder has no score head (a new one would be random), or another base or template made it.
    """

    def __init__(self, spec: ModelSpec, folder: Path):
        folder = Path(folder)
        _, tensors = read_adapter(folder)
        if adapters.HEAD not in tensors:
            raise ModelError(
                "the adapter has no score head, so its scores would be random",
                where=str(folder),
                fix="give a reward adapter (stage reward_model), not a policy's",
            )
        self.chat, self.info, self.device = load_chat(spec), read_info(folder), spec.device
        self._check(spec, folder)
        self.model = adapters.attach(load_base(spec, num_labels=1), spec, "SEQ_CLS", folder, trainable=False)
        self.model.eval()

    def score(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        finished: Sequence[bool] | None = None,
        batch_size: int = 64,
    ) -> list[float]:
        """One score per text, in order, gain and bias applied. A text that is not `finished` gets no end token.

        A text that comes up several times, as in pairs out of a ranking, is read once.
        """
        ended = [True] * len(texts) if finished is None else finished
        rows = [
            (*self.chat.prompt_ids(prompt), *self.chat.response_ids(text, end, prompt))
            for prompt, text, end in zip(prompts, texts, ended, strict=True)
        ]
        order = sorted(dict.fromkeys(rows), key=len)
        scores: dict[tuple[int, ...], float] = {}
        with progress.Progress("scores", len(order), inner=True) as bar:
            for start in range(0, len(order), batch_size):
                part = order[start : start + batch_size]
                ids_BS, lengths_B = token_rows.pad(part, self.chat.fill_id)
                with torch.no_grad():
                    scores_B = pooled_scores(self.model, ids_BS.to(self.device), lengths_B.to(self.device))
                scores |= zip(part, (self.info["gain"] * scores_B + self.info["bias"]).tolist(), strict=True)
                bar.update(len(part))
        return [scores[row] for row in rows]

    def _check(self, spec: ModelSpec, folder: Path) -> None:
        mine = {"template_hash": self.chat.template_hash, "base_hash": base_hash(spec.path, spec.revision)}
        for name, value in mine.items():
            if self.info.get(name, value) != value:
                kind = name.removesuffix("_hash")
                raise ModelError(
                    f"the reward model was trained on another {kind}: {self.info[name]}, here {value}",
                    where=str(folder / INFO),
                    fix="give the model and template that it was trained with",
                )
