"""`rounds=N`: roll out → label → refresh the reward model → optimise, N times over (Bai et al. 2022a, §4.5; Llama 2, §3.2).

Each round starts from the policy of the round before. The reference stays SFT: every KL, in a loss or in an evaluation, is
measured from it. Rollouts, learning-rate schedules and adaptive β begin anew in each.

    adapters/policy_1 … policy_N    what each round gave; the last one also as adapters/policy
    adapters/reward_1 … reward_N    where the reward model is refreshed: what each round was trained against
    stages.json                     policy_1, answers_1, evaluation_1, comparisons_2, reward_model_2, …: a killed run goes on there
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from rlhf_lora import stage_cache
from rlhf_lora.atomic import staging
from rlhf_lora.feedback_plan import judge_settings
from rlhf_lora.plan import Plan
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.turns import Turn

Records = Mapping[str, Mapping[str, Any]]

NOT_DECIDING = (
    "run_dir", "resume", "cache", "rounds", "tracker", "checkpoint_every", "samples_every", "evaluation", "plugins", "stages",
    "judge",
)  # fmt: skip
"""Settings that change nothing of what a round gives to the next, or that its key has in another form."""


def standing(plan: Plan, records: Records) -> Turn:
    """The first round that was not finished, or the last one."""
    turn = Turn(1, plan.config.rounds)
    while not turn.is_last and is_judged(plan, records, turn):
        turn = turn.next
    return turn


def evaluation_of(turn: Turn) -> str:
    """Its record and its samples: those of the last round are the run's."""
    return "evaluation" if turn.is_last else turn.named("evaluation")


def is_judged(plan: Plan, records: Records, turn: Turn) -> bool:
    return records.get(evaluation_of(turn), {}).get("key") == key(plan, "evaluation", turn)


def key(plan: Plan, what: str, turn: Turn) -> str:
    """Names what a round gives by content: all inputs of the run and all settings that decide something, and the round.

    What comes before it is decided by the same; so is each stage in it, bit for bit.
    """
    config: Any = OmegaConf.to_container(plan.config)
    deciding = {name: value for name, value in config.items() if name not in NOT_DECIDING}
    judged_on = plan.config.evaluation.split  # figures of a refreshed reward model are part of what it leaves
    judge, stages = judge_settings(plan.config, plan.judge), [stage.name for stage in plan.stages]
    said = [what, turn.number, stage_cache.code(), deciding, judge, stages, judged_on, dict(plan.inputs)]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:20]


def closing(plan: Plan, turn: Turn, loop: Any) -> dict[str, Any]:
    """What the record of a round's evaluation has beside its figures: its key, and what the loop that ends here counted."""
    if turn.of == 1:
        return {}
    found: dict[str, Any] = {"key": key(plan, "evaluation", turn)}
    if loop is not None and not turn.is_last:
        state = loop.state
        found["loop"] = {"abstained": state.abstained, "errors": state.errors, "seconds": dict(state.seconds)}
    return found


def publish(folder: RunFolder, turn: Turn) -> None:
    """The last round's adapters under the names that every run has."""
    for role in ("policy", "reward"):
        newest = folder.adapter(f"{role}_{turn.number}")
        if turn.of > 1 and newest.is_dir():
            with staging(folder.adapter(role)) as temp:
                shutil.copytree(newest, temp, dirs_exist_ok=True)


def summary(records: Records, count: int) -> dict[str, Any]:
    """What summary.json says of the rounds and of the answers that a reward scored: `answers` and `reward_model` of the last
    round that has them, `rounds` of each, and what loops counted that have ended."""
    turns = [Turn(number, count) for number in range(1, count + 1)]
    found: dict[str, Any] = {}
    for turn in turns:
        if scored := records.get(turn.named("answers"), {}).get("figures"):
            found["answers"] = scored | records.get(turn.named("policy"), {}).get("made", {})
        if model := records.get("reward_model" if turn.is_first else turn.named("reward_model"), {}).get("figures"):
            found["reward_model"] = model
    if scored_by_kind := found.get("answers"):
        found["abstained"] = scored_by_kind.get("abstained", 0)
        found["errors"] = scored_by_kind.get("errors", 0) + scored_by_kind.get("unreadable", 0)
    return found | ({"rounds": figures(records, count)} if count > 1 else {})


class Ended(NamedTuple):
    """On-policy loops of the rounds that are over: how many, and what they counted."""

    loops: int
    abstained: int
    errors: int
    seconds: dict[str, float]


def ended(records: Records) -> Ended:
    """What the loops of earlier rounds left in their records."""
    loops = [record["loop"] for record in records.values() if "loop" in record]
    seconds: dict[str, float] = {}
    for loop in loops:
        for name, value in loop["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
    return Ended(len(loops), sum(loop["abstained"] for loop in loops), sum(loop["errors"] for loop in loops), seconds)


def figures(records: Records, rounds: int) -> list[dict[str, Any]]:
    """For the summary: what each round that was judged came to. `policy` by the reward of that round, `gold` by the truth."""
    found = []
    for number in range(1, rounds + 1):
        turn = Turn(number, rounds)
        judged = records.get(evaluation_of(turn), {}).get("figures")
        if judged is None:
            break
        row: dict[str, Any] = {"round": number} | {name: judged[name] for name in ("policy", "gold") if name in judged}
        if answers := records.get(turn.named("answers"), {}).get("figures"):
            row["answers"] = answers | records.get(turn.named("policy"), {}).get("made", {})
        if model := records.get("reward_model" if number == 1 else turn.named("reward_model"), {}).get("figures"):
            row["reward_model"] = model
        found.append(row)
    return found
