"""Several rounds where the truth is known: rejection sampling over three of them, and PPO against a reward model that stays
what it was beside one that is shown answers of the newest policy, for as many labels.

    python benchmarks/rounds.py --seeds 71 72 73 --jobs 2   writes benchmarks/results/rounds.json; goes on where it stopped
    python benchmarks/rounds.py --page                      fills the tables of docs/rounds.md from that file

The task is `orders`; people are its annotator, who errs as the data's labels do (`refresh.tau`). All arms see the same prompts,
and everything else is the default of `rlhf-lora train`. Nothing was chosen by looking.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measured

RESULT = measured.RESULTS / "rounds.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "rounds.md"
SEEDS = (71, 72, 73)
COMMON = ("rounds=3",)
SAMPLING = "optimizer=rejection_sampling"
FRESH = ("reward_model.rows=2000", "refresh.by=orders_gold", "refresh.pairs=1000", "refresh.tau=0.5")
ARMS: dict[str, tuple[str, ...]] = {
    "rejection sampling": (SAMPLING,),
    "… from a pool of all rounds": (SAMPLING, "optimizer.pool=true"),
    "… reward model of 4,000 labels": (SAMPLING, "reward_model.rows=4000"),
    "PPO, frozen: 4,000 labels before the first round": ("reward_model.rows=4000",),
    "PPO, fresh: 2,000, then 1,000 before each later round": FRESH,
}
OF = (2, 4, 8)
"""How many samples the best is picked from, for the gap between the best and the median."""


def measure(seed: int, arm: str, run_dir: Path, cache: Path, extra: Sequence[str]) -> dict[str, Any]:
    row = measured.train([f"seed={seed}", *COMMON, *ARMS[arm], *extra], run_dir, cache)
    return {**row, "gaps": gaps(run_dir)}


def gaps(run_dir: Path) -> dict[str, float]:
    """How far the best of the first 2, 4 and 8 answers lies above their median, by the reward, in the mean over prompts of
    the first round; empty where no answers were sampled for the reward to choose from."""
    from rlhf_lora.run_folder import RunFolder

    scores: dict[str, list[float]] = {}
    for row in RunFolder(run_dir).read_samples("answers_1"):
        scores.setdefault(row["prompt"], []).append(row["score"])
    if not scores:
        return {}
    return {str(n): statistics.mean(max(of[:n]) - statistics.median(of[:n]) for of in scores.values()) for n in OF}


def told(row: Mapping[str, Any]) -> str:
    return "wins by gold " + ", ".join(
        f"{one['gold']['win_rate_vs_reference']:.3f}" for one in row["summary"]["rounds"]
    )


# --- the page ---------------------------------------------------------------------------------------------------------


def by_round(rows: Sequence[Mapping[str, Any]], arm: str) -> list[list[Mapping[str, Any]]]:
    """Of each round what every seed came to."""
    runs = [row["summary"]["rounds"] for row in rows if row["arm"] == arm]
    return [list(of) for of in zip(*runs, strict=True)]


def sampling(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rejection sampling, a line a round, in every cell its seeds."""
    lines = [
        "| arm | round | wins against SFT, by the truth | wins by its reward | KL, nats | best above median |",
        "|---|---|---|---|---|---|",
    ]
    for arm in (arm for arm in ARMS if ARMS[arm][0] == SAMPLING):
        for number, of in enumerate(by_round(rows, arm), 1):
            own, kl = ([one["policy"][name] for one in of] for name in ("win_rate_vs_reference", "kl_to_reference"))
            gap = measured.figures([one["answers"]["max_median_gap"] for one in of], 2)
            wins = measured.rate([one["gold"] for one in of])
            lines.append(f"| {arm} | {number} | {wins} | {measured.figures(own)} | {measured.figures(kl, 2)} | {gap} |")
    return "\n".join(lines)


def of_more(rows: Sequence[Mapping[str, Any]]) -> str:
    """What sampling more is worth."""
    lines = ["| samples | best above their median, by the reward |", "|---|---|"]
    runs = [row for row in rows if row["arm"] == next(iter(ARMS))]
    return "\n".join([*lines, *(f"| {n} | {measured.figures([run['gaps'][str(n)] for run in runs], 2)} |" for n in OF)])


def refreshed(rows: Sequence[Mapping[str, Any]]) -> str:
    """PPO, a line a round: what the policy came to, and how the reward model that it was trained against reads the truth."""
    lines = [
        "| reward model | round | wins against SFT, by the truth | wins by its reward | KL, nats | the reward model "
        "against the true order | the one before on these answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in (arm for arm in ARMS if ARMS[arm][0] != SAMPLING):
        for number, of in enumerate(by_round(rows, arm), 1):
            own, kl = ([one["policy"][name] for one in of] for name in ("win_rate_vs_reference", "kl_to_reference"))
            models = [one.get("reward_model", {}) for one in of]
            order = measured.figures([model.get("gold_accuracy") for model in models])
            stale = measured.figures([model.get("new", {}).get("accuracy_before") for model in models])
            wins = measured.rate([one["gold"] for one in of])
            lines.append(
                f"| {arm} | {number} | {wins} | {measured.figures(own)} | {measured.figures(kl, 2)} | {order} | {stale} |"
            )
    return "\n".join(lines)


PARTS = {"sampling": sampling, "of more": of_more, "refreshed": refreshed}


def page(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return measured.filled(text, {name: part(rows) for name, part in PARTS.items()})


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(part(rows) for part in PARTS.values())


BENCHMARK = measured.Benchmark(__doc__, RESULT, PAGE, list(ARMS), SEEDS, measure, told, page, show)


if __name__ == "__main__":
    BENCHMARK.main()
