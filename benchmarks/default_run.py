"""The embedded default, measured: three arms, fresh seeds, final prompts judged once.

    python benchmarks/default_run.py --seeds 11 12 13        writes benchmarks/results/default_run.json
    python benchmarks/default_run.py --table                 prints the table that stands in README.md

Each seed has a cache of its own, so the learned arm's CPU seconds hold everything: building the base, SFT, reward
model, PPO, evaluation, imports. The other arms take base and SFT from that cache. Settings are the defaults; they were
chosen on tuning prompts with other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "default_run.json"
ARMS = {
    "learned": ("`rlhf-lora train`", ()),
    "gold": ("`rlhf-lora train reward=orders_gold`", ("reward=orders_gold",)),
    "dpo": ("`rlhf-lora train optimizer=dpo`", ("optimizer=dpo",)),
}


def measure(seed: int, arm: str, home: Path, extra: list[str]) -> dict[str, Any]:
    """One run in a process of its own: its summary, and the CPU seconds of the whole process."""
    run_dir = home / "runs" / arm
    command = [sys.executable, "-m", "rlhf_lora", "train", f"seed={seed}", f"run_dir={run_dir}", *ARMS[arm][1], *extra]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "RLHF_LORA_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seed": seed, "arm": arm, "cpu_seconds": round(spent, 1), "summary": summary}


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
        wins = [row["summary"]["gold"]["win_rate_vs_reference"] for row in runs]
        intervals = [row["summary"]["gold"]["win_rate_ci95"] for row in runs]
        each = ", ".join(f"{w:.3f} [{a:.3f}, {b:.3f}]" for w, (a, b) in zip(wins, intervals, strict=True))
        kl = ", ".join(f"{row['summary']['policy']['kl_to_reference']:.1f}" for row in runs)
        accuracy = ", ".join(
            f"{r['summary']['reward_model']['gold_accuracy']:.3f}" for r in runs if "reward_model" in r["summary"]
        )
        cpu = ", ".join(f"{row['cpu_seconds']:.0f}" for row in runs)
        lines.append(f"| {command} | **{statistics.mean(wins):.3f}**: {each} | {kl} | {accuracy or '–'} | {cpu} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--table", action="store_true", help="print the table of the last measurement")
    parser.add_argument("--to", type=Path, default=RESULT)
    given, extra = parser.parse_known_args()
    if given.table:
        print(table(json.loads(given.to.read_text("utf-8"))["runs"]))
        return
    rows = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as home:
            rows += [measure(seed, arm, Path(home), extra) for arm in given.arms]
        found = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "overrides": extra,
            "runs": rows,
        }
        given.to.parent.mkdir(parents=True, exist_ok=True)
        given.to.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
