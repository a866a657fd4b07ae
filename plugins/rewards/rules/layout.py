"""Rules on the layout of an answer: tags in order, and the marks of Markdown."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from rlhf_lora.records import Sample
from rlhf_lora.registry import reward

from .rule import Kept, Rule, rule

FENCE = re.compile(r" {0,3}(```|~~~)")
ELEMENTS = {
    "heading": re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE),
    "list": re.compile(r"^[ \t]*[-*+][ \t]+\S", re.MULTILINE),
    "numbered_list": re.compile(r"^[ \t]*\d{1,9}[.)][ \t]+\S", re.MULTILINE),
    "table": re.compile(r"^[ \t]*+(?:\|[ \t]*+)?:?-{3,}+:?[ \t]*+\|[-:| \t]*+$", re.MULTILINE),
    "bold": re.compile(r"\*\*[^\s*](?:[^*\n]*[^\s*])?\*\*"),
    "link": re.compile(r"\[[^\]\n]{1,200}\]\([^)\s]{1,2000}\)"),
}
KNOWN = ("heading", "list", "numbered_list", "code_block", "table", "bold", "link")


@rule("tags")
@reward("tags")
class Tags(Rule):
    """The answer has these tags, `<think>…</think><answer>…</answer>`, each exactly once, filled, in this order.

    The value is the share of what holds: one for each tag, one for their order (if there are several), one for `alone`.

    Attributes:
        tags: their names, in order.
        alone: nothing but white space stands outside of them.
        opened: the prompt ends with the first tag already open, as some chat templates do with `<think>`.
    """

    tags: list[str] = field(default_factory=lambda: ["think", "answer"])
    alone: bool = False
    opened: bool = False

    def __post_init__(self) -> None:
        if not self.tags or len(set(self.tags)) < len(self.tags):
            raise ValueError(f"tags must be names that differ, got {self.tags}")
        if [tag for tag in self.tags if not re.fullmatch(r"[\w:.-]+", tag)]:
            raise ValueError(f"tags are given without brackets, tags=[think,answer]; got {self.tags}")

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        text = f"<{self.tags[0]}>{sample.text}" if self.opened else sample.text
        spans = {tag: _span(tag, text) for tag in self.tags}
        faults = {tag: f"<{tag}> is not there exactly once and filled" for tag in self.tags if spans[tag] is None}
        asked = len(self.tags)
        good = [span for span in spans.values() if span is not None]
        if asked > 1:
            asked += 1
            if len(good) < len(self.tags) or any(a[1] > b[0] for a, b in itertools.pairwise(good)):
                faults["order"] = f"not in the order {', '.join(self.tags)}"
        if self.alone:
            asked += 1
            if len(good) < len(self.tags) or _outside(text, good).strip():
                faults["alone"] = "text outside of the tags"
        return Kept(1 - len(faults) / asked, ", ".join(faults.values()))


def _span(tag: str, text: str) -> tuple[int, int] | None:
    """Where `<tag>…</tag>` begins and ends; None unless both are there once, in order, with something between."""
    begin, end = f"<{tag}>", f"</{tag}>"
    if text.count(begin) != 1 or text.count(end) != 1:
        return None
    first, last = text.index(begin), text.index(end)
    return (first, last + len(end)) if text[first + len(begin) : last].strip() else None


def _outside(text: str, spans: list[tuple[int, int]]) -> str:
    pieces, at = [], 0
    for begin, end in sorted(spans):
        pieces.append(text[at:begin])
        at = max(at, end)
    return "".join([*pieces, text[at:]])


@rule("markdown")
@reward("markdown")
class Markdown(Rule):
    """Marks of Markdown that the answer must or must not have; the value is the share of them that is right.

    What stands in a code block is code: it has no headings and no lists.

    Attributes:
        all: each of these stands in it: heading, list, numbered_list, code_block, table, bold, link.
        none: none of these does.
    """

    all: list[str] = field(default_factory=list)
    none: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        given = [*self.all, *self.none]
        if not given or len(set(given)) < len(given):
            raise ValueError(f"it needs elements in all or none, each once: {', '.join(KNOWN)}")
        if unknown := [name for name in given if name not in KNOWN]:
            raise ValueError(f"no element {unknown[0]!r}; elements: {', '.join(KNOWN)}")

    def kept(self, sample: Sample, row: Mapping[str, Any]) -> Kept:
        prose = _without_code(sample.text)
        has = {name for name, mark in ELEMENTS.items() if mark.search(prose)}
        if prose != sample.text:
            has.add("code_block")
        faults = [f"no {name}" for name in self.all if name not in has]
        faults += [f"has a {name}" for name in self.none if name in has]
        return Kept(1 - len(faults) / len([*self.all, *self.none]), ", ".join(faults))


def _without_code(text: str) -> str:
    """The text without its code blocks. One that is never closed is none."""
    lines = text.split("\n")
    closing: dict[str, list[int]] = {"```": [], "~~~": []}
    for i, line in enumerate(lines):
        mark = FENCE.match(line)
        if mark and not line[mark.end() :].strip(" \t"):
            closing[mark[1]].append(i)
    kept, i = [], 0
    while i < len(lines):
        mark = FENCE.match(lines[i])
        ends = closing[mark[1]] if mark else []
        at = bisect.bisect_right(ends, i)
        if at < len(ends):
            kept.append("")
            i = ends[at]
        else:
            kept.append(lines[i])
        i += 1
    return "\n".join(kept)
