"""Which part of a text is its final answer, and plain numbers as people write them. No mathematics is done here."""

from __future__ import annotations

import re
from decimal import Decimal

LONGEST = 200
"""Characters. A final answer is short; comparing grows with its length, and a policy finds that out."""
READ = 20_000
"""Characters from the end of a text in which its final answer is looked for."""

CURRENCY = "$€£¥₹"
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)(?:[eE][-+]?\d{1,2})?"
PLAIN = re.compile(
    rf"(?P<sign>[-+]?)\s*[{CURRENCY}]?\s*(?P<mixed>\d+\s+(?=\d+/))?(?P<number>{NUMBER})(?:\s*/\s*(?P<under>\d+))?"
    r"\s*(?P<percent>%|percent\b|per cent\b)?"
    # a unit: a word after a space, or one of those that are written without
    r"(?:\s+(?:[A-Za-z°]{2,}|[mgshLlNJWVAKCF]\b)[A-Za-z°²³/ -]{0,40}(?:\^?[23])?|(?:mm|cm|km|kg|mg|ml|m|g|h|L|°[CF]?)[²³]?)?",
)
"""A number with sign, currency, thousands commas, fraction, percent sign and unit, any of them left out."""

TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)")

GSM8K = re.compile(r"^\s*####[ \t]*(?!#)(\S.*?)[ \t]*$", re.MULTILINE)
CALCULATION = re.compile(r"<<[^<>\n]*>>")
"""GSM8K's notes for a calculator: `48/2 = <<48/2=24>>24`."""
BRACES = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)
TAGGED = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL | re.IGNORECASE)
SAID = re.compile(r"(?<!/)\banswer\s*(?:\*\*)?\s*(?:is\b|:)\s*(?:\*\*)?\s*:?[ \t]*([^\n]*)", re.IGNORECASE)
MATH = re.compile(
    r"\$\$(.{1,400}?)\$\$|\\\[(.{1,400}?)\\\]|\\\((.{1,400}?)\\\)|(?<![\\\d])\$(?!\s)([^$\n]+?)(?<![\s\\])\$(?!\d)",
    re.DOTALL,
)
BARE = re.compile(
    rf"(?<![\w.,/^])(?<!\d:)[-−]?[{CURRENCY}]?(?:\d+\s+(?=\d+/))?(?:{NUMBER})(?:/\d+)?(?:\s?(?:\\?%|percent\b))?"
    r"(?![\d^]|[.,:]\d|(?![mgshL]\b)[A-Za-z]\b)"  # `2x` is no 2, and no part of a number is a number
)


def final_answer(text: str) -> str | None:
    """The final answer that a text gives, as it stands there; None when it gives none.

    What stands after the last `</think>` counts. The last of the marks counts: a `\\boxed{…}`, an `<answer>…</answer>`, a
    line `#### 72`. Without a mark it is what follows the last "answer is", without that the last mathematics or number,
    and without that the whole text, if it is mathematics from end to end (`2^3`).
    """
    text = CALCULATION.sub("", text[-READ:].rpartition("</think>")[2])
    marks = [*_boxes(text), *((m.start(), m[1]) for m in TAGGED.finditer(text)), *_gsm8k(text)]
    if marks:
        inner = max(marks)[1]
        boxes = list(_boxes(inner))  # <answer>\boxed{72}</answer>
        return (boxes[-1][1] if boxes else inner).strip() or None
    said = [m[1] for m in SAID.finditer(text) if m[1].strip()]
    if said and (first := _first(said[-1])):
        return first
    return _last(text) or (text.strip() if _is_expression(text) else None)


def _boxes(text: str) -> list[tuple[int, str]]:
    """(place, content) of each `\\boxed{…}`; braces inside of it are counted. One that never closes is none."""
    found: list[tuple[int, str]] = []
    opened: list[re.Match[str]] = []
    for brace in BRACES.finditer(text):
        if brace[0].endswith("{") and brace[0] != "\\{":
            opened.append(brace)
        elif brace[0] == "}" and opened:
            begin = opened.pop()
            if begin[0] != "{":
                found.append((begin.start(), text[begin.end() : brace.start()]))
    return found


def _gsm8k(text: str) -> list[tuple[int, str]]:
    """GSM8K's `#### 72`. A heading of Markdown looks the same: it counts if it is a number, or the last line."""
    return [
        (m.start(), m[1]) for m in GSM8K.finditer(text) if plain_number(m[1]) is not None or not text[m.end() :].strip()
    ]


def _first(line: str) -> str | None:
    """The answer behind "answer is": of `24 * 3 = 72, since …` it is 72."""
    line = re.split(r"[.;,](?=\s|$)|\b(?:since|because|as|so|which)\b", line, maxsplit=1)[0]
    if not MATH.search(line):
        line = line.rpartition("=")[2]
    found = [(m.start(), _inside(m)) for m in MATH.finditer(line)] + [(m.start(), m[0]) for m in BARE.finditer(line)]
    return min(found)[1].strip() if found else None


def _last(text: str) -> str | None:
    found = [(m.end(), _inside(m)) for m in MATH.finditer(text)] + [(m.end(), m[0]) for m in BARE.finditer(text)]
    return max(found)[1].strip() if found else None


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def plain_number(text: str) -> str | None:
    """A number as people write it, without commas, currency and unit: `-1,234.50 dollars` → `-1234.50`, `5 1/2` →
    `11/2`, `\\frac{3}{4}` → `3/4`, `50\\%` → `50%`. None when it is not just one number."""
    if len(text) > LONGEST:
        return None
    text = clean(text)
    text = SHORT_FRACTION.sub(r"\1/\2", FRACTION.sub(r" \1/\2", text)).strip()
    match = PLAIN.fullmatch(text)
    if match is None:
        return None
    number, under = match["number"].replace(",", ""), match["under"]
    if "e" in number.lower():
        number = f"{Decimal(number):f}"
    if under is not None and (not int(under) or "." in number):
        return None
    if match["mixed"]:
        number = str(int(match["mixed"]) * int(under) + int(number))
    sign = "-" if match["sign"] == "-" else ""
    return f"{sign}{number}{f'/{under}' if under else ''}{'%' if match['percent'] else ''}"


def clean(text: str) -> str:
    """Without what changes nothing: mathematics delimiters, spacing commands, text commands, emphasis, a last stop."""
    text = TEXT_COMMAND.sub(r" \1 ", text)
    for old, new in (
        ("−", "-"), ("–", "-"), ("\\$", "$"), ("\\%", "%"), ("{,}", ","), ("\\!", ""), ("\\,", " "), ("\\;", " "),
        ("\\ ", " "), ("~", " "), ("\u00a0", " "), ("\u202f", " "), ("**", ""), ("\\(", ""), ("\\)", ""), ("\\[", ""),
        ("\\]", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$")
    return text.strip().rstrip(".,;:!").strip()


def reference_answer(value: object) -> str | None:
    """The answer that a dataset's row gives: a number, `… #### 72`, `\\boxed{72}`, `72 clips`, or an expression."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    if not text or plain_number(text) is not None or _is_expression(text):
        return text or None
    return final_answer(text)


def _is_expression(text: str) -> bool:
    """Mathematics from end to end: no mark in it, and no word beside commands, text commands and function names."""
    text = text.strip()
    if len(text) > LONGEST or any(mark in text for mark in ("\n", "boxed", "####", "<answer>")):
        return False
    rest = TEXT_COMMAND.sub("", text)
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", rest))
    return bool(re.search(r"\d|\\[A-Za-z]|^[A-Za-z]$|[-+*/^=]", rest)) and not set(words) - {
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
    }
