"""The arithmetic of 8-bit affine quantization that all writers share: scales, zero points, int8 weights, int32 biases.

Real value = scale * (code - zero point), as in Jacob et al. 2018 (arXiv:1712.05877); no file format is known here.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.runtimes._base import FloatArray, LayerWeights, Ranges
from edgekit.types import INPUT, Activation, Layer, NetworkSpec

LEVELS = 255
"""Steps between the smallest and the largest 8-bit code."""

_WEIGHT_LIMIT = 127
_BIAS_LIMIT = 2.0**30
_SMALLEST_MULTIPLIER = 2.0**-20
_LARGEST_MULTIPLIER = 256.0
_CAN_SATURATE = ("conv", "dense", "scale", "add", "global_average_pool")
_KEEPS_CODES = ("max_pool", "average_pool", "flatten")


@dataclass(frozen=True)
class TensorQuantization:
    """How one activation tensor is coded in 8 bits; ``zero_point`` counts in unsigned codes (0 to 255)."""

    scale: float
    zero_point: int

    @property
    def signed_zero_point(self) -> int:
        """The zero point in signed codes (-128 to 127)."""
        return self.zero_point - 128

    def quantize(self, values: FloatArray) -> NDArray[np.uint8]:
        """Unsigned codes of ``values``, saturated."""
        codes: FloatArray = np.round(values / np.float32(self.scale)) + self.zero_point
        return codes.clip(0, LEVELS).astype(np.uint8)

    def dequantize(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Values of unsigned ``codes``."""
        return ((codes.astype(np.float32) - self.zero_point) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class QuantizedWeights:
    """Integer parameters of one layer: ``weight`` with one ``weight_scale`` per output channel and the zero point 0,
    ``bias`` in units of ``bias_scale`` = input scale * weight scale."""

    weight: NDArray[np.int8]
    weight_scale: FloatArray
    bias: NDArray[np.int32]
    bias_scale: FloatArray


def tensor_quantization(low: float, high: float, activation: Activation = "none") -> TensorQuantization:
    """Scale and zero point for values in [low, high], widened to hold 0 and cut to what ``activation`` lets through.

    Behind a relu the code 0 is the value 0, behind a relu6 no code lies above 6: saturation then *is* the activation.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if activation != "none":
        low = 0.0
    if activation == "relu6":
        high = min(high, 6.0)
    width = high - low
    if width < np.finfo(np.float32).tiny * LEVELS:
        # A tensor that is always 0 needs some scale; 1 keeps every product of scales in range.
        low, width = 0.0, 1.0
    scale = float(np.float32(width / LEVELS))
    return TensorQuantization(scale, min(LEVELS, max(0, round(-low / scale))))


def network_quantization(spec: NetworkSpec, ranges: Ranges) -> dict[str, TensorQuantization]:
    """The coding of the network's input and of every layer's output, by name.

    Pooling and flattening keep the codes of what they read: not every runtime has kernels that would change them. A
    layer that only an activation reads gets the coding of the activation, whose work its saturation then does.
    Raises UsageError for a range that is missing or not finite.
    """
    result = {INPUT: tensor_quantization(*_range(ranges, INPUT))}
    saturating = {layer.inputs[0]: layer for layer in saturated_activations(spec)}
    for layer in spec.layers:
        if layer.unit.kind in _KEEPS_CODES:
            result[layer.name] = result[layer.inputs[0]]
        else:
            coded_like = saturating.get(layer.name, layer)
            result[layer.name] = tensor_quantization(*_range(ranges, coded_like.name), coded_like.unit.activation)
    return result


def saturated_activations(spec: NetworkSpec) -> list[Layer]:
    """The activation layers that need no operator in int8: they alone read a layer that can saturate for them."""
    readers = Counter(name for layer in spec.layers for name in layer.inputs)
    kinds = {layer.name: layer.unit.kind for layer in spec.layers}
    return [
        layer
        for layer in spec.layers
        if layer.unit.kind == "activation"
        and layer.unit.activation != "none"
        and readers[layer.inputs[0]] == 1
        and kinds.get(layer.inputs[0]) in _CAN_SATURATE
    ]


def quantize_per_channel(
    layer: Layer, weights: LayerWeights, read: TensorQuantization, written: TensorQuantization
) -> QuantizedWeights:
    """int8 weights with one symmetric scale per output channel (the first axis), and their int32 bias."""
    flat = np.abs(weights.weight.reshape(len(weights.bias), -1))
    return _quantize(layer, weights, flat.max(axis=1), read, written)


def _quantize(
    layer: Layer, weights: LayerWeights, largest: FloatArray, read: TensorQuantization, written: TensorQuantization
) -> QuantizedWeights:
    scale = np.maximum(largest / _WEIGHT_LIMIT, _smallest_scale(weights.bias, read, written)).astype(np.float32)
    _check_multiplier(layer, float(scale.max()) * read.scale / written.scale)
    per_weight = scale.reshape(-1, *[1] * (weights.weight.ndim - 1))
    codes = np.clip(np.round(weights.weight / per_weight), -_WEIGHT_LIMIT, _WEIGHT_LIMIT).astype(np.int8)
    bias_scale = (np.float32(read.scale) * scale).astype(np.float32)
    return QuantizedWeights(codes, scale, np.round(weights.bias / bias_scale).astype(np.int32), bias_scale)


def _smallest_scale(bias: FloatArray, read: TensorQuantization, written: TensorQuantization) -> FloatArray:
    """The weight scale below which the bias would not fit in 32 bits, or XNNPACK refuses the ratio of the scales.

    Channels that were pruned to 0, or nearly so, would get there. The loss of precision is under 0.01 output steps.
    """
    for_bias = np.abs(bias) / (read.scale * _BIAS_LIMIT)
    return np.maximum(for_bias, written.scale / read.scale * _SMALLEST_MULTIPLIER)


def _check_multiplier(layer: Layer, multiplier: float) -> None:
    if not multiplier < _LARGEST_MULTIPLIER:
        raise UsageError(
            f"layer {layer.name!r}: one step of its sums is {multiplier:.3g} steps of its calibrated output range, "
            f"at most {_LARGEST_MULTIPLIER:g} can be executed",
            "calibrate with data for which the layer's output is not nearly constant",
        )


def _range(ranges: Ranges, name: str) -> tuple[float, float]:
    if name not in ranges:
        raise UsageError(f"int8 needs the range of {name!r}, which was not given", "calibrate on real data first")
    low, high = ranges[name]
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UsageError(f"the range of {name!r} is {low} to {high}; it must be finite and in ascending order")
    return low, high
