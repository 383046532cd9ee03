"""Does a model file compute what the network computes? Numbers, classes, accuracy, kernels, all in its own runtime.

A file that fails is refused with the layer that loses most; nothing is written or repaired here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from torch import Tensor

from edgekit.errors import EdgekitError, ExportMismatchError, UsageError
from edgekit.export.calibrate import observe
from edgekit.nn.network import Network
from edgekit.runtimes import FloatArray, FoldedNetwork, Ranges, Runtime, Session
from edgekit.train.batches import spread
from edgekit.types import INPUT, NumberFormat, RuntimeName

_BATCH_SIZE = 256
_DIAGNOSED_IMAGES = 32
_BEST_SNR_DB: dict[NumberFormat, float] = {"fp32": 130.0, "int8": 50.0}
_FLOAT_TYPES = ("[float", "[fp")
_MULTIPLYING = ("conv", "gemm", "matmul", "fully_connected")


class Images(Protocol):
    """Normalised images (N, C, H, W): a tensor, or what makes parts of one when they are asked for, so that a large
    test split is never whole in memory as floats."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, indices: Tensor | slice, /) -> Tensor:
        """Some of them."""


@dataclass(frozen=True)
class Limits:
    """What an exported file must reach.

    ``relative_difference`` bounds max |a - b| / max |b| of fp32 files; their sums differ in order alone, which costs
    about 1e-6. ``top1_agreement`` is the share of images that an int8 file must put into the class that torch puts them
    into: networks trained on Fashion-MNIST reached 0.989 to 0.996, with the range of one layer 4 times too narrow 0.79
    to 0.99, 8 times 0.5 to 0.985. ``int8_relative_difference`` is the same bound as that of fp32 for int8
    files: classes may agree where the scores behind them do not. ``images`` is how many images, evenly spread over
    those given, are compared.
    """

    relative_difference: float = 1e-4
    top1_agreement: float = 0.97
    int8_relative_difference: float = 0.5
    images: int = 2000


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Agreement:
    """How close a model file came to torch on ``image_count`` images, and its accuracy on all labelled ones."""

    max_relative_difference: float
    top1_agreement: float
    image_count: int
    accuracy: float


@dataclass(frozen=True)
class LayerNoise:
    """Signal-to-noise ratio of one layer's output in the file against torch, and how much of it this layer lost."""

    name: str
    snr_db: float
    loss_db: float


def compare(
    session: Session, network: Network, images: Images, labels: Tensor, limits: Limits = DEFAULT_LIMITS
) -> Agreement:
    """Run normalised ``images`` (N, C, H, W) with class indices ``labels`` (N,) in the file, and the evenly spread
    ``limits.images`` of them in torch. Raises UsageError without images or with another number of labels."""
    if not len(images) or len(images) != len(labels):
        raise UsageError(f"{len(images)} test images and {len(labels)} labels; allowed is one label each, at least one")
    found = np.concatenate([session.run(_plain(images[part])) for part in _parts(len(images))])
    kept = spread(len(images), limits.images)
    chosen = kept.numpy()
    expected = np.concatenate([torch_outputs(network, images[kept[part]]) for part in _parts(len(kept))])
    agreeing = found[chosen].argmax(1) == expected.argmax(1)
    return Agreement(
        max_relative_difference=relative_difference(found[chosen], expected),
        top1_agreement=float(agreeing.mean()),
        image_count=len(chosen),
        accuracy=float((found.argmax(1) == labels.numpy(force=True)).mean()),
    )


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH_SIZE) for start in range(0, count, _BATCH_SIZE)]


def _plain(images: Tensor) -> FloatArray:
    return images.float().numpy(force=True)


def torch_outputs(network: Network, images: Tensor) -> FloatArray:
    """The network's results in evaluation mode, (N, outputs)."""
    parts: list[FloatArray] = []
    output = network.spec.output.name
    observe(network, images, lambda name, x: parts.append(x.float().numpy()) if name == output else None, _BATCH_SIZE)
    return np.concatenate(parts)


def relative_difference(found: FloatArray, expected: FloatArray) -> float:
    """max |found - expected| / max |expected|: infinite where ``found`` is not finite."""
    difference = np.abs(found.astype(np.float64) - expected).max()
    largest = np.abs(expected).max()
    if not np.isfinite(difference):
        return math.inf
    if largest == 0:
        return 0.0 if difference == 0 else math.inf
    return float(difference / largest)


