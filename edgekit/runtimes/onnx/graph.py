"""The growing ONNX graph of one model, and how its tensors are read and written: as floats, or coded in 8 bits.

Which operators a unit becomes is decided in ``writer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes._base import FoldedNetwork, Ranges
from edgekit.runtimes.quantization import (
    TensorQuantization,
    network_quantization,
    quantize_per_channel,
    saturated_activations,
)
from edgekit.types import INPUT, Layer, Shape


class Graph:
    """Nodes and constants in the making; tensors are referred to by name."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: set[str] = set()

    def node(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return the output's name, a new one unless ``output`` is given."""
        name = output or f"{operator}:{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def rename_output(self, old: str, new: str) -> None:
        """Call the result of the last node ``new``."""
        assert self.nodes[-1].output[0] == old
        self.nodes[-1].output[0] = new

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Store ``values`` under ``name``, once."""
        if name not in self._constants:
            self._constants.add(name)
            self.initializers.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def reshape(self, tensor: str, shape: Shape) -> str:
        """``tensor`` in another shape, batch included."""
        name = "shape:" + "x".join(map(str, shape))
        return self.node("Reshape", [tensor, self.constant(name, np.array(shape, dtype=np.int64))])


class Tensors(ABC):
    """How the layers of a network hand on their results in one number format."""

    @abstractmethod
    def pass_through(self, layer: Layer) -> bool:
        """Whether ``layer`` needs no node: then its result is from now on what it reads."""

    @abstractmethod
    def read(self, layer: Layer, position: int) -> str:
        """The float tensor that ``layer`` reads as its input number ``position``."""

    @abstractmethod
    def parameters(self, layer: Layer, weight_shape: Shape) -> tuple[str, str]:
        """Float tensors of the layer's weight, in ``weight_shape``, and bias."""

    @abstractmethod
    def requantize_like(self, name: str, tensor: str) -> str:
        """``tensor`` in the coding of the result of ``name``, for operators that need several nodes."""

    @abstractmethod
    def publish(self, layer: Layer, tensor: str) -> None:
        """Make ``tensor``, to which the layer's activation is still to be applied, the layer's result."""

    @abstractmethod
    def finish(self, output: str) -> None:
        """Make the result of the layer ``output`` the network's float output, of the same name."""


class FloatTensors(Tensors):
    """32-bit floats throughout: each tensor bears its layer's name."""

    def __init__(self, graph: Graph, network: FoldedNetwork) -> None:
        self._graph = graph
        self._network = network

    def pass_through(self, layer: Layer) -> bool:
        """Never: the activation has a node."""
        return False

    def read(self, layer: Layer, position: int) -> str:
        """The result of the layer that is read."""
        return layer.inputs[position]

    def parameters(self, layer: Layer, weight_shape: Shape) -> tuple[str, str]:
        """Weight and bias as constants."""
        weights = self._network.weights[layer.name]
        weight = weights.weight.reshape(weight_shape).astype(np.float32)
        return (
            self._graph.constant(f"{layer.name}:weight", weight),
            self._graph.constant(f"{layer.name}:bias", weights.bias.astype(np.float32)),
        )

    def requantize_like(self, name: str, tensor: str) -> str:
        """``tensor``: floats need no coding."""
        return tensor

    def publish(self, layer: Layer, tensor: str) -> None:
        """Append the activation, and give the result the layer's name."""
        if layer.unit.activation == "relu":
            self._graph.node("Relu", [tensor], layer.name)
        elif layer.unit.activation == "relu6":
            limits = [self._graph.constant(f"clip:{limit:g}", np.array(limit, dtype=np.float32)) for limit in (0, 6)]
            self._graph.node("Clip", [tensor, *limits], layer.name)
        elif layer.unit.kind == "activation":
            self._graph.node("Identity", [tensor], layer.name)
        else:
            self._graph.rename_output(tensor, layer.name)

    def finish(self, output: str) -> None:
        """Nothing: the last layer's result is the output already."""


class QuantizedTensors(Tensors):
    """8-bit codes between the layers: each operator stands between nodes that dequantize and quantize.

    Activations are unsigned with a zero point, weights signed with one scale per channel, which is what the integer
    kernels of ONNX Runtime take on every CPU. An activation function needs no node: the codes saturate where it does.
    """

    def __init__(self, graph: Graph, network: FoldedNetwork, ranges: Ranges) -> None:
        self._graph = graph
        self._network = network
        self._quantization = network_quantization(network.spec, ranges)
        self._saturated = {layer.name for layer in saturated_activations(network.spec)}
        self._codes = {INPUT: self._quantize(INPUT, INPUT)}

    def pass_through(self, layer: Layer) -> bool:
        """If it is an activation whose work the saturation of the codes does."""
        if layer.name in self._saturated:
            self._codes[layer.name] = self._codes[layer.inputs[0]]
        return layer.name in self._saturated

    def read(self, layer: Layer, position: int) -> str:
        """The dequantized result of the layer that is read; each reader has a node of its own, or fusion fails."""
        return self._dequantize(layer.inputs[position], self._codes[layer.inputs[position]])

    def parameters(self, layer: Layer, weight_shape: Shape) -> tuple[str, str]:
        """Weight and bias as integer constants behind dequantizing nodes."""
        read, written = self._quantization[layer.inputs[0]], self._quantization[layer.name]
        values = quantize_per_channel(layer, self._network.weights[layer.name], read, written)
        constant = self._graph.constant
        weight = [
            constant(f"{layer.name}:weight", values.weight.reshape(weight_shape)),
            constant(f"{layer.name}:weight_scale", values.weight_scale),
            constant(f"{layer.name}:weight_zero_point", np.zeros(len(values.bias), dtype=np.int8)),
        ]
        bias = [
            constant(f"{layer.name}:bias", values.bias),
            constant(f"{layer.name}:bias_scale", values.bias_scale),
        ]
        return (
            self._graph.node("DequantizeLinear", weight, axis=0),
            self._graph.node("DequantizeLinear", bias, axis=0),
        )

    def requantize_like(self, name: str, tensor: str) -> str:
        """``tensor`` quantized like the result of ``name``, and dequantized again."""
        return self._dequantize(name, self._quantize(name, tensor))

    def publish(self, layer: Layer, tensor: str) -> None:
        """Quantize the layer's result."""
        self._codes[layer.name] = self._quantize(layer.name, tensor)

    def finish(self, output: str) -> None:
        """Dequantize the last layer's result."""
        self._graph.node("DequantizeLinear", [self._codes[output], *self._constants(output)], output)

    def _quantize(self, name: str, tensor: str) -> str:
        return self._graph.node("QuantizeLinear", [tensor, *self._constants(name)])

    def _dequantize(self, name: str, codes: str) -> str:
        return self._graph.node("DequantizeLinear", [codes, *self._constants(name)])

    def _constants(self, name: str) -> list[str]:
        quantization: TensorQuantization = self._quantization[name]
        return [
            self._graph.constant(f"{name}:scale", np.array(quantization.scale, dtype=np.float32)),
            self._graph.constant(f"{name}:zero_point", np.array(quantization.zero_point, dtype=np.uint8)),
        ]
