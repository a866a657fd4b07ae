"""Constitutional AI where every truth is known: violations from the answer to the last revision, after learning from them, and
after PPO on a judge's labels beside PPO on labels by the truth.

    python benchmarks/cai.py --seeds 61 62 63 --jobs 2     writes benchmarks/results/cai.json; goes on where it stopped
    python benchmarks/cai.py --page                        writes docs/results_cai.md from that file

The task is `helpdesk`: a third of the requests ask for something dangerous. The reviser is the scripted judge: it takes out the
word that the truth of harm likes least, half of the times that it is asked (`judge.mends=0.5`); a model of this size cannot
criticise itself. What is measured is what revisions do to the model that learns from them. Nothing was chosen by looking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measured

RESULT = measured.RESULTS / "cai.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "results_cai.md"
SEEDS = (61, 62, 63)
HARM, HELP = "helpdesk_harm", "helpdesk_help"
JUDGE = ("judge=scripted", f"judge.truth={HARM}", "judge.mends=0.5")
REVISIONS = (
    "revisions.rounds=4",
    "revisions.by=judge",
    "revisions.where={kind: unsafe}",
    f"revisions.measure=[{HARM},{HELP}]",
)
COMMON = ("dataset=helpdesk", *JUDGE, *REVISIONS)
SL = "revisions learned (SL-CAI)"
AI, GOLD = "then PPO on the judge's labels (RL-CAI)", "then PPO on the data's labels"
ARMS: dict[str, tuple[str, ...]] = {
    SL: ("stages=[sft,revisions,revised_sft]",),
    # A judge of harm alone would teach silence: the hybrid has the data's labels of both on half of the prompts.
    AI: ("reward_model.pairs=rollouts", "judge.truth=helpdesk_gold", "ai_labels.keep_dataset=0.5"),
    GOLD: ("judge.truth=helpdesk_gold",),
}


def measure(seed: int, arm: str, run_dir: Path, cache: Path, extra: Sequence[str]) -> dict[str, Any]:
    given = {one.partition("=")[0]: one for one in (f"seed={seed}", *COMMON, *ARMS[arm], *extra)}
    return {**measured.train(list(given.values()), run_dir, cache), "answers": answers(run_dir)}


def told(row: Mapping[str, Any]) -> str:
    shares = row["summary"]["revisions"]["measures"][HARM]["violations"]
    return f"violations {shares[0]:.3f} → {shares[-1]:.3f}"


def answers(run_dir: Path) -> dict[str, Any]:
    """Of the final evaluation's answers: harm and help of policy and reference, on unsafe requests and on the others. Empty
    without a policy."""
    from rlhf_lora import doors, registry
    from rlhf_lora.mini import helpdesk
    from rlhf_lora.records import Sample
    from rlhf_lora.run_folder import RunFolder

    rows = RunFolder(run_dir).read_samples("evaluation")
    if not rows:
        return {}
    doors.load_entry_points()
    found: dict[str, Any] = {}
    for kind in ("unsafe", "others"):
        of = [
            row for row in rows if (helpdesk.kind_of(helpdesk.asked(row["prompt"])) == "unsafe") == (kind == "unsafe")
        ]
        for who in ("reference", "policy"):
            samples = [Sample(row["prompt"], row[f"{who}_text"]) for row in of]
            for name in (HARM, HELP):
                values = [score.value for score in registry.build("reward", {"name": name}).score(samples)]
                found[f"{kind}/{who}/{name}"] = {
                    "mean": sum(values) / max(1, len(values)), "violations": sum(v < 0 for v in values) / max(1, len(values)),
                    "prompts": len(values),
                }  # fmt: skip
    return found


# --- the page ---------------------------------------------------------------------------------------------------------


def revised(rows: Sequence[Mapping[str, Any]]) -> str:
    """Share of violations at every revision, a line for each seed."""
    runs = [row for row in rows if row["arm"] == SL]
    rounds = max((run["summary"]["revisions"]["rounds"] for run in runs), default=0)
    head = " | ".join("answer" if i == 0 else f"revision {i}" for i in range(rounds + 1))
    lines = [f"| seed | {head} | help, answer → last |", "|---" * (rounds + 3) + "|"]
    for run in runs:
        measures = run["summary"]["revisions"]["measures"]
        helps = measures[HELP]["mean"]
        shares = " | ".join(f"{share:.3f}" for share in measures[HARM]["violations"])
        lines.append(f"| {run['seed']} | {shares} | {helps[0]:.2f} → {helps[-1]:.2f} |")
    return "\n".join(lines)


def learned(rows: Sequence[Mapping[str, Any]]) -> str:
    """Before and after training on revisions, on held-out prompts."""
    lines = ["| seed | violations, unsafe requests | help, other requests | change |", "|---|---|---|---|"]
    for run in (row for row in rows if row["arm"] == SL):
        figures = run["summary"]["revised_sft"]
        harm, others = figures[HARM], figures["others"][HELP]
        before, after = others["before"]["mean"], others["after"]["mean"]
        shares = f"{harm['before']['violations']:.3f} → {harm['after']['violations']:.3f}"
        lines.append(f"| {run['seed']} | {shares} | {before:.2f} → {after:.2f} | {100 * (after / before - 1):+.1f} % |")
    return "\n".join(lines)


def policies(rows: Sequence[Mapping[str, Any]]) -> str:
    """PPO from the model on revisions, on labels by the judge and on the data's."""
    lines = [
        "| labels | wins against the model on revisions, by the truth | KL, nats | violations, unsafe requests | help, others |",
        "|---|---|---|---|---|",
    ]
    for arm in (AI, GOLD):
        runs = [row for row in rows if row["arm"] == arm]
        if not runs:
            continue
        harm = [run["answers"][f"unsafe/policy/{HARM}"]["violations"] for run in runs]
        helps = [run["answers"][f"others/policy/{HELP}"]["mean"] for run in runs]
        wins = measured.rate([run["summary"]["gold"] for run in runs])
        kl = measured.figures([run["summary"]["policy"]["kl_to_reference"] for run in runs], 2)
        lines.append(f"| {arm} | {wins} | {kl} | {measured.figures(harm)} | {measured.figures(helps, 2)} |")
    return "\n".join(lines)


def page(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return measured.filled(text, {"revised": revised(rows), "learned": learned(rows), "policies": policies(rows)})


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(part(rows) for part in (revised, learned, policies))


BENCHMARK = measured.Benchmark(__doc__, RESULT, PAGE, list(ARMS), SEEDS, measure, told, page, show)


if __name__ == "__main__":
    BENCHMARK.main()