def failure(agreement: Agreement, number_format: NumberFormat, limits: Limits = DEFAULT_LIMITS) -> str | None:
    """Why the file is refused, in words; None if it is not.

    Of few images, chance alone may let some disagree: two standard deviations of a binomial count are granted.
    """
    if not math.isfinite(agreement.max_relative_difference):
        return "its outputs are not finite"
    allowed = limits.relative_difference if number_format == "fp32" else limits.int8_relative_difference
    if agreement.max_relative_difference > allowed:
        return (
            f"its outputs differ from torch by {agreement.max_relative_difference:.1e} of the largest one, "
            f"allowed are {allowed:.0e}"
        )
    if number_format == "fp32":
        return None
    count, p = agreement.image_count, limits.top1_agreement
    disagreeing = count * (1 - agreement.top1_agreement)
    if disagreeing <= count * (1 - p) + 2 * math.sqrt(count * p * (1 - p)):
        return None
    return (
        f"it puts {agreement.top1_agreement:.1%} of {count} images into the class that torch puts them into, "
        f"allowed is {limits.top1_agreement:.1%} or more"
    )


def require_integer_kernels(kernels: Sequence[str], runtime_name: RuntimeName) -> None:
    """Raise ExportMismatchError naming the kernels that multiply in floats in a model that is said to be int8."""
    wrong = sorted({kernel for kernel in kernels if _multiplies_floats(kernel)})
    if wrong:
        raise ExportMismatchError(
            f"{runtime_name} runs the int8 model with float kernels: {', '.join(wrong)}; allowed are integer kernels",
            "export with --format fp32, or with another runtime; a newer version of the runtime may fuse this layer",
        )


def _multiplies_floats(kernel: str) -> bool:
    name = kernel.lower()
    return any(mark in name for mark in _FLOAT_TYPES) and any(word in name for word in _MULTIPLYING)


def mismatch(
    reason: str, runtime_name: RuntimeName, number_format: NumberFormat, worst: LayerNoise | None
) -> EdgekitError:
    """The error for a file that disagrees, with the layer that lost most."""
    culprit = ""
    if worst is not None:
        culprit = f"; layer {worst.name!r} loses most ({worst.loss_db:.0f} dB, {worst.snr_db:.0f} dB are left)"
    hint = (
        "calibrate with more images that look like the test images, or export with --format fp32"
        if number_format == "int8"
        else "this is a fault of the runtime or of edgekit: try another runtime or version, and report it"
    )
    return ExportMismatchError(f"the {number_format} model for {runtime_name} is refused: {reason}{culprit}", hint)


def worst_layer(
    network: Network,
    folded: FoldedNetwork,
    runtime: Runtime,
    number_format: NumberFormat,
    ranges: Ranges | None,
    images: Images,
) -> LayerNoise | None:
    """The layer that loses most of the signal-to-noise ratio of what it reads; None if no layer could be run alone."""
    noise = layer_noise(network, folded, runtime, number_format, ranges, images)
    return max(noise, key=lambda layer: layer.loss_db, default=None)


def layer_noise(
    network: Network,
    folded: FoldedNetwork,
    runtime: Runtime,
    number_format: NumberFormat,
    ranges: Ranges | None,
    images: Images,
) -> tuple[LayerNoise, ...]:
    """For every layer, the network cut behind it is written, run in its runtime and compared with torch.

    SNR = 10 log10(sum b^2 / sum (a - b)^2), at most what the format can give; a layer's loss is the smallest SNR of its
    inputs less its own. Layers behind which the runtime cannot end a model are left out.
    """
    few = images[:_DIAGNOSED_IMAGES]
    expected: dict[str, FloatArray] = {}
    observe(network, few, lambda name, x: expected.update({name: x.float().numpy()}), len(few))
    best = _BEST_SNR_DB[number_format]
    snr_db = {INPUT: best}
    result = []
    for layer in folded.spec.layers:
        inherited = min(snr_db.get(name, best) for name in layer.inputs)
        try:
            session = runtime.load(runtime.write(up_to(folded, layer.name), number_format, ranges))
            found = session.run(_plain(few))
        except EdgekitError:
            snr_db[layer.name] = inherited
            continue
        snr_db[layer.name] = min(best, signal_to_noise_db(found, expected[layer.name]))
        result.append(LayerNoise(layer.name, snr_db[layer.name], inherited - snr_db[layer.name]))
    return tuple(result)


def signal_to_noise_db(found: FloatArray, expected: FloatArray) -> float:
    """10 log10(sum expected^2 / sum (found - expected)^2) in decibels; infinite for equal arrays."""
    noise = float(np.square(found.astype(np.float64) - expected).sum())
    signal = float(np.square(expected.astype(np.float64)).sum())
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def up_to(network: FoldedNetwork, name: str) -> FoldedNetwork:
    """The part of a network that the layer ``name`` needs, ending with it."""
    needed = {name}
    for layer in reversed(network.spec.layers):
        if layer.name in needed:
            needed.update(layer.inputs)
    layers = tuple(layer for layer in network.spec.layers if layer.name in needed)
    weights = {key: value for key, value in network.weights.items() if key in needed}
    return FoldedNetwork(msgspec.structs.replace(network.spec, layers=layers), weights)
