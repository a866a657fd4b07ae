"""The embedded default, measured: three arms, fresh seeds, final prompts judged once.

    python benchmarks/default_run.py --seeds 11 12 13        writes benchmarks/results/default_run.json
    python benchmarks/default_run.py --table                 prints the table that stands in README.md

Each seed has a cache of its own, so the learned arm's CPU seconds hold everything: building the base, SFT, reward
model, PPO, evaluation, imports. The other arms take base and SFT from that cache. Settings are the defaults; they were
chosen on tuning prompts with other seeds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import measured

RESULT = measured.RESULTS / "default_run.json"
ARMS = {
    "learned": ("`rlhf-lora train`", ()),
    "gold": ("`rlhf-lora train reward=orders_gold`", ("reward=orders_gold",)),
    "dpo": ("`rlhf-lora train optimizer=dpo`", ("optimizer=dpo",)),
}


def measure(seed: int, arm: str, home: Path, extra: list[str]) -> dict[str, Any]:
    overrides = [f"seed={seed}", *ARMS[arm][1], *extra]
    return {"seed": seed, "arm": arm, **measured.train(overrides, home / "runs" / arm, home / "cache")}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per arm, means over seeds with every seed's figure behind."""
    lines = [
        "| command | gold win rate vs SFT | KL (nats) | reward model vs true order | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for arm, (command, _) in ARMS.items():
        runs = [row for row in rows if row["arm"] == arm]
        if not runs:
            continue
        summaries = [row["summary"] for row in runs]
        kl = measured.figures([summary["policy"]["kl_to_reference"] for summary in summaries], 1)
        models = [summary["reward_model"]["gold_accuracy"] for summary in summaries if "reward_model" in summary]
        cpu = measured.figures([row["cpu_seconds"] for row in runs], 0)
        gold = measured.rate([summary["gold"] for summary in summaries])
        lines.append(f"| {command} | {gold} | {kl} | {measured.figures(models) or '–'} | {cpu} |")
    return "\n".join(lines)


def main() -> None:
    parser = measured.parser(__doc__, RESULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given, extra = parser.parse_known_args()
    if given.table:
        print(table(measured.read(given.to)))
        return
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as home:
            for arm in given.arms:
                rows.append(measure(seed, arm, Path(home), extra))
                measured.write(given.to, rows)
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
