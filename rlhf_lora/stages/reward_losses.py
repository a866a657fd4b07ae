"""What a reward model can learn from: pairs, rankings, choices, ratings, labels. One class each: its rows, batch and loss.

    pairwise     pairs      Bradley-Terry, with margins and soft labels; a ranking's pairs come one by one, in any order
    kwise        rankings   all pairs of one prompt together, each prompt weighing the same (InstructGPT, eq. 1)
    best_of_n    choices    softmax over the answers to one prompt (Ziegler et al. 2019, eq. 1)
    regression   ratings    squared error on ratings of mean 0 and deviation 1
    labels       labels     cross-entropy on good and bad: the sigmoid of the score is P(good)

A batch is rows of tokens, one for each answer (R of them, each read once), and what places them among the B prompts.
Prompts may have different numbers of answers: up to K, the rest of their row is filler that enters no loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lora import token_rows
from rlhf_lora.chat import Chat
from rlhf_lora.errors import DataError
from rlhf_lora.objectives import preference
from rlhf_lora.records import Label, Pair, Prompt, Ranking, Rating
from rlhf_lora.reward_labels import refuse_one_kind

Batch = dict[str, Tensor]
Measured = tuple[token_rows.Row, int]
"""A row, and the length of its longest answer with the prompt: longer ones than `max_length` are left out whole."""


class Pairwise:
    """−log σ(r_w − r_l), see `preference.pairwise`. 2B rows: the chosen first."""

    learns_from: ClassVar[str] = "pairs"

    def rows(self, chat: Chat, pairs: Sequence[Pair]) -> Iterator[Measured]:
        for pair in pairs:
            chosen, rejected = _tokens(chat, pair.prompt, (pair.chosen, pair.rejected))
            row = {"chosen_ids": chosen, "rejected_ids": rejected, "margin": pair.margin or 0.0, "label": pair.label}
            yield row, max(len(chosen), len(rejected))

    def batch(self, rows: Sequence[token_rows.Row], fill_id: int) -> Batch:
        batch = _padded([row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows], fill_id)
        return batch | {name: torch.tensor([float(row[name]) for row in rows]) for name in ("margin", "label")}

    def loss(self, scores_R: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss, and r_w − r_l of every pair in the batch."""
        chosen_B, rejected_B = scores_R.chunk(2)
        return preference.pairwise(chosen_B, rejected_B, batch["margin"], batch["label"]), chosen_B - rejected_B


