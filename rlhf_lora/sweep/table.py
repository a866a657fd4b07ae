"""A sweep as a table: one flat row a job, best first; as text, as summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.progress import clock
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.sweep.jobs import SweepFolder

Row = dict[str, Any]
FIGURES = {
    "gold_win_rate": "gold.win_rate_vs_reference",
    "gold_ci95": "gold.win_rate_ci95",
    "gold_score": "gold.score_mean",
    "win_rate": "policy.win_rate_vs_reference",
    "win_rate_ci95": "policy.win_rate_ci95",
    "score": "policy.score_mean",
    "kl": "policy.kl_to_reference",
    "reward_model_accuracy": "reward_model.accuracy",
    "peak_memory_gib": "peak_memory_gib",
}
"""Column → where summary.json has it. What a job does not have is absent from its row."""


def read_sweep(path: str | Path) -> list[Row]:
    """The table of a sweep's folder as it is now, also of one that runs or was stopped."""
    return rows(SweepFolder(Path(path)))


def rows(folder: SweepFolder, objective: str | None = None, direction: str = "maximize") -> list[Row]:
    """One row a job: job, what differs between jobs, figures, seconds, status, error. Best first, those without a figure last.

    Args:
        objective: a dotted key of summary.json to sort by; None: the gold win rate, where there is none the policy's.
    """
    differing = _differing([job.changes for job in folder.jobs.values()])
    found = []
    for job in folder.jobs.values():
        summary = folder.summary(job)
        status = folder.status(job)
        row: Row = {
            "job": job.number,
            "status": status,
            "changes": {k: v for k, v in job.changes.items() if k in differing},
        }
        if status == "finished":
            row |= {column: figure for column, key in FIGURES.items() if (figure := look_up(summary, key)) is not None}
            row["optimizer"], row["reward"] = summary.get("optimizer"), summary.get("reward")
            row["reused"] = summary.get("reused", [])
            if objective and (figure := number_at(summary, objective)) is not None:
                row["objective"] = figure
        seconds = look_up(summary, "seconds.total")
        row["seconds"] = seconds if seconds is not None else job.seconds
        if job.error and status != "finished":
            row |= {"error": job.error, "exit_code": job.exit_code}
        found.append(row)
    sign = -1 if direction == "maximize" else 1

    def place(row: Row) -> tuple[bool, float, int]:
        rank = row.get("objective") if objective else row.get("gold_win_rate", row.get("win_rate"))
        return rank is None, sign * rank if rank is not None else 0.0, row["job"]

    return sorted(found, key=place)


def over_seeds(table: Sequence[Row]) -> list[Row]:
    """Jobs that differ in nothing but their seed as one row: mean, lowest and highest of each figure, best mean first.

    Empty when no setting was tried with several seeds: then a difference between jobs may be the draw of the dice.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in table:
        if row["status"] == "finished":
            setting = tuple((key, value) for key, value in row["changes"].items() if key != "seed")
            groups.setdefault(setting, []).append(row)
    if all(len(group) == 1 for group in groups.values()):
        return []
    found = []
    for setting, group in groups.items():
        row = {"changes": dict(setting), "seeds": len(group)}
        for name in ("gold_win_rate", "win_rate", "kl"):
            if all(name in one for one in group):
                values = [float(one[name]) for one in group]
                row[name] = {"mean": sum(values) / len(values), "lowest": min(values), "highest": max(values)}
        found.append(row)
    rank = "gold_win_rate" if all("gold_win_rate" in row for row in found) else "win_rate"
    return sorted(found, key=lambda row: -row.get(rank, {"mean": float("-inf")})["mean"])


def over_seeds_cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """`over_seeds` as text."""
    found = over_seeds(table)
    keys = list(dict.fromkeys(key for row in found for key in row["changes"]))
    names = {"gold_win_rate": "gold win rate", "win_rate": "win rate", "kl": "KL"}
    shown = [name for name in names if any(name in row for row in found)]
    header = [*keys, "seeds", *(f"{names[name]}: mean, range" for name in shown)]
    lines = [
        [*(row["changes"].get(key, "-") for key in keys), str(row["seeds"]), *(_range(row.get(name)) for name in shown)]
        for row in found
    ]
    return header, lines


def look_up(summary: Mapping[str, Any], key: str) -> Any:
    """A dotted key; None when it is not there."""
    found: Any = summary
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def number_at(summary: Mapping[str, Any], key: str) -> float | None:
    """A dotted key; None when there is no single number."""
    found = look_up(summary, key)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def _differing(changes: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for one in changes for key in one)
    return [key for key in keys if len(changes) == 1 or len({one.get(key) for one in changes}) > 1]


def cells(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text. A column that no job has is left out; a cell without a value is a dash."""
    keys = list(dict.fromkeys(key for row in table for key in row["changes"]))
    columns: dict[str, list[str]] = {"job": [str(row["job"]) for row in table]}
    columns |= {key: [row["changes"].get(key, "-") for row in table] for key in keys}
    columns["objective"] = [_number(row.get("objective")) for row in table]
    columns["gold win rate"] = [_rate(row.get("gold_win_rate"), row.get("gold_ci95")) for row in table]
    columns["win rate"] = [_rate(row.get("win_rate"), row.get("win_rate_ci95")) for row in table]
    columns["score"] = [_number(row.get("score")) for row in table]
    columns["KL"] = [_number(row.get("kl")) for row in table]
    columns["time"] = [clock(row["seconds"]) if row["seconds"] else "-" for row in table]
    columns["status"] = [row["status"] + (f": {row['error']}" if "error" in row else "") for row in table]
    shown = {name: column for name, column in columns.items() if name in keys or any(cell != "-" for cell in column)}
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]


def text(table: Sequence[Row]) -> str:
    """The table in columns, for a terminal or a log."""
    if not table:
        return "no jobs"
    header, lines = cells(table)
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *lines]
    )


def write_summary(folder: SweepFolder, status: str, table: Sequence[Row]) -> None:
    """X/summary.json: the status of the sweep, the rows of its table, best first, and its settings over seeds."""
    settings = over_seeds(table)
    more = {"over_seeds": settings} if settings else {}
    RunFolder(folder.path).write_summary({"status": status, "jobs": list(table), **more})


def _rate(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _range(value: Mapping[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.3f} ({value['lowest']:.3f} to {value['highest']:.3f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
