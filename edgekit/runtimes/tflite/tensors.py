"""How the layers of a TFLite network hand on their results: as floats, or coded in 8 bits.

Which operators a unit becomes is decided in ``writer``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes._base import FoldedNetwork, Ranges
from edgekit.runtimes.quantization import (
    QuantizedWeights,
    network_quantization,
    quantize_per_channel,
    saturated_activations,
)
from edgekit.runtimes.tflite.graph import Graph
from edgekit.types import INPUT, Layer, Shape

_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "QUANTIZE": 1, "RESHAPE": 1}

Arrangement = Callable[[NDArray[Any]], NDArray[Any]]
"""Brings a weight from torch's order of axes into that of TFLite."""


def channels_last(shape: Shape) -> Shape:
    """A shape of edgekit as one of TFLite: batch first, channels last."""
    return (1, shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, *shape)


class Tensors(ABC):
    """Tensors of one network in one number format."""

    def __init__(self, graph: Graph, network: FoldedNetwork) -> None:
        self._graph = graph
        self._network = network

    @abstractmethod
    def version(self, operator: str) -> int:
        """The version of ``operator`` from which on it can compute in this format."""

    @abstractmethod
    def begin(self, model_input: int) -> int:
        """The network's input in this format, from the float tensor ``model_input``."""

    @abstractmethod
    def finish(self, output: int) -> int:
        """The network's float output, from its last layer's result."""

    @abstractmethod
    def result(self, coded_like: str, label: str, shape: Shape) -> int:
        """A tensor to be computed, of a TFLite ``shape``, coded like the result of the layer ``coded_like``."""

    @abstractmethod
    def lowest(self, coded_like: str) -> int:
        """A constant that no value of the tensor ``coded_like`` is below."""

    @abstractmethod
    def needs_operator(self, activation: Layer) -> bool:
        """Whether an activation layer changes what it reads."""

    @abstractmethod
    def parameters(self, layer: Layer, arrange: Arrangement, channel_axis: int) -> list[int]:
        """The layer's weight, arranged with its output channels along ``channel_axis``, and its bias."""


class FloatTensors(Tensors):
    """32-bit floats throughout."""

    def version(self, operator: str) -> int:
        """The first one."""
        return 1

    def begin(self, model_input: int) -> int:
        """The input itself."""
        return model_input

    def finish(self, output: int) -> int:
        """The result itself."""
        return output

    def result(self, coded_like: str, label: str, shape: Shape) -> int:
        """A float tensor."""
        return self._graph.tensor(label, shape, "FLOAT32")

    def lowest(self, coded_like: str) -> int:
        """The most negative finite float."""
        return self._graph.constant("lowest", np.array(np.finfo(np.float32).min, dtype=np.float32))

    def needs_operator(self, activation: Layer) -> bool:
        """Always."""
        return True

    def parameters(self, layer: Layer, arrange: Arrangement, channel_axis: int) -> list[int]:
        """Float constants."""
        weights = self._network.weights[layer.name]
        weight = arrange(weights.weight.astype(np.float32))
        return [
            self._graph.constant(f"{layer.name}/weight", weight),
            self._graph.constant(f"{layer.name}/bias", weights.bias.astype(np.float32)),
        ]


class QuantizedTensors(Tensors):
    """Signed 8-bit codes between the layers, as the TFLite quantization specification has them."""

    def __init__(self, graph: Graph, network: FoldedNetwork, ranges: Ranges) -> None:
        super().__init__(graph, network)
        self._quantization = network_quantization(network.spec, ranges)
        self._saturated = {layer.name for layer in saturated_activations(network.spec)}

    def version(self, operator: str) -> int:
        """The second one for all operators that are not listed."""
        return _INT8_VERSIONS.get(operator, 2)

    def begin(self, model_input: int) -> int:
        """The quantized input."""
        shape = channels_last(self._network.spec.input_shape)
        codes = self.result(INPUT, f"{INPUT}/codes", shape)
        return self._graph.operator("QUANTIZE", self.version("QUANTIZE"), [model_input], codes, "QuantizeOptions")

    def finish(self, output: int) -> int:
        """The dequantized result."""
        spec = self._network.spec
        values = self._graph.tensor("output", channels_last(spec.output.unit.output_shape), "FLOAT32")
        return self._graph.operator("DEQUANTIZE", self.version("DEQUANTIZE"), [output], values, "DequantizeOptions")

    def result(self, coded_like: str, label: str, shape: Shape) -> int:
        """A tensor of signed codes."""
        return self._graph.tensor(label, shape, "INT8", self._coding(coded_like))

    def lowest(self, coded_like: str) -> int:
        """The smallest code."""
        return self._graph.constant("lowest", np.array(-128, dtype=np.int8), self._coding(coded_like))

    def needs_operator(self, activation: Layer) -> bool:
        """Unless saturation does its work."""
        return activation.name not in self._saturated

    def parameters(self, layer: Layer, arrange: Arrangement, channel_axis: int) -> list[int]:
        """Integer constants."""
        values = self._quantize(layer)
        weight_coding = self._symmetric(values.weight_scale, channel_axis)
        bias_coding = self._symmetric(values.bias_scale, 0)
        return [
            self._graph.constant(f"{layer.name}/weight", arrange(values.weight), weight_coding),
            self._graph.constant(f"{layer.name}/bias", values.bias, bias_coding),
        ]

    def _quantize(self, layer: Layer) -> QuantizedWeights:
        read, written = self._quantization[layer.inputs[0]], self._quantization[layer.name]
        return quantize_per_channel(layer, self._network.weights[layer.name], read, written)

    def _coding(self, name: str) -> Any:
        quantization = self._quantization[name]
        scale = np.array([quantization.scale], dtype=np.float32)
        return self._graph.quantization(scale, np.array([quantization.signed_zero_point], dtype=np.int64))

    def _symmetric(self, scale: NDArray[np.float32], axis: int) -> Any:
        return self._graph.quantization(scale, np.zeros(len(scale), dtype=np.int64), axis)
