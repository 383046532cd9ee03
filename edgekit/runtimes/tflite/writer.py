"""Writing a network as a TFLite model: one operator per unit, plus padding and transposition where TFLite needs them.

Tensors are channels-last here and nowhere else in edgekit; nothing in this file runs or loads a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UnsupportedModelError, UsageError
from edgekit.runtimes._base import FoldedNetwork, Ranges
from edgekit.runtimes.tflite.graph import Graph
from edgekit.runtimes.tflite.tensors import FloatTensors, QuantizedTensors, Tensors, channels_last
from edgekit.runtimes.validation import check_network
from edgekit.types import INPUT, Layer, NetworkSpec, NumberFormat, Shape, UnitSpec

_FUSED = {"none": 0, "relu": 1, "relu6": 3}
_SAME, _VALID = 0, 1
_GROUPED_CONVOLUTION_VERSION = 6
_DILATED_DEPTHWISE_VERSION = 2
_KEEPS_SIGN = ("max_pool", "average_pool", "global_average_pool", "flatten")


def write(
    network: FoldedNetwork, number_format: NumberFormat, ranges: Ranges | None, metadata: Mapping[str, str]
) -> bytes:
    """The network as the bytes of a .tflite file; see `Runtime.write`."""
    check_network(network, "tflite")
    graph = Graph()
    tensors = _tensors(graph, network, number_format, ranges)
    model_input = graph.tensor(INPUT, channels_last(network.spec.input_shape), "FLOAT32")
    writer = _Writer(graph, tensors, network.spec)
    writer.results[INPUT] = tensors.begin(model_input)
    for layer in network.spec.layers:
        writer.results[layer.name] = _OPERATORS[layer.unit.kind](writer, layer, writer.results[layer.inputs[0]])
    model_output = tensors.finish(writer.results[network.spec.output.name])
    return graph.serialize(network.spec.name, model_input, model_output, metadata)


def _tensors(graph: Graph, network: FoldedNetwork, number_format: NumberFormat, ranges: Ranges | None) -> Tensors:
    if number_format == "fp32":
        return FloatTensors(graph, network)
    if ranges is None:
        raise UsageError("int8 needs the range of every layer's output", "calibrate on real data first")
    return QuantizedTensors(graph, network, ranges)


@dataclass
class _Writer:
    """What the operators share: the graph, the network and the tensor that holds each layer's result."""

    graph: Graph
    tensors: Tensors
    spec: NetworkSpec
    results: dict[str, int] = field(default_factory=dict)
    channels_last_flat: dict[str, Shape] = field(default_factory=dict)
    """The shape before flattening of every result that was flattened in TFLite's order, by layer name."""

    def result(self, layer: Layer) -> int:
        return self.tensors.result(layer.name, layer.name, channels_last(layer.unit.output_shape))

    def operator(self, code: str, inputs: list[int], output: int, options: str | None = None, **values: object) -> int:
        return self.graph.operator(code, self.tensors.version(code), inputs, output, options, **values)

    def reshape(self, coded_like: str, label: str, tensor: int, shape: Shape) -> int:
        sizes = np.array(shape, dtype=np.int32)
        inputs = [tensor, self.graph.constant(f"{label}/shape", sizes)]
        output = self.tensors.result(coded_like, label, shape)
        return self.operator("RESHAPE", inputs, output, "ReshapeOptions", newShape=sizes)


def _convolution(writer: _Writer, layer: Layer, tensor: int) -> int:
    unit = layer.unit
    if unit.groups > 1 and unit.groups == unit.input_shape[0]:
        return _depthwise(writer, layer, tensor)
    tensor, padding = _padded(writer, layer, tensor)
    parameters = writer.tensors.parameters(layer, lambda weight: weight.transpose(0, 2, 3, 1), 0)
    version = writer.tensors.version("CONV_2D") if unit.groups == 1 else _GROUPED_CONVOLUTION_VERSION
    return writer.graph.operator(
        "CONV_2D",
        version,
        [tensor, *parameters],
        writer.result(layer),
        "Conv2DOptions",
        padding=padding,
        **_strides(unit),
        **_dilations(unit),
        fusedActivationFunction=_FUSED[unit.activation],
    )


