"""The inputs that conformance kits give to plugins: ordinary ones, and the odd ones that a policy sooner or later makes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from rlhf_lora.records import Prompt, Sample

LONG = 10_000
"""Characters of the long answer."""
UNICODE = "naïve 日本語 🤖 مرحبا e\u0301 \u202e x \u200d \x00 \ud800".encode("utf-8", "replace").decode()


def ordinary() -> list[Sample]:
    """Eight answers to different prompts, of different lengths, orders of the miniature task among them. New objects at
    each call: what a plugin does to them stays with it."""
    asked = [
        ("please bring tea soup and bread . waiter:", "certainly tea soup and bread"),
        ("may i have rice fish and cake ? waiter:", "gladly rice with fish"),
        ("What is 12 + 30?", "12 + 30 = 42. The answer is 42."),
        ("Write one sentence about the sea.", "The sea was calm and the boats came home."),
        ("How do I boil an egg?", "Put it into boiling water.\n\n1. Wait seven minutes.\n2. Cool it.\n3. Peel it."),
        ("Answer in JSON: your name and age.", '{"name": "Kit", "age": 3}'),
        ("Is water wet? Answer yes or no.", "Yes."),
        (
            "Tell me about bees.",
            "Bees make honey. Bees dance. Bees are many, and they work all summer long for the hive.",
        ),
    ]
    return [Sample(prompt, text, messages=[{"role": "user", "content": prompt}]) for prompt, text in asked]


def odd(samples: Sequence[Sample]) -> dict[str, Sample]:
    """Id → one odd sample, made from the first of `samples` so that it has the same columns."""
    first = copy.deepcopy(samples[0])
    return {
        "empty_text": replace(first, text="", tokens=None, logprobs=None),
        "unicode": replace(first, text=UNICODE, tokens=None, logprobs=None),
        "long_text": replace(first, text=("word " * LONG)[:LONG], tokens=None, logprobs=None),
        "cut_off": replace(
            first, text=first.text[: len(first.text) // 2 + 1], finished=False, tokens=None, logprobs=None
        ),
    }


def comparisons() -> list[tuple[Prompt, str, str]]:
    """(prompt, answer, other answer) for judges."""
    given = ordinary()
    others = ["no", "", "It is 41.", "Sea.", "I do not know.", "My name is Kit.", "No, it is dry.", "Bees."]
    return [(Prompt.of(sample), sample.text, other) for sample, other in zip(given, others, strict=True)]


def shown(sample: Sample, at: int | None = None) -> str:
    """`sample 3 ('the text …')`."""
    text = sample.text if len(sample.text) <= 40 else f"{sample.text[:40]}…"
    number = "a sample" if at is None else f"sample {at}"
    state = "" if sample.finished else ", cut off"
    return f"{number} ({text!r}{state})"
