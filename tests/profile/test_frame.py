"""A framed unit is its frame and the unit: valid, of the unit's format, and really executed by the runtimes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgekit.codec import check_network
from edgekit.profile.frame import frame, framed, identity, plausible_ranges, random_input, with_random_weights
from edgekit.runtimes import Runtime, get
from edgekit.types import NumberFormat, UnitSpec
from tests.profile.networks import add, conv, dense, flatten, global_pool

_VECTOR = (24,)
_IMAGE = (24, 6, 6)
_UNITS = {
    "conv": conv(16, 8, 32),
    "strided": conv(16, 9, 32, stride=2),
    "depthwise": conv(24, 8, 24, groups=24),
    "first": conv(3, 16, 32, stride=2),
    "dense": dense(24, 10),
    "add": add(24, 6),
    "add vectors": UnitSpec(kind="add", input_shape=_VECTOR, output_shape=_VECTOR),
    "max pool": UnitSpec(kind="max_pool", input_shape=_IMAGE, output_shape=(24, 3, 3), kernel=(2, 2), stride=(2, 2)),
    "average pool": UnitSpec(
        kind="average_pool", input_shape=_IMAGE, output_shape=(24, 3, 3), kernel=(2, 2), stride=(2, 2)
    ),
    "global pool": global_pool(24, 6),
    "flatten": flatten(24, 6),
    "scale": UnitSpec(kind="scale", input_shape=_IMAGE, output_shape=_IMAGE, activation="relu"),
    "activation": UnitSpec(kind="activation", input_shape=_IMAGE, output_shape=_IMAGE, activation="relu6"),
}
_FORMATS: tuple[NumberFormat, ...] = ("fp32", "int8")

each_unit = pytest.mark.parametrize("unit", _UNITS.values(), ids=_UNITS.keys())
each_format = pytest.mark.parametrize("number_format", _FORMATS)


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
    elif not _has_tflite():
        pytest.skip("no TFLite runtime is installed")
    return get(request.param)


def _has_tflite() -> bool:
    from importlib.util import find_spec

    return any(find_spec(package) is not None for package in ("ai_edge_litert", "tflite_runtime"))


@each_unit
@each_format
def test_frames_are_possible_networks_in_the_units_format(unit: UnitSpec, number_format: NumberFormat) -> None:
    for network in (framed(unit.in_format(number_format)), frame(unit.in_format(number_format))):
        if network.layers:
            check_network(network)
        assert {layer.unit.number_format for layer in network.layers} <= {number_format}


@each_unit
def test_a_framed_unit_reads_what_its_frame_reads(unit: UnitSpec) -> None:
    assert framed(unit).input_shape == frame(unit).input_shape


@each_unit
def test_the_unit_is_in_its_framed_network_once_more_than_in_its_frame(unit: UnitSpec) -> None:
    inside, outside = (Counter(layer.unit for layer in network.layers) for network in (framed(unit), frame(unit)))

    assert inside[unit] == outside[unit] + 1


def test_units_that_differ_behind_their_input_have_the_same_frame() -> None:
    assert frame(conv(16, 8, 32)) == frame(conv(16, 8, 64, kernel=1)) == frame(conv(16, 8, 48, stride=2))


@each_unit
@each_format
def test_every_framed_unit_runs(unit: UnitSpec, number_format: NumberFormat, runtime: Runtime) -> None:
    for network in (framed(unit.in_format(number_format)), frame(unit.in_format(number_format))):
        ranges = plausible_ranges(network) if number_format == "int8" else None
        session = runtime.load(runtime.write(with_random_weights(network), number_format, ranges))

        assert np.isfinite(session.run(random_input(session.input_shape))).all()


@pytest.mark.parametrize("channels", [16, 31, 32])
def test_onnx_runtime_fuses_a_framed_addition_as_in_a_residual_block(channels: int) -> None:
    pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
    runtime = get("onnx")
    session = runtime.load(runtime.write(with_random_weights(framed(add(channels, 8)))))

    assert not [kernel for kernel in session.kernels() if kernel.startswith(("Add", "Relu"))]


def test_the_identity_has_one_layer_without_weights() -> None:
    (layer,) = identity().layers

    assert not layer.unit.has_weights


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    first, second, other = (with_random_weights(framed(conv(4, 8, 8)), seed) for seed in (0, 0, 1))

    assert (first.weights["unit"].weight == second.weights["unit"].weight).all()
    assert (first.weights["unit"].weight != other.weights["unit"].weight).any()
