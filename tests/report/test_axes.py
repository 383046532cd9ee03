"""Axes span every number that is drawn, start latency at zero, and put ticks at round numbers inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.report.axes import Scale, shared_ranges, tick_decimals, ticks
from edgekit.report.runs import Run
from tests.report.results import make_point, make_result

LATENCIES = st.floats(0, 1e12)
POINTS = st.lists(st.tuples(st.floats(0, 1), LATENCIES, st.none() | LATENCIES), max_size=6)


def run_with(points: list[tuple[float, float, float | None]], budget_us: float = 0.0) -> Run:
    models = tuple(make_point("model", "swept", *point) for point in points)
    return Run(label="run", anchor="run-1", result=make_result(points=models, budget_us=budget_us))


@given(POINTS, LATENCIES)
def test_the_ranges_hold_every_point_prediction_and_budget(
    points: list[tuple[float, float, float | None]], budget_us: float
) -> None:
    ranges = shared_ranges([run_with(points, budget_us)])

    latencies_us = [time for point in points for time in point[1:] if time is not None] + [budget_us]
    assert max(latencies_us) <= ranges.latency_high_us
    assert all(ranges.accuracy_low <= point[0] <= ranges.accuracy_high for point in points)


@given(POINTS)
def test_the_accuracy_axis_stays_within_0_and_1_and_is_never_empty(
    points: list[tuple[float, float, float | None]],
) -> None:
    ranges = shared_ranges([run_with(points)])

    assert ranges.accuracy_low >= 0
    assert ranges.accuracy_high <= 1
    assert ranges.accuracy_high - ranges.accuracy_low > 0.0199


def test_runs_that_are_compared_share_the_larger_range() -> None:
    fast, slow = run_with([(0.8, 100.0, None)]), run_with([(0.9, 900.0, None)])

    assert shared_ranges([fast, slow]).latency_high_us == shared_ranges([slow]).latency_high_us


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_within_the_axis(low: float, span: float) -> None:
    high = low + span

    assert all(low <= tick <= high for tick in ticks(low, high))


@given(st.floats(1e-3, 1e12))
def test_an_axis_from_zero_has_a_few_ticks_and_one_at_zero(high: float) -> None:
    values = ticks(0.0, high)

    assert values[0] == 0
    assert 3 <= len(values) <= 9


@pytest.mark.parametrize(("step", "decimals"), [(200.0, 0), (1.0, 0), (0.5, 1), (0.2, 1), (0.05, 2)])
def test_ticks_have_as_many_decimals_as_tell_them_apart(step: float, decimals: int) -> None:
    assert tick_decimals(step) == decimals


def test_a_scale_maps_its_ends_and_its_middle() -> None:
    scale = Scale(0.0, 10.0, 100.0, 0.0)

    assert [scale(value) for value in (0.0, 5.0, 10.0)] == [100.0, 50.0, 0.0]
