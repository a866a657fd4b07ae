"""What several rewards do on the helpdesk, whose truths are known: help and harm (gate, sums), and rules in words.

    python benchmarks/helpdesk.py --seeds 11 12 13 --jobs 2     writes benchmarks/results/helpdesk.json; goes on where it stopped
    python benchmarks/helpdesk.py --arms models                 one part: models, policies, re-ranking (what they need first)
    python benchmarks/helpdesk.py --page                        writes docs/results_helpdesk.md from that file

Models: two reward models on the same replies, by helpfulness and by harmlessness; a model of rules on labels, once with all
rules and once for each of HELD_OUT with that rule kept out; the same labels without the rule in the prompt (`any_rule`).
Policies: PPO against each. Re-ranking: of SFT and of policies, one reply and the best of eight by the product of σ(preference)
and P(rules kept), Sparrow's. Every reply of the final prompts is judged by both golds and by the true rules, in plain Python.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measured

from rlhf_lora.mini import helpdesk, rules

RESULT = measured.RESULTS / "helpdesk.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "results_helpdesk.md"
ANY_RULE = f"plugins=[{Path(__file__).resolve().parent / 'any_rule.py'}]"
COMMON = ("splits={sft: 15, reward_model: 45, prompts: 20, tuning: 5, final: 15}", "evaluation.prompts=1000")
OF_RULES = ("dataset.labelled=24000", "dataset.pairs=8000", "reward_model.loss=labels")
HELD_OUT = ("sober_refusal", "true_refusal", "warn_of_hazard")
CHOICES = 8

TRAINED = "stages=[sft,reward_model]"
MODELS: dict[str, tuple[str, ...]] = {
    "help": ("dataset=helpdesk", "dataset.criterion=helpful", TRAINED),
    "harm": ("dataset=helpdesk", "dataset.criterion=harmless", TRAINED),
    "rules": ("dataset=helpdesk_rules", *OF_RULES, TRAINED),
    "any rule": (ANY_RULE, "dataset=any_rule", *OF_RULES, TRAINED),
    **{f"rules without {rule}": ("dataset=helpdesk_rules", *OF_RULES, f"dataset.held_out={rule}", TRAINED) for rule in HELD_OUT},
    **{f"any rule without {rule}": (ANY_RULE, "dataset=any_rule", *OF_RULES, f"dataset.held_out={rule}", TRAINED)
       for rule in HELD_OUT},
}  # fmt: skip
"""Arm → overrides of a run that trains a reward model."""


def sentences(*ids: str) -> str:
    """The rules of these ids, all of them when none is named, as `reward.rules` takes them."""
    return "{" + ", ".join(f"{rule.id}: {rule.text}" for rule in rules.RULES if not ids or rule.id in ids) + "}"


Overrides = Callable[[Callable[[str], Path]], tuple[str, ...]]
"""Overrides of a run, given where the run of another arm is."""


def learned(part: str, model: str, run: Callable[[str], Path]) -> tuple[str, ...]:
    return (f"reward.parts.{part}=learned", f"reward.parts.{part}.path={run(model)}")


def kept(run: Callable[[str], Path]) -> tuple[str, ...]:
    at = "reward.parts.rules"
    return (f"{at}=rule_model", f"{at}.path={run('rules')}", f"{at}.rules={sentences()}")


def both(weight: float) -> Overrides:
    """Sparrow's sum: what is preferred, and how far the rules are kept."""
    return lambda run: (
        "reward=mix",
        *learned("pref", "help", run),
        *kept(run),
        "reward.normalise.rules=reference",
        *([f"reward.weights.rules={weight}"] if weight != 1 else []),
    )


GATE = ("reward.combine=gate", "reward.gate.safety=safe", "reward.gate.helpful=help")


def gated(*more: str) -> Overrides:
    """Llama 2's gate between two models of comparisons."""
    return lambda run: ("reward=mix", *learned("safe", "harm", run), *learned("help", "help", run), *GATE, *more)


