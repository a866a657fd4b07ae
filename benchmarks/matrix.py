"""Every reward source with every optimizer: what each cell gives on the miniature, and which cells have no meaning.

    python benchmarks/matrix.py --seeds 61 --home FOLDER   writes benchmarks/results/matrix.json; goes on where it stopped
    python benchmarks/matrix.py --rows "gold rule" --columns ppo dpo
    python benchmarks/matrix.py --page                     writes docs/matrix.md from that file

Rows are sources of reward, columns are optimizers; a cell is one `rlhf-lora train` with the overrides of its row and its column.
Cells of a seed share the base, SFT and whatever else the cache holds. A cell that the plan refuses is not run: its sentence
stands on the page. `make nightly` runs the whole.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measured

from rlhf_lora.errors import UserError

HERE = Path(__file__).resolve().parent
RESULT = measured.RESULTS / "matrix.json"
PAGE = HERE.parent / "docs" / "matrix.md"
USERS_FILE = HERE / "matrix_files" / "repeats_order.py"


@dataclass(frozen=True)
class Room:
    """What cells of one seed share. Files are made when a row first asks for them.

    Attributes:
        home: runs and cache of the seed. url: of the server that judges; empty while no cell that asks it is run.
        judge: a base that can be asked which of two answers is better.
        sizes: settings of `dataset=orders` that make it small, for tests.
    """

    seed: int
    home: Path
    url: str = "http://127.0.0.1:1/v1"
    judge: Path = Path("judge-base")
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> Path:
        """The comparisons of `orders`, as a labels file that somebody might have written."""
        from rlhf_lora import registry
        from rlhf_lora.labels import conversion, files

        file = self.home / "labels.jsonl"
        if not file.is_file():
            data = registry.build("dataset", {"name": "orders", "seed": self.seed, **self.sizes}).load()
            data = dataclasses.replace(data, demonstrations=(), prompts=())
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write(file, conversion.rows_of(data, rater="annotator"))
        return file


Overrides = Callable[[Room], Sequence[str]]

ROWS: dict[str, Overrides] = {
    "learned": lambda room: ("reward=learned",),
    "ai_feedback/local": lambda room: ("reward=ai_feedback", "judge=local", f"judge.path={room.judge}", "judge.style=bare"),
    "ai_feedback/openai_api": lambda room: ("reward=ai_feedback", "judge=openai_api", f"judge.base_url={room.url}",
                                            "judge.model=gold", "judge.concurrency=4"),
    "gold rule": lambda room: ("reward=orders_gold",),
    "user's file": lambda room: (f"plugins=[{USERS_FILE}]", "reward=repeats_order"),
    "mix": lambda room: ("reward=mix", "reward.parts.learned=learned", "reward.parts.short=length", "reward.parts.short.target=5",
                         "reward.weights.short=0.5"),
    "labels": lambda room: ("reward=learned", "dataset=labels", f"dataset.path={room.labels}", "dataset.mini_task=orders",
                            "dataset.gold=orders_gold", "sft.dataset=orders", "rollout.max_new_tokens=20"),
}  # fmt: skip
COLUMNS: dict[str, tuple[str, ...]] = {
    "ppo": ("optimizer=ppo",),
    "rloo": ("optimizer=rloo",),
    "grpo": ("optimizer=grpo",),
    "dpo, dataset": ("optimizer=dpo", "optimizer.pairs=dataset"),
    "dpo, relabel": ("optimizer=dpo", "optimizer.pairs=relabel"),
    "dpo, rollouts": ("optimizer=dpo", "optimizer.pairs=rollouts"),
    "kto": ("optimizer=kto",),
    "rejection_sampling": ("optimizer=rejection_sampling",),
}
EXPLAINED: dict[tuple[str, str], str] = {}
"""Cells that were run and do not come out above one half: why."""

Cell = tuple[str, str]
CELLS: list[Cell] = [(row, column) for row in ROWS for column in COLUMNS]


def overrides(cell: Cell, room: Room) -> list[str]:
    row, column = cell
    given = [*ROWS[row](room), *COLUMNS[column]]
    orders = "sft.dataset" if "sft.dataset=orders" in given else "dataset"
    return [f"seed={room.seed}", *given, *(f"{orders}.{name}={size}" for name, size in room.sizes.items())]


def refusal(cell: Cell, room: Room) -> str | None:
    """The sentence with which the plan refuses a cell; None of one that can be run."""
    from rlhf_lora.config import compose
    from rlhf_lora.plan import make_plan

    try:
        make_plan(compose(*overrides(cell, room)))
    except UserError as error:
        return str(error).splitlines()[0]
    return None


# --- running ----------------------------------------------------------------------------------------------------------


def folder(room: Room, cell: Cell) -> Path:
    return room.home / "runs" / "-".join(word for part in cell for word in re.findall(r"\w+", part))


def measure(cell: Cell, room: Room, extra: Sequence[str]) -> dict[str, Any]:
    named = {"seed": room.seed, "row": cell[0], "column": cell[1]}
    if (sentence := refusal(cell, room)) is not None:
        return {**named, "refused": sentence}
    row = measured.train([*overrides(cell, room), *extra], folder(room, cell), room.home / "cache")
    hidden = {str(room.home): "HOME", str(room.judge): "JUDGE", room.url: "URL", str(HERE): "benchmarks"}
    for text, name in hidden.items():
        row["overrides"] = [override.replace(text, name) for override in row["overrides"]]
    return {**named, **row}


@contextlib.contextmanager
def room_of(seed: int, given: argparse.Namespace, home: Path) -> Iterator[Room]:
    """Everything that the asked-for rows need: the judging base and a server that judges, for as long as it is wanted."""
    judge = (given.judge or home / "judge-base").resolve()
    if "ai_feedback/local" in given.rows and not (judge / "config.json").is_file():
        subprocess.run([sys.executable, "-m", "rlhf_lora.mini", "judge", "--to", str(judge)], check=True)
    with contextlib.ExitStack() as stack:
        url = Room.url
        if "ai_feedback/openai_api" in given.rows:
            import gold_server

            url = stack.enter_context(gold_server.serving(seed=seed))
        yield Room(seed, home / str(seed), url, judge)


def measure_all(given: argparse.Namespace, extra: Sequence[str]) -> list[dict[str, Any]]:
    rows = measured.read(given.to) if given.to.is_file() else []
    known = {(row["seed"], row["row"], row["column"]) for row in rows}
    wanted = [cell for cell in CELLS if cell[0] in given.rows and cell[1] in given.columns]
    with tempfile.TemporaryDirectory() as temp:
        for seed in given.seeds:
            missing = [cell for cell in wanted if (seed, *cell) not in known]
            if not missing:
                continue
            with room_of(seed, given, given.home or Path(temp)) as room:
                for cell in missing:
                    rows.append(measure(cell, room, extra))
                    measured.write(given.to, rows)
                    print(f"seed {seed}  {' × '.join(cell)}: {shown([rows[-1]])}", flush=True)
    return rows


# --- the page ---------------------------------------------------------------------------------------------------------


def of(rows: Sequence[dict[str, Any]], cell: Cell) -> list[dict[str, Any]]:
    return [row for row in rows if (row["row"], row["column"]) == cell]


def is_above_half(runs: Sequence[dict[str, Any]]) -> bool:
    """The mean over seeds is above one half."""
    rates = [run["summary"]["gold"]["win_rate_vs_reference"] for run in runs]
    return sum(rates) / len(rates) > 0.5


def shown(runs: Sequence[dict[str, Any]]) -> str:
    """Gold win rate of each seed with its interval and KL; a dash for a refused cell."""
    if not runs:
        return "not measured"
    if any("refused" in run for run in runs):
        return "–"
    each = []
    for run in runs:
        gold, kl = run["summary"]["gold"], run["summary"]["policy"]["kl_to_reference"]
        low, high = gold["win_rate_ci95"]
        each.append(f"{gold['win_rate_vs_reference']:.3f} [{low:.3f}, {high:.3f}] at {kl:.1f}")
    return "; ".join(each)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Sources down, optimizers across."""
    lines = [f"| source | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(shown(of(rows, (row, column))) for column in COLUMNS)} |" for row in ROWS]
    return "\n".join(lines)


