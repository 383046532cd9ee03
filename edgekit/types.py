"""The frozen structs that pass between the stages of edgekit, and the arithmetic that needs nothing else.

No file is read or written here (that is ``codec``), and nothing here imports numpy, torch or a runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

Activation = Literal["none", "relu", "relu6"]
NumberFormat = Literal["fp32", "int8"]
RuntimeName = Literal["onnx", "tflite"]
UnitKind = Literal[
    "conv",
    "dense",
    "scale",
    "add",
    "max_pool",
    "average_pool",
    "global_average_pool",
    "flatten",
    "activation",
]
Shape = tuple[int, ...]

INPUT = "input"
"""Name by which layers refer to the network's input."""

# Bounds on both sides: JSON readers turn 1e999 into infinity, which passes a lower bound alone.
Microseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
# No clock tells less than a picosecond, and ratios of smaller numbers leave the range of floats.
PositiveMicroseconds = Annotated[float, msgspec.Meta(ge=1e-6, le=1e12)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
SettingValue = str | int | float | bool | None | tuple[int | float | str, ...]


class UnitSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The smallest part of a network that is timed: one operator with its shapes and number format.

    Shapes are without the batch: ``(channels, height, width)`` or ``(features,)``. ``padding`` is top, left, bottom,
    right. ``groups == input channels`` is a depthwise convolution. A batch normalisation behind a convolution is folded
    into it, as it is at run time, and so is no part of the unit. ``scale`` is a per-channel multiply-add that could
    not be folded. Two units that are equal take the same time; the spec is the key of every profile.
    """

    kind: UnitKind
    input_shape: tuple[Dimension, ...]
    output_shape: tuple[Dimension, ...]
    kernel: tuple[Dimension, Dimension] = (1, 1)
    stride: tuple[Dimension, Dimension] = (1, 1)
    padding: tuple[Count, Count, Count, Count] = (0, 0, 0, 0)
    dilation: tuple[Dimension, Dimension] = (1, 1)
    groups: Dimension = 1
    activation: Activation = "none"
    weight_bits: Annotated[int, msgspec.Meta(ge=1, le=32)] = 32
    activation_bits: Annotated[int, msgspec.Meta(ge=1, le=32)] = 32
    sparsity_kind: Literal["dense", "unstructured", "block"] = "dense"
    sparsity_level: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    @property
    def number_format(self) -> NumberFormat:
        """``int8`` when weights and activations have 8 bits, ``fp32`` otherwise."""
        return "int8" if self.weight_bits == 8 and self.activation_bits == 8 else "fp32"

    @property
    def is_depthwise(self) -> bool:
        """Whether this convolution filters each channel by itself."""
        return self.kind == "conv" and self.groups > 1 and self.groups == self.input_shape[0] == self.output_shape[0]

    @property
    def has_weights(self) -> bool:
        """Whether the operator holds parameters."""
        return self.kind in ("conv", "dense", "scale")

    @property
    def weight_shape(self) -> Shape:
        """Shape of the weight: (out, in / groups, kernel height, kernel width), (out, in) or (channels,)."""
        if self.kind == "conv":
            return (self.output_shape[0], self.input_shape[0] // self.groups, *self.kernel)
        if self.kind == "dense":
            return (self.output_shape[0], self.input_shape[0])
        return (self.output_shape[0],) if self.kind == "scale" else ()

    @property
    def parameter_count(self) -> int:
        """Weights plus one bias per output channel; 0 for operators without parameters."""
        if not self.has_weights:
            return 0
        return _product(self.weight_shape) + self.output_shape[0]

    @property
    def mac_count(self) -> int:
        """Multiply-accumulate operations of one forward pass of one sample."""
        if self.kind == "conv":
            return _product(self.weight_shape) * self.output_shape[1] * self.output_shape[2]
        if self.kind == "dense":
            return _product(self.weight_shape)
        return 0

    def in_format(self, number_format: NumberFormat) -> UnitSpec:
        """The same unit in another number format."""
        bits = 8 if number_format == "int8" else 32
        return msgspec.structs.replace(self, weight_bits=bits, activation_bits=bits)


class Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One named unit of a network and the layers that it reads; ``batch_norm`` says that training normalises its output
    (before the activation), which every export folds into the weights."""

    name: str
    unit: UnitSpec
    inputs: tuple[str, ...]
    batch_norm: bool = False


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A network as a graph of units, in an order in which every layer comes after those that it reads.

    The last layer is the output. ``input_shape`` is (channels, height, width) or (features,), without the batch.
    """

    schema: Literal[1] = 1
    name: str
    input_shape: tuple[Dimension, ...]
    layers: tuple[Layer, ...]

    @property
    def output(self) -> Layer:
        """The layer whose result is the network's result."""
        return self.layers[-1]

    @property
    def parameter_count(self) -> int:
        """Parameters of the deployed network: batch normalisation folded."""
        return sum(layer.unit.parameter_count for layer in self.layers)

    @property
    def mac_count(self) -> int:
        """Multiply-accumulate operations of one sample."""
        return sum(layer.unit.mac_count for layer in self.layers)

    def layer(self, name: str) -> Layer:
        """The layer called ``name``; KeyError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def in_format(self, number_format: NumberFormat) -> NetworkSpec:
        """The same network with every unit in ``number_format``."""
        layers = tuple(
            msgspec.structs.replace(layer, unit=layer.unit.in_format(number_format)) for layer in self.layers
        )
        return msgspec.structs.replace(self, layers=layers)


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a runtime is used on a target, and the number formats that it really executes (not merely stores)."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    provider: str = "cpu"
    formats: tuple[NumberFormat, ...] = ("fp32", "int8")


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device: how it is reached, what runs on it, how much fits (a file in ``targets/``)."""

    name: str
    description: str
    transport: Literal["local", "ssh", "adb"]
    address: str = ""
    runtimes: dict[RuntimeName, RuntimeOptions]
    storage_bytes: Count = 0
    throttling: Literal["none", "sysfs", "vcgencmd"] = "sysfs"


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was read off the device beside a measurement."""

    cpu: str
    cores: Count
    architecture: str
    kernel: str
    governor: str = "unknown"
    frequency_mhz: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    temperature_celsius: Annotated[float, msgspec.Meta(ge=-100, le=1000)] | None = None
    load_1min: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of one model, in microseconds: median, 10th and 90th percentile over the fastest run of each quiet round,
    not over all runs. ``count`` is the number of all runs in those rounds, ``min_us`` the fastest of all."""

    count: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    median_us: PositiveMicroseconds
    p10_us: PositiveMicroseconds
    p90_us: PositiveMicroseconds
    min_us: PositiveMicroseconds


class UnitTiming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured times of one unit. ``framed`` is the time of the unit between fixed neighbours, ``frame`` that of the
    neighbours alone: layout conversions and per-run overhead cancel in the difference. ``cold`` is the same framed
    model with cold caches."""

    unit: UnitSpec
    framed: Timing
    frame: Timing
    cold: Timing | None = None

    @property
    def latency_us(self) -> float:
        """Time that the unit adds to a network: never negative."""
        return max(0.0, self.framed.median_us - self.frame.median_us)


class Correction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """whole network = overhead_us + scale * sum of its units, fitted on ``network_count`` measured networks.

    The errors are relative and come from leaving each network out of its own fit.
    """

    overhead_us: Microseconds
    scale: Annotated[float, msgspec.Meta(ge=0.01, le=100)]
    network_count: Count
    median_error: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    max_error: Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class NetworkCorrection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The correction of one network in one number format, fitted on the network and on others cut from it.

    Cuts keep the name and the input shape. Of networks that share both, ``mac_count`` (of the whole network) and
    ``group_sizes`` (channels that were cut together, ascending) tell one from another.
    """

    network: str
    input_shape: tuple[Dimension, ...]
    mac_count: Count
    group_sizes: tuple[Dimension, ...] = ()
    number_format: NumberFormat
    correction: Correction

    @property
    def key(self) -> tuple[str, Shape, int, Shape, NumberFormat]:
        """What no two corrections of a profile have in common."""
        return (self.network, self.input_shape, self.mac_count, self.group_sizes, self.number_format)


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the times of a profile were taken."""

    rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 9
    runs_per_round: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 12
    warmup_runs: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 3
    correction_networks: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 12


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured times of units on one target and runtime (a file in ``profiles/``)."""

    schema: Literal[1] = 1
    target: str
    runtime: RuntimeName
    runtime_version: str
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    machine: Machine
    date: str
    method: Method
    overhead_us: Microseconds
    units: tuple[UnitTiming, ...]
    corrections: tuple[NetworkCorrection, ...] = ()
    tainted: tuple[str, ...] = ()


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A latency that was computed from a profile, never measured: ``error`` is the relative error to expect (found when
    the profile was made), ``interpolated`` the names of layers whose width lay between measured ones."""

    latency_us: Microseconds
    error: float
    interpolated: tuple[str, ...] = ()


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes the network's input: decoded to ``channels``, resized to (height, width) by bilinear
    sampling, scaled to [0, 1], then ``(x - mean) / std`` per channel."""

    input_shape: tuple[Dimension, ...]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, msgspec.Meta(gt=0, le=1e6)], ...]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an exported file says about itself: all that the runner needs. Stored as JSON in the file's own metadata."""

    schema: Literal[1] = 1
    edgekit_version: str
    task: Literal["image-classification"] = "image-classification"
    network: str
    number_format: NumberFormat
    source_hash: str
    target: str
    runtime: RuntimeName
    profile_hash: str = ""
    predicted_us: Microseconds | None = None
    measured_us: Microseconds | None = None
    accuracy: Fraction | None = None
    preprocessing: Preprocessing
    labels: tuple[str, ...]


class ExportedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file that was written, run in its runtime and found to agree with torch."""

    path: str
    runtime: RuntimeName
    number_format: NumberFormat
    size_bytes: Count
    max_relative_difference: float
    top1_agreement: Fraction
    accuracy: Fraction
    kernels: tuple[str, ...]


class LayerChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of one layer, for the report: channels before and after, its time, the learned drop probability."""

    name: str
    kind: UnitKind
    channels: Count
    kept_channels: Count
    dense_us: Microseconds
    kept_us: Microseconds
    drop_probability: Fraction | None = None


class ModelPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trained model of a run: a point of the accuracy/latency picture. ``role`` is dense, swept or chosen. The
    accuracy is that of the exported file, in its number format, as a fraction of the test split."""

    name: str
    role: Literal["dense", "swept", "chosen"]
    accuracy: Fraction
    predicted_us: Microseconds
    measured_us: Microseconds | None = None
    parameter_count: Count
    mac_count: Count
    size_bytes: Count = 0
    file: str = ""
    penalty_weight: float | None = None
    layers: tuple[LayerChoice, ...] = ()


BUDGET_TOLERANCE = 1.02
"""Measured time over budget up to which a budget counts as met: what timing can tell apart."""


def meets(measured_us: float, budget_us: float) -> bool:
    """Whether a measured time is within a budget, as far as timing can tell."""
    return measured_us <= BUDGET_TOLERANCE * budget_us


class SkippedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the data that could not be read as an image, and why."""

    path: str
    reason: str


class RunResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """result.json of a run directory: what was wanted, what came out, and beside which machine and settings.

    Accuracies are those of the exported files, in their number format, on the test split. ``prediction_error`` is the
    largest relative error of a predicted time that was found when the profile was made; None if none was. ``tainted``:
    why the times may not be repeatable. ``data_counts``: samples to train, validation and test, and files skipped;
    ``skipped`` names the first hundred of these, stages/data.json all. ``seconds`` adds up over all processes that
    worked on the run, but for what a kill cut off.
    """

    schema: Literal[1] = 1
    name: str
    method: str
    model: str
    data: str
    target: str
    runtime: RuntimeName
    number_format: NumberFormat
    seed: int
    epochs: float
    budget_us: Microseconds
    predicted_us: Microseconds
    measured_us: Microseconds
    baseline_measured_us: Microseconds
    prediction_error: Annotated[float, msgspec.Meta(ge=0, le=1e6)] | None = None
    accuracy: Fraction
    baseline_accuracy: Fraction
    points: tuple[ModelPoint, ...]
    machine: Machine
    tainted: tuple[str, ...] = ()
    data_counts: dict[str, Count] = {}
    skipped: tuple[SkippedFile, ...] = ()
    settings: dict[str, SettingValue]
    versions: dict[str, str]
    seconds: float
    date: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One report of a stage to whoever shows it. ``total`` is 0 when unknown; ``values`` are shown beside the bar."""

    stage: str
    done: float
    total: float
    values: dict[str, str] = {}


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The callback of those who do not want to watch."""


def _product(shape: Shape) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
