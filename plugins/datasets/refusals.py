"""Why rows of a file cannot be read, and what its owner can do: the message for rows that no format, or two, would fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from rlhf_lora.errors import DataError

from . import formats
from .column_names import compared
from .formats import Format
from .json_rows import shortened
from .parts import kind_of

BARE_COMPARISON = {"chosen": "text", "rejected": "text"}


def fits_no_format(where: str, row: Mapping[str, Any], core: Mapping[str, Any], asked: Format | None) -> NoReturn:
    """Show the row, and every format that it could have had."""
    if asked is None and any(compared(row)):
        looks_compared(where, row)
    where = f"{where}: {shown(row)}"
    if asked is None and {name: kind_of(value) for name, value in core.items()} == BARE_COMPARISON:
        raise DataError(
            "chosen and rejected are plain text, and nothing says where the prompt ends and the replies begin",
            where=where,
            fix=r"add a column prompt, or write transcripts: \n\nHuman: …\n\nAssistant: …",
        )
    raise DataError(
        "the columns fit no format" if asked is None else f"the row does not have the format {asked.name}",
        where=where,
        fix="bring the rows into one of these, or name the columns with dataset.columns"
        + "".join(f"\n      {format.described()}" for format in ([asked] if asked else formats.FORMATS)),
    )


def looks_compared(where: str, row: Mapping[str, Any]) -> NoReturn:
    """Refuse to take for a prompt what looks like a comparison, with the names that its columns could be given."""
    replies, verdicts = compared(row)
    names = ", ".join(f"'{name}'" for name in (*replies, *verdicts))
    first, second, verdict = *[*replies, "REPLY", "OTHER_REPLY"][:2], [*verdicts, "VERDICT"][0]
    raise DataError(
        f"the columns {names} look like replies that were compared, and nothing says how to read them",
        where=f"{where}: {shown(row)}",
        fix=f"name them: 'dataset.columns={{reply_1: {first}, reply_2: {second}, preference: {verdict}}}' "
        "dataset.format=alpaca_eval where 1 = the first is better, 2 = the second, 0 = a tie; with label instead of "
        "preference and dataset.format=auto_j where 0 = the first, 1 = the second, 2 = a tie; with reply_a, reply_b, "
        "winner and dataset.format=winner where it is A, B or tie. For the prompts alone: dataset.format=prompt_only",
    )


def scale_in_doubt(format: Format, column: str, verdicts: set[float], where: str) -> NoReturn:
    """`column`: what the file calls the verdicts; `where`: its first row."""
    raise DataError(
        f"the verdicts in the column '{column}' run from {min(verdicts):g} to {max(verdicts):g}, and which number means "
        "which reply is not certain",
        where=f"{where} and the rows after it, taken for {format.name}",
        fix=f"say it: dataset.format=alpaca_eval 'dataset.columns={{preference: {column}}}' (1 the first is better, "
        f"2 the second, 0 a tie), or dataset.format=auto_j 'dataset.columns={{label: {column}}}' (0 the first, 1 the "
        "second, 2 a tie); else write the numbers so",
    )


def shown(row: Mapping[str, Any]) -> str:
    """A row's columns, their kinds and how they begin."""
    columns = [f"{n} ({kind_of(v)}) {shortened(json.dumps(v, ensure_ascii=False), 40)}" for n, v in row.items()]
    return "; ".join(columns[:12]) + ("; …" if len(columns) > 12 else "") if columns else "no columns"
