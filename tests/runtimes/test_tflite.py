"""TFLite: the suite of all runtimes, for both packages that have an interpreter, and what is special to the format."""

from __future__ import annotations

import os
import random
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="TFLite files are written with the package ai-edge-litert")

from edgekit.errors import BadInputError, MissingExtraError, UnsupportedModelError, UsageError
from edgekit.runtimes import Runtime, get
from edgekit.runtimes.tflite.session import BACKEND_VARIABLE, kernel_names
from edgekit.runtimes.tflite.structure import check_structure
from tests.runtimes.conformance import RuntimeConformance, residual_network
from tests.runtimes.networks import NetworkBuilder, calibrate


def get_backend(name: str) -> Runtime:
    with mock.patch.dict(os.environ, {BACKEND_VARIABLE: name}):
        try:
            return get("tflite")
        except (MissingExtraError, UsageError) as error:
            pytest.skip(f"{error} ({error.hint})")


class TestLiteRt(RuntimeConformance):
    def make_runtime(self) -> Runtime:
        return get_backend("litert")


class TestTfliteRuntime(RuntimeConformance):
    def make_runtime(self) -> Runtime:
        return get_backend("tflite-runtime")


def operators_of(builder: NetworkBuilder) -> list[str]:
    runtime = get_backend("litert")
    kernels = runtime.load(runtime.write(builder.build())).kernels()
    return [kernel.partition(":")[2].partition("[")[0] for kernel in kernels]


def test_the_delegate_runs_a_whole_int8_network() -> None:
    runtime, builder = get_backend("litert"), residual_network()
    network = builder.build()

    kernels = runtime.load(runtime.write(network, "int8", calibrate(network, builder.samples(4)))).kernels()

    assert [kernel for kernel in kernels if not kernel.startswith("xnnpack:")] == []


def test_an_operator_that_the_delegate_leaves_is_named_builtin() -> None:
    operators = [
        {"op_name": "CONV_2D", "inputs": [0, 1], "outputs": [2]},
        {"op_name": "RELU6", "inputs": [2], "outputs": [3]},
        {"op_name": "CONV_2D", "inputs": [3, 4], "outputs": [5]},
        {"op_name": "DELEGATE", "inputs": [0, 1], "outputs": [2]},
        {"op_name": "DELEGATE", "inputs": [3, 4], "outputs": [5]},
    ]

    names = kernel_names(operators, dict.fromkeys(range(6), "int8"))

    assert names == ("xnnpack:CONV_2D[int8]", "builtin:RELU6[int8]", "xnnpack:CONV_2D[int8]")


def test_torch_padding_with_stride_2_on_an_even_size_is_padded_by_an_operator() -> None:
    builder = NetworkBuilder((3, 8, 8))
    builder.add("conv", channels=4, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))

    assert operators_of(builder) == ["PAD", "CONV_2D"]


def test_padding_that_tflite_can_say_costs_no_operator() -> None:
    builder = NetworkBuilder((3, 8, 8))
    builder.add("conv", channels=4, kernel=(3, 3), padding=(1, 1, 1, 1))

    assert operators_of(builder) == ["CONV_2D"]


def test_a_flattened_map_that_dense_layers_read_is_not_transposed() -> None:
    builder = NetworkBuilder((3, 4, 4))
    builder.add("dense", builder.add("flatten"), channels=5)

    assert operators_of(builder) == ["RESHAPE", "FULLY_CONNECTED"]


def test_a_dilated_pool_is_refused() -> None:
    builder = NetworkBuilder((3, 9, 9))
    builder.add("max_pool", kernel=(2, 2))
    layer = builder.layers[0]
    unit = {field: getattr(layer.unit, field) for field in ("kind", "input_shape", "kernel")}
    dilated = type(layer.unit)(**unit, output_shape=(3, 7, 7), dilation=(2, 2))
    builder.layers[0] = type(layer)(name=layer.name, unit=dilated, inputs=layer.inputs)

    with pytest.raises(UnsupportedModelError, match="dilation"):
        get_backend("litert").write(builder.build())


def test_buffers_are_aligned_to_16_bytes() -> None:
    from ai_edge_litert import schema_py_generated as schema

    data = get_backend("litert").write(residual_network().build(), metadata={"a": "b"})
    model = schema.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0]

    buffers = [model.Buffers(index).DataAsNumpy() for index in range(1, model.BuffersLength())]

    assert {(values.__array_interface__["data"][0] - start) % 16 for values in buffers} == {0}


def test_a_whole_model_passes_the_structure_check() -> None:
    check_structure(get_backend("litert").write(residual_network().build(), metadata={"a": "b"}))


def test_every_cut_model_fails_the_structure_check() -> None:
    model = get_backend("litert").write(residual_network().build(), metadata={"a": "b"})

    for size_bytes in range(0, len(model) - 16, 97):
        with pytest.raises(BadInputError):
            check_structure(model[:size_bytes])


def test_damaged_metadata_never_raises_anything_but_bad_input() -> None:
    runtime = get_backend("litert")
    model = runtime.write(residual_network().build(), metadata={"a": "b"})
    generator = random.Random(0)

    for _ in range(500):
        damaged = bytearray(model)
        damaged[generator.randrange(len(model))] = generator.randrange(256)
        try:
            runtime.metadata(bytes(damaged))
        except BadInputError as error:
            assert error.message


def test_an_unknown_backend_is_refused() -> None:
    with mock.patch.dict(os.environ, {BACKEND_VARIABLE: "tensorflow"}), pytest.raises(UsageError, match="litert"):
        get("tflite")


def test_a_package_that_makes_no_interpreter_is_named() -> None:
    broken = mock.Mock()
    broken.Interpreter.side_effect = SystemError("no numpy")

    with (
        mock.patch("edgekit.runtimes.tflite.session.require", return_value=broken),
        pytest.raises(UsageError, match="makes no interpreter: no numpy"),
    ):
        get("tflite")
