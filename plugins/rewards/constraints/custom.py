"""Instructions whose whole wording stands in one prompt of IFBench."""

from __future__ import annotations

import csv
import datetime
import io
import re
import string

from . import pieces
from .registry import constraint


@constraint("custom:csv_special_character")
def csv_of_products(text: str) -> bool:
    """The five named columns, 14 rows, and one field in double quotes that has a special character."""
    body = re.sub(r"^```\w*\s*\n|\n```\s*$", "", text.strip())
    try:
        rows = [row for row in csv.reader(io.StringIO(body), skipinitialspace=True, strict=True) if row]
    except csv.Error:
        return False
    header = ["ProductID", "Category", "Brand", "Price", "Stock"]
    whole = len(rows) == 15 and [cell.strip() for cell in rows[0]] == header and all(len(row) == 5 for row in rows)
    quoted = re.findall(r'(?:^|,)[^\S\n]*+"((?:[^"]|"")*)"', "\n".join(body.splitlines()[1:]), flags=re.MULTILINE)
    return whole and any(re.search(r"[^\w\s.\-]", cell) for cell in quoted)


@constraint("custom:date_format_list")
def dates_with_commas(text: str) -> bool:
    """Dates as YYYY-MM-DD with commas between and nothing else. Whether they are the right ones is not looked at."""
    return all(_is_date(part.strip()) for part in text.strip().rstrip(".").split(","))


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", text)) and datetime.date.fromisoformat(text) is not None
    except ValueError:
        return False


@constraint("custom:multiples")
def sevens(text: str) -> bool:
    """The multiples of 7 from 10 to 50, in order, and no other number."""
    return re.findall(r"\d+", text) == ["14", "21", "28", "35", "42", "49"]


@constraint("custom:sentence_alphabet")
def sentences_a_to_z(text: str) -> bool:
    """26 sentences, whose first letters are A to Z."""
    first = [pieces.lowered(sentence)[0][0] for sentence in pieces.sentences(text)]
    return first == list(string.ascii_lowercase)
