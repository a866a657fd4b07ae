"""One comparison as a row of a labels file (format `labels/1`, docs/labels.md), and rows as what is learned from.

    answers        A and B; which is A was a coin's choice, not the label's
    label          "A", "B", "tie"; left out where the judge could not be read, and then `skipped` says why
    p              P(A is better), of both orders together where both were asked
    order          `both`, or `AB` where A was read first and nothing else was asked
    p_orders       P(A is better) as told in the order AB, and in the order BA
    rater, source  the judge, and `ai`; the reward that plays people, and `program`
    principle, rationale   what the judge went by where it says so, and why
    id             names the comparison: prompt and both answers
    more           `flipped`: the two orders chose different answers; `calls`: how often somebody was asked for this row

Bai et al. 2022 (Constitutional AI, arXiv 2212.08073) §4.1; Lee et al. 2023 (arXiv 2309.00267) §3.1.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlhf_lora.judging.orders import Compared, probability
from rlhf_lora.records import Comparison, Pair, Prompt, Sample, transcript

HEAD = {"format": "labels/1"}
"""The first row of a file."""
Row = Mapping[str, Any]


def comparison_id(comparison: Comparison) -> str:
    """16 hex digits of prompt and answers; the same on every machine."""
    prompt = comparison.prompt
    said = json.dumps([prompt.text, prompt.messages, comparison.a, comparison.b], default=dict)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def in_a_coins_order(prompt: Prompt, x: str, y: str) -> Comparison:
    """Two answers as a comparison. Which comes first is a hash's choice that does not know which is the better one:
    a judge that prefers what it reads first would else agree with whoever labelled them."""
    first, second = sorted((x, y))
    said = json.dumps([prompt.text, first, second]).encode("utf-8", "surrogatepass")
    if hashlib.sha256(b"order\n" + said).digest()[0] % 2:
        first, second = second, first
    return Comparison(prompt, first, second)


def among(prompt: Prompt, answers: Sequence[str]) -> list[Comparison]:
    """Every two answers to a prompt that are not the same."""
    different = dict.fromkeys(answers)
    return [in_a_coins_order(prompt, x, y) for x, y in itertools.combinations(different, 2)]


class Sampled:
    """Answers of a policy as `stages.answers.sampled` keeps them: what there is to compare, and each as it was sampled. Where
    nothing was sampled an answer is its text alone, and ended."""

    def __init__(self, prompts: Sequence[Prompt] = (), rows: Sequence[Row] = ()):
        by_id = {prompt.id: prompt for prompt in prompts}
        self._rows = [(by_id[row["id"]], row) for row in rows if row["id"] in by_id]
        self._known = {
            (prompt.text, text): (tokens, finished)
            for prompt, row in self._rows
            for text, tokens, finished in zip(row["answers"], row["tokens"], row["finished"], strict=True)
        }

    def comparisons(self) -> list[Comparison]:
        return [one for prompt, row in self._rows for one in among(prompt, row["answers"])]

    def sample(self, prompt: Prompt, text: str) -> Sample:
        tokens, finished = self._known.get((prompt.text, text), (None, True))
        return Sample(
            prompt.text, text, messages=prompt.messages, columns=prompt.columns, tokens=tokens, finished=finished
        )  # fmt: skip


def row_of(comparison: Comparison, said: Compared, rater: str, principle: str = "", source: str = "ai") -> Row:
    """What somebody said, as a row. The data's label and the truth are in no part of it."""
    prompt, verdict = comparison.prompt, said.verdict
    p, q = probability(said.first), None if said.second is None else probability(said.second)
    row: dict[str, Any] = {"kind": "comparison", "id": comparison_id(comparison)}
    if prompt.messages is None or prompt.text != transcript(prompt.messages):
        row["prompt"] = prompt.text
    if prompt.messages is not None:
        row["messages"] = [dict(turn) for turn in prompt.messages]
    if prompt.group or prompt.messages is not None:
        row["group"] = prompt.group
    if prompt.columns:
        row["columns"] = dict(prompt.columns)
    row |= {"answers": [comparison.a, comparison.b], "rater": rater, "source": source}
    row["order"] = "AB" if said.second is None else "both"
    if verdict.choice is None:
        row["skipped"] = verdict.reason or "no verdict"
    else:
        row |= {"label": verdict.choice, "p": verdict.probability_a, "rationale": verdict.reason}
    if p is not None and q is not None:
        row["p_orders"] = [p, 1 - q]
    flipped = {} if said.flipped is None else {"flipped": said.flipped}
    return row | {"principle": principle, "more": flipped | {"calls": 1 if said.second is None else 2}}


def newest(rows: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
    """Comparison id → its last row: one that could not be read may have been asked again."""
    return {row["id"]: row for row in rows if "kind" in row}


def pair_of(
    comparison: Comparison, row: Mapping[str, Any], hard: bool = False, sampled: Sampled | None = None
) -> Pair | None:
    """What is learned from a row: the better answer first, with P(it is better) as its label; None of a tie or no verdict.

    Args:
        hard: the label is 1, however sure the judge was. sampled: knows which answers were cut.
    """
    if row.get("label") not in ("A", "B"):
        return None
    a, b, p = comparison.a, comparison.b, float(row["p"])
    chosen, rejected = (a, b) if row["label"] == "A" else (b, a)
    pair = Pair(comparison.prompt, chosen, rejected, label=1.0 if hard else max(p, 1 - p))
    if sampled is None:
        return pair
    chosen_ended, rejected_ended = (sampled.sample(comparison.prompt, text).finished for text in (chosen, rejected))
    return replace(pair, finished=(chosen_ended, rejected_ended))
