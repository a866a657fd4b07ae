"""Rows of labels files for tests: of every kind, and drawn ones with all sorts of text in them."""

from __future__ import annotations

import random
from typing import Any

from rlhf_lora.labels.rows import KINDS, STRENGTHS, LabelRow
from rlhf_lora.records import Prompt, transcript

TEXTS = (
    "Blue.",
    "  two\nlines ",
    "ä 蓝 🟦",
    'a "quote" \\ and \t',
    "\r\n",
    "\u2028\u2029\x85",
    "\ufeffmark",
    "{}",
    "\x1b[31m",
)


def comparison(label: Any = "A", rater: str = "", answers: tuple[str, str] = ("yes", "no"), **more: Any) -> LabelRow:
    prompt = more.pop("prompt", "Is it?")
    return LabelRow(kind="comparison", prompt=Prompt(prompt), answers=answers, label=label, rater=rater, **more)


def drawn(rng: random.Random) -> LabelRow:
    """A row that is on the menu."""
    kind = rng.choice(KINDS)
    count = {"comparison": 2, "rating": 1, "verdict": 1}.get(kind) or rng.randint(2, 6)
    row: dict[str, Any] = {"answers": tuple(_text(rng) for _ in range(count))}
    if rng.random() < 0.1:
        row["skipped"] = rng.choice([True, "cannot tell"])
    elif kind == "comparison":
        row |= _comparison(rng)
    elif kind == "rating":
        row |= {"label": rng.choice([1, 4.5, 7]), "scale": (1, 7.0)}
    else:
        row["label"] = {
            "ranking": tuple(rng.choice([1.0, 2.0, 3.5]) for _ in range(count)),
            "choice": rng.randrange(count),
            "verdict": rng.choice(["good", "bad"]),
        }[kind]
    return LabelRow(kind=kind, prompt=_prompt(rng), **row, **_further(rng))  # type: ignore[arg-type]


def _comparison(rng: random.Random) -> dict[str, Any]:
    label = rng.choice(["A", "B", "tie"])
    p = {"A": rng.uniform(0.5, 1), "B": rng.uniform(0, 0.5), "tie": 0.5}[label]
    strength = None if label == "tie" else rng.choice([None, *STRENGTHS, 0, -1.25, 3])
    return {"label": label, "strength": strength, "p": rng.choice([None, p]), "p_orders": rng.choice([None, (p, 0.1)])}


def _further(rng: random.Random) -> dict[str, Any]:
    every: dict[str, Any] = {
        "rater": _text(rng), "criterion": "helpful", "source": "ai", "id": _text(rng), "time": "2026-11-22T04:00:00Z",
        "seconds": 2.5, "order": "both", "principle": _text(rng), "rationale": _text(rng), "note": _text(rng),
        "more": {"calls": 2, "deep": [{"x": None}, 1.5, _text(rng)]},
    }  # fmt: skip
    return {name: value for name, value in every.items() if rng.random() < 0.3}


def _prompt(rng: random.Random) -> Prompt:
    columns = rng.choice([{}, {"answer": 4, "kind": _text(rng), "list": [1, None]}])
    group = rng.choice(["", "a group"])
    if rng.random() < 0.5:
        return Prompt(_text(rng), columns=columns, group=group)
    turns = tuple({"role": role, "content": _text(rng)} for role in ("system", "user", "assistant", "user"))
    return Prompt(rng.choice([transcript(turns), "in other words"]), turns, columns, group)


def _text(rng: random.Random) -> str:
    return "".join(rng.choice(TEXTS) for _ in range(rng.randint(1, 3)))
