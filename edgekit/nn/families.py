"""The networks that edgekit knows by name: residual CNNs, depthwise-separable CNNs and multi-layer perceptrons.

Each is a `NetworkSpec` by depth and width; a user's own module becomes one in ``trace``. No weights live here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgekit.errors import UsageError
from edgekit.types import INPUT, Activation, Layer, NetworkSpec, Shape, UnitKind, UnitSpec

RESIDUAL_WIDTHS = (32, 64, 128)
SEPARABLE_WIDTHS = (32, 64, 128, 128, 256)
MODEL_NAMES = (
    "resnet8, resnet14, resnet20 (any 6n+2) and mobilenet, both with an optional width like resnet14-w0.5; mlp-256-256"
)
_NAME = re.compile(
    r"(?:resnet(?P<depth>\d{1,4})|mobilenet)(?:-w(?P<width>\d{1,3}(?:\.\d{1,6})?))?|mlp(?P<hidden>(?:-\d{1,7})+)"
)


def named_network(name: str, input_shape: Shape, class_count: int) -> NetworkSpec:
    """The network called ``name`` for inputs of ``input_shape`` (channels, height, width).

    Names: ``resnet{6n+2}``, ``mobilenet``, ``mlp-H1-H2...``, the first two with an optional ``-wFACTOR``.
    Raises UsageError for any other name.
    """
    match = check_name(name)
    if match["hidden"]:
        hidden = [int(size) for size in match["hidden"][1:].split("-")]
        return multilayer_perceptron(hidden, input_shape, class_count, name)
    width = float(match["width"] or 1)
    if match["depth"]:
        return residual_network(
            int(match["depth"]), scale_widths(RESIDUAL_WIDTHS, width), input_shape, class_count, name
        )
    return separable_network(scale_widths(SEPARABLE_WIDTHS, width), input_shape, class_count, name)


def check_name(name: str) -> re.Match[str]:
    """The parts of a family's name; UsageError for any other name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"no network is called {name!r}", f"known: {MODEL_NAMES}; or package.module:factory, file.py:factory"
        )
    return match


def scale_widths(widths: Sequence[int], factor: float, multiple: int = 8) -> tuple[int, ...]:
    """Widths times ``factor``, rounded to multiples of ``multiple``, at least one multiple.

    Raises UsageError unless the factor is above 0.
    """
    if not 0 < factor < math.inf:
        raise UsageError(f"a network cannot be {factor:g} times as wide", "the width factor is above 0, like 0.5")
    return tuple(max(multiple, round(width * factor / multiple) * multiple) for width in widths)


