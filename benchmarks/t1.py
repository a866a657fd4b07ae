"""What learning does on the task whose truth is known: PPO, DPO and best-of-n against SFT, and controls that must fail.

    python benchmarks/t1.py --seeds 11 12 13 --jobs 2        writes benchmarks/results/t1.json; goes on where it stopped
    python benchmarks/t1.py --page                           writes docs/results.md and docs/results.svg from that file

Settings are the defaults, chosen on tuning prompts with seeds 101-103, but for the splits: 15 % of the prompts are kept
for judging, so that there are 1,000 of them. Curves over a run are judged on the tuning prompts, the tables on the final
ones, once. Each seed has a cache of its own: SFT and reward model are trained once a seed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import full_vs_lora
import measured

RESULT = measured.RESULTS / "t1.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"
SEEDS = (11, 12, 13)
COMMON = (
    "splits={sft: 15, reward_model: 45, prompts: 20, tuning: 5, final: 15}",
    "evaluation.prompts=1000",
)
CURVE = ("evaluation.every=6",)
BETAS = (0.05, 0.1, 0.2, 0.5)
ARMS: dict[str, tuple[str, ...]] = {
    "ppo, learned reward": (*CURVE, "evaluation.best_of_n=[4,16,64]"),
    "ppo, gold rule": ("reward=orders_gold", *CURVE, "evaluation.best_of_n=[4,16]"),
    "ppo, learned reward, no KL penalty": ("optimizer.beta=0", "optimizer.kl_target=null", *CURVE),
    **{f"dpo, beta {beta}": ("optimizer=dpo", f"optimizer.beta={beta}") for beta in BETAS},
    "control: random reward": ("control=random_reward",),
    "control: flipped reward": ("control=flipped_reward",),
    "control: shuffled labels": ("control=shuffled_labels",),
    "control: no learning": ("control=no_learning", "optimizer.updates=6"),
}


def measure(seed: int, arm: str, run_dir: Path, cache: Path, extra: Sequence[str]) -> dict[str, Any]:
    """One run, and its evaluations on the way."""
    row = measured.train([f"seed={seed}", *COMMON, *ARMS[arm], *extra], run_dir, cache)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {**row, "curve": [row for row in rows if row["stage"] == "evaluation"]}


def won(row: Mapping[str, Any]) -> str:
    return f"gold win rate {row['summary']['gold']['win_rate_vs_reference']:.3f}"


# --- the page ---------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| arm | gold win rate vs SFT | gold score | KL (nats) | win rate by its own reward |",
        "|---|---|---|---|---|",
    ]
    for arm in ARMS:
        runs = [row["summary"] for row in rows if row["arm"] == arm]
        if not runs:
            continue
        gold = [run["gold"] for run in runs]
        before, after = (measured.figures([g[k] for g in gold], 2) for k in ("score_mean_reference", "score_mean"))
        own = measured.figures([run["policy"].get("win_rate_vs_reference") for run in runs])
        kl = measured.figures([run["policy"]["kl_to_reference"] for run in runs], 1)
        lines.append(f"| {arm} | {measured.rate(gold)} | {before} → {after} | {kl} | {own} |")
    return "\n".join(lines)


def best_of_n_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| picked by | n | KL at most (nats) | gold win rate vs SFT | gold score |", "|---|---|---|---|---|"]
    for arm, picker in (("ppo, learned reward", "learned reward"), ("ppo, gold rule", "gold rule")):
        runs = [row["summary"]["best_of_n"] for row in rows if row["arm"] == arm]
        for n in runs[0] if runs else ():
            gold = [run[n]["gold"] for run in runs]
            means = measured.figures([part["score_mean"] for part in gold], 2)
            lines.append(f"| {picker} | {n} | {runs[0][n]['kl_bound']:.2f} | {measured.rate(gold)} | {means} |")
    return "\n".join(lines)


def reward_model_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| trained on | accuracy on held-out labels | against the true order |", "|---|---|---|"]
    for arm, named in (
        ("ppo, learned reward", "labels as given"),
        ("control: flipped reward", "labels turned round"),
        ("control: shuffled labels", "labels by a coin"),
    ):
        models = [row["summary"]["reward_model"] for row in rows if row["arm"] == arm]
        if models:
            held = measured.rate(models, "accuracy", "accuracy_ci95")
            lines.append(f"| {named} | {held} | {measured.rate(models, 'gold_accuracy', 'gold_accuracy_ci95')} |")
    for beta in BETAS:
        models = [row["summary"]["implicit_reward"] for row in rows if row["arm"] == f"dpo, beta {beta}"]
        if models:
            held = measured.rate(models, "accuracy", "accuracy_ci95")
            lines.append(
                f"| DPO's implied reward, beta {beta} | {held} | {measured.rate(models, 'gold_accuracy', 'gold_accuracy_ci95')} |"
            )
    return "\n".join(lines)


PROXY, TRUTH, OTHER = "#c2571a", "#1a6e8e", "#6b6b6b"


def draw(rows: list[dict[str, Any]], to: Path) -> None:
    """Gain over SFT against √KL, of the reward that is trained on and of the truth; and win rate against KL of all arms."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "t1", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
    for ax, arm in zip(axes.flat, list(ARMS)[:3], strict=False):
        draw_gain(ax, [row for row in rows if row["arm"] == arm])
        ax.set(title=arm, xlabel="√KL (√nats)", ylabel="gain over SFT")
        ax.legend(frameon=False, loc="best")
    draw_frontier(axes[1, 1], rows)
    figure.savefig(to, metadata={"Date": None})


