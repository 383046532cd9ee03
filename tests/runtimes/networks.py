"""Small networks for the tests of the runtimes, and what torch computes for them: in floats, and fake-quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.runtimes import FloatArray, FoldedNetwork, LayerWeights
from edgekit.runtimes.quantization import TensorQuantization, network_quantization
from edgekit.types import INPUT, Layer, NetworkSpec, Shape, UnitSpec

torch = pytest.importorskip("torch", reason="the reference that models are compared with is computed by torch")
functional = torch.nn.functional

Ranges = dict[str, tuple[float, float]]


class NetworkBuilder:
    """Adds layers one by one; output shapes are those that torch makes."""

    def __init__(self, input_shape: Shape, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.input_shape = input_shape
        self.layers: list[Layer] = []
        self.weights: dict[str, LayerWeights] = {}
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self.last = INPUT

    def add(self, kind: Any, *inputs: str, channels: int | None = None, **fields: Any) -> str:
        """Append a layer that reads ``inputs`` (the last layer if there are none) and return its name."""
        inputs = inputs or (self.last,)
        shape = self.shapes[inputs[0]]
        channels = channels or shape[0]
        unit = UnitSpec(kind=kind, input_shape=shape, output_shape=(channels, *shape[1:]), **fields)
        parameters = self._parameters(unit) if unit.has_weights else None
        zeros = torch.zeros(1, *shape)
        made = float_unit(unit, [zeros] * len(inputs), parameters)
        unit = UnitSpec(kind=kind, input_shape=shape, output_shape=tuple(made.shape[1:]), **fields)
        self.last = f"layer{len(self.layers)}"
        self.layers.append(Layer(name=self.last, unit=unit, inputs=inputs))
        self.shapes[self.last] = unit.output_shape
        if parameters is not None:
            self.weights[self.last] = parameters
        return self.last

    def build(self) -> FoldedNetwork:
        """The network so far."""
        spec = NetworkSpec(name="test", input_shape=self.input_shape, layers=tuple(self.layers))
        return FoldedNetwork(spec, self.weights)

    def samples(self, count: int) -> FloatArray:
        """Random inputs."""
        return self.random.standard_normal((count, *self.input_shape)).astype(np.float32)

    def _parameters(self, unit: UnitSpec) -> LayerWeights:
        fan_in = max(1, int(np.prod(unit.weight_shape[1:])))
        # Channels of very different size: one scale for all of them would be seen.
        size = self.random.uniform(0.05, 1.5, unit.output_shape[0]) * np.sqrt(2 / fan_in)
        weight = self.random.standard_normal(unit.weight_shape) * size.reshape(-1, *[1] * (len(unit.weight_shape) - 1))
        bias = 0.2 * self.random.standard_normal(unit.output_shape[0])
        return LayerWeights(weight.astype(np.float32), bias.astype(np.float32))


def random_builder(seed: int) -> NetworkBuilder:
    """A network of up to six random spatial layers and a head, with odd sizes, strides, paddings and groups."""
    random = np.random.default_rng(seed)
    builder = NetworkBuilder((int(random.integers(1, 6)), *(int(size) for size in random.integers(5, 14, 2))), seed)
    for _ in range(random.integers(1, 7)):
        step = random.choice(["conv", "conv", "depthwise", "residual", "pool", "scale", "activation"])
        _STEPS[str(step)](builder, random)
    _add_head(builder, random)
    return builder


def _add_convolution(builder: NetworkBuilder, random: np.random.Generator) -> None:
    shape = builder.shapes[builder.last]
    groups = int(random.choice([size for size in range(1, shape[0] + 1) if shape[0] % size == 0]))
    window = _random_window(shape, random)
    builder.add(
        "conv",
        channels=groups * int(random.integers(1, 9)),
        groups=groups,
        activation=str(random.choice(["none", "relu", "relu6"])),
        **window,
    )


def _add_depthwise(builder: NetworkBuilder, random: np.random.Generator) -> None:
    shape = builder.shapes[builder.last]
    builder.add("conv", groups=shape[0], channels=shape[0], activation="relu", **_random_window(shape, random))


def _add_residual(builder: NetworkBuilder, random: np.random.Generator) -> None:
    source = builder.last
    branch = builder.add("conv", source, kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu")
    builder.add("add", branch, source, activation=str(random.choice(["none", "relu"])))


def _add_pool(builder: NetworkBuilder, random: np.random.Generator) -> None:
    window = _random_window(builder.shapes[builder.last], random)
    window["padding"] = tuple(
        min(amount, size // 2) for amount, size in zip(window["padding"], window["kernel"] * 2, strict=True)
    )
    del window["dilation"]
    if _fits(builder.shapes[builder.last], window):
        builder.add(str(random.choice(["max_pool", "average_pool"])), **window)


def _add_scale(builder: NetworkBuilder, random: np.random.Generator) -> None:
    builder.add("scale", activation=str(random.choice(["none", "relu"])))


def _add_activation(builder: NetworkBuilder, random: np.random.Generator) -> None:
    builder.add("activation", activation=str(random.choice(["relu", "relu6"])))


def _add_head(builder: NetworkBuilder, random: np.random.Generator) -> None:
    builder.add(str(random.choice(["global_average_pool", "flatten"])))
    for _ in range(random.integers(0, 3)):
        builder.add("dense", channels=int(random.integers(2, 20)), activation="relu")
    if random.random() < 0.3:
        builder.add("scale")
    builder.add("dense", channels=10)


_STEPS = {
    "conv": _add_convolution,
    "depthwise": _add_depthwise,
    "residual": _add_residual,
    "pool": _add_pool,
    "scale": _add_scale,
    "activation": _add_activation,
}


def _random_window(shape: Shape, random: np.random.Generator) -> dict[str, Any]:
    while True:
        window = {
            "kernel": tuple(int(size) for size in random.integers(1, 6, 2)),
            "stride": tuple(int(size) for size in random.integers(1, 4, 2)),
            "padding": tuple(int(size) for size in random.integers(0, 3, 4)),
            "dilation": tuple(int(size) for size in random.choice([1, 1, 2], 2)),
        }
        if _fits(shape, window):
            return window


def _fits(shape: Shape, window: dict[str, Any]) -> bool:
    dilation = window.get("dilation", (1, 1))
    return all(
        shape[1 + axis] + window["padding"][axis] + window["padding"][2 + axis]
        > dilation[axis] * (window["kernel"][axis] - 1)
        for axis in (0, 1)
    )


def float_unit(unit: UnitSpec, inputs: list[Any], parameters: LayerWeights | None) -> Any:
    """What torch computes for one unit."""
    result = _before_activation(unit, inputs, parameters)
    return {"none": lambda x: x, "relu": functional.relu, "relu6": functional.relu6}[unit.activation](result)


def _before_activation(unit: UnitSpec, inputs: list[Any], parameters: LayerWeights | None) -> Any:
    x = inputs[0]
    if parameters is not None:
        weight, bias = torch.from_numpy(parameters.weight), torch.from_numpy(parameters.bias)
    if unit.kind == "conv":
        return functional.conv2d(_padded(unit, x, 0.0), weight, bias, unit.stride, 0, unit.dilation, unit.groups)
    if unit.kind == "dense":
        return functional.linear(x, weight, bias)
    if unit.kind == "scale":
        per_channel = (1, -1, *[1] * (x.dim() - 2))
        return x * weight.reshape(per_channel) + bias.reshape(per_channel)
    return _without_parameters(unit, inputs)


def _without_parameters(unit: UnitSpec, inputs: list[Any]) -> Any:
    x = inputs[0]
    if unit.kind == "add":
        return x + inputs[1]
    if unit.kind == "max_pool":
        return functional.max_pool2d(_padded(unit, x, float("-inf")), unit.kernel, unit.stride)
    if unit.kind == "average_pool":
        return functional.avg_pool2d(_padded(unit, x, 0.0), unit.kernel, unit.stride)
    if unit.kind == "global_average_pool":
        return x.mean(dim=(2, 3))
    return x.flatten(1) if unit.kind == "flatten" else x


def _padded(unit: UnitSpec, x: Any, value: float) -> Any:
    top, left, bottom, right = unit.padding
    return functional.pad(x, (left, right, top, bottom), value=value)


def float_results(network: FoldedNetwork, samples: FloatArray) -> dict[str, Any]:
    """Every layer's float result, as tensors, by name."""
    results = {INPUT: torch.from_numpy(samples)}
    for layer in network.spec.layers:
        inputs = [results[name] for name in layer.inputs]
        results[layer.name] = float_unit(layer.unit, inputs, network.weights.get(layer.name))
    return results