def _depthwise(writer: _Writer, layer: Layer, tensor: int) -> int:
    unit = layer.unit
    tensor, padding = _padded(writer, layer, tensor)
    parameters = writer.tensors.parameters(layer, lambda weight: weight.transpose(1, 2, 3, 0), 3)
    version = max(
        writer.tensors.version("DEPTHWISE_CONV_2D"), 1 if unit.dilation == (1, 1) else _DILATED_DEPTHWISE_VERSION
    )
    return writer.graph.operator(
        "DEPTHWISE_CONV_2D",
        version,
        [tensor, *parameters],
        writer.result(layer),
        "DepthwiseConv2DOptions",
        padding=padding,
        depthMultiplier=unit.output_shape[0] // unit.groups,
        **_strides(unit),
        **_dilations(unit),
        fusedActivationFunction=_FUSED[unit.activation],
    )


def _scale(writer: _Writer, layer: Layer, tensor: int) -> int:
    """A 1x1 depthwise convolution: one kernel, and in int8 one scale per channel."""
    channels = layer.unit.output_shape[0]
    flat = len(layer.unit.input_shape) == 1
    if flat:
        tensor = writer.reshape(layer.inputs[0], f"{layer.name}/image", tensor, (1, 1, 1, channels))
    shape = (1, 1, 1, channels) if flat else channels_last(layer.unit.output_shape)
    parameters = writer.tensors.parameters(layer, lambda weight: weight.reshape(1, 1, 1, channels), 3)
    scaled = writer.operator(
        "DEPTHWISE_CONV_2D",
        [tensor, *parameters],
        writer.tensors.result(layer.name, layer.name, shape),
        "DepthwiseConv2DOptions",
        padding=_VALID,
        depthMultiplier=1,
        **_strides(layer.unit),
        fusedActivationFunction=_FUSED[layer.unit.activation],
    )
    return writer.reshape(layer.name, f"{layer.name}/flat", scaled, (1, channels)) if flat else scaled


def _dense(writer: _Writer, layer: Layer, tensor: int) -> int:
    flattened = writer.channels_last_flat.get(layer.inputs[0])
    order = slice(None) if flattened is None else _channels_last_order(flattened)
    return writer.operator(
        "FULLY_CONNECTED",
        [tensor, *writer.tensors.parameters(layer, lambda weight: weight[:, order], 0)],
        writer.result(layer),
        "FullyConnectedOptions",
        fusedActivationFunction=_FUSED[layer.unit.activation],
    )


def _add(writer: _Writer, layer: Layer, tensor: int) -> int:
    inputs = [writer.results[name] for name in layer.inputs]
    fused = _FUSED[layer.unit.activation]
    return writer.operator("ADD", inputs, writer.result(layer), "AddOptions", fusedActivationFunction=fused)


def _max_pool(writer: _Writer, layer: Layer, tensor: int) -> int:
    """Padding never wins: where it is not implied, it is 0 behind a relu and the lowest value elsewhere."""
    _refuse_dilation(layer)
    tensor, padding = _padded(writer, layer, tensor, lowest=not _is_non_negative(writer.spec, layer.inputs[0]))
    return _pool(writer, layer, "MAX_POOL_2D", tensor, padding)


def _average_pool(writer: _Writer, layer: Layer, tensor: int) -> int:
    """Padded zeros count in the average, as torch does unless told otherwise; TFLite's own padding would not."""
    _refuse_dilation(layer)
    if any(layer.unit.padding):
        tensor = _pad(writer, layer, tensor, lowest=False)
    return _pool(writer, layer, "AVERAGE_POOL_2D", tensor, _VALID)


def _pool(writer: _Writer, layer: Layer, code: str, tensor: int, padding: int) -> int:
    height, width = layer.unit.kernel
    return writer.operator(
        code,
        [tensor],
        writer.result(layer),
        "Pool2DOptions",
        padding=padding,
        filterHeight=height,
        filterWidth=width,
        **_strides(layer.unit),
    )


def _global_average_pool(writer: _Writer, layer: Layer, tensor: int) -> int:
    axes = writer.graph.constant(f"{layer.name}/axes", np.array([1, 2], dtype=np.int32))
    return writer.operator("MEAN", [tensor, axes], writer.result(layer), "ReducerOptions", keepDims=False)


def _flatten(writer: _Writer, layer: Layer, tensor: int) -> int:
    """torch flattens channels first: either the order is restored here, or dense layers take care of it."""
    shape = layer.unit.input_shape
    flat = channels_last(layer.unit.output_shape)
    if len(shape) == 3 and shape[0] > 1 and shape[1] * shape[2] > 1:
        if _only_read_by_dense(writer.spec, layer.name):
            writer.channels_last_flat[layer.name] = shape
        else:
            tensor = _channels_first(writer, layer, tensor)
    return writer.reshape(layer.name, layer.name, tensor, flat)


