"""Writes the table of docs/verify.md: `python tests/draw_verify.py` runs `verify` on a tiny model and keeps what it said.

`tests/test_docs_verify.py` checks that lines and sources are those of today; figures differ from machine to machine.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "verify.md"
HEAD = "| item | what is checked | | figure | source |\n|---|---|---|---|---|\n"


def rows(page: str) -> list[list[str]]:
    """Cells of the table of a page."""
    table = page.partition(HEAD)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]


def table(results: Sequence[Any]) -> str:
    lines = [(r.item, r.title, "n/a" if r.state == "not applicable" else r.state, r.figure, r.source) for r in results]
    return HEAD + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main() -> None:
    from tiny import overrides

    from rlhf_lora import verify
    from rlhf_lora.config import compose
    from rlhf_lora.mini.base import BaseSettings, build_base
    from rlhf_lora.plan import make_plan

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RLHF_LORA_CACHE"] = str(folder / "cache")
        build_base(folder / "base", BaseSettings(steps=10, batch=8))
        results = verify.verify(make_plan(compose(*overrides(folder / "base", folder / "run", "reward=length"))))
    before, _, after = PAGE.read_text("utf-8").partition(HEAD)
    rest = after[after.index("\n\n") :] if "\n\n" in after else "\n"
    PAGE.write_text(before + table(results).rstrip("\n") + rest, "utf-8")


if __name__ == "__main__":
    main()
