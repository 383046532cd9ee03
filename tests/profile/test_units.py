"""Units of networks are listed once, and take other widths without losing what they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.codec import check_unit
from edgekit.errors import UsageError
from edgekit.profile.units import distinct_units, is_tied, width_variants, widths, with_widths
from edgekit.types import UnitSpec
from tests.profile.networks import add, conv, dense, flatten, global_pool, residual

_ANY = [
    conv(8, 8, 16),
    conv(8, 8, 8, groups=8, stride=2),
    dense(16, 10),
    add(8, 8),
    flatten(8, 4),
    global_pool(8, 4),
    UnitSpec(kind="max_pool", input_shape=(8, 8, 8), output_shape=(8, 4, 4), kernel=(2, 2), stride=(2, 2)),
    UnitSpec(kind="scale", input_shape=(8, 8, 8), output_shape=(8, 8, 8)),
    UnitSpec(kind="activation", input_shape=(8,), output_shape=(8,), activation="relu6"),
]


def test_units_that_occur_twice_are_listed_once() -> None:
    units = distinct_units([residual(), residual()])

    assert len(units) == len(set(units)) and set(units) == {layer.unit for layer in residual().layers}


@given(unit=st.sampled_from(_ANY), in_width=st.integers(1, 300), out_width=st.integers(1, 300))
def test_a_unit_at_any_width_is_possible(unit: UnitSpec, in_width: int, out_width: int) -> None:
    check_unit(with_widths(unit, in_width, out_width), "variant")


@given(unit=st.sampled_from(_ANY), in_width=st.integers(2, 300), out_width=st.integers(2, 300))
def test_going_back_to_the_old_widths_gives_the_old_unit(unit: UnitSpec, in_width: int, out_width: int) -> None:
    assert with_widths(with_widths(unit, in_width, out_width), *widths(unit)) == unit


@given(unit=st.sampled_from(_ANY), in_width=st.integers(2, 300), out_width=st.integers(2, 300))
def test_a_unit_has_the_widths_that_it_was_given(unit: UnitSpec, in_width: int, out_width: int) -> None:
    variant = with_widths(unit, in_width, out_width)

    assert widths(variant) == ((out_width, out_width) if is_tied(unit) else (in_width, out_width))


def test_a_convolution_varies_in_both_widths() -> None:
    shapes = {(u.input_shape[0], u.output_shape[0]) for u in width_variants(conv(8, 8, 16), [4, 8], [8, 16])}

    assert shapes == {(4, 8), (4, 16), (8, 8), (8, 16)}


def test_a_depthwise_convolution_varies_in_one_width_and_its_groups() -> None:
    variants = width_variants(conv(8, 8, 8, groups=8), [1, 2, 3], [4, 8])

    assert [(u.input_shape[0], u.groups) for u in variants] == [(4, 4), (8, 8)]


def test_a_width_that_the_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="4 groups"):
        with_widths(conv(8, 8, 16, groups=4), 8, 6)


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        with_widths(conv(8, 8, 16), 0, 8)