def _channels_first(writer: _Writer, layer: Layer, tensor: int) -> int:
    order = writer.graph.constant(f"{layer.name}/order", np.array([0, 3, 1, 2], dtype=np.int32))
    output = writer.tensors.result(layer.name, f"{layer.name}/channels_first", (1, *layer.unit.input_shape))
    return writer.operator("TRANSPOSE", [tensor, order], output, "TransposeOptions")


def _activation(writer: _Writer, layer: Layer, tensor: int) -> int:
    if not writer.tensors.needs_operator(layer):
        return tensor
    if layer.unit.activation == "none":
        return writer.reshape(layer.name, layer.name, tensor, channels_last(layer.unit.output_shape))
    return writer.operator(layer.unit.activation.upper(), [tensor], writer.result(layer))


def _padded(writer: _Writer, layer: Layer, tensor: int, lowest: bool = False) -> tuple[int, int]:
    """The tensor to read and TFLite's padding mode; what neither mode says is padded by an operator of its own."""
    needed = [_needed_padding(layer.unit, axis) for axis in (0, 1)]
    if all(pair == (0, 0) for pair in needed):
        return tensor, _VALID
    if needed == [_same_padding(layer.unit, axis) for axis in (0, 1)]:
        return tensor, _SAME
    return _pad(writer, layer, tensor, lowest), _VALID


def _pad(writer: _Writer, layer: Layer, tensor: int, lowest: bool) -> int:
    unit, source = layer.unit, layer.inputs[0]
    amounts = np.array([(0, 0), *(_needed_padding(unit, axis) for axis in (0, 1)), (0, 0)], dtype=np.int32)
    shape = tuple(int(size) for size in np.array(channels_last(unit.input_shape)) + amounts.sum(axis=1))
    inputs = [tensor, writer.graph.constant(f"{layer.name}/padding", amounts)]
    output = writer.tensors.result(source, f"{layer.name}/padded", shape)
    if lowest:
        return writer.operator("PADV2", [*inputs, writer.tensors.lowest(source)], output, "PadV2Options")
    return writer.operator("PAD", inputs, output, "PadOptions")


def _needed_padding(unit: UnitSpec, axis: int) -> tuple[int, int]:
    """Rows (or columns) before and after that windows really read: of the last ones a stride may leave some unread."""
    before, after = unit.padding[axis], unit.padding[axis + 2]
    unread = unit.input_shape[1 + axis] + before + after - _reach(unit, axis)
    return before, max(0, after - unread)


def _same_padding(unit: UnitSpec, axis: int) -> tuple[int, int]:
    """What TFLite pads in its mode SAME; (-1, -1), which nothing equals, if that mode cannot be used."""
    size, stride = unit.input_shape[1 + axis], unit.stride[axis]
    total = _reach(unit, axis) - size
    # Where a stride leaves rows unread the total is negative, and tflite-runtime 2.14 takes it for a huge number.
    if unit.output_shape[1 + axis] != -(-size // stride) or total < 0:
        return -1, -1
    return total // 2, total - total // 2


def _reach(unit: UnitSpec, axis: int) -> int:
    """Rows (or columns) of the padded input from the start of the first window to the end of the last one."""
    return (unit.output_shape[1 + axis] - 1) * unit.stride[axis] + unit.dilation[axis] * (unit.kernel[axis] - 1) + 1


def _strides(unit: UnitSpec) -> dict[str, int]:
    return {"strideH": unit.stride[0], "strideW": unit.stride[1]}


def _dilations(unit: UnitSpec) -> dict[str, int]:
    return {"dilationHFactor": unit.dilation[0], "dilationWFactor": unit.dilation[1]}


def _refuse_dilation(layer: Layer) -> None:
    if layer.unit.dilation != (1, 1):
        raise UnsupportedModelError(
            f"layer {layer.name!r}: {layer.unit.kind} has the dilation {layer.unit.dilation}, tflite runs only (1, 1)"
        )


def _is_non_negative(spec: NetworkSpec, name: str) -> bool:
    if name == INPUT:
        return False
    layer = spec.layer(name)
    if layer.unit.kind in _KEEPS_SIGN:
        return _is_non_negative(spec, layer.inputs[0])
    return layer.unit.activation != "none"


def _only_read_by_dense(spec: NetworkSpec, name: str) -> bool:
    readers = [layer.unit.kind for layer in spec.layers if name in layer.inputs]
    return bool(readers) and all(kind == "dense" for kind in readers)


def _channels_last_order(shape: Shape) -> NDArray[np.int64]:
    """Where each element, in channels-last order, lies in channels-first order."""
    channels_first = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    return channels_first.transpose(1, 2, 0).reshape(-1)


_OPERATORS: dict[str, Callable[[_Writer, Layer, int], int]] = {
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
