"""`rlhf-lora verify`: the conformance vectors, and what must hold of the user's own model, tokenizer, engine, reward and
optimizer. Few prompts, one update, nothing written but the cache of the embedded base."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rlhf_lora.checks.registry import Result
from rlhf_lora.errors import ConfigError, did_you_mean
from rlhf_lora.plan import Plan


def verify(plan: Plan) -> list[Result]:
    """Run every check on what the plan describes.

    Raises:
        UserError: the model or an adapter cannot be loaded, or there is no card where one is asked for.
    """
    from rlhf_lora.checks import registry, vectors
    from rlhf_lora.verify import loop_checks, model_checks, plugin_checks
    from rlhf_lora.verify.subject import Subject

    assert vectors and loop_checks and model_checks and plugin_checks  # importing them put them on the list
    plan = ready(plan)
    with tempfile.TemporaryDirectory(prefix="rlhf-lora-verify-") as folder:
        subject = Subject(plan, Path(folder))
        assert subject.backbone  # a model that cannot be loaded is the user's to mend, not a row of failed checks
        return [*registry.run(registry.checks("nothing")), *registry.run(registry.checks("model"), subject)]


def ready(plan: Plan) -> Plan:
    """Threads, the card, the embedded base: what training does before its first stage.

    Raises:
        ConfigError: there is no card.
    """
    import torch

    hardware = plan.config.hardware
    if plan.spec.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "torch finds no CUDA card", where="hardware.device=cuda", fix="hardware=cpu, or a CUDA build of torch"
        )
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if plan.mini is None:
        return plan
    from rlhf_lora.mini import bases

    path = bases.ensure(plan.cache_dir, plan.mini)
    return dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, path=str(path)))


# --- profiles ---------------------------------------------------------------------------------------------------------


def profiles() -> list[str]:
    """Names of the profiles that the kit has: `conf/profile/NAME.yaml`."""
    folder = resources.files("rlhf_lora.conf").joinpath("profile")
    files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def with_profile(overrides: Sequence[str], name: str | None) -> list[str]:
    """Overrides that begin with the profile, so that what the user says comes after it.

    Raises:
        ConfigError: there is no such profile.
    """
    if name is None:
        return list(overrides)
    known = profiles()
    if name not in known:
        raise ConfigError(
            f"there is no profile '{name}'{did_you_mean(name, known)}", where=f"--profile {name}",
            fix=f"profiles: {', '.join(known)}" if known else "this version has no profiles: leave --profile out",
        )  # fmt: skip
    return [f"{'' if _is_in_defaults('profile') else '+'}profile={name}", *overrides]


def _is_in_defaults(group: str) -> bool:
    import yaml

    read = yaml.safe_load(resources.files("rlhf_lora.conf").joinpath("train.yaml").read_text("utf-8"))
    return any(isinstance(entry, dict) and group in entry for entry in read["defaults"])


# --- for people and programs ------------------------------------------------------------------------------------------


def as_json(results: Sequence[Result], plan: Plan, profile: str | None) -> dict[str, Any]:
    return {
        "profile": profile,
        "model": plan.spec.path or "embedded",
        "optimizer": plan.config.optimizer.name,
        "reward": plan.config.reward.name,
        "rollout": plan.config.rollout.name,
        **counts(results),
        "results": [dataclasses.asdict(result) for result in results],
    }


def counts(results: Sequence[Result]) -> dict[str, int]:
    found = Counter(result.state for result in results)
    return {"passed": found["passed"], "failed": found["failed"], "not_applicable": found["not applicable"]}


def show(results: Sequence[Result], console: Any) -> None:
    """Print the table; what failed stands last once more, in one line."""
    from rich.table import Table
    from rich.text import Text

    colours = {"passed": "green", "failed": "bold red", "not applicable": "dim"}
    table = Table(box=None, pad_edge=False)
    for column, ratio in (("item", None), ("what", 4), ("", None), ("figure", 4), ("source", 3)):
        table.add_column(column, ratio=ratio, no_wrap=ratio is None)
    for result in results:
        state = Text("n/a" if result.state == "not applicable" else result.state, colours[result.state])
        table.add_row(Text(result.item), Text(result.title), state, Text(result.figure), Text(result.source, "dim"))
    console.print(table)
    console.print(headline(results), highlight=False, markup=False)


def headline(results: Sequence[Result]) -> str:
    count = counts(results)
    failed = [f"{result.item} ({result.title})" for result in results if result.state == "failed"]
    line = f"{count['passed']} passed, {count['failed']} failed, {count['not_applicable']} not applicable"
    return f"{line}: {'; '.join(failed)}" if failed else line
