"""What a reward model learns from rankings, choices and ratings: losses and steps worked out by hand or by plain torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_base, make_pairs

from rlhf_lora import adapters
from rlhf_lora.contracts import FitContext
from rlhf_lora.errors import DataError, Interrupted
from rlhf_lora.loading import load_base, load_chat
from rlhf_lora.model_spec import ModelSpec
from rlhf_lora.records import Label, Pair, Prompt, Ranking, Rating
from rlhf_lora.stages import reward_losses, reward_model
from rlhf_lora.train_settings import TrainSettings

# With a large epsilon the first step is g / (|g| + 1): it tells the size of a gradient, where Adam alone tells its sign.
ONE_STEP = TrainSettings(batch_size=8, micro_batch=8, lr=1.0, eps=1.0, schedule="constant", warmup=0, max_grad_norm=1e9)
ANSWERS = ("w1 w2", "w3", "w4 w5 w6", "w7 w8")
RANKINGS = [  # four answers in order, three with a tie, two
    Ranking(Prompt("w10 w11"), ANSWERS, (2.0, 1.0, 4.0, 3.0)),
    Ranking(Prompt("w12"), ("w13", "w14 w15", "w16"), (1.0, 2.0, 1.0)),
    Ranking(Prompt("w17 w18 w19"), ("w20", "w21"), (5.0, -3.0)),
]
RATINGS = [Rating(Prompt(f"w{i}"), f"w{i + 20} w{i + 21}", float(value)) for i, value in enumerate((2, 4, 4, 10))]


@pytest.fixture(scope="module")
def spec(base: Path) -> ModelSpec:
    return ModelSpec(str(base), load_in_4bit=False)


@pytest.fixture(scope="module")
def started(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward adapter whose head is not 0, so that gradients reach the LoRA too."""
    out = tmp_path_factory.mktemp("adapters") / "reward"
    reward_model.fit(spec, make_pairs(32), replace(ONE_STEP, lr=1e-2, eps=1e-8, epochs=2), FitContext(out, 0, None))
    return out


def fitted(
    spec: ModelSpec, rows: Sequence[Any], out: Path, start: Path | None, loss: str, **settings: Any
) -> dict[str, float]:
    return reward_model.fit(
        spec, rows, replace(ONE_STEP, **settings), FitContext(out, 0, None, start_adapter=start), loss
    )


def scores_of(model: Any, chat: Any, prompt: Prompt, answers: Sequence[str]) -> torch.Tensor:
    """One forward for each answer, no batch, no padding: the plain way."""
    rows = [chat.prompt_ids(prompt) + chat.response_ids(answer, prompt=prompt) for answer in answers]
    found = [reward_model.pooled_scores(model, torch.tensor([row]), torch.tensor([len(row)])) for row in rows]
    return torch.cat(found)


