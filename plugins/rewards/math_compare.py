"""Two answers compared through math-verify. Also a program: requests come as JSON lines, answers go back the same way.

As a program it stands alone (it is started by its path, with nothing of this package imported): whoever waits for it
can kill it. math-verify's own time limits are signals, which exist in a main thread alone and cannot end a long
multiplication; they are switched off.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import logging
import os
import queue
import re
import sys
import threading
from typing import Any

DECIMALS = 6, 12
"""Decimals that count where a number is written with a decimal point: 1/3 is 0.333333. Who writes more of them is held
to them (0.0000001 is not 0.0000002), up to where floating point ends."""
MEMORY = 4 * 2**30
"""Bytes that the program may take: a power tower asks for all there is."""


@functools.lru_cache(maxsize=4096)
def reading(answer: str) -> Any:
    """What math-verify reads `answer` as: a SymPy expression in a list; an empty list where it reads nothing."""
    import math_verify

    logging.getLogger("math_verify").setLevel(
        logging.ERROR
    )  # it warns that its time limits are off: they are meant to be
    plain = math_verify.ExprExtractionConfig()
    latex = math_verify.LatexExtractionConfig()
    is_number = not set(answer) - set("0123456789+-./%")
    read = math_verify.parse(
        answer if is_number else f"${answer}$",
        [plain] if is_number else [latex],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return [expression for expression in read if not _is_undefined(expression)]


def _is_undefined(expression: Any) -> bool:
    """1/0 and the like, which equal nothing."""
    import sympy

    if not hasattr(expression, "has"):
        return True
    zeroes = any(power.base.is_zero and power.exp.is_negative for power in expression.atoms(sympy.Pow))
    return zeroes or bool(expression.has(sympy.zoo, sympy.nan))


def same(reference: str, answer: str) -> bool:
    """Whether two answers are the same: 0.5 and 1/2, 50% and 0.5 (and 50: a percent sign may be left out).

    Raises:
        Exception: whatever SymPy raises; a comparison that failed is no difference.
    """
    import math_verify

    least, most = DECIMALS
    written = max(len(digits) for text in (reference, answer) for digits in re.findall(r"\.(\d+)|$", text))
    return bool(
        math_verify.verify(
            reading(reference),
            reading(answer),
            float_rounding=min(most, max(least, written)),
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


def compare(reference: str, answer: str | None) -> str:
    """`same`, `different`, or which of them is no mathematics: `no_reference`, `no_answer`."""
    if not reading(reference):
        return "no_reference"
    if answer is None or not reading(answer):
        return "no_answer"
    return "same" if same(reference, answer) else "different"


def serve(seconds: float) -> None:
    """Answer one request per line until the input ends, which is when whoever started this is gone.

    Args:
        seconds: a comparison that takes longer ends the program, in case nobody is left to do so: one power of whole
            numbers is a single step of the interpreter, in which no other thread sees the end of the input.
    """
    out, sys.stdout = sys.stdout, sys.stderr
    lines = _input()
    _limit_memory()
    import math_verify  # noqa: F401

    print(json.dumps("ready"), file=out, flush=True)
    while True:
        request = json.loads(lines.get())
        faulthandler.dump_traceback_later(seconds, exit=True)  # from a thread that needs no interpreter
        try:
            answer = compare(*request)
        except Exception as error:
            answer = f"failed: {type(error).__name__}: {str(error)[:200]}"
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), file=out, flush=True)


def _input() -> queue.SimpleQueue[str]:
    """Lines of stdin. At its end the program ends, even out of a comparison that would not."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (OSError, ValueError):  # a smaller limit holds already
        pass


if __name__ == "__main__":
    serve(float(sys.argv[1]))
