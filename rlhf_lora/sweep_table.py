"""A sweep as a table: one flat row a job, best first; as text, as summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lora.progress import clock
from rlhf_lora.run_folder import RunFolder
from rlhf_lora.sweep_jobs import SweepFolder

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
            if objective and (figure := look_up(summary, objective)) is not None:
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


def look_up(summary: Mapping[str, Any], key: str) -> Any:
    """A dotted key; None when it is not there."""
    found: Any = summary
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def figure_names(summary: Mapping[str, Any], where: str = "") -> list[str]:
    """The dotted keys of all numbers of a summary."""
    found = []
    for key, value in summary.items():
        if isinstance(value, Mapping):
            found += figure_names(value, f"{where}{key}.")
        elif isinstance(value, int | float):
            found.append(f"{where}{key}")
    return found


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
    """X/summary.json: the status of the sweep and the rows of its table, best first."""
    RunFolder(folder.path).write_summary({"status": status, "jobs": list(table)})


def _rate(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
