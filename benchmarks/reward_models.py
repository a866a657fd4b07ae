"""What a reward model makes of its labels, where the truth is known: how many, K at a time or in pairs, hard, soft or graded.

    python benchmarks/reward_models.py --seeds 41 42 43 --jobs 2   writes benchmarks/results/reward_models.json; goes on where
                                                                   it stopped
    python benchmarks/reward_models.py --arms "1,000 labels"       some of the arms; overrides behind ` -- `
    python benchmarks/reward_models.py --page                      writes docs/reward_models.md from that file

Nothing was chosen by looking: adapters, learning rate and epochs (4) are the defaults in all arms. `stages=[sft,reward_model]`,
as in a real run: the reward model starts from the SFT adapter, which is trained once a seed and task, before the first arm, so
that an arm's CPU seconds are those of its reward model (and of imports, data and judging). 60 % of the prompts are learned
from, 20 % are judged on; within an experiment and seed all arms are judged on the same replies.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measured

RESULT = measured.RESULTS / "reward_models.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "reward_models.md"
SEEDS = (41, 42, 43)
COMMON = ("stages=[sft,reward_model]", "splits={sft: 15, reward_model: 60, prompts: 0, tuning: 5, final: 20}")
SIZE = ("dataset.tau=1.0", "dataset.pairs=29000")
RANKINGS = ("dataset.tau=1.0", "dataset.answers=4", "dataset.pairs=4000")
SHUFFLED = ("reward_model.loss=pairwise", "reward_model.sort_by_length=false")
LABELS = ("dataset=helpdesk", "dataset.criterion=helpful", "dataset.pairs=21500")
TAUS = (0.5, 1.0)


class Arm(NamedTuple):
    """One setting. `answers`: read in an epoch of its training, for the estimate of what it takes."""

    experiment: str
    overrides: tuple[str, ...]
    answers: int


def _of_labels(kind: str, tau: float, rows: int = 4000) -> Arm:
    settings = (*LABELS, f"dataset.labels={kind}", f"dataset.tau={tau}", f"reward_model.rows={rows}")
    return Arm("labels", settings, 2 * rows)


ARMS: dict[str, Arm] = {
    "1,000 labels": Arm("size", (*SIZE, "reward_model.rows=1000"), 2000),
    "4,000 labels": Arm("size", (*SIZE, "reward_model.rows=4000"), 8000),
    "16,000 labels": Arm("size", (*SIZE, "reward_model.rows=16000"), 32_000),
    "16,000 labels by a coin": Arm("size", (*SIZE, "reward_model.rows=16000", "reward_model.labels=shuffled"), 32_000),
    "rankings, grouped": Arm(
        "rankings", (*RANKINGS, "reward_model.loss=kwise", "reward_model.sort_by_length=false"), 9600
    ),
    # 32 rankings have 192 pairs: as many comparisons and steps as the grouped arm, and only their places differ.
    "their pairs, shuffled": Arm("rankings", (*RANKINGS, *SHUFFLED, "reward_model.batch_size=192"), 28_800),
    "their pairs, sorted by length": Arm(
        "rankings", (*RANKINGS, "reward_model.loss=pairwise", "reward_model.batch_size=192"), 28_800
    ),
    "their pairs, shuffled, 32 a batch": Arm("rankings", (*RANKINGS, *SHUFFLED), 28_800),
    **{
        f"{named}, tau {tau}": arm
        for tau in TAUS
        for named, arm in (
            ("hard labels", _of_labels("hard", tau)),
            ("soft labels (the exact P)", _of_labels("soft", tau)),
            ("votes of three", _of_labels("votes", tau)),
            ("margins", _of_labels("margin", tau)),
            ("hard labels of three times the pairs", _of_labels("hard", tau, 12_000)),
        )
    },
}


# --- one run ----------------------------------------------------------------------------------------------------------


def measure(seed: int, arm: str, run_dir: Path, cache: Path, extra: Sequence[str]) -> dict[str, Any]:
    """One reward model: its summary, the accuracy that training ended with, and what the truth gets on the same pairs."""
    overrides = [f"seed={seed}", *COMMON, *ARMS[arm].overrides, *extra]
    # Comes from the cache but for the first arm of a task, so that the CPU seconds below are those of the reward model.
    measured.train([*overrides, "stages=[sft]"], run_dir.with_name(f"{run_dir.name}-sft"), cache)
    row = measured.train(overrides, run_dir, cache)
    return {**row, "trained": last_epoch(run_dir), "truth": truth(run_dir, row["summary"])}


def told(row: Mapping[str, Any]) -> str:
    return f"{row['summary']['reward_model']['gold_accuracy']:.3f} against the true order"


def last_epoch(run_dir: Path) -> dict[str, float]:
    """What the trainer logged over the last epoch: accuracy on the labels it learns from, each batch before its own step.

    A line of the log is a mean over steps/50 steps; the first one of the epoch may reach into the epoch before.
    """
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
    logged = [line for line in lines if line["stage"] == "reward_model" and "epoch" in line and "accuracy" in line]
    epochs = max(line["epoch"] for line in logged)
    last = [line["accuracy"] for line in logged if line["epoch"] > epochs - 1]
    return {"accuracy": statistics.mean(last), "epochs": epochs, "steps": max(line["step"] for line in logged)}


def truth(run_dir: Path, summary: dict[str, Any]) -> dict[str, float]:
    """The ceiling: what the true scores themselves get on the noisy held-out labels, ties of the truth counted one half; and
    their calibration error as gold / tau, which is what so many labels leave to chance.

    Raises:
        RuntimeError: these are not the pairs that the run was judged on.
    """
    from omegaconf import OmegaConf

    from rlhf_lora import registry
    from rlhf_lora.records import Sample
    from rlhf_lora.splits import Shares, split
    from rlhf_lora.stages.accuracy import accuracy, calibration

    config = OmegaConf.load(run_dir / "config.yaml")
    data = registry.build("dataset", config.dataset).load()
    pairs = split(data, Shares(**config.splits)).final_pairs
    if len(pairs) != summary["reward_model"]["pairs"]:
        raise RuntimeError(f"{len(pairs)} held-out pairs here, {summary['reward_model']['pairs']} in {run_dir}")
    gold = registry.build("reward", {"name": data.gold})
    chosen, rejected = (
        gold.score([Sample(p.prompt.text, getattr(p, side), columns=p.prompt.columns) for p in pairs])
        for side in ("chosen", "rejected")
    )
    chosen, rejected = ([score.value / config.dataset.tau for score in scores] for scores in (chosen, rejected))
    best = accuracy(chosen, rejected, pairs)
    error = calibration(chosen, rejected, pairs)["calibration_error"]
    return {"accuracy": best["accuracy"], "accuracy_ci95": best["accuracy_ci95"], "calibration_error": error}


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = {
    "labels": "accuracy on held-out labels",
    "ceiling": "the truth on them",
    "order": "against the true order",
    "error": "calibration error (the truth's)",
    "train": "on its training labels, last epoch",
    "gap": "train − held out",
    "pairs": "held-out pairs",
    "cpu": "CPU s",
}


def table(rows: list[dict[str, Any]], experiment: str) -> str:
    """One line an arm, in every cell its seeds; **mean** in front of what has an interval."""
    lines = ["| arm | " + " | ".join(HEAD.values()) + " |", "|---" * (len(HEAD) + 1) + "|"]
    for arm in (name for name, arm in ARMS.items() if arm.experiment == experiment):
        runs = [row for row in rows if row["arm"] == arm]
        if runs:
            lines.append(f"| {arm} | " + " | ".join(cells(runs)[name] for name in HEAD) + " |")
    return "\n".join(lines)


def cells(runs: list[dict[str, Any]]) -> dict[str, str]:
    models, truths = [run["summary"]["reward_model"] for run in runs], [run["truth"] for run in runs]
    ended, held = [run["trained"]["accuracy"] for run in runs], [model["accuracy"] for model in models]
    own, floor = (measured.figures([part["calibration_error"] for part in parts]) for parts in (models, truths))
    gaps = [train - test for train, test in zip(ended, held, strict=True)]
    return {
        "labels": measured.rate(models, "accuracy", "accuracy_ci95"),
        "ceiling": measured.figures([part["accuracy"] for part in truths]),
        "order": measured.rate(models, "gold_accuracy", "gold_accuracy_ci95"),
        "error": f"{own} ({floor})",
        "train": measured.figures(ended),
        "gap": f"**{statistics.mean(gaps):+.3f}**: " + ", ".join(f"{gap:+.3f}" for gap in gaps),
        "pairs": measured.figures([model["pairs"] for model in models], 0),
        "cpu": measured.figures([run["cpu_seconds"] for run in runs], 0),
    }


def page(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with its tables filled in."""
    return measured.filled(
        text, {name: table(rows, name) for name in dict.fromkeys(a.experiment for a in ARMS.values())}
    )


# --- the command ------------------------------------------------------------------------------------------------------

START_S, ANSWER_S, FIRST_S = 35.0, 0.9e-3, 60.0
"""CPU seconds of a run without its training; of an answer in an epoch; of base and SFT, once a task."""


def minutes(experiment: str) -> float:
    """CPU minutes of one experiment for one seed, about."""
    answers = [4 * arm.answers for arm in ARMS.values() if arm.experiment == experiment]
    return (FIRST_S + len(answers) * START_S + ANSWER_S * sum(answers)) / 60


def estimate() -> str:
    names = dict.fromkeys(arm.experiment for arm in ARMS.values())
    each = ", ".join(f"{name} {minutes(name):.0f}" for name in names)
    total = len(SEEDS) * sum(map(minutes, names))
    return f"CPU minutes, about: {total:.0f} for all arms and three seeds; a seed: {each}."


def show(rows: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(arm.experiment for arm in ARMS.values())
    return "\n\n".join(f"{name}\n{table(rows, name)}" for name in names)


BENCHMARK = measured.Benchmark(f"{__doc__}\n{estimate()}", RESULT, PAGE, list(ARMS), SEEDS, measure, told, page, show)


if __name__ == "__main__":
    BENCHMARK.main()
