"""The list of checks: one place, no doubles, and nothing that could not be measured passes."""

from __future__ import annotations

import math

import pytest

from rlhf_lora.checks import registry
from rlhf_lora.checks.registry import Check, NotApplicable, check, run, within


def entry(function) -> Check:
    return Check("X1", "a thing", "somebody", "nothing", function)


def test_a_check_that_raises_has_failed_with_the_reason_and_the_next_one_runs():
    def broken():
        raise RuntimeError("no such tensor\nand more")

    first, second = run([entry(broken), entry(lambda: within(1e-9, 1e-6))])
    assert (first.state, first.figure) == ("failed", "could not be measured: RuntimeError: no such tensor")
    assert (second.state, second.figure) == ("passed", "max |Δ| 1e-09, limit 1e-06")


def test_what_does_not_occur_is_not_applicable_and_says_why():
    def absent():
        raise NotApplicable("no value function")

    (result,) = run([entry(absent)])
    assert (result.state, result.figure) == ("not applicable", "no value function")


@pytest.mark.parametrize("difference", [2e-6, math.nan, math.inf])
def test_beyond_the_limit_or_not_a_number_has_failed(difference):
    assert within(difference, 1e-6).state == "failed"


def test_two_checks_cannot_bear_one_name(monkeypatch):
    monkeypatch.setattr(registry, "_table", {})
    check("X1", "a thing", source="somebody")(lambda: within(0, 1))

    def other():
        return within(0, 1)

    with pytest.raises(ValueError, match="X1 'a thing'"):
        check("X1", "a thing", source="somebody")(other)
    assert [found.title for found in registry.checks("nothing")] == ["a thing"]
    assert registry.checks("model") == []
