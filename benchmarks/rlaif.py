"""PPO on a judge's labels beside PPO on people's, where the truth is known: RLAIF against RLHF, one order against both.

    python benchmarks/rlaif.py --seeds 51 52 53 --jobs 2     writes benchmarks/results/rlaif.json; goes on where it stopped
    python benchmarks/rlaif.py --judge-model FOLDER          also a language model that judges, made by
                                                             python -m rlhf_lora.mini judge --to FOLDER
    python benchmarks/rlaif.py --page                        writes docs/results_rlaif.md from that file

The task is `orders`. The data's labels are drawn from the truth with tau; the scripted judge has an error of its own in
what it takes an answer to be worth (`judge.noise`), and likes what it reads first (`judge.first`, in log-odds). All arms learn
from the same answers, and everything but the labels is the default of `rlhf-lora train`. Nothing was chosen by looking.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measured

RESULT = measured.RESULTS / "rlaif.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "results_rlaif.md"
SEEDS = (51, 52, 53)
COMMON = ("dataset.tau=1.0",)
RELABEL = "reward_model.pairs=relabel"
J1 = ("judge=scripted", "judge.truth=orders_gold", "judge.noise=0.7", "judge.first=1.0", RELABEL)
LM = ("judge=local", "judge.path={model}", "judge.style=bare", RELABEL)
PEOPLE = "people (the data's labels)"
ARMS: dict[str, tuple[str, ...]] = {
    PEOPLE: (),
    "judge with a liking for the first, asked once": (*J1, "ai_labels.orders=once"),
    "the same judge, both orders": J1,
    "the same judge, both orders, hard labels": (*J1, "ai_labels.hard=true"),
    "the same judge on the SFT policy's answers": (*J1[:-1], "reward_model.pairs=rollouts"),
    "a language model, asked once": (*LM, "ai_labels.orders=once"),
    "a language model, both orders": LM,
}
ASKED = 500
"""Comparisons by which changes with the order are measured, before and after averaging."""


def overrides_of(arm: str, model: Path | None) -> list[str]:
    """Raises ValueError: the arm needs a language model, and none is given."""
    if any("{model}" in one for one in ARMS[arm]) and model is None:
        raise ValueError(f"'{arm}' needs --judge-model FOLDER")
    return [one.format(model=model) for one in ARMS[arm]]


def measure(
    seed: int, arm: str, run_dir: Path, cache: Path, extra: Sequence[str], model: Path | None = None
) -> dict[str, Any]:
    row = measured.train([f"seed={seed}", *COMMON, *overrides_of(arm, model), *extra], run_dir, cache)
    row["overrides"] = [one.replace(str(model), "MODEL") for one in row["overrides"]]
    return {**row, "order": order(run_dir)}


def won(row: Mapping[str, Any]) -> str:
    return f"wins {row['summary']['gold']['win_rate_vs_reference']:.3f} by gold"


def order(run_dir: Path) -> dict[str, float]:
    """Share of comparisons that come out otherwise when A and B change places: of one question, and of both averaged. The
    second is asked for anew; of a judge that repeats itself it is 0, since both orders are in it. Empty without labels, or
    with a judge that needs the run's base."""
    from omegaconf import OmegaConf

    from rlhf_lora import doors, registry
    from rlhf_lora.assembly import opened
    from rlhf_lora.contracts import Context
    from rlhf_lora.judging.orders import compare
    from rlhf_lora.records import Comparison, Prompt
    from rlhf_lora.row_file import RowFile

    rows = RowFile(run_dir / "labels" / "labels.jsonl").rows()[1 : ASKED + 1]
    config = OmegaConf.load(run_dir / "config.yaml")
    if not rows or config.judge.name == "local":
        return {}
    doors.load_entry_points()
    for file in config.plugins:
        doors.load_file(file)
    judge = opened(registry.build("judge", config.judge), Context(seed=config.seed))
    ones = [Comparison(Prompt(row["prompt"]), *row["answers"]) for row in rows]
    found = {}
    for name, how in (("once", "once"), ("both", "both")):
        a = compare(judge, ones, how)  # type: ignore[arg-type]
        b = compare(judge, [one.swapped for one in ones], how)  # type: ignore[arg-type]
        same = {"A": "B", "B": "A"}
        read = [
            (x.verdict.choice, y.verdict.choice)
            for x, y in zip(a, b, strict=True)
            if x.verdict.choice and y.verdict.choice
        ]
        found[name] = sum(same.get(x, "tie") != y for x, y in read) / len(read)
    return found


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = {
    "wins": "wins against SFT, by the truth",
    "kl": "KL, nats",
    "model": "reward model against the true order",
    "labels": "labels against the true order",
    "order": "changed with the order: one question, both averaged",
    "ties": "ties",
    "calls": "calls",
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line an arm, in every cell its seeds; **mean** in front of what has an interval."""
    lines = ["| labels by | " + " | ".join(HEAD.values()) + " |", "|---" * (len(HEAD) + 1) + "|"]
    for arm in ARMS:
        runs = [row for row in rows if row["arm"] == arm]
        if runs:
            lines.append(f"| {arm} | " + " | ".join(cells(runs)[name] for name in HEAD) + " |")
    return "\n".join(lines)


def cells(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    summaries = [run["summary"] for run in runs]
    labels = [summary.get("ai_labels", {}) for summary in summaries]
    orders = [run["order"] for run in runs]
    asked = all(orders)
    return {
        "wins": measured.rate([summary["gold"] for summary in summaries]),
        "kl": measured.figures([summary["policy"]["kl_to_reference"] for summary in summaries], 2),
        "model": measured.rate(
            [summary["reward_model"] for summary in summaries], "gold_accuracy", "gold_accuracy_ci95"
        ),
        "labels": measured.figures([one.get("gold_agreement") for one in labels]),
        "order": "; ".join(f"{one['once']:.3f}, {one['both']:.3f}" for one in orders) if asked else "–",
        "ties": measured.figures([one.get("ties") for one in labels], 0),
        "calls": measured.figures([one.get("calls") for one in labels], 0),
    }


def page(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return measured.filled(text, {"rlaif": table(rows)})


def main(argv: Sequence[str] | None = None) -> None:
    made = measured.Benchmark(__doc__, RESULT, PAGE, list(ARMS), SEEDS, measure, won, page, table)
    flags = made.parser()
    flags.add_argument(
        "--judge-model", type=Path, help="folder of a language model that judges; without it those arms are left out"
    )
    given = made.asked(flags, argv)
    if given.judge_model is None:
        given.arms = [arm for arm in given.arms if "judge=local" not in ARMS[arm]]
    dataclasses.replace(made, measure=functools.partial(measure, model=given.judge_model)).run(given)


if __name__ == "__main__":
    main()
