"""Held-out evaluation: policy against reference on prompts nobody trained on, with intervals, and the KL beside it.

Both answer each prompt once, at the rollout's temperature. A win rate without its KL says little: a policy that went
far from the reference may have found what the reward overlooks. What the figures mean: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlhf_lora import registry
from rlhf_lora.best_of_n import judge_best_of_n, sizes
from rlhf_lora.comparison import compare, compare_by_judge, length_differences, mean_length
from rlhf_lora.config import recompose
from rlhf_lora.errors import ConfigError, UserError
from rlhf_lora.records import Pair, Prompt, Sample, Score, named_seed
from rlhf_lora.run_folder import find_run

if TYPE_CHECKING:
    from rlhf_lora.plan import Plan


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        summary: `policy` and, where the truth is known, `gold`, as in summary.json; `best_of_n` and `judge` where they
            were asked for.
        rows: one per prompt, for samples/evaluation.parquet.
    """

    summary: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """The reference's answers and what each scorer says of them: they never change, so one look is enough.

    Attributes:
        scores: scorer → one score per answer; None while nobody was asked.
    """

    answers: Sequence[Sample]
    scores: Mapping[str, Sequence[Score]] | None = None


def answer_reference(
    backbone: Any, engine: Any, prompts: Sequence[Prompt], seed: int, scorers: Mapping[str, Any]
) -> Reference:  # fmt: skip
    """Answer every prompt with the role reference, and have the answers scored."""
    answers = engine.generate(backbone, prompts, 1, seed + 1, role="reference")
    return Reference(answers, {name: scorer(answers) for name, scorer in scorers.items()})


def evaluate_policy(
    backbone: Any, engine: Any, prompts: Sequence[Prompt], seed: int, scorers: Mapping[str, Any],
    between: Callable[[], None] = lambda: None, reference: Reference | None = None, best_of: Sequence[int] = (),
    judge: Any = None,
) -> Evaluation:  # fmt: skip
    """Answer every prompt with the roles policy and reference, and compare.

    Args:
        scorers: `score` (the run's reward) and `gold` (the truth), whichever there are; opened `Scorer`s.
        between: called between the long parts; may raise to leave.
        reference: what `answer_reference` gave for the same prompts and scorers; answered anew when not given.
        best_of: also judge the reference's best of so many answers, against the same single ones.
        judge: an opened `Judge` to be asked as well.
    """
    policy = engine.generate(backbone, prompts, 1, seed)
    between()
    if reference is None:
        reference = Reference(engine.generate(backbone, prompts, 1, seed + 1, role="reference"))
    between()
    theirs = reference.scores or {name: scorer(reference.answers) for name, scorer in scorers.items()}
    kl = sequence_kl(backbone, policy, engine.temperature)
    rows = [
        {
            "prompt": p.prompt,
            "policy_text": p.text,
            "reference_text": r.text,
            "policy_kl": k,
            "policy_finished": p.finished,
        }
        for p, r, k in zip(policy, reference.answers, kl, strict=True)
    ]
    summary: dict[str, Any] = {"policy": {"kl_to_reference": sum(kl) / len(kl), "mean_length": mean_length(policy)}}
    summary["policy"]["mean_length_reference"] = mean_length(reference.answers)
    differences = length_differences(policy, reference.answers)
    for name, scorer in scorers.items():
        ours = scorer(policy)
        for row, a, b in zip(rows, ours, theirs[name], strict=True):
            row |= {f"policy_{name}": a.value, f"reference_{name}": b.value}
        figures = compare(ours, theirs[name], seed, differences)
        summary.setdefault("policy" if name == "score" else "gold", {}).update(figures)
    if best_of:
        between()
        summary["best_of_n"], texts = judge_best_of_n(
            backbone, engine, prompts, seed, scorers, best_of, reference.answers, theirs, between
        )
        rows = [row | more for row, more in zip(rows, texts, strict=True)]
    if judge is not None:
        summary["judge"] = compare_by_judge(judge, policy, reference.answers, seed)
    return Evaluation(summary, rows)


def sequence_kl(backbone: Any, samples: Sequence[Sample], temperature: float) -> list[float]:
    """k1 summed over each policy sample, in nats: log π − log ρ of what was sampled from π.

    Both are read in the same way, so that a policy that is its reference has a KL of exactly 0; what was captured while
    sampling differs from that by rounding.
    """
    chat = backbone.chat
    prompts = [chat.prompt_ids(Prompt.of(sample)) for sample in samples]
    responses = [list(sample.tokens or ()) for sample in samples]
    policy, reference = (
        backbone.sequence_logprobs(role, prompts, responses, temperature) for role in ("policy", "reference")
    )
    return [sum(ours) - sum(theirs) for ours, theirs in zip(policy, reference, strict=True)]


