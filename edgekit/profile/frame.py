"""The models that are timed for one unit: the unit between fixed neighbours, and the neighbours alone.

Networks are described here and given weights; nothing is written, loaded or timed.

A unit alone cannot be timed as it will run: runtimes convert layouts at the borders of a file (ONNX Runtime blocks
channels, int8 quantizes) and charge a fixed time per run. So each unit is timed behind a cheap convolution that gives
its input in the layout of an inner layer, and before a tail that reads one pixel: 1x1 with the whole image as stride.
The tail costs the same for any size, so that it cancels even for units that change channels or resolution.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.runtimes import FloatArray, FoldedNetwork, LayerWeights, Ranges
from edgekit.types import INPUT, Activation, Layer, NetworkSpec, NumberFormat, Shape, UnitSpec

IMAGE_CHANNELS = 4
"""A convolution of at most so many channels is taken for a network's first layer, which reads the image itself."""
TAIL_FEATURES = 16
"""Outputs of the tail: one block of channels of every processor, since fewer would not get the blocked layout."""

_UNIT = "unit"
_RANGE = 4.0


def framed(unit: UnitSpec) -> NetworkSpec:
    """The network whose time, less that of `frame`, is what ``unit`` adds to a network."""
    frame_layers = _Layers(unit.number_format)
    source = _front(frame_layers, unit)
    inputs = (*source, _second_operand(frame_layers, unit, source[0])) if unit.kind == "add" else source
    frame_layers.append(_UNIT, unit, *inputs)
    _tail(frame_layers, _UNIT, unit.output_shape, unit)
    return frame_layers.network("framed", _input_shape(unit))


def frame(unit: UnitSpec) -> NetworkSpec:
    """The neighbours of ``unit`` alone. Units of the same kind of place have equal frames, to be timed once."""
    frame_layers = _Layers(unit.number_format)
    (source,) = _front(frame_layers, unit)
    if unit.kind == "add":
        source = _second_operand(frame_layers, unit, source)
    _tail(frame_layers, source, unit.input_shape)
    return frame_layers.network("frame", _input_shape(unit))


def identity(number_format: NumberFormat = "fp32") -> NetworkSpec:
    """A network that does nothing to speak of: its time is what a runtime charges for a run."""
    layers = _Layers(number_format)
    shape = (TAIL_FEATURES,)
    layers.append(
        "nothing", UnitSpec(kind="activation", input_shape=shape, output_shape=shape, activation="relu"), INPUT
    )
    return layers.network("identity", shape)


def with_random_weights(spec: NetworkSpec, seed: int = 0) -> FoldedNetwork:
    """``spec`` with normal weights that keep the variance (He et al. 2015) and zero biases.

    Zeros or unscaled numbers would not do: denormal numbers make floating-point kernels tens of times slower.
    """
    random = np.random.default_rng(seed)
    weights = {layer.name: _weights(layer.unit, random) for layer in spec.layers if layer.unit.has_weights}
    return FoldedNetwork(spec, weights)


def plausible_ranges(spec: NetworkSpec) -> Ranges:
    """Ranges for int8 that fit no data but cost the same time: [-4, 4], or [0, 4] behind an activation."""
    behind = {layer.name: layer.unit.activation for layer in spec.layers}
    return {name: (0.0 if behind.get(name, "none") != "none" else -_RANGE, _RANGE) for name in (INPUT, *behind)}


def random_input(shape: tuple[int, ...], seed: int = 0) -> FloatArray:
    """Normal numbers in float32, of a session's input shape (batch included)."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


class _Layers:
    """Layers in the making, all in one number format."""

    def __init__(self, number_format: NumberFormat) -> None:
        self._number_format = number_format
        self._layers: list[Layer] = []

    def append(self, name: str, unit: UnitSpec, *inputs: str) -> str:
        self._layers.append(Layer(name=name, unit=unit.in_format(self._number_format), inputs=inputs))
        return name

    def network(self, name: str, input_shape: Shape) -> NetworkSpec:
        return NetworkSpec(name=name, input_shape=input_shape, layers=tuple(self._layers))


def _reads_image(unit: UnitSpec) -> bool:
    return unit.kind == "conv" and unit.input_shape[0] <= IMAGE_CHANNELS


def _input_shape(unit: UnitSpec) -> Shape:
    if _reads_image(unit):
        return unit.input_shape
    return (1, *unit.input_shape[1:]) if len(unit.input_shape) == 3 else (TAIL_FEATURES,)


def _front(layers: _Layers, unit: UnitSpec) -> tuple[str, ...]:
    """What produces the unit's input: nothing for an image, else the cheapest layer with weights of that shape."""
    if _reads_image(unit):
        return (INPUT,)
    shape = unit.input_shape
    if len(shape) == 1:
        return (layers.append("stem", _dense((TAIL_FEATURES,), shape, "relu"), INPUT),)
    return (layers.append("stem", _convolution((1, *shape[1:]), shape, activation="relu"), INPUT),)


def _second_operand(layers: _Layers, unit: UnitSpec, source: str) -> str:
    """The branch that an addition joins with its shortcut: it ends in a convolution, into which ONNX Runtime fuses the
    sum as it does in a residual network."""
    shape = unit.input_shape
    if len(shape) == 1:
        branch = UnitSpec(kind="activation", input_shape=shape, output_shape=shape, activation="relu6")
    else:
        branch = _convolution(shape, shape, groups=shape[0])
    return layers.append("branch", branch, source)


def _tail(layers: _Layers, source: str, shape: Shape, unit: UnitSpec | None = None) -> None:
    if len(shape) == 3:
        pixel = _convolution(shape, (TAIL_FEATURES, 1, 1), stride=(shape[1], shape[2]))
        layers.append("tail", pixel, source)
        return
    # All values of a flattened image are read here, and one output of them is the least that can be asked for.
    features = 1 if unit is not None and unit.kind == "flatten" else TAIL_FEATURES
    layers.append("tail", _dense(shape, (features,)), source)


def _convolution(
    input_shape: Shape,
    output_shape: Shape,
    *,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    activation: Activation = "none",
) -> UnitSpec:
    return UnitSpec(
        kind="conv",
        input_shape=input_shape,
        output_shape=output_shape,
        stride=stride,
        groups=groups,
        activation=activation,
    )


def _dense(input_shape: Shape, output_shape: Shape, activation: Activation = "none") -> UnitSpec:
    return UnitSpec(kind="dense", input_shape=input_shape, output_shape=output_shape, activation=activation)


def _weights(unit: UnitSpec, random: np.random.Generator) -> LayerWeights:
    fan_in = math.prod(unit.weight_shape[1:])
    weight = random.standard_normal(unit.weight_shape, dtype=np.float32) * np.float32(math.sqrt(2 / fan_in))
    return LayerWeights(weight, np.zeros(unit.output_shape[0], dtype=np.float32))
