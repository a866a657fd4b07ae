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
from dataclasses import dataclass
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


# --- the command ------------------------------------------------------------------------------------------------------


def parser(doc: str | None, result: Path) -> argparse.ArgumentParser:
    """The flags that every benchmark has; what is left over are overrides for every run."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--table", action="store_true", help="print the table of the last measurement")
    made.add_argument("--to", type=Path, default=result)
    return made


# --- arms over seeds --------------------------------------------------------------------------------------------------

Row = Mapping[str, Any]
Measure = Callable[[int, str, Path, Path, Sequence[str]], Row]
"""Seed, arm, folder of the run, cache, overrides for every run → what was measured."""


@dataclass(frozen=True)
class Benchmark:
    """Arms that are run for several seeds, and the page that says what came of them.

    Attributes:
        doc: of `--help`. arms: names, as file and page order them.
        measure: one arm of one seed. told: what is printed of that, behind seed and arm.
        fill: a page's text and all rows → the text with its tables filled in.
        show: all rows → the tables alone.
    """

    doc: str | None
    result: Path
    page: Path
    arms: Sequence[str]
    seeds: Sequence[int]
    measure: Measure
    told: Callable[[Row], str]
    fill: Callable[[str, Any], str]
    show: Callable[[Any], str]

    def main(self, argv: Sequence[str] | None = None) -> None:
        self.run(self.asked(self.parser(), argv))

    def parser(self) -> argparse.ArgumentParser:
        made = parser(self.doc, self.result)
        made.add_argument("--seeds", type=int, nargs="+", default=list(self.seeds))
        made.add_argument(
            "--arms", nargs="+", default=list(self.arms), choices=self.arms, metavar="ARM", help="; ".join(self.arms)
        )
        made.add_argument("--jobs", type=int, default=1, help="seeds at a time")
        made.add_argument(
            "--cache",
            type=Path,
            help="keep bases and adapters here; an arm that is in it takes seconds and trains nothing",
        )
        made.add_argument("--page", action="store_true", help=f"write docs/{self.page.name} from the last measurement")
        return made

    def asked(self, made: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """What was given; `extra` are the overrides for every run, which may stand behind ` -- `."""
        given, extra = made.parse_known_args(argv)
        given.extra = [one for one in extra if one != "--"]
        return given

    def run(self, given: argparse.Namespace) -> None:
        if given.page:
            self.page.write_text(self.fill(self.page.read_text("utf-8"), read(given.to)), "utf-8")
        else:
            print(self.show(read(given.to) if given.table else self.over_seeds(given)))

    def over_seeds(self, given: argparse.Namespace) -> list[dict[str, Any]]:
        """Every arm of `given.arms` for every seed that the file does not have yet; written after each. Seeds go side by side
        (`given.jobs`), the arms of a seed one after another in one cache: bases and adapters are made once a seed."""
        rows = read(given.to) if given.to.is_file() else []
        known, lock = {(row["seed"], row["arm"]) for row in rows}, threading.Lock()

        def one_seed(seed: int, home: Path) -> None:
            cache = given.cache or home / "cache"
            for arm in (arm for arm in given.arms if (seed, arm) not in known):
                run_dir = home / "runs" / f"{seed}-{self.arms.index(arm)}"
                row = {"seed": seed, "arm": arm, **self.measure(seed, arm, run_dir, cache, given.extra)}
                with lock:
                    rows.append(row)
                    rows.sort(key=lambda r: (r["seed"], self.arms.index(r["arm"])))
                    write(given.to, rows)
                    print(f"seed {seed}  {arm}: {self.told(row)}, {row['cpu_seconds']:.0f} CPU s", flush=True)

        with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda seed: one_seed(seed, Path(home)), given.seeds))
        return rows


# --- the page ---------------------------------------------------------------------------------------------------------


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
