"""Tables of texts and scores on a terminal. No control character of a text reaches it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlhf_lora.records import Score

WIDTH = 160
"""Characters of a text that a cell shows."""


def table(header: Sequence[str], lines: Sequence[Sequence[str]], ratios: Sequence[int | None]) -> None:
    """Texts of models and of files: no control character of theirs reaches the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlhf_lora.data_show import visible, without_middle

    shown = [i for i in range(len(header)) if i < 4 or any(line[i] for line in lines)]
    made = Table(box=None, pad_edge=False)
    for i in shown:
        made.add_column(header[i], ratio=ratios[i], no_wrap=ratios[i] is None, overflow="fold")
    for line in lines:
        made.add_row(*(Text(visible(without_middle(line[i], WIDTH))) for i in shown))
    Console(file=sys.stdout, soft_wrap=False).print(made)


def value_of(score: Score) -> str:
    return f"{score.value:.4g}" if score.value is not None else f"none ({score.kind})"


def parts_of(score: Score) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in score.parts.items())