def by_hand(spec: ModelSpec, start: Path, loss: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """(loss, weights after one AdamW step) where `loss(scores)` is worked out from plain forwards."""
    model, chat = adapters.attach(load_base(spec, num_labels=1), spec, "SEQ_CLS", start), load_chat(spec)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1.0, eps=1.0, weight_decay=0.0)
    value = loss(lambda prompt, answers: scores_of(model, chat, prompt, answers))
    value.backward()
    optimizer.step()
    return value.item(), {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_step(out: Path, wanted: dict[str, torch.Tensor], start: Path) -> None:
    saved, before = (load_file(folder / "adapter_model.safetensors") for folder in (out, start))
    plain = {name.replace(".default", "").replace("modules_to_save.", ""): value for name, value in wanted.items()}
    assert plain.keys() == saved.keys()
    for name, value in plain.items():
        assert torch.allclose(saved[name], value, atol=2e-6), name
    assert any(not torch.equal(saved[name], before[name]) for name in saved)


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_a_step_on_rankings_is_that_of_the_loss_written_out_pair_by_pair(spec, started, tmp_path):
    """Ragged, with a tie: the mean over prompts of the mean over the decided pairs of each, one forward an answer."""

    def loss(score):
        total = 0.0
        for ranking in RANKINGS:
            r, ranks = score(ranking.prompt, ranking.completions), ranking.ranks
            pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
            assert len(pairs) == {4: 6, 3: 2, 2: 1}[len(ranks)]
            total = total - sum(torch.log(torch.sigmoid(r[i] - r[j])) for i, j in pairs) / len(pairs)
        return total / 3

    value, weights = by_hand(spec, started, loss)
    metrics = fitted(spec, RANKINGS, tmp_path / "out", started, "kwise")
    assert metrics["loss"] == pytest.approx(value, abs=1e-5)
    assert_same_step(tmp_path / "out", weights, started)


def test_every_prompt_weighs_the_same_however_many_answers_it_has():
    """Scores are all 0: each pair's loss is log 2, and its gradient −½ and ½. The two answers of one prompt get ½ of a
    half each; of four answers in order the best wins 3 of 6 pairs and loses none: 3/6 · ½, and the same over 2 prompts."""
    two, four = RANKINGS[2], Ranking(Prompt("w1"), ANSWERS, (1.0, 2.0, 3.0, 4.0))
    learning = reward_losses.KWise()
    rows = [{"ids": [[1]] * len(r.ranks), "ranks": list(r.ranks)} for r in (two, four)]
    batch = learning.batch(rows, 0)
    scores = torch.zeros(6, requires_grad=True)
    loss, delta = learning.loss(scores, batch)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert scores.grad is not None
    worse_first = [0.25, -0.25]  # the second of `two` is the better one
    in_order = [-0.5 * 3 / 6 / 2, -0.5 * 1 / 6 / 2, 0.5 * 1 / 6 / 2, 0.5 * 3 / 6 / 2]
    assert scores.grad.tolist() == pytest.approx([*worse_first, *in_order])
    assert scores.grad[:2].abs().sum() == pytest.approx(0.5)  # one pair: all of its prompt's weight, ½ · 2 · ½
    assert len(delta) == 1 + 6
    alone, _ = learning.loss(torch.zeros(2), learning.batch(rows[:1], 0))
    assert alone.item() == pytest.approx(math.log(2))


def test_an_answer_is_read_once_however_many_pairs_it_is_in(spec, started, tmp_path, monkeypatch):
    read: list[int] = []
    pooled = reward_model.pooled_scores
    monkeypatch.setattr(reward_model, "pooled_scores", lambda m, ids, n: (read.append(len(ids)), pooled(m, ids, n))[1])
    fitted(spec, RANKINGS, tmp_path / "kwise", started, "kwise")
    assert read == [4 + 3 + 2]
    read.clear()
    pairs = [pair for ranking in RANKINGS for pair in ranking.pairs()]
    fitted(spec, pairs, tmp_path / "pairs", started, "pairwise", batch_size=16, micro_batch=16)
    assert read == [2 * (6 + 2 + 1)]


def test_micro_batches_of_rankings_give_the_step_of_the_whole_batch(spec, started, tmp_path):
    rankings = [*RANKINGS, replace(RANKINGS[0], prompt=Prompt("w30"))]
    fitted(spec, rankings, tmp_path / "whole", started, "kwise", batch_size=4, micro_batch=4)
    fitted(spec, rankings, tmp_path / "parts", started, "kwise", batch_size=4, micro_batch=2)
    whole, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert all(torch.allclose(whole[name], parts[name], atol=2e-6) for name in whole)


def test_ranks_that_float32_cannot_tell_apart_are_no_tie(spec, started, tmp_path):
    near = Ranking(Prompt("w1"), ("w2", "w3"), (1.0, 1.0 + 1e-12))
    metrics = fitted(spec, [near] * 2, tmp_path / "out", None, "kwise", lr=0.0)
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)  # 0 if the pair were left out


def test_a_ranking_whose_longest_answer_is_too_long_is_left_out_whole_and_counted(spec, tmp_path):
    long = replace(RANKINGS[0], completions=(*ANSWERS[:3], " ".join(["w9"] * 30)))
    metrics = fitted(spec, [*RANKINGS, long], tmp_path / "out", None, "kwise", max_length=20)
    assert (metrics["rows"], metrics["rows_too_long"]) == (3, 1)


@pytest.mark.parametrize(("loss", "what"), [("kwise", "rankings"), ("best_of_n", "choices"), ("regression", "ratings")])
def test_nothing_to_learn_from_is_said_by_its_name(spec, tmp_path, loss, what):
    with pytest.raises(DataError, match=f"nothing to train on: no {what}"):
        fitted(spec, [], tmp_path / "out", None, loss)


# --- choices ----------------------------------------------------------------------------------------------------------


