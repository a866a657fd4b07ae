"""How far the kit may be from another release's PPO: the bounds of `tests/agreement`, and its part of docs/conformance.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent / "agreement"


class Agreement(NamedTuple):
    """One comparison; `at_most` is the largest absolute difference of any entry of any draw that its test lets pass."""

    ours: str
    theirs: str
    at_most: float
    test: str


ADVANTAGES, LOSSES = (
    "test_advantages_and_returns_of_full_answers_agree",
    "test_policy_and_value_loss_and_their_gradients_agree",
)

AGREEMENTS: dict[str, Agreement] = {
    "mean": Agreement("`advantages.masked_mean`", "`masked_mean`", 1e-12, "test_masked_mean_agrees"),
    "whiten": Agreement(
        "`advantages.whiten`, mean kept or not",
        "`masked_whiten`, with `masked_var(unbiased=False)` in it",
        1e-12,
        "test_whitening_agrees_with_the_variance_of_the_population",
    ),
    "kl": Agreement("`kl.k1`, `kl.k3`", "`train`, step 4: `kl`", 1e-12, "test_kl_per_token_agrees"),
    "gae": Agreement(
        "`advantages.gae`, answers of any length", "`train`, step 6", 1e-12, "test_gae_agrees_on_answers_of_any_length"
    ),
    "shaped": Agreement(
        "`optimizer=ppo`: `advantages(batch)` with its figures, rewards whitened or not, full answers",
        "`train`, steps 4 to 6, population variance",
        1e-12,
        ADVANTAGES,
    ),
    "behind": Agreement(
        "`optimizer=ppo score_position=after_end`: `advantages(batch)` and the value loss, rewards whitened or not, answers of "
        "any length",
        "`train`, steps 4 to 6, population variance, and a micro-batch",
        1e-12,
        "test_with_the_score_behind_the_end_answers_of_any_length_agree",
    ),
    "older advantages": Agreement(
        "the same with `kl.k2`, answers of any length",
        "0.11.4: `compute_rewards`, `compute_advantages`",
        1e-12,
        "test_rewards_advantages_and_k2_agree_with_the_older_release_at_any_length",
    ),
    "losses": Agreement(
        "`ppo.policy_loss`, `ppo.value_loss`, and gradients with respect to logits and values, answers of any length",
        "`train`, a micro-batch",
        1e-12,
        LOSSES,
    ),
    "shares": Agreement("`clipfrac` of both", "`train`, a micro-batch; in float32", 1e-7, LOSSES),
    "optimizer": Agreement(
        "`optimizer=ppo`: `loss(minibatch)` with its figures, full answers",
        "`train`, a micro-batch",
        1e-12,
        "test_the_loss_of_the_optimizer_agrees_on_full_answers",
    ),
    "older losses": Agreement(
        "losses, `approxkl`, `ratio`, answers of any length",
        "0.11.4: `PPOTrainer.loss`",
        1e-12,
        "test_losses_and_figures_agree_with_the_older_release_at_any_length",
    ),
    "logprobs": Agreement(
        "`logprobs.selected`, in chunks; float32",
        "`selective_log_softmax`; 0.11.4: `logprobs_from_logits`",
        2e-5,
        "test_logprobs_in_chunks_agree_with_both_releases",
    ),
    "entropy": Agreement(
        "`logprobs.entropy`, in chunks; float32",
        "`entropy_from_logits`, and `train`, a micro-batch; 0.11.4: `entropy_from_logits`",
        2e-5,
        "test_entropy_in_chunks_agrees_with_both_releases",
    ),
    "controller": Agreement(
        "`kl.AdaptiveKL` over 20 updates, relative",
        "0.11.4: `AdaptiveKLController`; 1.12.0 has none",
        1e-12,
        "test_the_kl_controller_agrees_over_20_updates",
    ),
    "update": Agreement(
        "adapters and value head after one update of four passes; float32",
        "`PPOTrainer.train` itself, population variance",
        5e-6,
        "test_four_passes_over_a_rollout_end_at_the_same_weights",
    ),
    "figures": Agreement(
        "ten figures of that update",
        "what `PPOTrainer` logs of it",
        1e-6,
        "test_an_update_is_told_in_the_same_figures",
    ),
}

HEAD = """## Agreement with trl 1.12.0

The tests above are the kit's own reading of its sources. Here its functions are given the same 1,000 random draws (shapes,
lengths, scales and settings drawn; float64 unless said otherwise) as the PPO of trl 1.12.0, the last release that has it.
Functions of that release are called; what stands inside `PPOTrainer.train` is cut out of the installed file and run; and one
update is made by the trainer itself, on a tiny Llama. What only an older release has is held against trl 0.11.4.

Neither release is a dependency: `pytest tests/agreement -m slow -rP` has pip put each into a folder of its own, and prints the
differences found. Without a package index that is a failure, or, with `RLHF_LORA_TEST_OFFLINE=1`, a skip that says so.
"""
APART = """### Where trl 1.12.0 differs

Each by itself, held by `tests/agreement/test_trl_differences.py` on both sides.
"""


def bound(name: str) -> float:
    return AGREEMENTS[name].at_most


def section() -> str:
    rows = [
        f"| {a.ours} | {a.theirs} | {a.at_most:.0e} | `{a.test}` |".replace("e-0", "e-") for a in AGREEMENTS.values()
    ]
    table = "\n".join(["| the kit | trl 1.12.0 | differs by at most | test |", "|---|---|---|---|", *rows])
    return f"{HEAD}\n{table}\n\n{APART}\n{differences()}\n"


def differences() -> str:
    """The docstrings of the tests of differences, as a table.

    Raises:
        ValueError: a docstring without its three parts.
    """
    lines = ["| trl 1.12.0 | size | why the kit does otherwise | test |", "|---|---|---|---|"]
    for node in tests("test_trl_differences.py"):
        told = re.fullmatch(r"(.+)\n\nSize: (.+)\nWhy: (.+)", ast.get_docstring(node) or "", re.DOTALL)
        if told is None:
            raise ValueError(f"{node.name} wants a docstring of sentence, Size and Why")
        cells = [" ".join(part.split()).replace("|", r"\|") for part in told.groups()]
        lines.append(f"| {' | '.join(cells)} | `{node.name}` |")
    return "\n".join(lines)


def tests(file: str) -> list[ast.FunctionDef]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
