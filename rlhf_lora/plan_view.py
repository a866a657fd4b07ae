"""The plan as a person reads it, and as a program does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from omegaconf import OmegaConf

from rlhf_lora import data_show, data_view, memory
from rlhf_lora.plan import Plan


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything `show` prints, as plain values."""
    return {
        "run_dir": str(plan.run_dir),
        "cache": str(plan.cache_dir),
        "model": plan.spec.path or "embedded",
        "device": plan.spec.device,
        "stages": [
            {"name": s.name, "reads": s.reads, "rows": s.rows, "writes": s.writes, "reused": s.reused is not None,
             "memory_gib": None if s.memory is None else round(s.memory.total_gib, 3)}
            for s in plan.stages
        ],
        "splits": plan.splits.counts(),
        "data": [dataclasses.asdict(view) for view in data_view.view(plan)],
        "fits": _fits(plan),
        "notes": list(plan.notes),
        "config": OmegaConf.to_container(plan.config),
    }  # fmt: skip


def show(plan: Plan, console: Any) -> None:
    """Print the checked configuration, the stages, the data and the memory they are expected to take."""
    config = plan.config
    console.print(f"[bold]plan[/]  {config.optimizer.name} against reward={config.reward.name}, seed {config.seed}")
    if callable(in_words := getattr(plan.reward, "in_words", None)):
        console.print(f"reward  {in_words()}")
    console.print(f"run folder  {plan.run_dir}")
    console.print(f"model       {_model(plan)}")
    console.print(_stage_table(plan))
    console.print(_split_line(plan))
    console.print(_memory_table(plan))
    console.print(_verdict(plan))
    for note in plan.notes:
        console.print(f"[yellow]note[/]  {note}")
    data_show.show(data_view.view(plan), console)
    for line in _taken_out(plan):
        console.print(line)
    console.print("\n[bold]configuration[/] (null was derived; every line is an override)")
    for key, value in _flat(OmegaConf.to_container(config)):
        console.print(f"  {key}={value}", highlight=False)


def _model(plan: Plan) -> str:
    name = plan.spec.path or f"the embedded base ({plan.mini.hidden if plan.mini else '?'} wide, built once and cached)"
    weights = "NF4" if plan.spec.load_in_4bit else plan.spec.dtype
    return f"{name}, {weights} on {plan.spec.device}, LoRA r={plan.spec.lora.r}"


def _stage_table(plan: Plan) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="stages", title_justify="left", title_style="bold")
    for column in ("stage", "reads", "writes", "from"):
        table.add_column(column)
    for stage in plan.stages:
        table.add_row(
            stage.name,
            f"{stage.rows:,} {stage.reads}" if stage.rows else stage.reads,
            stage.writes,
            "cache (reused)" if stage.reused else _made_by(plan, stage.name),
        )
    if plan.stage("policy"):
        table.add_row("evaluation", f"{len(plan.splits.final_prompts):,} prompts", "summary.json, report.html", "")
    return table


def _made_by(plan: Plan, stage: str) -> str:
    """Where what a stage writes comes from."""
    config = plan.config
    if stage == "labels" or (stage == "revisions" and config.revisions.by == "judge"):
        return f"judge={config.judge.name}"
    made = {"revisions": "the SFT model", "answers": f"reward={config.reward.name}"}
    return made.get(stage, "training")


def _split_line(plan: Plan) -> str:
    counts = {name: count for name, count in plan.splits.counts().items() if count and name != "unused"}
    return "rows        " + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def _taken_out(plan: Plan) -> list[str]:
    """Rows that could be read, and that no stage gets: their prompt is judged on, or listed again."""
    read = {
        id(row)
        for source in plan.sources.every
        for data in (source.data, source.data.test)
        if data is not None
        for row in data.unused
    }
    reasons = Counter(row.reason for row in plan.splits.unused if id(row) not in read)
    return [f"taken out   {count:,}: {reason}" for reason, count in reasons.most_common()]


def _memory_table(plan: Plan) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="memory (GiB, estimated)", title_justify="left", title_style="bold")
    parts: tuple[str, ...] = ("base", "adapters", "gradients", "moments", "context", "rollout", "training")
    if any(stage.memory is not None and stage.memory.judge for stage in plan.stages):
        parts = (*parts, "judge")
    table.add_column("stage", no_wrap=True, min_width=12)
    for part in (*parts, "peak"):
        table.add_column(part, justify="right", no_wrap=True, min_width=len(part))
    for stage in plan.stages:
        if stage.memory is not None:
            values = [getattr(stage.memory, part) / memory.GIB for part in parts]
            table.add_row(
                stage.name,
                *(f"{v:.2f}" if v >= 0.005 else "·" for v in values),
                f"[bold]{stage.memory.total_gib:.2f}[/]",
            )
    return table


def _verdict(plan: Plan) -> str:
    """Whether it fits the card that `hardware=` names."""
    size, fits = plan.config.hardware.memory_gib, _fits(plan)
    if fits is None:
        return "no card size given (hardware=gpu_12gb): no verdict on whether it fits"
    usable = memory.usable(size) / memory.GIB
    word = "[green]fits[/]" if fits else "[red]does not fit[/]"
    return f"{word} a {size:g} GiB card ({usable:.1f} GiB usable beside a desktop); an estimate, not a measurement"


def _fits(plan: Plan) -> bool | None:
    size = plan.config.hardware.memory_gib
    return None if size is None else all(s.memory is None or s.memory.fits(size) for s in plan.stages)


def _flat(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        return [item for key, value in node.items() for item in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, "null" if node is None else str(node).lower() if isinstance(node, bool) else node)]
