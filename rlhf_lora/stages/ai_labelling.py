"""Asking a judge about many comparisons, and having a policy answer many prompts, so that a kill loses next to nothing.

Both go in portions of a fixed size. What a portion gave is on the disk before the next begins, and a run that is taken up
again does not ask for it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlhf_lora import progress
from rlhf_lora.comparison_rows import HEAD, Row, comparison_id, newest, row_of
from rlhf_lora.errors import Interrupted, Stopped
from rlhf_lora.judging.orders import Orders, compare, judges_fault
from rlhf_lora.records import Comparison, Prompt, named_seed
from rlhf_lora.row_file import RowFile

AT_ONCE = 64
"""Comparisons in a portion: enough for a server that answers several at a time, few enough to ask again after a kill."""
ANSWERED_AT_ONCE = 256
"""Prompts in a portion of a rollout."""


def label(
    judge: Any, comparisons: Sequence[Comparison], file: RowFile, name: str, *, orders: Orders = "both",
    tie_within: float = 0.0, missing_share: float = 0.5, interrupted: Callable[[], int | None] = lambda: None,
) -> Sequence[Row]:  # fmt: skip
    """Have an opened judge compare, and write each portion's rows down.

    A comparison that the file has a label for is not asked about again; one that could not be read is. One that comes
    several times is asked about once.

    Args:
        name: of the judge, as rows have it.
        missing_share: of verdicts that cannot be read; more than that, of all that there are so far, ends the stage.

    Returns:
        All rows of the file.

    Raises:
        Stopped: too many verdicts could not be read. Interrupted: a signal came. What was answered is on the disk.
        ContractError: the judge raised, or gave no verdicts.
    """
    rows = file.rows()
    if not rows:
        file.append([HEAD])
    have = {key for key, row in newest(rows).items() if "label" in row}
    every = {comparison_id(one): one for one in comparisons}
    todo = [one for key, one in every.items() if key not in have]
    done, unread = len(every) - len(todo), 0
    with progress.Progress("labels", len(every), start=len(every) - len(todo)) as bar:
        for portion in _portions(todo, AT_ONCE):
            leave_if(interrupted, "the labels so far are kept")
            with judges_fault(name):
                said = compare(judge, portion, orders, tie_within)
            made = [row_of(one, what, name, _principle(judge, one)) for one, what in zip(portion, said, strict=True)]
            file.append(made)
            done, unread = done + len(made), unread + sum("label" not in row for row in made)
            bar.update(len(made), unread=str(unread))
            _stop_if_missing(unread, done, missing_share, made)
    return file.rows()


def answer(
    backbone: Any, engine: Any, prompts: Sequence[Prompt], count: int, file: RowFile, seed: int, what: str = "answers",
    interrupted: Callable[[], int | None] = lambda: None,
) -> list[list[str]]:  # fmt: skip
    """Sample `count` answers to each prompt from the role policy. Killed and taken up again, they are the same ones.

    Returns:
        The answers of each prompt, in order.
    """
    done = len(file.rows())
    rows = file.keep(done - done % ANSWERED_AT_ONCE if done < len(prompts) else done)
    with progress.Progress(what, len(prompts), start=len(rows)) as bar:
        for start in range(len(rows), len(prompts), ANSWERED_AT_ONCE):
            leave_if(interrupted, "the answers so far are kept")
            portion = prompts[start : start + ANSWERED_AT_ONCE]
            samples = engine.generate(backbone, portion, count, named_seed(seed, f"{what}/{start}") >> 1)
            texts = [[sample.text for sample in samples[i * count : (i + 1) * count]] for i in range(len(portion))]
            made = [{"prompt": p.text, "id": p.id, "answers": given} for p, given in zip(portion, texts, strict=True)]
            file.append(made)
            rows += made
            bar.update(len(made))
    return [list(row["answers"]) for row in rows[: len(prompts)]]


def _portions(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def leave_if(interrupted: Callable[[], int | None], kept: str) -> None:
    if (number := interrupted()) is not None:
        raise Interrupted(number, f"interrupted; {kept}: the same command goes on")


def _stop_if_missing(unread: int, asked: int, share: float, rows: Sequence[Row]) -> None:
    if unread > share * asked:
        why = next(row["skipped"] for row in reversed(rows) if "skipped" in row)
        raise Stopped(
            f"the judge could not be read in {unread} of {asked} comparisons, more than scoring.missing_share={share:g} "
            f"allows; the last time: {why}. What it answered is kept: the same command asks for the rest"
        )


def _principle(judge: Any, comparison: Comparison) -> str:
    """What a judge with a constitution went by, where it says so."""
    told = getattr(judge, "principle_of", None)
    return str(told(comparison)) if callable(told) else ""
