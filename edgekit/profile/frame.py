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
"""A convolution of at most so many channels is taken for a network's first layer, which reads the image itself.

A unit does not say where in the network it stands. With groups of 4 channels or fewer, training may also choose inner
convolutions this narrow: those are timed without the layout conversion that spares them, and so seem slower than they
are, by up to some microseconds, until the correction and the timing of the candidates tell."""
TAIL_FEATURES = 16
"""Outputs of the tail: one block of channels of every processor, since fewer would not get the blocked layout."""

_RANGE = 4.0


def framed(unit: UnitSpec) -> NetworkSpec:
    """The network whose time, less that of `frame`, is what ``unit`` adds to a network."""
    layers = _Layers(unit.number_format)
    source = _front(layers, unit)
    inputs = (source, layers.append("branch", _branch(unit), source)) if unit.kind == "add" else (source,)
    layers.append("unit", unit, *inputs)
    if unit.kind == "flatten":
        layers.append("tail", _dense(unit.output_shape, (TAIL_FEATURES,)), "unit")
    elif len(unit.output_shape) == 3:
        layers.append("tail", _pixel(unit.output_shape), "unit")
    return layers.network("framed", _input_shape(unit))


def frame(unit: UnitSpec) -> NetworkSpec:
    """The neighbours of ``unit`` alone. Units of the same kind of place have equal frames, to be timed once."""
    layers = _Layers(unit.number_format)
    source = _front(layers, unit)
    if unit.kind == "add":
        source = layers.append("branch", _branch(unit), source)
    if unit.kind == "flatten":
        layers.append("tail", _whole_image(unit.input_shape), source)
    elif len(unit.input_shape) == 3:
        layers.append("tail", _pixel(unit.input_shape), source)
    return layers.network("frame", _input_shape(unit))


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


def _front(layers: _Layers, unit: UnitSpec) -> str:
    """What produces the unit's input: nothing for an image, else the cheapest layer with weights of that shape."""
    if _reads_image(unit):
        return INPUT
    shape = unit.input_shape
    if len(shape) == 1:
        return layers.append("stem", _dense((TAIL_FEATURES,), shape, "relu"), INPUT)
    return layers.append("stem", _convolution((1, *shape[1:]), shape, activation="relu"), INPUT)


def _branch(unit: UnitSpec) -> UnitSpec:
    """What an addition joins with its shortcut: a convolution, into which ONNX Runtime fuses the sum as it does in a
    residual network."""
    shape = unit.input_shape
    if len(shape) == 1:
        return UnitSpec(kind="activation", input_shape=shape, output_shape=shape, activation="relu6")
    return _convolution(shape, shape, groups=shape[0])


def _pixel(shape: Shape) -> UnitSpec:
    """The tail behind an image. Behind a vector there is none: it has one layout, and costs nothing as an output."""
    return _convolution(shape, (TAIL_FEATURES, 1, 1), stride=(shape[1], shape[2]))


def _whole_image(shape: Shape) -> UnitSpec:
    """What flatten and a dense layer compute, as one convolution: what is left over is the price of flattening."""
    return _convolution(shape, (TAIL_FEATURES, 1, 1), kernel=(shape[1], shape[2]))


def _convolution(
    input_shape: Shape,
    output_shape: Shape,
    *,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    activation: Activation = "none",
) -> UnitSpec:
    return UnitSpec(
        kind="conv",
        input_shape=input_shape,
        output_shape=output_shape,
        kernel=kernel,
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
