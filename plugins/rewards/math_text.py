"""Which part of a text is its final answer, and plain numbers as people write them. No mathematics is done here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, localcontext

LONGEST = 200
"""Characters. A final answer is short; comparing grows with its length, and a policy finds that out."""
READ = 20_000
"""Characters from the end of a text in which its final answer is looked for."""

CURRENCY = "$€£¥₹"
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)(?:[eE][-+]?\d{1,2})?"
SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that multiply the number before them."""
SCALE = rf"(?i:(?:\s++|-)(?:{'|'.join(SCALES)})s?\b)"
GLUED = r"(?:mm|cm|km|kg|mg|ml|m|g|h|L|°[CF]?)"
"""Units that are written without a space."""
PLAIN = re.compile(
    rf"(?P<sign>[-+]?)\s*+[{CURRENCY}]?\s*+(?P<mixed>\d+\s++(?=\d+/))?(?P<number>{NUMBER})(?:\s*/\s*+(?P<under>\d+))?"
    rf"(?P<scales>{SCALE}{{0,3}})\s*(?P<percent>%|percent\b|per cent\b)?"
    # a unit: a word after a space, or one of those that are written without
    rf"(?:\s++(?![A-Za-z°²³/ -]*\b(?:{'|'.join(SCALES)}|half|quarter)s?\b)"
    rf"(?:[A-Za-z°]{{2,}}|[mgshLlNJWVAKCF]\b)[A-Za-z°²³/ -]{{0,40}}(?:\^?[23])?|{GLUED}[²³]?)?",
)
"""A number with sign, currency, thousands commas, fraction, word of scale, percent sign and unit, any of them left out."""

TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)")

GSM8K = re.compile(r"^[^\S\n]*+####[ \t]*+(?!#)(\S.*)$", re.MULTILINE)
CALCULATION = re.compile(r"<<[^<>\n]*>>")
"""GSM8K's notes for a calculator: `48/2 = <<48/2=24>>24`."""
BRACES = re.compile(r"\\f?boxed\s*\{|\\.|[{}]", re.DOTALL)
TAGGED = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL | re.IGNORECASE)
SAID = re.compile(r"(?<!/)\banswer\s*+(?:\*\*\s*+)?(?:is\b|:)\s*+(?:\*\*\s*+)?:?", re.IGNORECASE)
ENDS = re.compile(r"[.;](?=\s|$)|\b(?:since|because|as|so|which)\b")
"""Where what follows "answer is" ends."""
MATH = re.compile(
    r"\$\$(.{1,400}?)\$\$|\\\[(.{1,400}?)\\\]|\\\((.{1,400}?)\\\)|(?<![\\\d])\$(?!\s)([^$\n]+?)(?<![\s\\])\$(?!\d)",
    re.DOTALL,
)
BARE = re.compile(
    rf"(?<![\w.,/^{{}}])(?<!\d:)[-−]?[{CURRENCY}]?(?:\d+\s++(?=\d+/))?(?:{NUMBER})(?:/\d+)?"
    rf"(?:{SCALE}{{1,3}}|\s?(?:\\?%|percent\b))?"
    # no part of a number is a number, and none of a formula: `2x` is no 2, `\sqrt{{2}}` and `2\pi` are none either
    rf"(?![\d^{{}}]|[.,:]\d|(?!{GLUED}[²³]?\b|s\b|(?:st|nd|rd|th)\b)[A-Za-z]|\\(?!text|mathrm|mbox)[A-Za-z])",
)
MATHEMATICAL = re.compile(r"[\w\s\\{}()\[\]|+\-−*/^=<>≤≥≠.,:!'$€£%°·×÷√π∞]+")
TWO_UNITS = re.compile(rf"{NUMBER}\s*+[A-Za-z]+,?\s++(?:and\s++)?{NUMBER}\s*+[A-Za-z]+")
"""`2 hours 30 minutes`: one quantity, and neither of its numbers."""
FUNCTIONS = frozenset("sin cos tan log ln exp sqrt pi".split())


def final_answer(text: str) -> str | None:
    """The final answer that a text gives, as it stands there; None when it gives none.

    What stands after the last `</think>` counts. The last of the marks counts: a `\\boxed{…}`, an `<answer>…</answer>`, a
    line `#### 72`. Without a mark it is what follows the last "answer is", without that the last mathematics or number,
    and without that the whole text, if it is mathematics from end to end (`2^3`).
    """
    text = _read(text)
    marked = _marked(text)
    if marked is not None:
        return marked or None
    return _first(_said(text)) or _last(text) or (text.strip() if _is_expression(text) else None)


def _read(text: str) -> str:
    return CALCULATION.sub("", text[-READ:].rpartition("</think>")[2])