def float_output(network: FoldedNetwork, samples: FloatArray) -> FloatArray:
    """What torch computes for the network."""
    result: FloatArray = float_results(network, samples)[network.spec.output.name].numpy()
    return result


def calibrate(network: FoldedNetwork, samples: FloatArray) -> Ranges:
    """The range of every layer's result over ``samples``."""
    results = float_results(network, samples)
    return {name: (float(values.min()), float(values.max())) for name, values in results.items()}


def quantized_output(network: FoldedNetwork, samples: FloatArray, ranges: Ranges) -> FloatArray:
    """What torch computes with weights and results rounded to 8-bit codes."""
    codings = network_quantization(network.spec, ranges)
    results = {INPUT: _rounded(torch.from_numpy(samples), codings[INPUT])}
    for layer in network.spec.layers:
        inputs = [results[name] for name in layer.inputs]
        parameters = network.weights.get(layer.name)
        if parameters is not None:
            parameters = LayerWeights(_rounded_weight(parameters.weight), parameters.bias)
        results[layer.name] = _rounded(float_unit(layer.unit, inputs, parameters), codings[layer.name])
    result: FloatArray = results[network.spec.output.name].numpy()
    return result


def output_step(network: FoldedNetwork, ranges: Ranges) -> float:
    """The difference of neighbouring codes of the network's output."""
    return network_quantization(network.spec, ranges)[network.spec.output.name].scale


def _rounded(values: Any, coding: TensorQuantization) -> Any:
    return torch.fake_quantize_per_tensor_affine(values, coding.scale, coding.zero_point, 0, 255)


def _rounded_weight(weight: FloatArray) -> FloatArray:
    values = torch.from_numpy(weight)
    scale = values.abs().reshape(len(values), -1).amax(1) / 127
    zero_point = torch.zeros(len(values), dtype=torch.int32)
    result: FloatArray = torch.fake_quantize_per_channel_affine(values, scale, zero_point, 0, -127, 127).numpy()
    return result
