"""What the yardstick tells about a machine that drifts."""

from __future__ import annotations

import pytest

from edgekit.profile.yardstick import YARDSTICK, scale_chunk
from edgekit.types import Timing


def timing(microseconds: float) -> Timing:
    return Timing(
        count=5,
        median_us=microseconds,
        p10_us=0.9 * microseconds,
        p90_us=1.1 * microseconds,
        min_us=0.8 * microseconds,
    )


def test_a_chunk_is_scaled_by_what_the_yardstick_tells() -> None:
    chunk = scale_chunk([timing(60), timing(12)], reference_us=10.0)

    assert [found.median_us for found in chunk.timings] == [pytest.approx(50)]
    assert chunk.drift == pytest.approx(0.2)


def test_all_of_a_timing_is_scaled() -> None:
    (scaled,) = scale_chunk([timing(60), timing(20)], reference_us=10.0).timings

    assert (scaled.p10_us, scaled.p90_us, scaled.min_us) == pytest.approx((27, 33, 24))
    assert scaled.count == 5


def test_a_first_chunk_is_its_own_reference() -> None:
    chunk = scale_chunk([timing(60), timing(12)])

    assert (chunk.timings[0].median_us, chunk.reference_us, chunk.drift) == (60, 12, 0)


@pytest.mark.parametrize(("yardstick_us", "scaled_us"), [(1000, 30), (0.001, 120)])
def test_a_yardstick_that_is_far_off_does_not_scale_without_bound(yardstick_us: float, scaled_us: float) -> None:
    chunk = scale_chunk([timing(60), timing(yardstick_us)], reference_us=10.0)

    assert chunk.timings[0].median_us == scaled_us
    assert chunk.drift == pytest.approx(yardstick_us / 10 - 1)


def test_a_yardstick_alone_scales_nothing() -> None:
    assert scale_chunk([timing(12)], reference_us=10.0).timings == ()


def test_the_yardstick_is_a_unit_that_is_possible() -> None:
    assert YARDSTICK.mac_count == 32 * 32 * 9 * 14 * 14