def test_a_step_on_choices_is_that_of_the_softmax_written_out(spec, started, tmp_path):
    """Of four, of three and of two answers, in one batch."""
    choices = [Ranking.choice(Prompt(f"w{30 + n}"), ANSWERS[:n], best) for n, best in ((4, 2), (3, 0), (2, 1))]

    def loss(score):
        total = 0.0
        for choice in choices:
            r = score(choice.prompt, choice.completions)
            total = total - torch.log(torch.exp(r[choice.best]) / torch.exp(r).sum())
        return total / 3

    value, weights = by_hand(spec, started, loss)
    metrics = fitted(spec, choices, tmp_path / "out", started, "best_of_n")
    assert metrics["loss"] == pytest.approx(value, abs=1e-5)
    assert_same_step(tmp_path / "out", weights, started)


def test_filler_beside_fewer_answers_gets_no_share_and_no_gradient():
    """Scores 0: log 4 and log 2, so (log 4 + log 2) / 2. The first row, which filler points at, gets no more than its own."""
    learning = reward_losses.BestOfN()
    rows = [{"ids": [[1]] * 4, "best": 3}, {"ids": [[1]] * 2, "best": 0}]
    scores = torch.zeros(6, requires_grad=True)
    loss, delta = learning.loss(scores, learning.batch(rows, 0))
    loss.backward()
    assert loss.item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([0.125, 0.125, 0.125, -0.375, -0.25, 0.25])
    assert len(delta) == 3 + 1  # the picked one against each of the others


def test_a_ranking_without_one_best_is_no_choice(spec, tmp_path):
    with pytest.raises(ValueError, match="one best"):
        fitted(spec, [RANKINGS[1]], tmp_path / "out", None, "best_of_n")


# --- ratings ----------------------------------------------------------------------------------------------------------


def test_a_step_on_ratings_is_that_of_the_squared_error_on_standardised_ratings(spec, started, tmp_path):
    """2, 4, 4, 10: mean 5, deviation sqrt((9 + 1 + 1 + 25) / 4) = 3; so −1, −1/3, −1/3, 5/3."""
    wanted = torch.tensor([-1, -1 / 3, -1 / 3, 5 / 3])

    def loss(score):
        r = torch.cat([score(rating.prompt, [rating.completion]) for rating in RATINGS])
        return ((r - wanted) ** 2).mean()

    value, weights = by_hand(spec, started, loss)
    metrics = fitted(spec, RATINGS, tmp_path / "out", started, "regression")
    assert metrics["loss"] == pytest.approx(value, abs=1e-5)
    assert "accuracy" not in metrics
    assert_same_step(tmp_path / "out", weights, started)


def test_scores_learned_from_ratings_are_on_the_labellers_scale(spec, tmp_path):
    """A head at 0 says the mean, 5; and one unit of it is one deviation, 3."""
    fitted(spec, RATINGS, tmp_path / "out", None, "regression", lr=0.0)
    info = json.loads((tmp_path / "out" / "reward.json").read_text())
    assert (info["gain"], info["bias"], info["rating_mean"], info["rating_deviation"]) == (3.0, 5.0, 5.0, 3.0)
    scorer = reward_model.Scorer(spec, tmp_path / "out")
    assert scorer.score([r.prompt for r in RATINGS], [r.completion for r in RATINGS]) == [5.0] * 4


def test_ratings_that_can_be_learnt_are_learnt(spec, tmp_path):
    def rated(pairs: Sequence[Pair]) -> list[Rating]:
        return [Rating(p.prompt, text, value) for p in pairs for text, value in ((p.chosen, 90.0), (p.rejected, 10.0))]

    from rlhf_lora.stages.accuracy import closeness

    settings = {"epochs": 3, "batch_size": 16, "micro_batch": 16, "lr": 1e-2, "eps": 1e-8}
    fitted(spec, rated(make_pairs(96)), tmp_path / "out", None, "regression", **settings)
    new = rated(make_pairs(50, seed=9))
    scores = reward_model.Scorer(spec, tmp_path / "out").score([r.prompt for r in new], [r.completion for r in new])
    figures = closeness(scores, new, 50.0)
    assert figures["rating_mse_of_mean"] == 1600
    assert figures["rating_mse"] < 800
    assert figures["rating_pearson"] > 0.7