class KWise:
    """The mean over prompts of the mean over a prompt's decided pairs, see `preference.kwise`.

    An answer is read once however many pairs it is in, and a prompt is in one batch with all of its pairs: where they are
    spread over an epoch, an answer is learned from K − 1 times in it, and the model overfits (Ouyang et al. 2022, §3.5).
    """

    learns_from: ClassVar[str] = "rankings"

    def rows(self, chat: Chat, rankings: Sequence[Ranking]) -> Iterator[Measured]:
        for ranking in rankings:
            ids = _tokens(chat, ranking.prompt, ranking.completions)
            # Places 1, 2, … instead of whatever numbers they are: these stay apart in float32.
            places = {rank: place for place, rank in enumerate(sorted(set(ranking.ranks)), 1)}
            yield {"ids": ids, "ranks": [places[rank] for rank in ranking.ranks]}, max(map(len, ids))

    def batch(self, rows: Sequence[token_rows.Row], fill_id: int) -> Batch:
        """`ranks` (B, K), NaN at filler: it is neither below nor above any rank, so it is in no pair."""
        index_BK, is_answer_BK = _places([len(row["ids"]) for row in rows])
        ranks_BK = torch.full(index_BK.shape, math.nan)
        ranks_BK[is_answer_BK] = torch.tensor([float(rank) for row in rows for rank in row["ranks"]])
        return _padded([ids for row in rows for ids in row["ids"]], fill_id) | {"index": index_BK, "ranks": ranks_BK}

    def loss(self, scores_R: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        scores_BK, ranks_BK = scores_R[batch["index"]], batch["ranks"]
        better_BKK = ranks_BK.unsqueeze(2) < ranks_BK.unsqueeze(1)
        delta_BKK = scores_BK.unsqueeze(2) - scores_BK.unsqueeze(1)
        return preference.kwise(scores_BK, ranks_BK), delta_BKK[better_BKK]


class BestOfN:
    """−log softmax(r_1 … r_N)[picked], see `preference.best_of_n`. The answers that were not picked are not compared."""

    learns_from: ClassVar[str] = "choices"

    def rows(self, chat: Chat, choices: Sequence[Ranking]) -> Iterator[Measured]:
        for choice in choices:
            if choice.best is None:
                raise ValueError("a choice needs one best answer")  # `Splits.choices` has no other
            ids = _tokens(chat, choice.prompt, choice.completions)
            yield {"ids": ids, "best": choice.best}, max(map(len, ids))

    def batch(self, rows: Sequence[token_rows.Row], fill_id: int) -> Batch:
        index_BK, is_answer_BK = _places([len(row["ids"]) for row in rows])
        best_B = torch.tensor([row["best"] for row in rows])
        places = {"index": index_BK, "is_answer": is_answer_BK, "best": best_B}
        return _padded([ids for row in rows for ids in row["ids"]], fill_id) | places

    def loss(self, scores_R: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        best_B, is_answer_BK = batch["best"], batch["is_answer"]
        scores_BK = scores_R[batch["index"]].masked_fill(~is_answer_BK, -math.inf)
        picked_BK = torch.nn.functional.one_hot(best_B, scores_BK.shape[1]).bool()
        delta_BK = scores_BK.gather(1, best_B.unsqueeze(1)) - scores_BK
        return preference.best_of_n(scores_BK, best_B), delta_BK[is_answer_BK & ~picked_BK]


class Regression:
    """Squared error (r − z)² on z = (rating − μ) / σ, with μ and σ of the ratings learned from.

    The head starts at 0, which is the mean's rating; gain σ and bias μ then give scores on the labellers' own scale.

    Raises:
        DataError: all ratings are the same.
    """

    learns_from: ClassVar[str] = "ratings"

    def __init__(self, ratings: Sequence[Rating]):
        values = torch.tensor([rating.value for rating in ratings], dtype=torch.float64)
        self.mean, self.deviation = (
            (float(values.mean()), float(values.std(correction=0))) if len(values) else (0.0, 1.0)
        )
        if not (self.deviation > 0 and math.isfinite(self.deviation)):
            raise DataError(
                f"the {len(ratings)} ratings to learn from are all {self.mean:g}" if self.deviation == 0
                else "the ratings to learn from are too far apart for a standard deviation",
                where="reward_model.loss=regression", fix="give ratings that tell a good answer from a bad one",
            )  # fmt: skip

    def rows(self, chat: Chat, ratings: Sequence[Rating]) -> Iterator[Measured]:
        for rating in ratings:
            (ids,) = _tokens(chat, rating.prompt, (rating.completion,))
            yield {"ids": [ids], "value": (rating.value - self.mean) / self.deviation}, len(ids)

    def batch(self, rows: Sequence[token_rows.Row], fill_id: int) -> Batch:
        values_B = torch.tensor([float(row["value"]) for row in rows])
        return _padded([ids for row in rows for ids in row["ids"]], fill_id) | {"value": values_B}

    def loss(self, scores_R: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The squared error; it compares no two answers."""
        return torch.nn.functional.mse_loss(scores_R, batch["value"]), scores_R.new_empty(0)


class Labels:
    """−log σ(s) of a good answer and −log σ(−s) of a bad one, the mean over answers; s = r + b, so that σ(s) = P(good).

    b is the log-odds of good among the labels that are learned from: the head starts at 0, which then says their share,
    and where few answers are bad (as of most rules) no step is spent on learning that. Gain 1 and bias b keep it.

    Raises:
        DataError: all labels are the same.
    """

    learns_from: ClassVar[str] = "labels"

    def __init__(self, labels: Sequence[Label]):
        refuse_one_kind(labels)
        self.good_share = sum(label.good for label in labels) / len(labels) if labels else 0.5
        self.bias = math.log(self.good_share) - math.log1p(-self.good_share)

    def rows(self, chat: Chat, labels: Sequence[Label]) -> Iterator[Measured]:
        for label in labels:
            (ids,) = _tokens(chat, label.prompt, (label.completion,))
            yield {"ids": [ids], "good": label.good}, len(ids)

    def batch(self, rows: Sequence[token_rows.Row], fill_id: int) -> Batch:
        good_B = torch.tensor([float(row["good"]) for row in rows])
        return _padded([ids for row in rows for ids in row["ids"]], fill_id) | {"good": good_B}

    def loss(self, scores_R: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss, and the logit of what each answer was called: above 0 where the model says the same."""
        logits_B, good_B = scores_R + self.bias, batch["good"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_B, good_B)
        return loss, logits_B * (2 * good_B - 1)


Loss = Pairwise | KWise | BestOfN | Regression | Labels


def loss_of(name: str, rows: Sequence[Any]) -> Loss:
    """The loss of that name, for these records to learn from."""
    if name == "regression":
        return Regression(rows)
    if name == "labels":
        return Labels(rows)
    losses: dict[str, type[Pairwise] | type[KWise] | type[BestOfN]] = {
        "pairwise": Pairwise,
        "kwise": KWise,
        "best_of_n": BestOfN,
    }
    return losses[name]()


def _tokens(chat: Chat, prompt: Prompt, answers: Sequence[str]) -> list[list[int]]:
    asked = chat.prompt_ids(prompt)
    return [asked + chat.response_ids(answer, prompt=prompt) for answer in answers]


def _padded(rows: Sequence[Sequence[int]], fill_id: int) -> Batch:
    ids_RS, lengths_R = token_rows.pad(rows, fill_id)
    return {"input_ids": ids_RS, "lengths": lengths_R}


def _places(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of prompts with so many answers each, in one row of R: where answer k of prompt b stands, and whether there is one;
    both (B, K). Filler points at row 0, whose score then stands there and must be left out by what is there."""
    is_answer_BK = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    index_BK = torch.zeros(is_answer_BK.shape, dtype=torch.long)
    index_BK[is_answer_BK] = torch.arange(sum(sizes))
    return index_BK, is_answer_BK