def gated_by_rules(run: Callable[[str], Path]) -> tuple[str, ...]:
    """The gate with a probability for safety: that a hazard is not given, and is refused."""
    at = "reward.parts.safe"
    safe = (f"{at}=rule_model", f"{at}.path={run('rules')}", f"{at}.rules={sentences('no_hazard', 'refuse_hazard')}",
            f"{at}.combine=min")  # fmt: skip
    return ("reward=mix", *safe, *learned("help", "help", run), *GATE,
            "reward.gate.values=probabilities", "reward.squash.help=sigmoid")  # fmt: skip


def summed(weight: float) -> Overrides:
    return lambda run: (
        "reward=mix",
        *learned("safe", "harm", run),
        *learned("help", "help", run),
        f"reward.weights.safe={weight}",
    )


POLICIES: dict[str, Overrides] = {
    "help only": lambda run: ("reward=learned", f"reward.path={run('help')}"),
    "harm only": lambda run: ("reward=learned", f"reward.path={run('harm')}"),
    "gate": gated(),
    "gate, prompts known": gated("reward.gate.column=kind", "reward.gate.value=unsafe"),
    "gate, P(safe) by rules": gated_by_rules,
    "help + harm": summed(1),
    "help + 3 harm": summed(3),
    "RL-rule": lambda run: ("reward=mix", *kept(run), "reward.normalise.rules=reference"),
    "RL-both": both(1),
    "RL-both, 3 rules": both(3),
}
"""Sparrow's RL-pref is `help only`: raters prefer what helps them, and the rules are what holds it back."""

SFT = "SFT, re-ranked"
RERANKED = {SFT: "help", "RL-pref, re-ranked": "help only", "RL-rule, re-ranked": "RL-rule",
            "RL-both, re-ranked": "RL-both"}  # fmt: skip
"""Arm → whose replies are drawn. No step is taken (learning rate 0), so that the reference is the policy itself."""


def reranked(of: str, run: Callable[[str], Path]) -> tuple[str, ...]:
    adapter = run(of) / "adapters" / ("sft" if of in MODELS else "policy")
    product = ("reward.combine=product", "reward.parts.rules.combine=product", "reward.normalise.pref=reference",
               "reward.squash.pref=sigmoid", f"evaluation.best_of_n={CHOICES}")  # fmt: skip
    still = ("stages=[policy]", "optimizer.adamw.lr=0", "optimizer.updates=1", "optimizer.epochs=1")
    return (f"model.adapter={adapter}", *still, "reward=mix", *learned("pref", "help", run), *kept(run), *product)


ARMS = (*MODELS, *POLICIES, *RERANKED)
PARTS = {"models": tuple(MODELS), "policies": tuple(POLICIES), "re-ranking": tuple(RERANKED)}


# --- measuring --------------------------------------------------------------------------------------------------------


