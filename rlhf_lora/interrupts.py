"""Ctrl-C and `kill` as a request: finish the step, save, and leave. A second one leaves at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


def caught() -> tuple[int, ...]:
    """Windows has Ctrl-Break beside Ctrl-C: it is how a process there asks another one to leave."""
    ctrl_break = getattr(signal, "SIGBREAK", None)
    return (signal.SIGINT, signal.SIGTERM) if ctrl_break is None else (signal.SIGINT, signal.SIGTERM, ctrl_break)


class Interrupts:
    """While entered, SIGINT and SIGTERM are noted instead of raised; `number` says which came, 0 for none.

    Outside the main thread (a notebook server's worker) signals cannot be caught, and nothing changes.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in caught():
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number if number in (signal.SIGINT, signal.SIGTERM) else signal.SIGINT
        print(
            f"{signal.Signals(number).name}: saving after this step; once more to leave at once",
            file=sys.stderr,
            flush=True,
        )
