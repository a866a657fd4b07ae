"""The data part of the plan, on a terminal. Text from files is escaped: no control character of theirs reaches it."""

from __future__ import annotations

import unicodedata
from typing import Any

from rlhf_lora.data_lengths import Lengths
from rlhf_lora.data_view import FileView

BARS = ("prompts", "replies")
"""Drawn; of whole rows the limits alone are told."""
BAR = 32
"""Cells of the longest bar."""
UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that move the cursor, hide or turn text round, or are nothing a terminal can show."""
SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


def visible(text: str) -> str:
    """Text that a terminal shows as it is: line ends as \\n, control and direction characters as \\x1b, \\u202e."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(
        SHORT.get(c) or (c if unicodedata.category(c) not in UNSAFE else c.encode("unicode_escape").decode())
        for c in text
    )


def without_middle(text: str, characters: int) -> str:
    """At most about so many characters: the beginning and the end, and how much is left out between them."""
    if len(text) <= characters + 20:
        return text
    head = characters * 3 // 5
    tail = characters - head
    return f"{text[:head]} … {len(text) - characters:,} characters … {text[-tail:]}"


def show(views: list[FileView], console: Any) -> None:
    """Print every file."""
    for view in views:
        console.print()
        _print_head(view, console)
        for lengths in view.lengths:
            console.print(_histogram(lengths))
        for words, count in view.refused.items():
            console.print(
                _text(f"  the chat template refuses {count:,} of the prompts counted: {visible(words)}", "red")
            )
        _print_examples(view, console)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style)


def _grid(*widths: int | None) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for width in widths:
        table.add_column(width=width, overflow="fold", no_wrap=False)
    return table


def _print_head(view: FileView, console: Any) -> None:
    from rich.text import Text

    console.print(Text.assemble((view.setting, "bold"), "  ", visible(view.file)))
    grid = _grid(10, None)
    gives = ", ".join(f"{count:,} {kind}" for kind, count in view.gives.items())
    grid.add_row("  format", _text(f"{visible(view.format) or 'made by a plugin'} → {gives}"))
    grid.add_row("  rows", _text(f"{view.rows:,} = {view.used:,} used + {view.rows - view.used:,} not used"))
    for reason in view.unused:
        more = f", and {reason.rows - len(reason.first):,} more" if reason.rows > len(reason.first) else ""
        where = visible("; ".join(reason.first))
        grid.add_row("  not used", _text(f"{reason.rows:,}: {visible(reason.reason)} ({where}{more})", "yellow"))
    for why, count in view.left_out.items():
        grid.add_row("  left out", _text(f"{count:,} comparisons inside used rows: {visible(why)}", "yellow"))
    for remark in view.remarks:
        grid.add_row("  remark", _text(visible(remark)))
    goes = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in view.goes_to.items())
    grid.add_row("  goes to", _text(goes or "nothing"))
    grid.add_row("  lengths", _text(view.counted_as))
    console.print(grid)


def _histogram(lengths: Lengths) -> Any:
    from rich.console import Group
    from rich.text import Text

    counted = (
        f"{lengths.counted:,}"
        if lengths.counted == lengths.of
        else f"a sample of {lengths.counted:,} of {lengths.of:,}"
    )
    head = Text.assemble(
        "  ", ("rows, prompt and longest reply" if lengths.what == "rows" else lengths.what, "bold"),
        f": {counted}; half within {lengths.median:,}, 95 % within {lengths.p95:,}, longest {lengths.longest:,}",
    )  # fmt: skip
    most, width = max(count for _, count in lengths.bins), len(f"{lengths.bins[-1][0]:,}")
    cuts = {limit.tokens: limit.setting for limit in lengths.limits}
    lowest = min(cuts, default=None)
    lines = [head]
    for upto, count in lengths.bins if lengths.what in BARS else ():
        beyond = lowest is not None and upto > lowest
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        mark = f"  ← {cuts[upto]}" if upto in cuts else ""
        lines.append(
            Text.assemble(
                f"    ≤ {upto:>{width},} ", (f"{bar:<{BAR}}", "red" if beyond else "cyan"), f" {count:>6,}{mark}"
            )
        )
    for limit in lengths.limits:
        what = "none is longer" if not limit.longer else f"{_percent(limit.longer)} longer: {limit.then}"
        lines.append(Text(f"    {limit.setting}={limit.tokens:,}: {what}", style="red" if limit.longer else "dim"))
    return Group(*lines)


def _percent(share: float) -> str:
    return "under 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _print_examples(view: FileView, console: Any) -> None:
    for number, example in enumerate(view.examples, 1):
        console.print(_text(f"  {example.kind} {number}", "bold"))
        grid = _grid(12, None)
        grid.add_row("    prompt", _text(visible(without_middle(example.prompt, 220)), "dim"))
        for name, reply in example.replies.items():
            grid.add_row(f"    {name}", _text(visible(without_middle(reply, 140))))
        console.print(grid)
