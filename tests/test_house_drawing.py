"""docs/house.* show the house as it stands."""

from __future__ import annotations

import draw_house
import pytest


@pytest.mark.slow
def test_the_drawing_is_current():
    assert draw_house.SVG.read_text(encoding="utf-8") == draw_house.svg(), "run python tests/draw_house.py"
    assert draw_house.PAGE.read_text(encoding="utf-8") == draw_house.page(), "run python tests/draw_house.py"


def test_no_line_of_the_drawing_points_up():
    assert 'stroke="#c00"' not in draw_house.svg()