def residual_network(
    depth: int, widths: Sequence[int], input_shape: Shape, class_count: int, name: str | None = None
) -> NetworkSpec:
    """ResNet of basic blocks (He et al. 2016, section 4.2): depth = 6n+2, three stages of n blocks.

    The stem strides by 2, as edge networks do; shortcuts that change shape are 1x1 convolutions.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UsageError(f"a residual network of depth {depth} does not exist", "the depth is 6n+2: 8, 14, 20, 26 ...")
    build = _Builder.for_images(input_shape)
    x = build.conv("stem", INPUT, widths[0], kernel=3, stride=2)
    for stage, width in enumerate(widths, start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            x = _basic_block(build, f"stage{stage}.block{block}", x, width, stride)
    return build.finish(x, class_count, name or f"resnet{depth}")


def _basic_block(build: _Builder, name: str, x: str, width: int, stride: int) -> str:
    y = build.conv(f"{name}.conv1", x, width, kernel=3, stride=stride)
    y = build.conv(f"{name}.conv2", y, width, kernel=3, activation="none")
    if stride != 1 or build.shapes[x][0] != width:
        x = build.conv(f"{name}.shortcut", x, width, kernel=1, stride=stride, activation="none")
    return build.add(f"{name}.add", y, x)


def separable_network(
    widths: Sequence[int], input_shape: Shape, class_count: int, name: str = "mobilenet"
) -> NetworkSpec:
    """MobileNet v1 style stack (Howard et al. 2017, table 1): a strided stem, then pairs of a depthwise 3x3 and a
    pointwise convolution; the resolution halves with every second pair."""
    build = _Builder.for_images(input_shape)
    x = build.conv("stem", INPUT, widths[0], kernel=3, stride=2)
    for index, width in enumerate(widths[1:], start=1):
        stride = 2 if index % 2 == 0 else 1
        x = build.conv(f"pair{index}.depthwise", x, build.shapes[x][0], kernel=3, stride=stride, depthwise=True)
        x = build.conv(f"pair{index}.pointwise", x, width, kernel=1)
    return build.finish(x, class_count, name)


def multilayer_perceptron(
    hidden: Sequence[int], input_shape: Shape, class_count: int, name: str | None = None
) -> NetworkSpec:
    """Fully connected layers with ReLU; an image is flattened first. Raises UsageError if a layer has no neuron."""
    if not all(width > 0 for width in hidden):
        raise UsageError(f"a hidden layer cannot have {min(hidden)} neurons", "every layer has at least 1")
    build = _Builder(input_shape)
    x = build.flatten("flatten", INPUT) if len(input_shape) == 3 else INPUT
    for index, width in enumerate(hidden, start=1):
        x = build.dense(f"hidden{index}", x, width, activation="relu")
    build.dense("classifier", x, class_count)
    return build.spec(name or "mlp-" + "-".join(map(str, hidden)))


@dataclass
class _Builder:
    """Collects layers and works out their shapes."""

    input_shape: Shape
    layers: list[Layer] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes[INPUT] = self.input_shape

    @classmethod
    def for_images(cls, input_shape: Shape) -> _Builder:
        """A builder whose input convolutions can read."""
        if len(input_shape) != 3:
            raise UsageError(
                f"a convolutional network cannot read inputs of shape {input_shape}",
                "give it (channels, height, width), or use an mlp, like mlp-256-256",
            )
        return cls(input_shape)

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        *,
        kernel: int,
        stride: int = 1,
        activation: Activation = "relu",
        depthwise: bool = False,
    ) -> str:
        height, width = self.shapes[x][1:]
        pad = kernel // 2
        shape = (channels, (height + 2 * pad - kernel) // stride + 1, (width + 2 * pad - kernel) // stride + 1)
        unit = UnitSpec(
            kind="conv",
            input_shape=self.shapes[x],
            output_shape=shape,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(pad, pad, pad, pad),
            groups=self.shapes[x][0] if depthwise else 1,
            activation=activation,
        )
        return self._append(name, unit, (x,), batch_norm=True)

    def add(self, name: str, first: str, second: str) -> str:
        shape = self.shapes[first]
        unit = UnitSpec(kind="add", input_shape=shape, output_shape=shape, activation="relu")
        return self._append(name, unit, (first, second))

    def dense(self, name: str, x: str, features: int, activation: Activation = "none") -> str:
        unit = UnitSpec(kind="dense", input_shape=self.shapes[x], output_shape=(features,), activation=activation)
        return self._append(name, unit, (x,), batch_norm=activation != "none")

    def flatten(self, name: str, x: str) -> str:
        channels, height, width = self.shapes[x]
        return self._reduce(name, "flatten", x, (channels * height * width,))

    def finish(self, x: str, class_count: int, name: str) -> NetworkSpec:
        x = self._reduce("pool", "global_average_pool", x, (self.shapes[x][0],))
        self.dense("classifier", x, class_count)
        return self.spec(name)

    def spec(self, name: str) -> NetworkSpec:
        return NetworkSpec(name=name, input_shape=self.input_shape, layers=tuple(self.layers))

    def _reduce(self, name: str, kind: UnitKind, x: str, shape: Shape) -> str:
        return self._append(name, UnitSpec(kind=kind, input_shape=self.shapes[x], output_shape=shape), (x,))

    def _append(self, name: str, unit: UnitSpec, inputs: tuple[str, ...], batch_norm: bool = False) -> str:
        self.layers.append(Layer(name=name, unit=unit, inputs=inputs, batch_norm=batch_norm))
        self.shapes[name] = unit.output_shape
        return name