def replies_of(folder: Path) -> dict[str, list[str]]:
    """Of a run's evaluation: `prompt`, and who replied (policy, reference, best_of_8) → texts, in the order of the prompts."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(folder / "samples" / "evaluation.parquet").to_pylist()
    names = [name for name in rows[0] if name == "prompt" or name.endswith("_text")]
    return {name.removesuffix("_text"): [row[name] for row in rows] for name in names}


def judged(folder: Path, sft: Path | None = None) -> dict[str, Any]:
    """Of each kind of reply the golds, how often rules are broken, refusals by kind of request.

    Args:
        sft: run whose reference is SFT, where the reference of this run is a policy.
    """
    replies = replies_of(folder)
    prompts, before = replies.pop("prompt"), (replies if sft is None else replies_of(sft))["reference"]
    return {name: figures(prompts, texts, before) for name, texts in replies.items()}


def figures(prompts: Sequence[str], replies: Sequence[str], reference: Sequence[str]) -> dict[str, Any]:
    """All of text alone (whether a reply was cut is no part of it); wins are over `reference` on the same prompts."""
    found: dict[str, Any] = {"prompts": len(prompts)}
    kinds = [helpdesk.kind_of(helpdesk.asked(prompt)) for prompt in prompts]
    unsafe = [kind == "unsafe" for kind in kinds]
    for name, gold in (("help", helpdesk.help_gold), ("harm", helpdesk.harm_gold)):
        ours, theirs = (
            [gold(p, r).value for p, r in zip(prompts, texts, strict=True)] for texts in (replies, reference)
        )
        found |= {name: statistics.mean(ours), f"{name}_wins": win_rate(ours, theirs)}
        for asked, where in (("hazard", unsafe), ("no_hazard", [not each for each in unsafe])):
            pairs = [pair for pair, here in zip(zip(ours, theirs, strict=True), where, strict=True) if here]
            found[f"{name}_wins_{asked}"] = win_rate(*zip(*pairs, strict=True)) if pairs else None
    broken = [rules.broken_rules(p, r) for p, r in zip(prompts, replies, strict=True)]
    found["violations"] = statistics.mean(any(each.values()) for each in broken)
    found["by_rule"] = {rule.id: statistics.mean(each[rule.id] for each in broken) for rule in rules.RULES}
    for kind in ("safe", "borderline", "unsafe"):
        refused = [helpdesk.refusal(r) is not None for r, k in zip(replies, kinds, strict=True) if k == kind]
        found[f"refused_{kind}"] = statistics.mean(refused) if refused else None
    return found


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.mean(0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True))


def folder(home: Path, arm: str) -> Path:
    """Where the run of an arm is."""
    return home / "runs" / re.sub(r"[^A-Za-z0-9]+", "-", arm)


def measure(seed: int, arm: str, home: Path, extra: Sequence[str]) -> dict[str, Any]:
    def run(other: str) -> Path:
        return folder(home, other)

    if arm in MODELS:
        given = MODELS[arm]
    else:
        given = ("dataset=helpdesk", *(POLICIES[arm](run) if arm in POLICIES else reranked(RERANKED[arm], run)))
    row = measured.train([f"seed={seed}", *COMMON, *given, *extra], run(arm), home / "cache")
    row["overrides"] = [str(override).replace(str(home), "HOME") for override in row["overrides"]]
    sft = run(SFT) if arm in RERANKED else None
    return {"seed": seed, "arm": arm, **row, **({} if arm in MODELS else {"judged": judged(run(arm), sft)})}


def needed(arm: str) -> list[str]:
    """The arm behind those whose runs it uses."""
    uses: list[str] = [SFT] if arm in RERANKED and arm != SFT else []

    def noted(other: str) -> Path:
        uses.append(other)
        return Path(other)

    if arm in POLICIES:
        POLICIES[arm](noted)
    elif arm in RERANKED:
        reranked(RERANKED[arm], noted)
    return [one for other in uses for one in needed(other)] + [arm]


def judge_again(rows: Iterable[dict[str, Any]], home: Path) -> None:
    """The replies that finished runs have kept, judged as it is done now."""
    for row in rows:
        of_seed = home / str(row["seed"])
        if row["arm"] not in MODELS and folder(of_seed, row["arm"]).is_dir():
            row["judged"] = judged(
                folder(of_seed, row["arm"]), folder(of_seed, SFT) if row["arm"] in RERANKED else None
            )


def measure_all(given: argparse.Namespace, extra: list[str]) -> list[dict[str, Any]]:
    rows = measured.read(given.to) if given.to.is_file() else []
    known, lock = {(row["seed"], row["arm"]) for row in rows}, threading.Lock()
    wanted = list(dict.fromkeys(one for part in given.arms for arm in PARTS.get(part, (part,)) for one in needed(arm)))

    def one_seed(seed: int, home: Path) -> None:
        missing = [arm for arm in wanted if (seed, arm) not in known]
        again = {one for arm in missing for one in needed(arm) if not folder(home, one).is_dir()}
        for arm in sorted({*missing, *again}, key=ARMS.index):  # what others need is run again where its folder is gone
            row = measure(seed, arm, home, extra)
            with lock:
                rows[:] = [other for other in rows if (other["seed"], other["arm"]) != (seed, arm)] + [row]
                rows.sort(key=lambda r: (r["seed"], ARMS.index(r["arm"])))
                measured.write(given.to, rows)
                print(f"seed {seed}  {arm}: {row['cpu_seconds']:.0f} CPU seconds", flush=True)

    def apart(seed: int) -> None:
        if given.home is not None:
            return one_seed(seed, given.home / str(seed))
        with tempfile.TemporaryDirectory() as home:
            one_seed(seed, Path(home))

    if given.home is not None:
        judge_again(rows, given.home)
        measured.write(given.to, rows)
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(apart, given.seeds))
    return rows


# --- the tables -------------------------------------------------------------------------------------------------------


def of(rows: Iterable[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["arm"] == arm]


def cell(parts: Sequence[dict[str, Any]], key: str, digits: int = 3) -> str:
    """**mean**, then each seed; a dash where a seed has no such figure."""
    values = [part.get(key) for part in parts]
    if not values or None in values:
        return "–"
    each = measured.figures(values, digits)
    return f"**{statistics.mean(values):.{digits}f}**: {each}"  # type: ignore[arg-type,type-var]


def models_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | held-out pairs | AUC, labels | AUC, truth | rule kept out: AUC, labels | truth |",
        "|---|---|---|---|---|---|",
    ]
    for arm in MODELS:
        if found := [row["summary"]["reward_model"] for row in of(rows, arm)]:
            unseen = [figures.get("labels_unseen", {}) for figures in found]
            cells = [cell(found, "accuracy"), cell(found, "label_auc"), cell(found, "label_gold_auc"),
                     cell(unseen, "label_auc"), cell(unseen, "label_gold_auc")]  # fmt: skip
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def policies_table(rows: list[dict[str, Any]]) -> str:
    """Both golds, violations and refusals; `SFT` is the reference of the first policy."""
    head = "| policy | wins by help | where no hazard is asked | wins by harmlessness | where a hazard is asked "
    head += "| breaks a rule | refuses safe | borderline | unsafe | KL |"
    lines = [head, "|---" * 10 + "|"]
    keys = (
        "help_wins",
        "help_wins_no_hazard",
        "harm_wins",
        "harm_wins_hazard",
        "violations",
        "refused_safe",
        "refused_borderline",
        "refused_unsafe",
    )
    for arm, who in (("help only", "reference"), *((arm, "policy") for arm in POLICIES)):
        if parts := [row["judged"][who] for row in of(rows, arm)]:
            kl = [row["summary"]["policy"] for row in of(rows, arm)]
            cells = [*(cell(parts, key) for key in keys), cell(kl, "kl_to_reference", 1) if who == "policy" else "0"]
            lines.append(f"| {arm if who == 'policy' else 'SFT'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reranking_table(rows: list[dict[str, Any]]) -> str:
    """Preference is the share of wins by help over one reply of SFT to the same prompt."""
    lines = ["| replies | preferred over SFT | breaks a rule | refuses borderline |", "|---|---|---|---|"]
    for arm in RERANKED:
        for who, told in (("reference", "one"), (f"best_of_{CHOICES}", f"best of {CHOICES}")):
            if parts := [row["judged"][who] for row in of(rows, arm)]:
                cells = [cell(parts, key) for key in ("help_wins", "violations", "refused_borderline")]
                lines.append(f"| {arm.partition(',')[0]}, {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"models": models_table, "policies": policies_table, "re-ranking": reranking_table}


def page(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with its tables filled in."""
    return measured.filled(text, {name: table(rows) for name, table in TABLES.items()})


def main() -> None:
    parser = measured.parser(__doc__, RESULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--arms", nargs="+", default=list(PARTS), choices=[*PARTS, *ARMS])
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--home", type=Path, help="keep runs here, to go on with; default: a folder that is removed")
    parser.add_argument("--page", action="store_true", help="write docs/results_helpdesk.md from the last measurement")
    given, extra = parser.parse_known_args()
    if given.page:
        PAGE.write_text(page(PAGE.read_text("utf-8"), measured.read(given.to)), "utf-8")
        return
    rows = measured.read(given.to) if given.table else measure_all(given, extra)
    print("\n\n".join(table(rows) for table in TABLES.values()))


if __name__ == "__main__":
    main()
