"""The fit finds overhead and scale, ignores an outlier, never charges a negative overhead, and admits its error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.profile.correction import fit_correction

_SUMS = [20.0, 35.0, 50.0, 80.0, 110.0, 150.0, 190.0, 240.0]


@given(overhead=st.floats(0, 20), scale=st.floats(0.5, 2))
def test_exact_pairs_give_back_their_overhead_and_scale(overhead: float, scale: float) -> None:
    fitted = fit_correction([(x, overhead + scale * x) for x in _SUMS])

    assert (fitted.overhead_us, fitted.scale) == (pytest.approx(overhead, abs=1e-6), pytest.approx(scale, rel=1e-6))
    assert fitted.max_error < 1e-6


def test_one_disturbed_network_hardly_moves_the_fit() -> None:
    pairs = [(x, 5.0 + 1.1 * x * (1.002 if index % 2 else 0.998)) for index, x in enumerate(_SUMS)]
    pairs[3] = (pairs[3][0], pairs[3][1] * 1.6)

    assert fit_correction(pairs).scale == pytest.approx(1.1, rel=0.02)


def test_the_overhead_is_never_negative() -> None:
    fitted = fit_correction([(x, 1.2 * x - 6.0) for x in _SUMS])

    assert fitted.overhead_us == 0.0 and fitted.scale > 1.0


def test_the_error_is_that_of_networks_left_out() -> None:
    fitted = fit_correction([(10.0, 10.0), (100.0, 100.0), (50.0, 100.0)])

    assert fitted.max_error == pytest.approx(0.5, abs=0.1)


def test_networks_of_one_size_give_a_scale_alone() -> None:
    fitted = fit_correction([(100.0, 108.0), (100.0, 112.0)])

    assert fitted.overhead_us == 0.0 and fitted.scale == pytest.approx(1.1, rel=0.01)


def test_a_single_network_is_an_error_of_its_plain_sum() -> None:
    fitted = fit_correction([(80.0, 100.0)])

    assert (fitted.scale, fitted.median_error, fitted.network_count) == (pytest.approx(1.25), pytest.approx(0.2), 1)


@pytest.mark.parametrize("pairs", [[], [(0.0, 1.0)], [(1.0, -1.0)], [(1.0, float("inf"))]])
def test_no_pairs_or_impossible_ones_are_refused(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(UsageError):
        fit_correction(pairs)
