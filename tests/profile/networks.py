"""Small networks and profiles for tests: a residual network of any widths, and profiles with given prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekit.types import (
    INPUT,
    Correction,
    Layer,
    Machine,
    Method,
    NetworkCorrection,
    NetworkSpec,
    Profile,
    Timing,
    UnitSpec,
    UnitTiming,
)

MACHINE = Machine(cpu="Test CPU", cores=2, architecture="x86_64", kernel="6.1")


def conv(
    channels: int,
    size: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: str = "relu",
) -> UnitSpec:
    """A square convolution with the padding that keeps the size at stride 1."""
    padding = kernel // 2
    output_size = (size + 2 * padding - kernel) // stride + 1
    return UnitSpec(
        kind="conv",
        input_shape=(channels, size, size),
        output_shape=(outputs, output_size, output_size),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding, padding, padding),
        groups=groups,
        activation=activation,  # type: ignore[arg-type]
    )


def conv_widths(in_widths: Sequence[int], out_widths: Sequence[int]) -> list[UnitSpec]:
    """One convolution at every pair of widths."""
    return [conv(in_width, 8, out_width) for in_width in in_widths for out_width in out_widths]


def distinct_units(networks: Sequence[NetworkSpec]) -> list[UnitSpec]:
    """Every unit of the networks once."""
    return list(dict.fromkeys(layer.unit for network in networks for layer in network.layers))


def dense(inputs: int, outputs: int) -> UnitSpec:
    return UnitSpec(kind="dense", input_shape=(inputs,), output_shape=(outputs,))


def add(channels: int, size: int) -> UnitSpec:
    shape = (channels, size, size)
    return UnitSpec(kind="add", input_shape=shape, output_shape=shape, activation="relu")


def flatten(channels: int, size: int) -> UnitSpec:
    return UnitSpec(kind="flatten", input_shape=(channels, size, size), output_shape=(channels * size * size,))


def global_pool(channels: int, size: int) -> UnitSpec:
    return UnitSpec(kind="global_average_pool", input_shape=(channels, size, size), output_shape=(channels,))


def residual(trunk: Sequence[int] = (8, 16), middle: int = 8, size: int = 8) -> NetworkSpec:
    """Stem, one residual block a stage (the later ones halve the size and project), global pool, dense layer."""
    layers = [Layer(name="stem", unit=conv(1, size, trunk[0]), inputs=(INPUT,), batch_norm=True)]
    channels = trunk[0]
    for stage, width in enumerate(trunk):
        source, stride = layers[-1].name, 2 if stage else 1
        first = conv(channels, size, middle, stride=stride)
        layers.append(Layer(name=f"{stage}.first", unit=first, inputs=(source,)))
        out_size = first.output_shape[1]
        layers.append(
            Layer(
                name=f"{stage}.second",
                unit=conv(middle, out_size, width, activation="none"),
                inputs=(f"{stage}.first",),
            )
        )
        shortcut = source
        if stage:
            shortcut = f"{stage}.project"
            unit = conv(channels, size, width, kernel=1, stride=stride, activation="none")
            layers.append(Layer(name=shortcut, unit=unit, inputs=(source,)))
        layers.append(Layer(name=f"{stage}.add", unit=add(width, out_size), inputs=(f"{stage}.second", shortcut)))
        channels, size = width, out_size
    layers.append(Layer(name="pool", unit=global_pool(channels, size), inputs=(layers[-1].name,)))
    layers.append(Layer(name="classify", unit=dense(channels, 10), inputs=("pool",)))
    return NetworkSpec(name="residual", input_shape=layers[0].unit.input_shape, layers=tuple(layers))


def correction_of(network: NetworkSpec, correction: Correction, group_sizes: tuple[int, ...] = ()) -> NetworkCorrection:
    """``correction`` as fitted on ``network``, in its number format."""
    return NetworkCorrection(
        network=network.name,
        input_shape=network.input_shape,
        mac_count=network.mac_count,
        group_sizes=group_sizes,
        number_format=network.layers[0].unit.number_format,
        correction=correction,
    )


def timing(microseconds: float) -> Timing:
    return Timing(count=9, median_us=microseconds, p10_us=microseconds, p90_us=microseconds, min_us=microseconds)


def profile(
    prices: Mapping[UnitSpec, float], corrections: Sequence[NetworkCorrection] = (), overhead_us: float = 2.0
) -> Profile:
    """A profile in which each unit takes its price, in microseconds."""
    units = tuple(UnitTiming(unit=u, framed=timing(5.0 + price), frame=timing(5.0)) for u, price in prices.items())
    return Profile(
        target="cpu",
        runtime="onnx",
        runtime_version="onnxruntime 1.0",
        machine=MACHINE,
        date="2026-01-01T00:00:00+00:00",
        method=Method(),
        overhead_us=overhead_us,
        units=units,
        corrections=tuple(corrections),
    )
