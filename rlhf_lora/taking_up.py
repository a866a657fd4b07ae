"""Taking up a run folder, and closing it: is it new, finished, or to be gone on with; and what the run came to."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import OmegaConf

from rlhf_lora import rounds
from rlhf_lora.controls import control_of
from rlhf_lora.errors import ConfigError
from rlhf_lora.honoured import told
from rlhf_lora.judging import canaries
from rlhf_lora.judging.endpoint import budget
from rlhf_lora.plan import Plan
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.software import versions

NOT_COMPARED = ("run_dir", "resume", "cache", "plugins")
"""Settings that may differ when a run folder is taken up again: they do not change what is computed."""


def claim(plan: Plan) -> tuple[RunFolder, bool]:
    """The run folder of a plan, and whether the run was finished before. An unfinished one is claimed for writing.

    Raises:
        ConfigError: it holds a run with other settings or inputs, or resume=never refuses it.
    """
    config = OmegaConf.to_container(plan.config)
    assert isinstance(config, dict)
    config = {str(k): v for k, v in config.items()} | {"run_dir": str(plan.run_dir)}
    if not (plan.run_dir / "config.yaml").is_file():
        made = RunFolder.create(plan.run_dir, config, versions() | {"inputs": dict(plan.inputs)})
        return made.claim(), False
    if plan.config.resume == "never":
        raise ConfigError(
            f"{plan.run_dir} is a run already", where="run_dir", fix="another run_dir, or resume=auto to go on with it"
        )
    folder = RunFolder.open(plan.run_dir)
    differs = differences(folder.config, config, free=_of_no_account(plan))
    if differs:
        raise ConfigError(
            f"{plan.run_dir} holds a run with other settings: {'; '.join(differs[:5])}", where="run_dir",
            fix="another run_dir, or the settings it began with",
        )  # fmt: skip
    began = folder.versions.get("inputs", {})
    changed = [name for name in {**began, **plan.inputs} if began.get(name) != plan.inputs.get(name)]
    plugins_alone = all(name.startswith("the plugin ") for name in changed)
    finished = folder.summary.get("status") == "finished"
    if changed and not (plan.config.resume == "mended" and plugins_alone and not finished):
        fix = "another run_dir, or put back what the run began with"
        if plugins_alone and not finished:
            fix += "; resume=mended goes on with the file as it is now, and the summary says from which update"
        raise ConfigError(
            f"{plan.run_dir} began with something else: {', '.join(changed)} changed since", where="run_dir", fix=fix
        )
    if finished:
        return folder, True
    folder.claim()
    if changed:
        _note_mended(folder, {name: str(plan.inputs.get(name)) for name in changed})
    return folder, False


def _note_mended(folder: RunFolder, now: Mapping[str, str]) -> None:
    """versions.json: what the run goes on with, and after which update it was another file."""
    versions, newest = folder.versions, folder.latest_checkpoint()
    after = newest.step if newest is not None else 0
    began = dict(versions.get("inputs", {}))
    noted = [
        {"what": name, "after_update": after, "before": began.get(name), "since": new} for name, new in now.items()
    ]
    folder.save_versions(versions | {"inputs": {**began, **now}, "mended": [*versions.get("mended", []), *noted]})


def _of_no_account(plan: Plan) -> frozenset[str]:
    """Settings of the judge that change how it is asked and not what it says: a budget, a deadline."""
    return frozenset(f"judge.{name}" for name in getattr(plan.judge, "not_compared", ()))


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str = "", free: Collection[str] = ()
) -> list[str]:
    """`optimizer.beta 0.05 → 0.1` for every setting that differs, but for those that are `free` to."""
    found = []
    for key in [*new, *(k for k in old if k not in new)]:
        a, b, place = old.get(key), new.get(key), f"{where}{key}"
        if place in NOT_COMPARED or place in free:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{place}.", free)
        elif a != b:
            found.append(f"{place} {a} → {b}")
    return found


def summarise(
    plan: Plan,
    folder: RunFolder,
    status: str,
    records: Mapping[str, Mapping[str, Any]],
    loop: Any,
    seconds_now: float,
    too_long: Mapping[str, int],
) -> dict[str, Any]:
    """What summary.json says. Keys that do not apply are absent.

    Args:
        records: stage → its record (seconds, figures, reused). loop: the on-policy loop, or None.
        seconds_now: of this process; what earlier ones took is in the summary they left.
        too_long: use → rows that it had to do without.
    """
    config = plan.config
    seconds = {name: record["seconds"] for name, record in records.items() if "seconds" in record}
    before = folder.summary.get("seconds", {}).get("total", 0.0)
    summary: dict[str, Any] = {
        "status": status, "optimizer": config.optimizer.name, "reward": config.reward.name, "seed": config.seed,
        "reused": [name for name, record in records.items() if record.get("reused")],
        "peak_memory_gib": _peak_memory_gib(plan.spec.device),
    }  # fmt: skip
    if (control := control_of(config)) is not None:
        summary["control"] = control
    if mended := folder.versions.get("mended"):
        summary["mended"] = mended
    if config.profile is not None:
        summary |= {"profile": config.profile, "profile_overrides": told(config)}
    if too_long:
        summary["too_long"] = dict(too_long)
    summary |= records.get("evaluation", {}).get("figures", {})
    for name in ("labels", "revisions", "revised_sft"):
        if figures := records.get(name, {}).get("figures"):
            summary["ai_labels" if name == "labels" else name] = figures
    summary |= rounds.summary(records, config.rounds)
    if loop is not None:
        state = loop.state
        abstained, errors = state.kinds(loop.missing)  # of a rollout that stopped the run
        earlier = rounds.ended(records)
        seconds |= {name: value + earlier.seconds.get(name, 0.0) for name, value in state.seconds.items()}
        summary |= {
            "abstained": earlier.abstained + state.abstained + abstained,
            "errors": earlier.errors + state.errors + errors,
            "updates": state.update + earlier.loops * plan.optimizer.updates,
            "best_update": loop.best.update,
        }
    if looked := canaries.told(folder.metrics("policy")):
        summary["canaries"] = looked
    if (spent := budget.spent_in(folder.path)) is not None:
        summary["judge_spent"] = dataclasses.asdict(spent)
    return summary | {"seconds": seconds | {"total": before + seconds_now}}


def _peak_memory_gib(device: str) -> float | None:
    """Peak of the card's reserved memory, or of the process's resident memory on a CPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_reserved() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
