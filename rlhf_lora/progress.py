"""Progress with time left, on stderr: a bar in a terminal, a line now and then in a log file. In a notebook, one quiet
block under the cell in which every loop keeps its line.

`RLHF_LORA_QUIET=1` silences it. Loops may nest; all bars share one display.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Display

T = TypeVar("T")

QUIET = "RLHF_LORA_QUIET"
WORTH_SHOWING_S = 2.0
"""What takes less leaves no trace."""
LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.5
"""Of a line in a notebook."""

_display: Display | None = None
_open_bars = 0
_block: _Block | None = None


class Progress:
    """One loop's progress. Close it, or use it in a `with`.

    Args:
        description: one or two words.
        total: how many steps there are; None when nobody knows.
        start: how many were done before (a resumed run); they do not count for the time left.
        inner: a part of a step of another loop: seen while it runs if it is long, and gone when it ends.
    """

    def __init__(self, description: str, total: int | None = None, start: int = 0, inner: bool = False):
        self.inner = inner
        self.description, self.total, self.done, self._start = description, total, start, start
        self._began = time.monotonic()
        self._said_at: float | None = None
        self._figures = ""
        self._closed = False
        self._row: int | None = None
        self._display = _join_display() if not quiet() and not _notebook() and _is_terminal() else None
        if self._display:
            self._task = self._display.add_task(description, total=total, completed=start, figures="")

    def update(self, n: int = 1, **figures: float | str | None) -> None:
        """`n` more steps are done. Figures are shown as they are named: `score=1.92` as `score 1.92`."""
        self.done += n
        if figures:
            self._figures = "  ".join(f"{k} {_short(v)}" for k, v in figures.items() if v is not None)
        if self._display:
            self._display.update(self._task, completed=self.done, figures=self._figures)
        elif self._is_due():
            self._say()

    def close(self) -> None:
        """Show the last state. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        worth_showing = time.monotonic() - self._began >= WORTH_SHOWING_S
        if self._display:
            self._display.stop_task(self._task)
            self._display.update(self._task, visible=worth_showing and not self.inner)
            _leave_display()
        elif not quiet() and not self.inner and (worth_showing or self._said_at is not None):
            self._say(last=True)
        elif self._row is not None and (block := _cell_block()):
            block.put("", self._row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self, last: bool = False) -> str:
        """`policy 12/40  score 1.92  kl 3.1  1:03 left`."""
        elapsed = time.monotonic() - self._began
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        parts = [f"{self.description} {count}", self._figures]
        if last:
            parts.append(f"in {clock(elapsed)}")
        elif self.total is not None and self.done > self._start:
            parts.append(f"{clock(elapsed / (self.done - self._start) * (self.total - self.done))} left")
        return "  ".join(part for part in parts if part)

    def _is_due(self) -> bool:
        first = LINE_EVERY_S if self.inner else WORTH_SHOWING_S
        again = REDRAW_EVERY_S if self._row is not None else LINE_EVERY_S
        wait, since = (first, self._began) if self._said_at is None else (again, self._said_at)
        return not quiet() and time.monotonic() - since >= wait

    def _say(self, last: bool = False) -> None:
        self._said_at = time.monotonic()
        if block := _cell_block():
            self._row = block.put(self.line(last), self._row)
        else:
            print(self.line(last), file=sys.stderr, flush=True)


def track(what: Iterable[T], description: str, total: int | None = None, inner: bool = False) -> Iterator[T]:
    """Iterate over `what` with progress; an integer means `range`. See `Progress` for `inner`."""
    items: Iterable[Any] = range(what) if isinstance(what, int) else what
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total, inner=inner) as progress:
        for item in items:
            yield item
            progress.update()


def stage(title: str, note: str = "") -> None:
    """A heading line on stderr: a stage begins."""
    if not quiet():
        text = f"── {title}" + (f" · {note}" if note else "")
        if block := _cell_block():
            block.put(text)
            return
        print(text if _encodes(text) else f"-- {title} {note}".rstrip(), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Where something long stands, in lines of its own; in a notebook over the note before, which "" takes away."""
    if quiet():
        return
    if block := _cell_block():
        block.note(text)
    elif text:
        print(text, file=sys.stderr, flush=True)


def quiet() -> bool:
    return os.environ.get(QUIET, "") not in ("", "0")


def clock(seconds: float) -> str:
    """`0:07`, `12:03`, `1:02:03`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _encodes(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _is_terminal() -> bool:
    return hasattr(sys.stderr, "isatty") and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _join_display() -> Display:
    """The one display: rich cannot run two at a time, so nested loops add a bar to the first one's."""
    global _display, _open_bars
    if _display is None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        _display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True),
            redirect_stdout=False,  # stdout carries results; it may be a file or a pipe
        )
        _display.start()
    _open_bars += 1
    return _display


def _leave_display() -> None:
    global _display, _open_bars
    _open_bars -= 1
    if _open_bars == 0 and _display is not None:
        _display.stop()
        _display = None


# --- in a notebook ----------------------------------------------------------------------------------------------------


class _Block:
    """The lines under one cell, redrawn in place. On stderr they would be many, and on red.

    Attributes:
        cell: the cell's number in its kernel.
    """

    def __init__(self, shell: Any):
        self.cell: int = shell.execution_count
        self._id = f"rlhf_lora-{os.getpid()}-{self.cell}"
        self._publish = shell.display_pub.publish
        self._lines: list[str] = []
        self._note: int | None = None

    def note(self, text: str) -> None:
        """The one note, at the end."""
        if self._note is not None:
            self._lines[self._note] = ""
        self._note = self.put(text)

    def put(self, line: str, row: int | None = None) -> int:
        """Write a line, over the one in `row` or below the others. Returns its row."""
        is_first = not self._lines
        if row is None or row >= len(self._lines):
            row = len(self._lines)
            self._lines.append(line)
        self._lines[row] = line
        text = "\n".join(line for line in self._lines if line)
        self._publish({"text/plain": text}, {}, transient={"display_id": self._id}, update=not is_first)
        return row


def _notebook() -> Any:
    """IPython's shell when a notebook's kernel runs us, else None. Nothing is imported: there it is loaded already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


def _cell_block() -> _Block | None:
    global _block
    shell = _notebook()
    if shell is None:
        return None
    if _block is None or _block.cell != shell.execution_count:
        _block = _Block(shell)
    return _block
