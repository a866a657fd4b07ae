"""What a sweep may be sorted by and searched for: one number of summary.json that its jobs will have.

Checked on the plans, before the first job begins: a name that is wrong is found out in seconds, not after a night.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rlhf_lora import best_of_n
from rlhf_lora.answer_sets import AT_THRESHOLD, CLOSE, EQUAL, NO_BEST, NO_TWO, SAME_WORDS, UNSCORED
from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.evaluation import evaluation_pairs
from rlhf_lora.plan import Plan
from rlhf_lora.turns import Turn

DEFAULTS = ("gold.win_rate_vs_reference", "policy.win_rate_vs_reference")
"""What counts when nobody says: the truth where it is known, else the run's own reward."""
RATES = ("win_rate_vs_reference", "win_rate_length_controlled", "compared", "unscored")
COMPARED = ("score_mean", "score_mean_reference", *RATES)
ACCURACIES = (
    "pairs", "accuracy", "length_baseline", "accuracy_where_shorter_chosen", "pairs_where_shorter_chosen",
    "accuracy_where_longer_chosen", "margin_mean",
)  # fmt: skip
RATED = ("ratings", "rating_mse", "rating_mse_of_mean", "rating_pearson", "rating_spearman")
LABELLED = ("labels", "label_auc", "label_bad_share", "label_gold_auc")
LABELLED_PROBABLY = (
    "label_accuracy", "label_accuracy_of_majority", "label_brier", "label_brier_of_share", "label_calibration_error"
)  # fmt: skip
REFRESHED = (
    "asked", "labels", "ties", "unread", "same_words", "calls", "certainty", "first_chosen", "accuracy_before"
)  # fmt: skip
ON_POLICY = ("abstained", "errors", "updates", "seconds.rollout", "seconds.score", "seconds.update")


def figures(plan: Plan) -> set[str]:
    """The dotted keys of all numbers that the summary of a finished run can have. Some depend on what comes out, such as
    a rate at equal length, which all wins or all losses do not tell. Intervals are two numbers, so they are not here."""
    found = {"seed", "peak_memory_gib", "seconds.total"}
    found |= {f"seconds.{stage.name}" for stage in plan.stages if stage.name not in ("answers", "policy")}
    found |= _of_rounds(plan) | _of_answers(plan)
    if plan.mini is not None:
        found.add("seconds.base")
    truth = ("gold_accuracy", "gold_pairs") if plan.data.gold is not None else ()
    if plan.stage("reward_model") is not None:
        rated = RATED if plan.config.reward_model.loss == "regression" else ()
        labelled: tuple[str, ...] = LABELLED if plan.splits.final_labels or plan.splits.tuning_labels else ()
        labelled += LABELLED_PROBABLY if plan.config.reward_model.loss == "labels" else ()
        found |= {f"reward_model.{name}" for name in (*ACCURACIES, "calibration_error", *rated, *labelled, *truth)}
    if plan.stage("policy") is None:
        return found
    if plan.is_on_policy:
        found |= {*ON_POLICY}
        if plan.config.evaluation.every is not None:
            found.add("seconds.midway")
            found |= {"best_update"} if plan.config.evaluation.keep == "best" else set()
    elif evaluation_pairs(plan):
        found |= {f"implicit_reward.{name}" for name in (*ACCURACIES, *truth, "too_long")}
    return found | _evaluated(plan)


def _of_rounds(plan: Plan) -> set[str]:
    """How long each stage of each round took, by the names that they have there."""
    if plan.stage("policy") is None:
        return set()
    found = set()
    for number in range(1, plan.config.rounds + 1):
        turn = Turn(number, plan.config.rounds)
        found |= {f"seconds.{turn.named('policy')}"} if not plan.is_on_policy else set()
        found |= {f"seconds.{turn.named('answers')}"} if plan.stage("answers") is not None else set()
        found |= {f"seconds.{turn.named('evaluation')}"} if not turn.is_last else set()
        if plan.config.refresh.by is not None and not turn.is_first:
            found |= {f"seconds.{turn.named(stage)}" for stage in ("comparisons", "reward_model")}
            names = REFRESHED + (("flips", "flips_labelled") if plan.config.refresh.by == "judge" else ())
            names += ("gold_agreement", "gold_agreement_of") if plan.data.gold is not None else ()
            found |= {f"reward_model.new.{name}" for name in names}
    return found


