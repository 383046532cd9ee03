"""Writing a network as an ONNX model: float operators, and for int8 the same between quantize/dequantize pairs.

ONNX Runtime fuses such a pair with its operator into one integer kernel; nothing here runs or loads a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit.errors import UsageError
from edgekit.runtimes._base import FoldedNetwork, Ranges
from edgekit.runtimes.onnx.graph import FloatTensors, Graph, QuantizedTensors, Tensors
from edgekit.runtimes.packages import require
from edgekit.runtimes.validation import check_network
from edgekit.types import INPUT, Layer, NumberFormat, UnitSpec

# Opset 17 and IR 8 are the oldest that hold every operator used: ONNX Runtime loads them since 1.12.
_OPSET = 17
_IR_VERSION = 8


def write(
    network: FoldedNetwork, number_format: NumberFormat, ranges: Ranges | None, metadata: Mapping[str, str]
) -> bytes:
    """The network as the bytes of an .onnx file; see `Runtime.write`."""
    onnx = require("onnx", "onnx", "train")
    check_network(network, "onnxruntime")
    graph = Graph(onnx)
    tensors = _tensors(graph, network, number_format, ranges)
    for layer in network.spec.layers:
        if tensors.pass_through(layer):
            continue
        inputs = [tensors.read(layer, position) for position in range(len(layer.inputs))]
        result = _OPERATORS[layer.unit.kind](graph, tensors, layer, inputs)
        tensors.publish(layer, result)
    tensors.finish(network.spec.output.name)
    return _serialize(onnx, graph, network, metadata)


def _tensors(graph: Graph, network: FoldedNetwork, number_format: NumberFormat, ranges: Ranges | None) -> Tensors:
    if number_format == "fp32":
        return FloatTensors(graph, network)
    if ranges is None:
        raise UsageError("int8 needs the range of every layer's output", "calibrate on real data first")
    return QuantizedTensors(graph, network, ranges)


def _serialize(onnx: Any, graph: Graph, network: FoldedNetwork, metadata: Mapping[str, str]) -> bytes:
    float32 = onnx.TensorProto.FLOAT
    spec = network.spec
    inputs = [onnx.helper.make_tensor_value_info(INPUT, float32, [1, *spec.input_shape])]
    outputs = [onnx.helper.make_tensor_value_info(spec.output.name, float32, [1, *spec.output.unit.output_shape])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, spec.name or "network", inputs, outputs, graph.initializers),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="edgekit",
    )
    if metadata:
        onnx.helper.set_model_props(model, dict(metadata))
    serialized: bytes = model.SerializeToString()
    return serialized


def _convolution(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    weight, bias = tensors.parameters(layer, layer.unit.weight_shape)
    return graph.node("Conv", [*inputs, weight, bias], **_window(layer.unit), group=layer.unit.groups)


def _dense(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    weight, bias = tensors.parameters(layer, layer.unit.weight_shape)
    return graph.node("Gemm", [*inputs, weight, bias], transB=1)


def _scale(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    """A 1x1 depthwise convolution: the only form that has an integer kernel with one scale per channel."""
    channels = layer.unit.output_shape[0]
    weight, bias = tensors.parameters(layer, (channels, 1, 1, 1))
    if len(layer.unit.input_shape) == 3:
        return graph.node("Conv", [*inputs, weight, bias], group=channels, kernel_shape=[1, 1])
    image = tensors.requantize_like(layer.inputs[0], graph.reshape(inputs[0], (1, channels, 1, 1)))
    scaled = graph.node("Conv", [image, weight, bias], group=channels, kernel_shape=[1, 1])
    return graph.reshape(tensors.requantize_like(layer.name, scaled), (1, channels))


def _add(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    return graph.node("Add", inputs)


def _max_pool(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    return graph.node("MaxPool", inputs, **_window(layer.unit))


def _average_pool(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    """Padded zeros count in the average, as torch does unless told otherwise."""
    window = _window(layer.unit)
    del window["dilations"]
    return graph.node("AveragePool", inputs, **window, count_include_pad=1)


def _global_average_pool(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    pooled = tensors.requantize_like(layer.name, graph.node("GlobalAveragePool", inputs))
    return graph.node("Flatten", [pooled])


def _flatten(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    return graph.node("Flatten", inputs)


def _activation(graph: Graph, tensors: Tensors, layer: Layer, inputs: list[str]) -> str:
    return inputs[0]


def _window(unit: UnitSpec) -> dict[str, Any]:
    return {
        "kernel_shape": list(unit.kernel),
        "strides": list(unit.stride),
        "pads": list(unit.padding),
        "dilations": list(unit.dilation),
    }


_OPERATORS: dict[str, Callable[[Graph, Tensors, Layer, list[str]], str]] = {
    "conv": _convolution,
    "dense": _dense,
    "scale": _scale,
    "add": _add,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "global_average_pool": _global_average_pool,
    "flatten": _flatten,
    "activation": _activation,
}
