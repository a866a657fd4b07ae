"""A problem small enough to be computed: every answer there is, its reward, its probability, and the best policy.

Six tokens, answers of at most three: 156 of them. With a fixed reward for each, what an optimizer should converge to is
known in closed form (Rafailov et al. 2023, eq. 4; the same in Ziegler et al. 2019):

    J(π) = E_π[r] − β KL(π‖ρ),    π*(y) = ρ(y) e^{r(y)/β} / Z,    J* = J(π*) = β log Z

The policy is a real language model with LoRA on a frozen base, sampled and trained by the loop that trains any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_lora.backbone import Backbone
from rlhf_lora.model_spec import LoraSpec, ModelSpec
from rlhf_lora.records import Prompt, Sample, named_seed

WORDS = ("a", "b", "c", "d", "e")
LONGEST = 3
PROMPT = Prompt("")
"""Read as the end token alone. A word would be no better: behind it the same word again looks the same, to attention
without absolute positions, and the best policy could not be reached."""


def build_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers that speaks six tokens, in Transformers layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate((*WORDS, "</s>"))}
    words = Tokenizer(models.WordLevel(ids, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        vocab_size=len(ids), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=16, bos_token_id=None, eos_token_id=ids["</s>"], pad_token_id=None,
        tie_word_embeddings=False, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "enumerable/model") % 2**31)
        LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    return folder


def spec(folder: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(str(folder), **{"lora": LoraSpec(r=16, alpha=32), "load_in_4bit": False, **changes})


@dataclass(frozen=True)
class Exact:
    """Distances of one policy, in nats and in units of reward."""

    reward: float
    kl: float
    objective: float
    kl_to_best: float


class Enumerable:
    """All answers to `PROMPT`, their rewards and the reference's probabilities.

    Args:
        backbone: with the roles policy and reference, on the model of `build_model`.
        beta: KL strength that the objective is defined with.
        seed: of the rewards, drawn from N(0, 1).
        longest: tokens of an answer at most; with 1 a token's KL is the whole answer's.
    """

    def __init__(self, backbone: Backbone, beta: float, seed: int = 0, longest: int = LONGEST):
        end = backbone.chat.end_id
        words = range(len(WORDS))
        ended = [(*said, end) for n in range(longest) for said in itertools.product(words, repeat=n)]
        self.answers: list[tuple[int, ...]] = [*ended, *itertools.product(words, repeat=longest)]
        self.backbone, self.beta = backbone, beta
        stream = torch.Generator().manual_seed(named_seed(seed, "enumerable/rewards"))
        self.rewards_N = torch.randn(len(self.answers), generator=stream, dtype=torch.float64)
        self._reward_of = dict(zip(self.answers, self.rewards_N.tolist(), strict=True))
        self.reference_N = self.logprobs("reference")
        tilted_N = self.reference_N + self.rewards_N / beta
        self.best_objective = beta * float(tilted_N.logsumexp(0))
        self.best_N = tilted_N - tilted_N.logsumexp(0)

    def logprobs(self, role: str) -> Tensor:
        """log π(y) of each answer, shape (N,), float64. They sum to one: answers are all that can be said."""
        prompt = self.backbone.chat.prompt_ids(PROMPT)
        rows = self.backbone.sequence_logprobs(role, [prompt] * len(self.answers), [list(y) for y in self.answers], 1.0)
        return torch.tensor([sum(row) for row in rows], dtype=torch.float64)

    def measure(self, logprobs_N: Tensor) -> Exact:
        """J, E[r], KL(π‖ρ) and KL(π‖π*) of a policy, without sampling."""
        probabilities_N = logprobs_N.exp()
        reward = float((probabilities_N * self.rewards_N).sum())
        kl = float((probabilities_N * (logprobs_N - self.reference_N)).sum())
        to_best = float((probabilities_N * (logprobs_N - self.best_N)).sum())
        return Exact(reward, kl, reward - self.beta * kl, to_best)

    def share_of_best(self, logprobs_N: Tensor) -> float:
        """(J(π) − J(ρ)) / (J* − J(ρ)): 0 at the reference, 1 at the best policy."""
        start = self.measure(self.reference_N).objective
        return (self.measure(logprobs_N).objective - start) / (self.best_objective - start)

    def best_for_forward_kl(self) -> Tensor:
        """log of the policy that is best for E_π[r] − β KL(ρ‖π): βρ/(λ − r), with λ such that it sums to one, shape (N,).

        What GRPO's published k3 penalty leads to where answers are one token long. λ is found by bisection.
        """
        weights_N, low = self.beta * self.reference_N.exp(), float(self.rewards_N.max())
        high = low + self.beta + 1.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if float((weights_N / (middle - self.rewards_N)).sum()) > 1 else (low, middle)
        return (weights_N / (high - self.rewards_N)).log()

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """As a reward source."""
        return [self._reward_of[tuple(sample.tokens or ())] for sample in samples]
