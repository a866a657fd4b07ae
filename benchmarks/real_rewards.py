"""Reward models on real comparisons, on a CPU and without a model hub: pairs by people and by GPT-4, and rankings.

    python benchmarks/real_rewards.py --data FOLDER --seeds 51 52 53   writes benchmarks/results/real_rewards.json; goes on
                                                                       where it stopped, with the same --base
    python benchmarks/real_rewards.py --data FOLDER --arms hh-harmless some of the arms; overrides behind ` -- `
    python benchmarks/real_rewards.py --page                           writes docs/real_rewards.md from that file

FOLDER has hh-harmless/, helpful-ai-pairs/, human-pairs/ and ranked/. First a small base is pretrained on their training texts
(`real_base.py`), once for all seeds; it is used as any model is, by `model.path`. Nothing was chosen by looking at held-out
rows: adapters and learning rate are the kit's defaults, and epochs and rows were set by what a CPU can read in the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import measured
import real_base

RESULT = measured.RESULTS / "real_rewards.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "real_rewards.md"
SEEDS = (51, 52, 53)
COMMON = (
    "stages=[reward_model]",
    "dataset=jsonl",
    "splits={" + ", ".join(f"{name}: {share}" for name, share in real_base.SHARES.items()) + "}",
)
PAIRS = ("reward_model.loss=pairwise", "reward_model.epochs=1")


class Arm(NamedTuple):
    """One setting. `tokens`, `judged`: thousands that are read in training and in judging, about, for the estimate."""

    files: str
    overrides: tuple[str, ...]
    tokens: int
    judged: int


ARMS: dict[str, Arm] = {
    "hh-harmless": Arm("hh-harmless", PAIRS, 465, 110),
    "hh-harmless, labels by a coin": Arm("hh-harmless", (*PAIRS, "reward_model.labels=shuffled"), 465, 110),
    "helpful-ai-pairs": Arm("helpful-ai-pairs", (*PAIRS, "reward_model.rows=1000"), 460, 420),
    "human-pairs/autoj": Arm("human-pairs/autoj", PAIRS, 275, 215),
    # Eight answers to a prompt: in their 28 pairs each is read seven times. So seven epochs of the rankings read as much as one
    # of their pairs, and batches of 8 rankings and 28 pairs make about as many steps. 1,070 pairs: those of the first 40.
    "ranked/alpaca_eval_k, K together": Arm(
        "ranked/alpaca_eval_k",
        ("reward_model.loss=kwise", "reward_model.rows=40", "reward_model.epochs=7", "reward_model.batch_size=8"),
        520,
        290,
    ),
    "ranked/alpaca_eval_k, in pairs": Arm(
        "ranked/alpaca_eval_k",
        ("reward_model.loss=pairwise", "reward_model.rows=1070", "reward_model.epochs=1", "reward_model.batch_size=28"),
        520,
        290,
    ),
    # Four answers, about three of the six comparisons each: three epochs of the rankings for one of the pairs.
    "ranked/qa_feedback, K together": Arm(
        "ranked/qa_feedback", ("reward_model.loss=kwise", "reward_model.epochs=3", "reward_model.batch_size=8"), 310, 40
    ),
    "ranked/qa_feedback, in pairs": Arm("ranked/qa_feedback", PAIRS, 295, 40),
}
CONTROL = "hh-harmless, labels by a coin"


# --- one run ----------------------------------------------------------------------------------------------------------


def overrides_of(arm: str, seed: int) -> list[str]:
    """All but where the data and the base lie."""
    return [f"seed={seed}", *COMMON, *ARMS[arm].overrides]


def measure(
    seed: int, arm: str, places: Sequence[str], held: set[str], run_dir: Path, cache: Path, extra: Sequence[str]
) -> dict[str, Any]:
    """One reward model: its summary, and what became of the rows. Where data and base lie is not written down.

    Args:
        places: overrides that name the data's files and the base.
        held: the prompts that the base was kept from.

    Raises:
        RuntimeError: the run is judged on other prompts, or on other pairs than are counted here.
    """
    overrides = overrides_of(arm, seed)
    rows = rows_of([*overrides, *places, *extra, f"run_dir={run_dir}"], held)
    row = measured.train([*overrides, *places, *extra], run_dir, cache)
    if row["summary"]["reward_model"]["pairs"] != rows["held_out_pairs"]:
        raise RuntimeError(f"{rows['held_out_pairs']} held-out pairs here, not as many in the summary of {arm}")
    figures = {name: row["summary"][name] for name in ("status", "reward_model", "reused")}
    return {"seed": seed, "arm": arm, "cpu_seconds": row["cpu_seconds"], "overrides": [*overrides, *extra],
            "summary": figures, "rows": rows}  # fmt: skip


def rows_of(overrides: Sequence[str], held: set[str]) -> dict[str, Any]:
    """What the plan makes of the rows of the files, test file included: used, or not used with the reason."""
    from rlhf_lora import token_rows
    from rlhf_lora.config import compose
    from rlhf_lora.loading import load_chat
    from rlhf_lora.plan import make_plan
    from rlhf_lora.stages.reward_losses import loss_of

    plan = make_plan(compose(*overrides))
    pairs, chat, longest = plan.splits.final_pairs, load_chat(plan.spec), plan.config.reward_model.max_length
    if not plan.splits.held_out() <= held:
        raise RuntimeError("the base may have read prompts that this run is judged on")
    records = plan.rows(plan.stage("reward_model"))
    learning = loss_of(plan.config.reward_model.loss, records)
    trained = token_rows.rows_of(learning.rows(chat, records), plan.settings("reward_model"), learning.learns_from)
    parts = [part for source in plan.sources.every for part in (source.data, source.data.test) if part is not None]
    sides = {(pair.prompt.text, side): pair.prompt for pair in pairs for side in (pair.chosen, pair.rejected)}
    cut = {
        key
        for key, prompt in sides.items()
        if len(chat.prompt_ids(prompt)) + len(chat.response_ids(key[1], prompt=prompt)) > longest
    }
    return {
        "in_files": sum((part.rows or 0) + len(part.unused) for part in parts),
        "unused": dict(Counter(row.reason for row in plan.splits.unused)),
        "left_out": dict(sum((Counter(part.left_out) for part in parts), Counter())),
        "learned_from": plan.stage("reward_model").reads,
        "trained_on": len(trained),
        "too_long": trained.too_long,
        "held_out_pairs": len(pairs),
        "held_out_prompts": len({pair.prompt.split_key for pair in pairs}),
        "held_out_longer": sum(
            bool({(pair.prompt.text, pair.chosen), (pair.prompt.text, pair.rejected)} & cut) for pair in pairs
        ),
    }


def measure_all(given: argparse.Namespace, extra: list[str]) -> list[dict[str, Any]]:
    """Every arm for every seed that the file does not have yet.

    Raises:
        RuntimeError: what the file has was measured on another base.
    """
    from rlhf_lora.model_spec import base_hash

    runs = measured.read(given.to) if given.to.is_file() else []
    known, lock = {(run["seed"], run["arm"]) for run in runs}, threading.Lock()
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(given.jobs) as pool:
        folder = given.base or Path(home) / "base"
        base = real_base.ensure(given.data, folder, given.base_settings)
        base["hash"] = base_hash(str(folder))
        if runs and json.loads(given.to.read_text("utf-8"))["base"]["hash"] != base["hash"]:
            raise RuntimeError(f"{given.to} was measured on another base: give its folder by --base, or another --to")
        held = real_base.held_out(real_base.splits_of(given.data))

        def one(seed: int, arm: str) -> None:
            where = real_base.settings_of(given.data.resolve(), ARMS[arm].files)
            places = [f"model.path={folder.resolve()}", *(f"dataset.{name}={file}" for name, file in where.items())]
            run_dir = Path(home) / "runs" / f"{seed}-{list(ARMS).index(arm)}"
            run = measure(seed, arm, places, held, run_dir, Path(home) / "cache", extra)
            with lock:
                runs.append(run)
                runs.sort(key=lambda r: (r["seed"], list(ARMS).index(r["arm"])))
                measured.write(given.to, runs, base=base)
            model = run["summary"]["reward_model"]
            shares = f"{model['accuracy']:.3f}, length alone {model['length_baseline']:.3f}"
            print(f"seed {seed}  {arm}: {shares}, {run['cpu_seconds']:.0f} s", flush=True)

        todo = [(seed, arm) for seed in given.seeds for arm in given.arms if (seed, arm) not in known]
        list(pool.map(lambda run: one(*run), todo))
    return runs


# --- the page ---------------------------------------------------------------------------------------------------------


def table(runs: list[dict[str, Any]]) -> str:
    """One line an arm, in every cell its seeds; **mean** in front of what has an interval."""
    head = ("accuracy", "the longer answer", "where the longer was chosen", "where the shorter was chosen",
            "calibration error", "CPU s")  # fmt: skip
    lines = ["| data, loss | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for arm in ARMS:
        of_arm = [run for run in runs if run["arm"] == arm]
        models = [run["summary"]["reward_model"] for run in of_arm]
        if models:
            shares = ("accuracy", "length_baseline", "accuracy_where_longer_chosen", "accuracy_where_shorter_chosen")
            # Length alone is the same whatever the seed: one figure, where the pairs are the same.
            cells = [one_rate(models, name) for name in shares]
            cells.append(measured.figures([model["calibration_error"] for model in models]))
            cells.append(measured.figures([run["cpu_seconds"] for run in of_arm], 0))
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def one_rate(models: Sequence[dict[str, Any]], name: str) -> str:
    """As `measured.rate`, but said once where every seed has the same."""
    same = len({str((model.get(name), model.get(f"{name}_ci95"))) for model in models}) == 1
    if same and name in models[0]:
        low, high = models[0][f"{name}_ci95"]
        return f"{models[0][name]:.3f} [{low:.3f}, {high:.3f}]"
    return measured.rate(models, name, f"{name}_ci95")


def rows_table(runs: list[dict[str, Any]]) -> str:
    """One line an arm: the same for every seed, since splits do not depend on it."""
    head = ("rows in the files", "not used", "learned from", "too long to learn from", "held-out pairs (prompts)",
            "of them, shorter chosen", "of them, longer than was trained on")  # fmt: skip
    lines = ["| data, loss | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for arm in ARMS:
        run = next((run for run in runs if run["arm"] == arm), None)
        if run:
            rows, shorter = run["rows"], run["summary"]["reward_model"]["pairs_where_shorter_chosen"]
            lines.append(
                f"| {arm} | {rows['in_files']:,} | {reasons(rows)} | {rows['trained_on']:,} {rows['learned_from']} "
                f"| {rows['too_long']} | {rows['held_out_pairs']:,} ({rows['held_out_prompts']}) | {shorter:,} "
                f"| {rows['held_out_longer']:,} |"
            )
    return "\n".join(lines)


def reasons(rows: dict[str, Any]) -> str:
    found = [f"{count:,} {reason}" for reason, count in rows["unused"].items()]
    found += [f"{count:,} comparisons: {reason}" for reason, count in rows["left_out"].items()]
    return "; ".join(found) or "none"


def base_line(base: dict[str, Any]) -> str:
    """What the base is made of, in a sentence."""
    return (
        f"{base['parameters']:,} parameters, {base['settings']['vocabulary']:,} tokens in the vocabulary; pretrained for "
        f"{base['settings']['steps']} steps on {base['texts']:,} texts of {base['tokens']:,} tokens, without the "
        f"{base['held_out_prompts']:,} prompts that any run is judged on, in {base['cpu_seconds']:.0f} CPU seconds: loss "
        f"{base['first_loss']:.2f} → {base['last_loss']:.2f} nats per token."
    )


def page(text: str, runs: list[dict[str, Any]], base: dict[str, Any]) -> str:
    """The page with its tables filled in."""
    return measured.filled(text, {"base": base_line(base), "accuracy": table(runs), "rows": rows_table(runs)})


# --- the command ------------------------------------------------------------------------------------------------------

BASE_S, START_S, TRAIN_S, JUDGE_S = 300.0, 25.0, 0.24, 0.10
"""CPU seconds, on a machine with other work to do: of the base; of a run that learns and judges nothing; of a thousand tokens
that are learned from, and judged."""


def seconds(arm: Arm) -> float:
    """CPU seconds of one arm for one seed, about."""
    return START_S + TRAIN_S * arm.tokens + JUDGE_S * arm.judged


def minutes(seeds: int = len(SEEDS)) -> float:
    """CPU minutes of base and all arms, about."""
    return (BASE_S + seeds * sum(map(seconds, ARMS.values()))) / 60


def estimate() -> str:
    each = ", ".join(f"{name} {seconds(arm):.0f}" for name, arm in ARMS.items())
    return f"CPU minutes, about: {minutes():.0f} for base, all arms and three seeds. CPU seconds of an arm: {each}."


def main(argv: Sequence[str] | None = None) -> None:
    parser = measured.parser(f"{__doc__}\n{estimate()}", RESULT)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help="; ".join(ARMS)
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--base", type=Path, help="build the base here, or take the one that is here; else it is not kept"
    )
    parser.add_argument(
        "--base-settings", type=json.loads, help="JSON: another base than the measurement's, for trying"
    )
    parser.add_argument("--page", action="store_true", help="write docs/real_rewards.md from the last measurement")
    given, extra = parser.parse_known_args(argv)
    extra = [override for override in extra if override != "--"]
    if given.page:
        base = json.loads(given.to.read_text("utf-8"))["base"]
        PAGE.write_text(page(PAGE.read_text("utf-8"), measured.read(given.to), base), "utf-8")
        return
    if not given.table and given.data is None:
        parser.error("--data FOLDER is needed to measure")
    runs = measured.read(given.to) if given.table else measure_all(given, extra)
    print(f"{table(runs)}\n\n{rows_table(runs)}")


if __name__ == "__main__":
    main()
