"""docs/conformance.md is current, and has every item, each with a test."""

from __future__ import annotations

import agreed
import draw_conformance


def test_the_page_is_current():
    assert draw_conformance.PAGE.read_text(encoding="utf-8") == draw_conformance.page(), "run tests/draw_conformance.py"


def test_each_of_the_38_items_has_a_test_and_each_note_an_item():
    assert len(draw_conformance.ITEMS) == 38
    assert {test.item for test in draw_conformance.tests()} == set(draw_conformance.ITEMS)
    assert set(draw_conformance.NOTES) <= set(draw_conformance.ITEMS)


def test_a_test_names_profiles_that_there_are():
    for test in draw_conformance.tests():
        assert set(test.profiles) <= set(draw_conformance.PROFILES), test.name


def test_a_row_of_agreement_names_a_test_that_there_is():
    named = {agreement.test for agreement in agreed.AGREEMENTS.values()}
    there = {test.name for file in ("test_trl_functions.py", "test_trl_update.py") for test in agreed.tests(file)}
    assert named <= there
