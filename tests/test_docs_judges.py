"""Every example of `docs/judges.md` is planned as the page has it, and its figures are measured again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny import few

from rlhf_lora import registry
from rlhf_lora.contracts import Context
from rlhf_lora.judging.orders import compare
from rlhf_lora.records import Comparison

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "judges.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", few(COMMANDS, 2))
def test_each_command_of_the_page_is_planned(command, plan):
    program, verb, *given = shlex.split(command)
    assert (program, verb in ("train", "plan")) == ("rlhf-lora", True)
    assert plan(*given).judge is not None


@pytest.mark.slow
def test_what_asking_in_both_orders_does_is_as_the_page_says():
    settings = {"name": "orders", "demonstrations": 1, "pairs": 1000, "prompts": 1, "seed": 0}
    data = registry.build("dataset", settings).load()
    pairs = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in data.pairs]
    judge = {"name": "scripted", "first": 2.0, "slips": 0.3}
    one, other = (registry.build("judge", judge | {"seed": seed}).open(Context()) for seed in (1, 2))
    changed = []
    for orders in ("once", "both"):
        there, back = compare(one, pairs, orders), compare(other, [pair.swapped for pair in pairs], orders)
        p = [(a.verdict.probability_a, b.verdict.probability_a) for a, b in zip(there, back, strict=True)]
        changed.append(sum((a > 0.5) == (b > 0.5) for a, b in p))
    fair = compare(registry.build("judge", {"name": "scripted"}).open(Context()), pairs)
    equal = sum(found.verdict.choice == "tie" for found in fair)
    assert [*changed, equal] == [int(figure) for figure in (729, 55, 108)]
    words = PAGE.replace("\n", " ")
    assert all(
        text in words for text in (f"in {changed[0]} of 1,000", f"and in {changed[1]} where", f"; {equal} of these")
    )
