"""Somebody else's text, as a judge is shown it: between two lines that it cannot have written, and without markup.

A policy that is rewarded by a judge learns whatever moves the judge (reward hacking by injection: arXiv 2507.08794). What is
judged therefore never becomes part of the question's structure: chat models' special tokens, heads of turns, invisible and
direction-changing characters are taken out, and the fence is a hash that the text does not contain.

Braces and angle brackets of code stay: nothing here, and no chat template, runs what stands in a message.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

_LESS, _MORE, _BAR = "[<＜﹤]", "[>＞﹥]", "[|｜]"
_NAMES = (
    r"/?s", "bos", "eos", "pad", "unk", "mask", "sep", "cls", r"/?think", r"/?thinking", r"/?tool_calls?", r"/?tool_responses?",
    "(?:start|end)_of_(?:turn|image|text|audio|sequence)", "image_soft_token", "[A-Z]+_TOKEN", "[gs]?mask", "[es]op",
    r"unused_?\d+", r"reserved_\d+", r"extra_id_\d+", r"/?(?:system|human|assistant|user|bot)", "fim_(?:prefix|middle|suffix)",
)  # fmt: skip
_SQUARE = (
    r"/?INST", r"/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT|THINK|IMG|PREFIX|SUFFIX|MIDDLE)",
    "CLS", "SEP", "MASK", "PAD", "UNK", "BOS", "EOS", "gMASK", "sMASK", r"UNUSED_TOKEN_\d+",
)  # fmt: skip
MARKUP = re.compile(
    "|".join(
        [
            rf"{_LESS}\s?{_BAR}[^<>|｜＜＞\n\ufffd]{{0,64}}{_BAR}\s?{_MORE}",  # <|im_end|>, <|eot_id|>, <｜User｜>, <|channel|>
            rf"{_LESS}(?i:{'|'.join(_NAMES)}){_MORE}",  # </s>, <start_of_turn>, <think>
            rf"{_LESS}{_LESS}\s?/?SYS\s?{_MORE}{_MORE}",  # Llama 2
            rf"\[\s?(?:{'|'.join(_SQUARE)})\s?\]",  # [INST], [gMASK]
        ]
    )
)
"""Special tokens of the chat models' families, as text."""
_HEAD = re.compile(r"\s*(?:human|assistant|user|system|developer|tool)\s*:", re.IGNORECASE)
_FENCE = re.compile(r"=== ?[0-9a-f]{8,64} ?===")
_KEPT = "\n\t"
OUT = "\ufffd"
"""Stands where something was taken out: with nothing there, the pieces around it could make a token."""


def clean(text: str) -> str:
    """A text without what a model or a reader could take for structure, in one pass: cleaning once more changes nothing.

    Heads of turns (`Human:`) stay readable and lose the empty line before them, by which plain transcripts know a turn.
    """
    text = "".join(c for c in re.sub(r"\r\n?|[\u2028\u2029\x85\x0b\x0c]", "\n", text) if c in _KEPT or _visible(c))
    text = MARKUP.sub(OUT, _FENCE.sub(OUT, text))
    lines: list[str] = []
    for line in text.split("\n"):
        if _HEAD.match(line):
            while lines and not lines[-1].strip():
                lines.pop()
        lines.append(line)
    return "\n".join(lines)


def nonce(texts: Sequence[str], seed: int = 0) -> str:
    """Twelve hex digits that stand in none of the texts; the same for the same texts, so that a kept answer is found again."""
    number = 0
    while True:
        said = "\0".join([str(seed), str(number), *texts]).encode("utf-8", "surrogatepass")
        found = hashlib.sha256(said).hexdigest()[:12]
        if not any(found in text.lower() for text in texts):
            return found
        number += 1


def fence(nonce: str) -> str:
    return f"=== {nonce} ==="


def fenced(text: str, nonce: str) -> str:
    """A text between two lines of its fence. It has been cleaned."""
    return f"{fence(nonce)}\n{text}\n{fence(nonce)}"


def flat(text: str) -> str:
    """Cleaned, on one line, and without the bar that divides the parts of a short question (`bare`)."""
    return " ".join(re.sub("[|｜]", " ", clean(text)).split())


def _visible(c: str) -> bool:
    """Not a control character, zero-width, direction-changing, a tag, half of a surrogate pair or for private use."""
    if (
        c in "\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5"
        or "\ufe00" <= c <= "\ufe0e"
        or "\U000e0100" <= c <= "\U000e01ef"
    ):
        return False  # fillers and variation selectors: letters and marks by category, and nothing to the eye
    return unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