# --- a finished run, again --------------------------------------------------------------------------------------------


def evaluation_prompts(plan: Plan) -> Sequence[Prompt]:
    split = plan.splits
    chosen = split.tuning_prompts if plan.config.evaluation.split == "tuning" else split.final_prompts
    return chosen[: plan.config.evaluation.prompts]


def evaluation_pairs(plan: Plan) -> Sequence[Pair]:
    """Of the dataset that an optimizer of pairs or labels reads, as many as prompts at most; none for one that rolls out, or
    imitates: its policy implies no reward."""
    if getattr(plan.optimizer, "learns_from", None) not in ("pairs", "labels"):
        return []
    split = plan.sources.existing
    chosen = split.tuning_pairs if plan.config.evaluation.split == "tuning" else split.final_pairs
    return chosen[: plan.config.evaluation.prompts]


def evaluation_seed(plan: Plan) -> int:
    seed = plan.config.evaluation.seed
    return named_seed(plan.config.seed if seed is None else seed, "evaluation") >> 1


def evaluate(run: str, *overrides: str) -> dict[str, Any]:
    """Evaluate a finished run again, on its own held-out prompts or with overrides (`evaluation.seed=1`, `reward=length`,
    `evaluation.best_of_n=4`, `judge=NAME judge.setting=…`).

    Without a run it measures a judge: `evaluate("judge=NAME", "dataset=jsonl", "dataset.path=FILE")`.

    Returns:
        The `policy`, `gold`, `best_of_n` and `judge` parts of a summary, or the figures of `judge_figures`; nothing in the run
        folder changes.

    Raises:
        UserError: no run folder, or it has no policy yet.
    """
    if run.startswith(("judge=", "dataset=", "plugins=")):
        from rlhf_lora.judge_measured import measure

        return measure(run, *overrides).figures
    from rlhf_lora.assembly import at_work
    from rlhf_lora.finished_run import FinishedRun
    from rlhf_lora.plan import make_plan

    folder = find_run(run)
    if not (folder.adapter("policy") / "adapter_config.json").is_file():
        raise UserError(
            f"{run} has no policy yet",
            where=str(folder.adapter("policy")),
            fix=f"finish it: rlhf-lora train … run_dir={run}",
        )
    if any(override.startswith("seed=") for override in overrides):
        raise UserError("seed is the run's own", where="seed=", fix="evaluation.seed=N draws other answers")
    asked = [override for override in overrides if override.partition("=")[0].partition(".")[0] == "judge"]
    if _asks_a_judge(overrides):
        asked = []  # it is the reward that asks
    again = recompose(folder.config, [override for override in overrides if override not in asked])
    plan = make_plan(again, trains=False)
    judge = judge_of(asked)
    finished = FinishedRun(plan, folder, folder.adapter("policy"))
    prompts = finished.parts.short_enough(finished.backbone, evaluation_prompts(plan), "evaluation prompts")
    with at_work(judge, finished.ctx) as asked_too:  # first: one that is not there is told before anything is scored
        scorers = finished.parts.judges(finished.ctx)
        try:
            result = evaluate_policy(
                finished.backbone, finished.engine, prompts, evaluation_seed(plan), scorers,
                best_of=sizes(plan.config.evaluation.best_of_n), judge=asked_too,
            )  # fmt: skip
        finally:
            close_all(scorers)
    if judge is not None:
        result.summary["judge"]["name"] = registry.to_config(judge)["name"]
    return {"reward": plan.config.reward.name, **result.summary}


def _asks_a_judge(overrides: Sequence[str]) -> bool:
    """Whether another reward is asked for, and asks a judge itself."""
    names = [override.partition("=")[2] for override in overrides if override.startswith("reward=")]
    return any(getattr(registry.lookup("reward", name).cls, "needs_judge", False) for name in names)


def close_all(scorers: Mapping[str, Any]) -> None:
    """Let go of what rewards hold: processes, connections."""
    for scorer in scorers.values():
        scorer.close()


def judge_of(overrides: Sequence[str]) -> Any:
    """The judge that `judge=NAME judge.setting=…` describes; None without any of it.

    Raises:
        ConfigError, PluginError: no name, no such judge, or a setting that it does not have.
    """
    import yaml

    settings: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            settings[key.removeprefix("judge.") if "." in key else "name"] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"'{override}' cannot be read", where=key, fix="a value as in YAML: 3, text, [a, b]"
            ) from error
    return registry.build("judge", settings) if settings else None
