"""A device that changed is noticed through the noise of a shared machine, and one that did not is left alone.

The noise is that of repeated profiles of one machine: 2 % of heavy-tailed jitter in each unit, one unit in eight stored
too slow by a burst, one block in five slowed down as a whole, and half a percent that all units of a profile share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.profile.drift import FEWEST_TIMES, Drift, find_drift, find_trend
from edgekit.types import Timing
from tests.profile.networks import timing

TRACES = 200
Generator = np.random.Generator
Vector = NDArray[np.float64]


def jitter(random: Generator, count: int) -> Vector:
    return np.asarray(0.018 * random.standard_t(3, count))


def bursts(random: Generator, share: float, count: int) -> Vector:
    return np.where(random.random(count) < share, random.uniform(0.05, 0.4, count), 0.0)


def spread_timing(logarithm: float, spread: float) -> Timing:
    low, middle, high = np.exp([logarithm - spread / 2, logarithm, logarithm + spread / 2])
    return Timing(count=108, median_us=middle, p10_us=low, p90_us=high, min_us=low)


def drift_of_trace(random: Generator, change: float, units: int = 20, blocks: int = 15) -> Drift:
    """What is found on a device on which everything takes ``change`` longer than when its profile was made."""
    true = np.log(random.uniform(15, 400, units + 1))
    spreads = np.exp(random.normal(np.log(0.042), 0.9, units + 1)).clip(0.005, 0.6)
    stored = true + random.normal(0, 0.005) + jitter(random, units + 1) + bursts(random, 0.12, units + 1)
    common = random.normal(0, 0.01, blocks) + bursts(random, 0.2, blocks)
    measured = [true + np.log1p(change) + slow + jitter(random, units + 1) for slow in common]
    return find_drift(timings(stored, spreads), [timings(block, spreads) for block in measured])


def timings(logarithms: Sequence[float] | Vector, spreads: Vector) -> list[Timing]:
    return [spread_timing(logarithm, spread) for logarithm, spread in zip(logarithms, spreads, strict=True)]


def yardstick_trace(random: Generator, change: float, count: int = 20) -> list[float]:
    slow = np.linspace(0.0, np.log1p(change), count)
    return list(np.exp(3.0 + slow + jitter(random, count) + bursts(random, 0.15, count)))


def exact(*times_us: float) -> list[Timing]:
    return [timing(us) for us in times_us]


def test_drifts_of_5_to_40_percent_are_noticed_in_95_of_100_traces() -> None:
    random = np.random.default_rng(1)
    changes = random.uniform(0.05, 0.40, TRACES) * random.choice([-1.0, 1.0], TRACES)

    noticed = sum(drift_of_trace(random, change).is_drifted for change in changes)

    assert noticed >= 0.95 * TRACES


def test_at_most_5_of_100_flat_traces_are_false_alarms() -> None:
    random = np.random.default_rng(2)

    alarms = sum(drift_of_trace(random, 0.0).is_drifted for _ in range(TRACES))

    assert alarms <= 0.05 * TRACES


def test_the_interval_holds_the_true_change_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)

    found = [drift_of_trace(random, 0.1) for _ in range(TRACES)]

    assert sum(drift.low <= 0.1 <= drift.high for drift in found) >= 0.8 * TRACES


def test_the_same_times_are_no_drift() -> None:
    stored = exact(10.0, 20.0, 30.0, 5.0)

    drift = find_drift(stored, [stored, stored])

    assert (drift.change, drift.low, drift.high, drift.is_drifted) == (0.0, 0.0, 0.0, False)


@given(factor=st.floats(1.02, 3.0))
def test_an_exact_change_is_found_exactly_in_either_direction(factor: float) -> None:
    stored, slow = exact(10.0, 20.0, 30.0, 5.0), exact(*(factor * us for us in (10.0, 20.0, 30.0, 5.0)))

    found = find_drift(stored, [slow]), find_drift(slow, [stored])

    assert [drift.is_drifted for drift in found] == [True, True]
    assert [drift.change for drift in found] == [pytest.approx(factor - 1), pytest.approx(1 / factor - 1)]


def test_units_that_changed_beside_the_yardstick_are_told_from_a_slower_device() -> None:
    stored = exact(10.0, 20.0, 30.0, 5.0)

    slower_device = find_drift(stored, [exact(12.0, 24.0, 36.0, 6.0)])
    slower_units = find_drift(stored, [exact(12.0, 24.0, 36.0, 5.0)])

    assert slower_device.relative_change == pytest.approx(0.0)
    assert slower_units.relative_change == pytest.approx(0.2)


def test_a_minority_of_disturbed_blocks_does_not_count() -> None:
    stored = exact(10.0, 20.0, 30.0, 5.0)
    disturbed = exact(15.0, 30.0, 45.0, 7.5)

    drift = find_drift(stored, [stored, disturbed, stored, disturbed, stored])

    assert (drift.change, drift.block_count) == (0.0, 3)


def test_a_unit_whose_rounds_spread_widely_counts_less() -> None:
    steady, wide = [spread_timing(3.0, 0.01)] * 2, [spread_timing(3.0, 2.0)] * 3
    changed = [spread_timing(4.0, 2.0)] * 3

    drift = find_drift([*steady, *wide, timing(5.0)], [[*steady, *changed, timing(5.0)]])

    assert drift.change == pytest.approx(0.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    first, second = (drift_of_trace(np.random.default_rng(4), 0.05) for _ in range(2))

    assert first == second


@pytest.mark.parametrize(
    ("stored", "blocks"),
    [(exact(1.0), [exact(1.0)]), (exact(1.0, 2.0), []), (exact(1.0, 2.0), [exact(1.0)])],
    ids=["only the yardstick", "no blocks", "another length"],
)
def test_what_says_nothing_of_drift_is_refused(stored: list[Timing], blocks: list[list[Timing]]) -> None:
    with pytest.raises(UsageError, match="yardstick at least"):
        find_drift(stored, blocks)


@pytest.mark.parametrize("change", [0.2, -0.2])
def test_a_slow_change_of_20_percent_within_20_chunks_is_noticed_in_95_of_100_traces(change: float) -> None:
    random = np.random.default_rng(5)

    noticed = sum(find_trend(yardstick_trace(random, change)).is_drifting for _ in range(TRACES))

    assert noticed >= 0.95 * TRACES


def test_at_most_5_of_100_flat_measurements_are_called_drifting() -> None:
    random = np.random.default_rng(6)

    alarms = sum(find_trend(yardstick_trace(random, 0.0)).is_drifting for _ in range(TRACES))

    assert alarms <= 0.05 * TRACES


def test_a_steady_change_has_its_size() -> None:
    trend = find_trend(list(np.geomspace(20.0, 25.0, 12)))

    assert trend.is_drifting and trend.change == pytest.approx(0.25)


def test_one_burst_is_no_trend() -> None:
    trend = find_trend([20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 30.0])

    assert not trend.is_drifting and trend.change == pytest.approx(0.0)


def test_too_few_times_are_no_trend_of_any_size() -> None:
    trend = find_trend(list(np.geomspace(10.0, 90.0, FEWEST_TIMES - 1)))

    assert not trend.is_drifting and trend.low < -0.99 and trend.high > 1e6
