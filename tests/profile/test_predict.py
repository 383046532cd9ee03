"""Prices are exact where measured, linear between, refused beyond; networks get their format's correction."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import BadInputError, UsageError
from edgekit.profile.predict import PriceTable
from edgekit.profile.units import width_variants
from edgekit.types import Correction, NetworkSpec, UnitSpec
from tests.profile.networks import add, conv, dense, profile, residual

_CORRECTION = Correction(overhead_us=7.0, scale=1.5, network_count=12, median_error=0.03, max_error=0.08)


def _bilinear(unit: UnitSpec) -> float:
    i, o = unit.input_shape[0], unit.output_shape[0]
    return 3.0 + 0.5 * i + 0.25 * o + 0.125 * i * o


def test_a_measured_unit_has_its_measured_price() -> None:
    table = PriceTable(profile({conv(8, 8, 16): 12.5}))

    assert table.unit_us(conv(8, 8, 16)) == (12.5, False)


@given(in_width=st.integers(8, 32), out_width=st.integers(8, 64))
def test_between_measured_widths_prices_are_bilinear(in_width: int, out_width: int) -> None:
    measured = width_variants(conv(8, 8, 8), [8, 16, 32], [8, 24, 64])
    table = PriceTable(profile({unit: _bilinear(unit) for unit in measured}))
    unit = conv(in_width, 8, out_width)

    assert table.unit_us(unit) == (pytest.approx(_bilinear(unit)), unit not in measured)


def test_a_tied_unit_is_interpolated_along_its_one_width() -> None:
    table = PriceTable(profile({add(8, 4): 1.0, add(16, 4): 2.0}))

    assert table.unit_us(add(12, 4)) == (pytest.approx(1.5), True)


def test_a_depthwise_convolution_is_interpolated_between_depthwise_ones_only() -> None:
    prices = {conv(8, 8, 8, groups=8): 1.0, conv(16, 8, 16, groups=16): 2.0, conv(12, 8, 12): 50.0}

    assert PriceTable(profile(prices)).unit_us(conv(12, 8, 12, groups=12)) == (pytest.approx(1.5), True)


@pytest.mark.parametrize(
    "unit",
    [conv(8, 8, 65), conv(7, 8, 16), conv(8, 9, 16), conv(8, 8, 16, kernel=1), conv(8, 8, 16).in_format("int8")],
    ids=["wider", "narrower", "larger", "kernel", "int8"],
)
def test_what_was_not_measured_has_no_price(unit: UnitSpec) -> None:
    table = PriceTable(profile({u: 1.0 for u in width_variants(conv(8, 8, 8), [8, 16], [8, 64])}))

    with pytest.raises(BadInputError, match=f"{unit.number_format} conv {unit.input_shape[0]}x") as caught:
        table.unit_us(unit)
    assert caught.value.hint is not None and "edgekit profile" in caught.value.hint


def test_gaps_in_the_measured_grid_are_bridged_by_the_rows_that_reach() -> None:
    prices = {conv(8, 8, 8): 1.0, conv(8, 8, 16): 2.0, conv(12, 8, 8): 9.0, conv(16, 8, 8): 3.0, conv(16, 8, 16): 4.0}

    assert PriceTable(profile(prices)).unit_us(conv(12, 8, 12)) == (pytest.approx(2.5), True)


def test_a_network_costs_overhead_and_scaled_sum() -> None:
    network = residual()
    prices = {layer.unit: float(index + 1) for index, layer in enumerate(network.layers)}
    total = sum(prices[layer.unit] for layer in network.layers)

    prediction = PriceTable(profile(prices, {"fp32": _CORRECTION})).network(network)

    assert prediction.latency_us == pytest.approx(7.0 + 1.5 * total)
    assert (prediction.error, prediction.interpolated) == (0.03, ())


def test_a_network_names_the_layers_that_were_interpolated() -> None:
    network = residual(trunk=(8,), middle=12)
    prices = {layer.unit: 1.0 for width in (8, 16) for layer in residual(trunk=(8,), middle=width).layers}

    assert PriceTable(profile(prices)).network(network).interpolated == ("0.first", "0.second")


def test_without_a_correction_of_its_format_the_error_is_unknown() -> None:
    network = residual().in_format("int8")
    table = PriceTable(profile({layer.unit: 1.0 for layer in network.layers}, {"fp32": _CORRECTION}, overhead_us=2.0))

    prediction = table.network(network)

    assert (prediction.latency_us, prediction.error) == (2.0 + len(network.layers), math.inf)


def test_a_layer_without_price_is_named() -> None:
    with pytest.raises(BadInputError, match="layer 'stem'"):
        PriceTable(profile({})).network(residual())


def test_a_mix_of_number_formats_is_refused() -> None:
    layers = residual().layers
    mixed = NetworkSpec(
        name="mixed", input_shape=(1, 8, 8), layers=(*layers[:-1], residual().in_format("int8").layers[-1])
    )

    with pytest.raises(UsageError, match="mixes the number formats fp32, int8"):
        PriceTable(profile({layer.unit: 1.0 for layer in mixed.layers})).network(mixed)


def test_a_grid_holds_the_price_of_every_pair_and_nothing_at_width_zero() -> None:
    measured = width_variants(conv(8, 8, 8), [8, 16], [8, 32])
    table = PriceTable(profile({unit: _bilinear(unit) for unit in measured}))

    grid = table.grid(conv(8, 8, 8), [0, 8, 12], [0, 32])

    assert grid.tolist() == [[0, 0], [0, _bilinear(conv(8, 8, 32))], [0, pytest.approx(_bilinear(conv(12, 8, 32)))]]


def test_a_grid_of_a_tied_unit_follows_the_output_width() -> None:
    table = PriceTable(profile({add(8, 4): 1.0, add(16, 4): 2.0}))

    assert table.grid(add(8, 4), [8], [8, 12, 16]).tolist() == [[1.0, 1.5, 2.0]]


def test_a_dense_layer_is_interpolated_in_its_features() -> None:
    table = PriceTable(profile({dense(16, 10): 1.0, dense(32, 10): 3.0}))

    assert table.unit_us(dense(24, 10)) == (pytest.approx(2.0), True)
