"""Numbers are shown with a unit, never in exponent form, and never as NaN."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.report import quantities


def plain(text: str) -> str:
    """The text with ordinary spaces and signs, so that expectations can be typed."""
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(
    ("latency_us", "text"),
    [
        (0.0, "0 \N{MICRO SIGN}s"),
        (0.25, "0.250 \N{MICRO SIGN}s"),
        (812.4, "812 \N{MICRO SIGN}s"),
        (1_234.0, "1.23 ms"),
        (45_600.0, "45.6 ms"),
        (2_500_000.0, "2.50 s"),
        (None, quantities.UNKNOWN),
    ],
)
def test_a_latency_has_three_digits_and_a_fitting_unit(latency_us: float | None, text: str) -> None:
    assert plain(quantities.latency_text(latency_us)) == text


@given(st.floats(0, 1e12))
def test_every_latency_is_shown_without_an_exponent(latency_us: float) -> None:
    number = quantities.latency_text(latency_us).split("\N{NARROW NO-BREAK SPACE}")[0]

    assert set(number) <= set("0123456789.,")


@given(st.floats(1e-3, 1e9))
def test_a_number_is_shown_within_half_a_percent(value: float) -> None:
    shown = float(quantities.significant(value).replace(",", ""))

    assert math.isclose(shown, value, rel_tol=0.005)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_shown_as_unknown(value: float) -> None:
    assert {quantities.significant(value), quantities.percent_text(value), quantities.setting_text(value)} == {
        quantities.UNKNOWN
    }


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert plain(quantities.percent_text(-0.0001)) == "0.0 %"


@pytest.mark.parametrize(("error", "text"), [(0.031, "+3.1 %"), (-0.031, "-3.1 %"), (None, quantities.UNKNOWN)])
def test_a_relative_difference_has_its_sign(error: float | None, text: str) -> None:
    assert plain(quantities.signed_percent_text(error)) == text


def test_a_change_of_accuracy_is_given_in_points() -> None:
    assert plain(quantities.points_text(-0.0065)) == "-0.7 points"


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, quantities.UNKNOWN), (999, "999 B"), (388_768, "389 kB"), (3 * 10**9, "3.00 GB")]
)
def test_a_size_of_zero_is_a_model_without_a_file(size_bytes: int, text: str) -> None:
    assert plain(quantities.size_text(size_bytes)) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4.20 s"), (812.4, "13 min 32 s"), (7_260.0, "2 h 1 min")])
def test_a_duration_is_shown_as_a_person_says_it(seconds: float, text: str) -> None:
    assert plain(quantities.duration_text(seconds)) == text


@pytest.mark.parametrize(("value", "text"), [(True, "yes"), (3, "3"), (0.05, "0.05"), ("x", "x")])
def test_a_setting_is_shown_as_it_was_given(value: str | int | float | bool, text: str) -> None:
    assert quantities.setting_text(value) == text


@given(st.text(min_size=1), st.integers(3, 40))
def test_a_shortened_name_keeps_both_ends_and_the_length(text: str, length: int) -> None:
    short = quantities.shortened(text, length)

    assert len(short) <= length
    assert (short[0], short[-1]) == (text[0], text[-1])


@given(st.none() | st.floats(0, 1e12), st.none() | st.floats(0, 1e12))
def test_a_ratio_is_a_number_or_nothing(numerator: float | None, denominator: float | None) -> None:
    quotient = quantities.ratio(numerator, denominator)

    assert quotient is None or math.isfinite(quotient)


def test_the_error_is_positive_when_the_prediction_was_too_slow() -> None:
    assert quantities.relative_error(110.0, 100.0) == pytest.approx(0.1)
