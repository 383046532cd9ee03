"""Names avoid marks and the edge of the figure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekit.report.placement import Box, mark_box, place_at, place_name

FRAME = Box(0.0, 0.0, 400.0, 300.0)


def test_a_name_moves_away_from_a_mark_above_its_own() -> None:
    free = place_name("model", 200.0, 150.0, FRAME, [])
    crowded = place_name("model", 200.0, 150.0, FRAME, [free.box])

    assert not crowded.box.overlaps(free.box)


@given(st.floats(20, 380), st.floats(30, 270))
def test_a_short_name_never_leaves_the_figure(x: float, y: float) -> None:
    assert FRAME.contains(place_name("model", x, y, FRAME, [mark_box(x, y)]).box)


@given(st.floats(20, 380), st.floats(30, 270))
def test_a_name_never_covers_its_own_mark(x: float, y: float) -> None:
    assert not place_name("model", x, y, FRAME, [mark_box(x, y)]).box.overlaps(mark_box(x, y))


def test_a_text_that_ends_at_a_point_lies_left_of_it() -> None:
    assert place_at(100.0, 50.0, 40.0, "end").box.left == 60.0
