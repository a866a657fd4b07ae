"""`docs/conformance.md`, made from docstrings of `tests/conformance` and `tests/agreement` by running this file."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import agreed

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conformance.md"
TESTS = ROOT / "tests" / "conformance"
ITEMS = [f"C{n:02}" for n in (*range(1, 16), *range(20, 37))] + [f"L{n}" for n in range(1, 7)]
PROFILES = ("oai2019", "tldr2024", "kit", "none")
DIFFERS = "differs"

# item → (state, what the kit does instead): only items, or parts of items, that the kit does not honour as they stand.
NOTES: dict[str, tuple[str, str]] = {
    "C03": (DIFFERS, "`tldr2024` gives rotary models no positions; the kit always does, which is the same function."),
    "C05": (
        DIFFERS,
        "Both profiles generate a fixed number of tokens; the kit stops at the end token, and the test "
        "shows that nothing that is trained on differs. `oai2019` trains on all 24 tokens, the kit up to the end.",
    ),
    "C08": (DIFFERS, "Logged as |mean ρ − 1| of the first minibatch, not as the largest difference of a token."),
    "C09": (DIFFERS, "Where a prompt begins and ends is the data's business; no query is cut at full stops."),
    "C11": (
        DIFFERS,
        "The head starts at zero, not at N(0, 1/√(d + 1)): scores start equal, and nothing hangs on a draw.",
    ),
    "C12": (
        DIFFERS,
        "Once, before PPO, on at most 256 completions; gain and bias are not trained, and labels' scale is not used.",
    ),
    "C13": (
        DIFFERS,
        "`optimizer.scale_scores=demonstrations`: on at most 256 of them, drawn by the seed (S takes all), and kept in the "
        "checkpoint instead of the reward model's `bias`. The kit's own default is C12's.",
    ),
    "C14": (
        DIFFERS,
        "The default is cosine with 3 % warm-up; linear decay is `reward_model.schedule=linear reward_model.warmup=0`.",
    ),
    "C15": (
        DIFFERS,
        "The policy has no tokens behind its end, because it stops there (C05); "
        "what is cut for the reward is the stop string.",
    ),
    "C20": (
        DIFFERS,
        "Zero by default, as `oai2019`; `optimizer.value_init=reward` begins as the reward model (`tldr2024`; "
        "tests/test_profiles.py).",
    ),
    "C21": (
        DIFFERS,
        "How answers end is the task's, and no profile's: `rollout.stop=['.'] rollout.stop_after=16` is O's rule. An end token "
        "ends an answer wherever it stands; O's model has none.",
    ),
    "C22": (
        DIFFERS,
        "Off by default (`missing_end_reward=null`): a cut answer keeps its score. The profiles replace it; "
        "`optimizer.missing_end=add` is TRL's subtraction.",
    ),
    "C24": (
        DIFFERS,
        "The score is on the end token by default, since one place behind it is disputed; "
        "`optimizer.score_position=after_end`, which `tldr2024` sets, puts it there, and wants `value=adapter`.",
    ),
    "C25": (DIFFERS, "The kit's own target is 5 nats with a horizon of 500 episodes, since its runs are short."),
    "C27": (
        DIFFERS,
        "Whitening is over the whole rollout, as D does it, not per minibatch; equal where there is one minibatch.",
    ),
    "C35": (DIFFERS, "Entropy is the mean per token; the published figure is the sum per sequence."),
    "L4": (
        DIFFERS,
        "Apart unless `optimizer.value=trunk`, which the plan chooses for small models, where it was no worse.",
    ),
    "L5": (
        DIFFERS,
        "No rollout buffer and no reward model in it: checkpoints stand between "
        "updates, the reward adapter has its own folder.",
    ),
}

HEAD = """# Conformance

How the kit's PPO is held to its sources: 32 items of the published PPO (C16 to C19 do not exist) and six that adapters
add, each with a test that has a vector worked out by hand, or an invariant. Run them: `pytest tests/conformance`. That
each fails when the line it guards is broken is itself a test: `pytest tests/test_mutations.py -m slow`.

**Profiles**: `oai2019` = OpenAI's released code (Ziegler et al. 2019); `tldr2024` = its TL;DR successor (Huang et al.
2024); `kit` = what this kit does when nothing is set. A row names a profile where its test holds for it; where the kit
does otherwise, the row says so; `none` = offered as a setting, and no profile's.

**Sources**: O = `openai/lm-human-preferences`; D = `vwxyzjn/lm-human-preference-details`; S =
`vwxyzjn/summarize_from_feedback_details`.

This page is written by `python tests/draw_conformance.py` from the tests' docstrings.
"""


@dataclass(frozen=True)
class Test:
    """One test of an item, as its docstring tells it."""

    item: str
    name: str
    file: str
    holds: str
    source: str
    profiles: tuple[str, ...]


def tests() -> list[Test]:
    """All tests under `tests/conformance`, by item, in the order of the files.

    Raises:
        ValueError: a test without an item's number, or a docstring without its three parts.
    """
    found = [
        _test(node, file.name)
        for file in sorted(TESTS.glob("test_*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return sorted(found, key=lambda test: ITEMS.index(test.item))


def _test(node: ast.FunctionDef, file: str) -> Test:
    told = re.fullmatch(r"(.+)\n\nSource: (.+)\nProfile: (.+)", ast.get_docstring(node) or "")
    item = node.name.split("_")[1]
    if told is None or item not in ITEMS:
        raise ValueError(f"{file}: {node.name} wants an item's number, and a docstring of sentence, Source and Profile")
    return Test(item, node.name, file, told[1], told[2], tuple(told[3].split(", ")))


def table(letter: str) -> str:
    lines = ["| item | what holds | test | profile | source | the kit |", "|---|---|---|---|---|---|"]
    for test in tests():
        if test.item.startswith(letter):
            state = f"[{NOTES[test.item][0]}](#where-the-kit-differs)" if test.item in NOTES else "as it stands"
            cells = [test.item, test.holds, f"`{test.name}`", ", ".join(test.profiles), test.source, state]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def notes() -> str:
    lines = ["| item | state | what, and why |", "|---|---|---|"]
    return "\n".join(lines + [f"| {item} | {state} | {NOTES[item][1]} |" for item, (state, _) in NOTES.items()])


def page() -> str:
    return (
        f"{HEAD}\n## The published PPO\n\n{table('C')}\n\n## Adapters and a 4-bit base\n\n{table('L')}\n\n"
        f'## Where the kit differs\n\n"{DIFFERS}" = otherwise when nothing is set, on purpose or because it makes no '
        f"difference. The tests above hold what the kit does.\n\n{notes()}\n\n"
        f"{agreed.section()}"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
