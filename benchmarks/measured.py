"""What the benchmarks share: a training in a process of its own, arms over seeds, the file of figures, the cells of a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
TRAIN = (sys.executable, "-m", "rlhf_lora", "train")


def train(overrides: Sequence[str], run_dir: Path, cache: Path, command: Sequence[str] = TRAIN) -> dict[str, Any]:
    """Summary and CPU seconds (imports and all) of one run; `RuntimeError` with its last words where it fails."""
    environment = {**os.environ, "RLHF_LORA_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as words:
        child = subprocess.Popen(
            [*command, f"run_dir={run_dir}", *overrides], env=environment, stdout=subprocess.DEVNULL, stderr=words
        )
        _, status, used = os.wait4(child.pid, 0)  # of this child alone, whatever other threads are measuring
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            words.seek(0)
            raise RuntimeError(f"{' '.join(overrides)}: exit code {child.returncode}\n{words.read()[-2000:]}")
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    given = [one.replace(str(RESULTS.parent), "benchmarks") for one in overrides]  # no paths of this machine
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "overrides": given, "summary": summary}


def read(file: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["runs"]
    return runs


def write(file: Path, runs: Sequence[dict[str, Any]], **about: Any) -> None:
    """The rows, and what they were measured on; written after every row: nothing measured is lost."""
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**machine, **about, "runs": runs}, indent=1) + "\n", "utf-8")


# --- arms over seeds --------------------------------------------------------------------------------------------------

Measure = Callable[[int, str, Path, Path], Mapping[str, Any]]
"""Seed, arm, folder of the run, cache → what was measured."""


def over_seeds(
    given: argparse.Namespace, arms: Sequence[str], measure: Measure, told: Callable[[Mapping[str, Any]], str]
) -> list[dict[str, Any]]:
    """Every arm of `given.arms` for every seed that the file does not have yet; written after each. Seeds go side by side
    (`given.jobs`), the arms of a seed one after another in one cache: bases and adapters are made once a seed.

    Args:
        arms: all there are, as the file orders them.
        told: what is printed of a row behind its seed and arm.
    """
    rows = read(given.to) if given.to.is_file() else []
    known, lock = {(row["seed"], row["arm"]) for row in rows}, threading.Lock()

    def one_seed(seed: int, home: Path) -> None:
        for arm in (arm for arm in given.arms if (seed, arm) not in known):
            run_dir = home / "runs" / f"{seed}-{arms.index(arm)}"
            row = {"seed": seed, "arm": arm, **measure(seed, arm, run_dir, given.cache or home / "cache")}
            with lock:
                rows.append(row)
                rows.sort(key=lambda r: (r["seed"], arms.index(r["arm"])))
                write(given.to, rows)
                print(f"seed {seed}  {arm}: {told(row)}, {row['cpu_seconds']:.0f} CPU s", flush=True)

    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda seed: one_seed(seed, Path(home)), given.seeds))
    return rows


# --- the command ------------------------------------------------------------------------------------------------------


def parser(doc: str | None, result: Path) -> argparse.ArgumentParser:
    """The flags that every benchmark has; what is left over are overrides for every run."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--table", action="store_true", help="print the table of the last measurement")
    made.add_argument("--to", type=Path, default=result)
    return made


def parser_of_arms(
    doc: str | None, result: Path, page: Path, arms: Sequence[str], seeds: Sequence[int]
) -> argparse.ArgumentParser:
    """What `over_seeds` reads, and `--page`."""
    made = parser(doc, result)
    made.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    made.add_argument("--arms", nargs="+", default=list(arms), choices=list(arms), metavar="ARM", help="; ".join(arms))
    made.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    made.add_argument(
        "--cache", type=Path, help="keep bases and adapters here; an arm that is in it takes seconds and trains nothing"
    )
    made.add_argument("--page", action="store_true", help=f"write docs/{page.name} from the last measurement")
    return made


def command(made: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """What was given, and the overrides for every run, which may stand behind ` -- `."""
    given, extra = made.parse_known_args(argv)
    return given, [one for one in extra if one != "--"]


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with what was measured in it: each part stands between `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: the page has no place for a part.
    """
    for name, lines in parts.items():
        page, places = re.subn(
            f"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)",
            lambda m, t=lines: f"{m[1]}{t}\n{m[2]}",
            page,
            flags=re.S,
        )
        if places != 1:
            raise ValueError(f"the page has {places} places for '{name}'")
    return page


# --- cells of a table -------------------------------------------------------------------------------------------------


def figures(values: Sequence[float | None], digits: int = 3) -> str:
    return ", ".join("–" if value is None else f"{value:.{digits}f}" for value in values)


def rate(parts: Sequence[dict[str, Any]], key: str = "win_rate_vs_reference", ci: str = "win_rate_ci95") -> str:
    """**mean**, then every seed with its interval; a dash where one seed has no such figure."""
    if not parts or not all(key in part for part in parts):
        return "–"
    each = ", ".join(f"{part[key]:.3f} [{part[ci][0]:.3f}, {part[ci][1]:.3f}]" for part in parts)
    return f"**{statistics.mean(part[key] for part in parts):.3f}**: {each}"
