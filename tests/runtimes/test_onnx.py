"""ONNX Runtime: the suite of all runtimes, and which kernels it makes of what is written."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys

import pytest

pytest.importorskip("onnx", reason="ONNX files are written with the package onnx, which is not installed")

from edgekit.errors import BadInputError
from edgekit.runtimes import Runtime, get
from tests.runtimes.conformance import RuntimeConformance, residual_network
from tests.runtimes.networks import NetworkBuilder, calibrate


class TestOnnxRuntime(RuntimeConformance):
    def make_runtime(self) -> Runtime:
        return get("onnx")


def kernels_of(builder: NetworkBuilder) -> tuple[str, ...]:
    runtime, network = get("onnx"), builder.build()
    model = runtime.write(network, "int8", calibrate(network, builder.samples(4)))
    return runtime.load(model).kernels()


def test_no_float_kernel_runs_in_an_int8_network_but_at_its_borders() -> None:
    kernels = kernels_of(residual_network())

    assert [kernel for kernel in kernels if not kernel.endswith("[uint8]")] == ["QuantizeLinear[float]"]


@pytest.mark.parametrize(
    ("kind", "kernel"),
    [
        ("scale", "QLinearConv[uint8]"),
        ("global_average_pool", "QLinearGlobalAveragePool[uint8]"),
        ("flatten", "Flatten[uint8]"),
    ],
)
def test_an_int8_unit_has_an_integer_kernel(kind: str, kernel: str) -> None:
    builder = NetworkBuilder((8, 6, 6))
    builder.add(kind)

    assert kernel in kernels_of(builder)


def test_an_int8_dense_layer_is_one_kernel() -> None:
    builder = NetworkBuilder((32,))
    builder.add("dense", channels=16, activation="relu")

    assert kernels_of(builder) == ("QuantizeLinear[float]", "QGemm[uint8]", "DequantizeLinear[uint8]")


def test_int8_pools_and_sums_have_integer_kernels() -> None:
    builder = NetworkBuilder((8, 9, 9))
    pooled = builder.add("max_pool", kernel=(3, 3), padding=(1, 1, 1, 1))
    builder.add("add", builder.add("conv", pooled, kernel=(3, 3), padding=(1, 1, 1, 1)), pooled)
    builder.add("average_pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))

    assert {"MaxPool[uint8]", "QLinearAdd[uint8]", "QLinearAveragePool[uint8]"} <= set(kernels_of(builder))


def test_an_activation_of_its_own_costs_no_kernel_in_int8() -> None:
    builder = NetworkBuilder((8, 9, 9))
    builder.add("conv", channels=8)
    without = kernels_of(builder)
    builder.add("activation", activation="relu6")

    assert kernels_of(builder) == without


def test_metadata_is_read_without_the_onnx_package() -> None:
    model = get("onnx").write(residual_network().build(), metadata={"name": "value"})
    program = (
        "import sys; sys.modules['onnx'] = None\n"
        "from edgekit.runtimes import get\n"
        "print(get('onnx').metadata(sys.stdin.buffer.read()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    output = subprocess.run([sys.executable, "-c", program], input=model, capture_output=True, env=environment)

    assert output.stdout.decode().strip() == "{'name': 'value'}"


def test_a_damaged_model_is_refused_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    runtime = get("onnx")
    model = runtime.write(residual_network().build())
    generator = random.Random(0)

    for _ in range(60):
        damaged = bytearray(model)
        damaged[generator.randrange(400)] = generator.randrange(128, 256)
        with contextlib.suppress(BadInputError):
            runtime.load(bytes(damaged))

    assert capfd.readouterr().out == ""


def test_the_version_names_the_package() -> None:
    assert get("onnx").version().startswith("onnxruntime ")