def test_ratings_that_are_all_the_same_are_refused(spec, tmp_path):
    with pytest.raises(DataError, match="the 4 ratings to learn from are all 7"):
        fitted(spec, [replace(rating, value=7.0) for rating in RATINGS], tmp_path / "out", None, "regression")


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kwise", "best_of_n", "regression"])
def test_an_interrupted_stage_goes_on_to_the_same_weights(spec, tmp_path, loss):
    pairs = make_pairs(24)
    rows: list[Any] = [Rating(p.prompt, p.chosen, float(i % 5)) for i, p in enumerate(pairs)]
    if loss != "regression":
        rows = [Ranking.choice(p.prompt, (p.rejected, p.chosen, "w1 w2"), 1) for p in pairs]
    settings = replace(ONE_STEP, lr=1e-2, eps=1e-8, batch_size=4, micro_batch=2, epochs=2)
    reward_model.fit(spec, rows, settings, FitContext(tmp_path / "whole", 3, None), loss)
    steps = iter(range(100))
    stop = FitContext(
        tmp_path / "parts", 3, None, work_dir=tmp_path / "work", interrupted=lambda: 15 if next(steps) >= 4 else None
    )
    with pytest.raises(Interrupted):
        reward_model.fit(spec, rows, settings, stop, loss)
    assert not (tmp_path / "parts").exists()
    metrics = reward_model.fit(spec, rows, settings, replace(stop, interrupted=lambda: None), loss)
    assert metrics["steps"] == 12
    whole, parts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_base_whose_padding_is_its_end_token_reads_every_answer_at_its_last_token(tmp_path):
    """One batch of answers of one to nine tokens, against each read alone."""
    spec = ModelSpec(str(make_base(tmp_path / "base", "qwen2", pad="</s>")), load_in_4bit=False)
    model = adapters.attach(load_base(spec, num_labels=1), spec, "SEQ_CLS", None).eval()
    torch.nn.init.normal_(adapters.score_head(model).weight)
    chat, learning = load_chat(spec), reward_losses.KWise()
    rows = [row for row, _ in learning.rows(chat, RANKINGS)]
    batch = learning.batch(rows, chat.fill_id)
    with torch.no_grad():
        together = reward_model.pooled_scores(model, batch["input_ids"], batch["lengths"])
        alone = torch.cat([scores_of(model, chat, r.prompt, r.completions) for r in RANKINGS])
    assert torch.allclose(together, alone, atol=1e-5)


# --- labels -----------------------------------------------------------------------------------------------------------

LABELS = [Label(Prompt(f"w{i}"), f"w{i + 20} w{i + 21}", good) for i, good in enumerate((True, True, False, True))]


def test_a_step_on_labels_is_that_of_the_cross_entropy_written_out_answer_by_answer(spec, started, tmp_path):
    """Three of four are good: the bias is log 3, before any step is taken."""

    def loss(score):
        logits = [score(row.prompt, [row.completion])[0] + math.log(3) for row in LABELS]
        chances = [
            torch.sigmoid(x) if row.good else 1 - torch.sigmoid(x) for x, row in zip(logits, LABELS, strict=True)
        ]
        return -sum(map(torch.log, chances)) / 4

    value, weights = by_hand(spec, started, loss)
    metrics = fitted(spec, LABELS, tmp_path / "out", started, "labels")
    assert metrics["loss"] == pytest.approx(value, abs=1e-5)
    assert_same_step(tmp_path / "out", weights, started)


def test_a_fresh_head_says_the_share_of_the_good_and_the_folder_keeps_it(spec, tmp_path):
    """−(3 log ¾ + log ¼) / 4 = 0.562: no step is needed for it."""
    metrics = fitted(spec, LABELS, tmp_path / "out", None, "labels", lr=0.0)
    assert metrics["loss"] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4, abs=1e-6)
    info = json.loads((tmp_path / "out" / "reward.json").read_text())
    assert (info["gain"], info["logit_of"], info["good_share"]) == (1.0, "good", 0.75)
    assert info["bias"] == pytest.approx(math.log(3))
    scores = reward_model.Scorer(spec, tmp_path / "out").score([row.prompt for row in LABELS], ["w1"] * 4)
    assert scores == pytest.approx([math.log(3)] * 4)


@pytest.mark.parametrize("good", [True, False])
def test_labels_that_are_all_the_same_are_refused(spec, tmp_path, good):
    with pytest.raises(DataError, match=f"the 4 labels to learn from are all {'good' if good else 'bad'}"):
        fitted(spec, [replace(row, good=good) for row in LABELS], tmp_path / "out", None, "labels")
