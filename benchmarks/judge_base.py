"""How good the tiny judge is that `python -m rlhf_lora.mini judge` makes, on pairs that it has not seen.

python benchmarks/judge_base.py                  makes it, and writes benchmarks/results/judge_base.json
python benchmarks/judge_base.py --base FOLDER    of one that is there
python benchmarks/judge_base.py --page           writes the table of docs/judge_base.md from that file
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measured

RESULT = measured.RESULTS / "judge_base.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "judge_base.md"
ASKED = ("judge=local", "judge.style=bare", "dataset=orders", "dataset.seed=7", "hardware.device=cpu")
PAIRS = 3000
ARMS = {"4 bits": (), "float32": ("judge.load_in_4bit=false",)}


def made(folder: Path) -> float:
    """Make the judge; CPU seconds of that, imports and all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "rlhf_lora.mini", "judge", "--to", str(folder)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)


def measure(folder: Path, arm: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "rlhf_lora", "evaluate", *ASKED, *ARMS[arm], f"judge.path={folder}"]
    told = subprocess.run([*command, "-n", str(PAIRS), "--json"], check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return {"arm": arm, "overrides": [*ASKED, *ARMS[arm]], "figures": json.loads(told.stdout)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    four, full = (next(row["figures"] for row in rows if row["arm"] == arm) for arm in ARMS)
    lines = ["| | 4 bits | float32 |", "|---|---|---|"]
    for named, part, figure in (
        ("agrees with the gold score where the two differ", "gold", "agreement"),
        ("… where they differ by 1 or more", "gold", "agreement_far"),
        ("agrees with the noisy labels", "", "agreement"),
        ("the labels agree with the gold score", "gold", "agreement_of_people"),
        ("takes the first", "position", "first_share"),
        ("winner changes with the order, before averaging", "position", "flip_rate"),
        ("Brier score", "calibration", "brier"),
    ):
        cells = [shown((of[part] if part else of), figure) for of in (four, full)]
        lines.append(f"| {named} | {' | '.join(cells)} |")
    errors = [f"{of['calibration']['calibration_error']:.3f}" for of in (four, full)]
    return "\n".join([*lines, f"| calibration error | {' | '.join(errors)} |"])


def shown(of: Mapping[str, Any], figure: str) -> str:
    low, high = of[f"{figure}_ci95"]
    return f"{of[figure]:.3f} [{low:.3f}, {high:.3f}]"


def page(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return measured.filled(text, {"judge": table(rows)})


def main(argv: Sequence[str] | None = None) -> None:
    parser = measured.parser(__doc__, RESULT)
    parser.add_argument("--base", type=Path, help="a judge that was made before; default: one is made, and removed")
    parser.add_argument("--page", action="store_true", help="write docs/judge_base.md from the last measurement")
    given = parser.parse_args(argv)
    if given.page:
        PAGE.write_text(page(PAGE.read_text("utf-8"), measured.read(given.to)), "utf-8")
        return
    if not given.table:
        with tempfile.TemporaryDirectory() as temp:
            folder = given.base or Path(temp) / "judge"
            about = {} if folder.is_dir() else {"cpu_seconds": made(folder)}
            facts = json.loads((folder / "base.json").read_text("utf-8"))
            measured.write(given.to, [measure(folder, arm) for arm in ARMS], base=facts, **about)
    print(table(measured.read(given.to)))


if __name__ == "__main__":
    main()
