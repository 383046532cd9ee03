"""Prices are exact where measured, linear between, refused beyond; networks get the correction fitted on them."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import BadInputError, UsageError
from edgekit.profile.predict import PriceTable
from edgekit.types import Correction, NetworkCorrection, NetworkSpec, UnitSpec
from tests.profile.networks import add, conv, conv_widths, correction_of, dense, profile, residual

_CORRECTION = Correction(overhead_us=7.0, scale=1.5, network_count=12, median_error=0.03, max_error=0.08)


def renamed(network: NetworkSpec, name: str) -> NetworkSpec:
    return msgspec.structs.replace(network, name=name)


def priced(network: NetworkSpec, *corrections: NetworkCorrection) -> PriceTable:
    """Prices in which each of the network's units takes a microsecond."""
    return PriceTable(profile({layer.unit: 1.0 for layer in network.layers}, corrections, overhead_us=2.0))


def _bilinear(unit: UnitSpec) -> float:
    i, o = unit.input_shape[0], unit.output_shape[0]
    return 3.0 + 0.5 * i + 0.25 * o + 0.125 * i * o


def test_a_measured_unit_has_its_measured_price() -> None:
    table = PriceTable(profile({conv(8, 8, 16): 12.5}))

    assert table.unit_us(conv(8, 8, 16)) == (12.5, False)


@given(in_width=st.integers(8, 32), out_width=st.integers(8, 64))
def test_between_measured_widths_prices_are_bilinear(in_width: int, out_width: int) -> None:
    measured = conv_widths([8, 16, 32], [8, 24, 64])
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
    table = PriceTable(profile({u: 1.0 for u in conv_widths([8, 16], [8, 64])}))

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

    prediction = PriceTable(profile(prices, [correction_of(network, _CORRECTION)])).network(network)

    assert prediction.latency_us == pytest.approx(7.0 + 1.5 * total)
    assert (prediction.error, prediction.interpolated) == (0.03, ())


def test_a_network_names_the_layers_that_were_interpolated() -> None:
    network = residual(trunk=(8,), middle=12)
    prices = {layer.unit: 1.0 for width in (8, 16) for layer in residual(trunk=(8,), middle=width).layers}

    assert PriceTable(profile(prices)).network(network).interpolated == ("0.first", "0.second")


def test_without_a_correction_of_its_format_the_error_is_unknown() -> None:
    network = residual().in_format("int8")
    table = priced(network, correction_of(residual(), _CORRECTION))

    prediction = table.network(network)

    assert (prediction.latency_us, prediction.error) == (2.0 + len(network.layers), math.inf)


def test_each_network_has_the_correction_that_was_fitted_on_it() -> None:
    first, second = residual(), renamed(residual(), "second")
    fitted = msgspec.structs.replace(_CORRECTION, overhead_us=70.0, network_count=99, median_error=0.3)
    table = priced(first, correction_of(first, _CORRECTION), correction_of(second, fitted))

    assert [table.correction(network) for network in (first, second)] == [_CORRECTION, fitted]


def test_a_network_that_was_cut_has_the_correction_of_the_whole() -> None:
    whole, cut = residual(trunk=(16, 32)), residual(trunk=(8, 16))
    table = priced(cut, correction_of(whole, _CORRECTION))

    assert table.network(cut).error == _CORRECTION.median_error


@pytest.mark.parametrize(
    "other",
    [renamed(residual(trunk=(64, 64)), "other"), residual(size=16), residual(trunk=(8, 8))],
    ids=["another name", "another input", "smaller"],
)
def test_without_a_correction_of_its_own_the_error_is_the_largest_of_that_fitted_on_most(other: NetworkSpec) -> None:
    fewer = msgspec.structs.replace(_CORRECTION, overhead_us=70.0, network_count=2, max_error=0.9)
    table = priced(residual(), correction_of(renamed(other, "few"), fewer), correction_of(other, _CORRECTION))

    prediction = table.network(residual())

    assert prediction.error == _CORRECTION.max_error
    assert prediction.latency_us == pytest.approx(7.0 + 1.5 * len(residual().layers))


def test_of_two_group_sizes_the_correction_is_that_of_the_one_at_hand() -> None:
    coarse = msgspec.structs.replace(_CORRECTION, overhead_us=70.0, network_count=99)
    table = priced(residual(), correction_of(residual(), coarse, (16,)), correction_of(residual(), _CORRECTION, (4,)))

    assert table.correction(residual(), (4,)) == _CORRECTION
    assert table.correction(residual(), (16,)) == coarse


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


def test_a_dense_layer_is_interpolated_in_its_features() -> None:
    table = PriceTable(profile({dense(16, 10): 1.0, dense(32, 10): 3.0}))

    assert table.unit_us(dense(24, 10)) == (pytest.approx(2.0), True)