def _of_answers(plan: Plan) -> set[str]:
    """Of the stage `answers`, and of the rows that were made there."""
    if plan.stage("answers") is None:
        return set()
    learns_from = plan.row_source.learns_from
    truth = plan.data.gold is not None
    names = {"prompts", "answers", "cut", "abstained", "errors", "unreadable", "score_mean", "score_deviation", "rows"}
    names |= {"too_long"} if plan.row_source.name == "relabel" else set()
    names |= {"gold_mean"} if truth else set()
    if learns_from == "demonstrations":
        names |= {"max_median_gap", f"left_out.{NO_BEST}"} | ({"gold_gain"} if truth else set())
        names |= {"pooled"} if getattr(plan.optimizer, "pool", False) else set()
    else:
        names |= {"gold_agreement", "gold_compared"} if truth else set()
        reasons = (NO_TWO, EQUAL, CLOSE, SAME_WORDS) if learns_from == "pairs" else (UNSCORED, AT_THRESHOLD)
        names |= {f"left_out.{why}" for why in reasons} | ({"good_share"} if learns_from == "labels" else set())
    return {f"answers.{name}" for name in names} | {"abstained", "errors"}


def _evaluated(plan: Plan) -> set[str]:
    """Of the evaluation at the end: by the run's reward where it has one to ask, and by the truth where it is known."""
    found = {f"policy.{name}" for name in ("kl_to_reference", "mean_length", "mean_length_reference")}
    found.add("seconds.evaluation")
    stages = getattr(plan.reward, "stages", ())
    judged_by = ["policy"] if not stages or plan.stage("reward_model") is not None else []
    judged_by += ["gold"] if plan.data.gold is not None else []
    found |= {f"{part}.{name}" for part in judged_by for name in COMPARED}
    for n in best_of_n.sizes(plan.config.evaluation.best_of_n):
        found |= {f"best_of_n.{n}.{name}" for name in ("kl_bound", "mean_length", "candidates_unscored")}
        for place in ("gold." if part == "gold" else "" for part in judged_by):
            found |= {f"best_of_n.{n}.{place}{name}" for name in COMPARED}
    return found


def chosen(asked: str | None, jobs: Iterable[Collection[str]]) -> str:
    """What a search works on: what was asked for, or the first of `DEFAULTS` that every job has.

    Args:
        jobs: `figures` of each.

    Raises:
        ConfigError: a job cannot have it.
    """
    common = set.intersection(*map(set, jobs))
    name = asked or next((one for one in DEFAULTS if one in common), DEFAULTS[-1])
    check(name, common, "not every job has")
    return name


def check(objective: str, known: Collection[str], told: str = "no job has") -> None:
    """The objective is a number that a summary can have.

    Args:
        known: `figures`. told: how the message begins.

    Raises:
        ConfigError: it is not; says what is near, or why this figure is not there.
    """
    if objective in known:
        return
    part = objective.partition(".")[0]
    near = sorted(name for name in known if name.startswith(f"{part}."))
    raise ConfigError(
        f"{told} a figure '{objective}'{_why(objective, part, near) or did_you_mean(objective, known)}",
        where=f"sweep.objective={objective}",
        fix=f"one of {', '.join(near or sorted(known))}",
    )


def _why(objective: str, part: str, near: Collection[str]) -> str:
    if objective == part and near:
        return ": it is a part of summary.json, not a number"
    if objective.endswith("_ci95"):
        return ": an interval is two numbers"
    reasons = {
        "gold": "the truth is not known for this data",
        "reward_model": "a reward model is not trained",
        "implicit_reward": "the policy is not fitted to pairs of which some are held out",
        "best_of_n": "evaluation.best_of_n does not ask for it",
        "policy": "a policy is not judged by the reward",
    }
    known = {"policy": any(name.endswith("score_mean") for name in near)}.get(part, bool(near))
    return f": {reasons[part]}" if part in reasons and not known else ""