def refused(rows: Sequence[dict[str, Any]]) -> str:
    """The cells without meaning, with what the plan says."""
    said: dict[str, list[str]] = {}
    for cell in CELLS:
        for sentence in dict.fromkeys(row["refused"] for row in of(rows, cell) if "refused" in row):
            said.setdefault(sentence, []).append(" × ".join(cell))
    return "\n".join(f"- {', '.join(cells)}: “{sentence}”" for sentence, cells in said.items()) or "None."


def explained(rows: Sequence[dict[str, Any]]) -> str:
    """The cells that were run and are not above one half."""
    low = [cell for cell in CELLS if (runs := of(rows, cell)) and "refused" not in runs[0] and not is_above_half(runs)]
    return "\n".join(f"- {' × '.join(cell)}: {EXPLAINED.get(cell, 'not explained')}" for cell in low) or "None."


PARTS = {"matrix": table, "refused": refused, "explained": explained}


def page(text: str, rows: Sequence[dict[str, Any]]) -> str:
    return measured.filled(text, {name: part(rows) for name, part in PARTS.items()})


def main() -> None:
    parser = measured.parser(__doc__, RESULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[61])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--home", type=Path, help="keep runs here, to go on with; default: a folder that is removed")
    parser.add_argument(
        "--judge",
        type=Path,
        help="a judging base: python -m rlhf_lora.mini judge --to FOLDER; made where it is missing",
    )
    parser.add_argument("--page", action="store_true", help="write docs/matrix.md from the last measurement")
    given, extra = parser.parse_known_args()
    if given.page:
        PAGE.write_text(page(PAGE.read_text("utf-8"), measured.read(given.to)), "utf-8")
        return
    print(table(measured.read(given.to) if given.table else measure_all(given, extra)))


if __name__ == "__main__":
    main()