def _marked(text: str) -> str | None:
    """What stands in the last mark, maybe nothing; None without a mark."""
    marks = [*_boxes(text), *((m.start(), m[1]) for m in TAGGED.finditer(text)), *_gsm8k(text)]
    if not marks:
        return None
    inner = max(marks)[1]
    boxes = list(_boxes(inner))  # <answer>\boxed{72}</answer>
    return (boxes[-1][1] if boxes else inner).strip()


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
        (m.start(), m[1].rstrip())
        for m in GSM8K.finditer(text)
        if plain_number(m[1]) is not None or not text[m.end() :].strip()
    ]


def _said(text: str) -> str:
    """What follows the last "answer is" that is followed by anything, up to the end of its sentence or the next one."""
    prefixes = list(SAID.finditer(text))
    for i in reversed(range(len(prefixes))):
        until = prefixes[i + 1].start() if i + 1 < len(prefixes) else len(text)
        line = text[prefixes[i].end() : until].lstrip().partition("\n")[0]
        if line:
            return ENDS.split(line, maxsplit=1)[0]
    return ""


def _first(said: str) -> str | None:
    """The answer in what follows "answer is": all of it where that is mathematics, of `24 * 3 = 72` what follows the
    last `=`; else the first mathematics or number."""
    whole = _bare(said)
    if whole[:1] in ("(", "[", "\\", "$") and _is_formula(whole):  # (2, 3)
        return whole.strip("$")
    piece = re.split(r",(?=\s|$)", said, maxsplit=1)[0]
    if not MATH.search(piece):
        piece = re.split(r"(?<![<>!])=", piece)[-1]
    bare = _bare(piece)
    if TWO_UNITS.fullmatch(bare):
        return bare
    head = bare.partition(" (")[0]  # 72 (24 * 3)
    if plain_number(head) is not None:
        bare = piece = head
    if _is_formula(bare):
        return bare.replace("$", "") if MATH.search(bare) else bare
    return min(((begin, -end, found) for begin, end, found in _found(piece)), default=(0, 0, None))[2]


def _bare(piece: str) -> str:
    """Without the stop, the emphasis, the quotation marks and the bracket's end around it: `**72**.)` is 72."""
    piece, before = re.sub(r"^\s*+(?:an?|the)\s", "", piece), None
    while piece != before:
        before, piece = piece, piece.strip(" \t*_`\"'“”’").rstrip(".,;:?-–— ")
        if (
            piece[-1:] in (")", "]")
            and piece[-2:-1] != "\\"
            and piece.count(piece[-1]) > len(re.findall(r"[(\[]", piece))
        ):
            piece = piece[:-1]
    return piece


def _is_formula(piece: str) -> bool:
    """An expression made of nothing but the signs of mathematics; `2xy` is one too."""
    return MATHEMATICAL.fullmatch(piece) is not None and _is_expression(re.sub(r"(\d)[A-Za-z]{2}\b", r"\1", piece))


def _last(text: str) -> str | None:
    return max(((end, found) for _, end, found in _found(text)), default=(0, None))[1]


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, content) of each formula and each number."""
    for m in MATH.finditer(text):
        scale = re.compile(SCALE).match(text, m.end())  # `$5$ million`
        inside = next(group for group in m.groups() if group is not None).strip()
        yield m.start(), m.end(), inside + scale[0] if scale else inside
    for m in BARE.finditer(text):
        yield m.start(), m.end(), m[0].strip()


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
    for word in re.findall("[a-z]+", match["scales"].lower()):
        with localcontext(prec=2 * LONGEST):
            number = f"{Decimal(number) * SCALES[word.removesuffix('s')]:f}"
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
    """The answer that a dataset's row gives: a number, `… #### 72`, `\\boxed{72}`, `72 clips`, or an expression.

    None where it takes a guess: `2 hours 30 minutes`, `Paris in 2024`. A policy would be trained on that guess.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    if not text or plain_number(text) is not None or _is_expression(text):
        return text or None
    text = _read(text)
    marked = _marked(text)
    if marked is not None:
        return marked or None
    if "####" in text:  # GSM8K's mark, in a row without line ends
        tail = text.rpartition("####")[2].strip()
        return tail if plain_number(tail) is not None or _is_expression(tail) else None
    said = _said(text)
    found = _first(said)
    if found is None or TWO_UNITS.fullmatch(found):
        return None
    return None if BARE.search(said.partition(found)[2]) and not _is_formula(_bare(said)) else found


def _is_expression(text: str) -> bool:
    """Mathematics from end to end: no mark in it, and no word beside commands, text commands and function names."""
    text = text.strip()
    if len(text) > LONGEST or any(mark in text for mark in ("\n", "boxed", "####", "<answer>")):
        return False
    rest = TEXT_COMMAND.sub("", text)
    words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", rest))
    return bool(re.search(r"\d|\\[A-Za-z]|^[A-Za-z]$|[-+*/^=]", rest)) and FUNCTIONS.issuperset(words)
