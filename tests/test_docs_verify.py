"""The page about `verify` names every check of today, with its source, and passes them."""

from __future__ import annotations

import draw_verify

from rlhf_lora.checks import registry, vectors
from rlhf_lora.verify import loop_checks, model_checks, plugin_checks

MODULES = {module.__name__ for module in (vectors, loop_checks, model_checks, plugin_checks)}


def test_the_table_has_every_check():
    shown = [
        (item, title, source) for item, title, _, _, source in draw_verify.rows(draw_verify.PAGE.read_text("utf-8"))
    ]
    known = [*registry.checks("nothing"), *registry.checks("model")]
    named = [(e.item, e.title.replace("|", "\\|"), e.source) for e in known if e.function.__module__ in MODULES]
    assert sorted(shown) == sorted(named), "run python tests/draw_verify.py"


def test_nothing_failed_when_the_page_was_written():
    states = [state for _, _, state, _, _ in draw_verify.rows(draw_verify.PAGE.read_text("utf-8"))]
    assert "failed" not in states
    assert states.count("passed") > 35