def draw_gain(ax: Any, runs: list[dict[str, Any]]) -> None:
    """A line a run; rings are best of n by the same reward, judged by the truth."""
    for nth, run in enumerate(runs):
        root_kl = [0.0, *(math.sqrt(max(0.0, row["eval/kl_to_reference"])) for row in run["curve"])]
        for name, place, colour in (("its reward", "eval", PROXY), ("the truth", "eval/gold", TRUTH)):
            gain = [0.0, *(row[f"{place}/score_mean"] - row[f"{place}/score_mean_reference"] for row in run["curve"])]
            ax.plot(root_kl, gain, color=colour, lw=1.2, marker=".", ms=4, label=None if nth else name)
        for i, part in enumerate(run["summary"].get("best_of_n", {}).values()):
            gold = part["gold"]
            label = "the truth, best of n" if nth == i == 0 else None
            ax.plot(math.sqrt(part["kl_bound"]), gold["score_mean"] - gold["score_mean_reference"], "o", mfc="none",
                    color=TRUTH, ms=5, label=label)  # fmt: skip


def draw_frontier(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Gold win rate against KL: DPO's βs of each seed joined, PPO, and best of n by the learned reward."""
    for nth, seed in enumerate(sorted({row["seed"] for row in rows})):
        runs = {row["arm"]: row["summary"] for row in rows if row["seed"] == seed}
        dpo = sorted(
            (runs[arm]["policy"]["kl_to_reference"], runs[arm]["gold"]["win_rate_vs_reference"])
            for arm in runs if arm.startswith("dpo")
        )  # fmt: skip
        ax.plot(
            *zip(*dpo, strict=True), color=OTHER, lw=1, marker="s", ms=4, label=None if nth else "DPO, β 0.5 → 0.05"
        )
        ppo = runs["ppo, learned reward"]
        best = [(part["kl_bound"], part["gold"]["win_rate_vs_reference"]) for part in ppo["best_of_n"].values()]
        ax.plot(*zip(*best, strict=True), color=TRUTH, lw=1, marker="o", mfc="none", ms=5,
                label=None if nth else "best of 4, 16, 64")  # fmt: skip
        ax.plot(ppo["policy"]["kl_to_reference"], ppo["gold"]["win_rate_vs_reference"], "D", color=PROXY, ms=5,
                label=None if nth else "PPO")  # fmt: skip
    ax.set(title="learned reward or its labels", xlabel="KL (nats)", ylabel="gold win rate vs SFT")
    ax.legend(frameon=False, loc="best")


def page(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with its tables filled in: each stands between `<!-- NAME -->` and `<!-- end -->`."""
    tables = {"arms": table(rows), "best of n": best_of_n_table(rows), "reward models": reward_model_table(rows)}
    for name, file in (("full vs lora", full_vs_lora.RESULT), ("full vs lora, gold rule", full_vs_lora.GOLD)):
        tables[name] = full_vs_lora.table(measured.read(file))
    for name, lines in tables.items():
        text = re.sub(
            f"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, t=lines: f"{m[1]}{t}\n{m[2]}", text, flags=re.S
        )
    return text


BENCHMARK = measured.Benchmark(__doc__, RESULT, PAGE, list(ARMS), SEEDS, measure, won, page, table)


def main(argv: Sequence[str] | None = None) -> None:
    given = BENCHMARK.asked(BENCHMARK.parser(), argv)
    BENCHMARK.run(given)
    if given.page:
        draw(measured.read(given.to), PAGE.with_suffix(".svg"))


if __name__ == "__main__":
    main()
