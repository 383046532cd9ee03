"""Scales, zero points and integer weights, against what torch and the formula say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.runtimes import LayerWeights
from edgekit.runtimes.quantization import (
    network_quantization,
    quantize_per_channel,
    saturated_activations,
    tensor_quantization,
)
from edgekit.types import Layer, NetworkSpec, UnitSpec

BOUNDS = st.floats(-1e6, 1e6, width=32)
DENSE = Layer(name="dense", unit=UnitSpec(kind="dense", input_shape=(4,), output_shape=(2,)), inputs=("input",))


@given(first=BOUNDS, second=BOUNDS)
def test_zero_is_coded_exactly(first: float, second: float) -> None:
    coding = tensor_quantization(min(first, second), max(first, second))

    assert coding.dequantize(coding.quantize(np.zeros(1, dtype=np.float32))) == 0


@given(first=BOUNDS, second=BOUNDS, share=st.floats(0, 1))
def test_a_value_of_the_range_is_coded_to_within_one_step(first: float, second: float, share: float) -> None:
    low, high = min(first, second), max(first, second)
    coding = tensor_quantization(low, high)
    value = np.array([low + share * (high - low)], dtype=np.float32)

    assert abs(coding.dequantize(coding.quantize(value)) - value) <= 1.01 * coding.scale + 1e-6 * abs(value)


def test_the_zero_point_divides_the_codes_as_zero_divides_the_range() -> None:
    coding = tensor_quantization(-1.0, 3.0)

    assert (coding.zero_point, coding.signed_zero_point) == (64, -64)


def test_nothing_below_zero_is_coded_behind_a_relu() -> None:
    coding = tensor_quantization(-3.0, 3.0, "relu")

    assert (coding.zero_point, coding.scale) == (0, pytest.approx(3 / 255))


def test_nothing_above_six_is_coded_behind_a_relu6() -> None:
    assert tensor_quantization(0.0, 9.0, "relu6").scale == pytest.approx(6 / 255)


def test_a_range_of_zeros_has_a_scale() -> None:
    assert tensor_quantization(0.0, 0.0).scale > 0


def test_weights_are_within_half_a_step_of_their_channel() -> None:
    weight = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32) * np.float32([[1], [100]])
    coding = tensor_quantization(-1.0, 1.0)

    result = quantize_per_channel(DENSE, LayerWeights(weight, np.zeros(2, np.float32)), coding, coding)

    error = np.abs(result.weight * result.weight_scale[:, None] - weight)
    assert (error <= 0.501 * result.weight_scale[:, None]).all()


def test_each_channel_uses_all_codes() -> None:
    weight = np.float32([[1, 2, 3, -4], [0.01, 0.02, 0.03, 0.04]])
    coding = tensor_quantization(-1.0, 1.0)

    result = quantize_per_channel(DENSE, LayerWeights(weight, np.zeros(2, np.float32)), coding, coding)

    assert np.abs(result.weight).max(axis=1).tolist() == [127, 127]


def test_the_bias_is_coded_in_products_of_scales() -> None:
    read, written = tensor_quantization(0.0, 255.0), tensor_quantization(-1e4, 1e4)
    weights = LayerWeights(np.full((2, 4), 127, np.float32), np.float32([10, -20]))

    assert quantize_per_channel(DENSE, weights, read, written).bias.tolist() == [10, -20]


@given(size=st.floats(0, 1, width=32), bias=st.floats(-1e3, 1e3, width=32))
def test_the_bias_survives_weights_of_any_size(size: float, bias: float) -> None:
    coding = tensor_quantization(-1e3, 1e3)
    weights = LayerWeights(np.full((2, 4), size, np.float32), np.full(2, bias, np.float32))

    result = quantize_per_channel(DENSE, weights, coding, coding)

    assert np.abs(result.bias * result.bias_scale - bias).max() <= coding.scale


def test_a_range_that_is_far_too_narrow_is_refused() -> None:
    weights = LayerWeights(np.full((2, 4), 1e6, np.float32), np.zeros(2, np.float32))

    with pytest.raises(UsageError, match="'dense'"):
        quantize_per_channel(DENSE, weights, tensor_quantization(0.0, 1.0), tensor_quantization(0.0, 1e-3))


@pytest.mark.parametrize("bounds", [(float("nan"), 1.0), (0.0, float("inf")), (1.0, 0.0)])
def test_a_range_that_is_none_is_refused(bounds: tuple[float, float]) -> None:
    spec = NetworkSpec(name="test", input_shape=(4,), layers=(DENSE,))

    with pytest.raises(UsageError, match="'dense'"):
        network_quantization(spec, {"input": (0.0, 1.0), "dense": bounds})


def relu(name: str, source: str) -> Layer:
    unit = UnitSpec(kind="activation", input_shape=(2,), output_shape=(2,), activation="relu")
    return Layer(name=name, unit=unit, inputs=(source,))


def test_an_activation_that_alone_reads_a_layer_is_left_to_saturation() -> None:
    spec = NetworkSpec(name="test", input_shape=(4,), layers=(DENSE, relu("relu", "dense")))

    codings = network_quantization(spec, {"input": (0.0, 1.0), "dense": (-8.0, 2.0), "relu": (0.0, 2.0)})

    assert codings["dense"] == codings["relu"] == tensor_quantization(0.0, 2.0)


def test_an_activation_beside_another_reader_is_not_left_to_saturation() -> None:
    layers = (DENSE, relu("first", "dense"), relu("second", "dense"))

    assert saturated_activations(NetworkSpec(name="test", input_shape=(4,), layers=layers)) == []
