"""The range of every tensor that an 8-bit file stores as codes, from running the network on real images.

How a range becomes a scale and a zero point is in ``edgekit.runtimes.quantization``; no file is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.errors import BadInputError, UsageError
from edgekit.nn.network import GateSample, Network
from edgekit.runtimes import Ranges
from edgekit.runtimes.quantization import LEVELS
from edgekit.types import INPUT, Layer

Clipping = Literal["none", "percentile", "least_squares"]
"""How ranges are cut. The signal-to-noise ratio of the logits in ONNX Runtime, 512 images, networks trained on
Fashion-MNIST, was 34.6 dB without clipping, 36.1 by percentile and 37.6 by least squares for resnet8; 32.6, 30.2 and
34.8 for mobilenet. Accuracies were the same within 0.25 points."""
Observer = Callable[[str, Tensor], None]

HISTOGRAM_BINS = 2048
PERCENTILE = 99.99
"""Share of the values, in percent, that the clipping ``percentile`` keeps at each end."""

_KEPT_SHARES = np.linspace(0.02, 1.0, 99)


def activation_ranges(
    network: Network, images: Tensor, batch_size: int = 256, clipping: Clipping = "least_squares"
) -> Ranges:
    """Range of the input and of every layer's output, after its activation, over normalised ``images`` (N, C, H, W).

    ``least_squares`` clips each tensor where the squared error of rounding and of clipping together is least (Banner
    et al. 2019, arXiv:1810.05723, with the measured histogram in place of a Laplacian); ``percentile`` drops 0.01 % of
    the values at each end; ``none`` keeps the extremes. The input and the network's result are never clipped: codes
    that saturate there make different classes equal.

    The network runs in evaluation mode and is left in the mode that it was in. Raises UsageError without images,
    BadInputError naming the layer whose output is not finite.
    """
    extremes = _Extremes()
    observe(network, images, extremes.see, batch_size)
    if clipping == "none":
        return extremes.ranges
    histograms = _Histograms(extremes.ranges)
    observe(network, images, histograms.see, batch_size)
    clip = clip_percentile if clipping == "percentile" else clip_least_squares
    unclipped = (INPUT, network.spec.output.name)
    return {
        name: limits if name in unclipped else clip(histograms.counts[name], *limits)
        for name, limits in extremes.ranges.items()
    }


def observe(network: Network, images: Tensor, see: Observer, batch_size: int = 256) -> None:
    """Run ``images`` (N, C, H, W) through the network in evaluation mode, batch by batch, and hand every tensor to
    ``see``, with its name: the input and each layer's output."""
    if not len(images):
        raise UsageError("there are no images to run", "give at least one; some hundreds make good int8 ranges")
    was_training = network.training
    watched = _Watched(network, see).eval()
    try:
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                see(INPUT, batch)
                watched(batch)
    finally:
        network.train(was_training)


class _Watched(Network):
    """The same network, with the same parameters, telling what each layer computes."""

    def __init__(self, network: Network, see: Observer) -> None:
        super().__init__(network.spec, network.layer_modules)
        self._see = see

    def _run(self, layer: Layer, inputs: list[Tensor], gates: GateSample) -> Tensor:
        output = super()._run(layer, inputs, gates)
        self._see(layer.name, output)
        return output


class _Extremes:
    """Smallest and largest value by tensor."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}

    def see(self, name: str, values: Tensor) -> None:
        low, high = (float(value) for value in values.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise BadInputError(
                f"{name!r} reaches from {low} to {high} on the calibration images; only finite values can be coded",
                "look for NaN in the images, or go back to an earlier checkpoint",
            )
        before = self.ranges.get(name, (low, high))
        self.ranges[name] = (min(low, before[0]), max(high, before[1]))


class _Histograms:
    """Counts by tensor in `HISTOGRAM_BINS` equal bins over its range."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self.counts = {name: np.zeros(HISTOGRAM_BINS) for name in ranges}

    def see(self, name: str, values: Tensor) -> None:
        low, high = self._ranges[name]
        if low < high:
            self.counts[name] += torch.histc(values.float(), HISTOGRAM_BINS, low, high).double().numpy()


def clip_percentile(counts: NDArray[np.float64], low: float, high: float) -> tuple[float, float]:
    """The range that leaves out at most 0.01 % of the counted values at each end."""
    total = counts.sum()
    if not total:
        return low, high
    share = np.cumsum(counts) / total
    edges = np.linspace(low, high, len(counts) + 1)
    outside = 1.0 - PERCENTILE / 100
    first = int(np.searchsorted(share, outside, side="right"))
    last = int(np.searchsorted(share, 1.0 - outside))
    return float(edges[first]), float(edges[last + 1])


def clip_least_squares(counts: NDArray[np.float64], low: float, high: float) -> tuple[float, float]:
    """The range, both ends scaled towards 0 by one factor, with the least squared error E of 8-bit codes.

    E = sum_i n_i ((x_i - clip(x_i))^2 + step^2 / 12 inside), with step = (high - low) / 255 and bin centres x_i.
    The bin that holds 0 counts for nothing: every affine code holds 0 exactly, and behind a relu half the values are 0.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    n = np.where((edges[:-1] <= 0) & (edges[1:] > 0), 0.0, counts)
    x = (edges[:-1] + edges[1:]) / 2
    low_kept, high_kept = min(low, 0.0) * _KEPT_SHARES, max(high, 0.0) * _KEPT_SHARES
    clipped = np.clip(x, low_kept[:, None], high_kept[:, None])
    step = (high_kept - low_kept) / LEVELS
    rounding = (clipped == x) * (step**2 / 12)[:, None]
    error = ((x - clipped) ** 2 + rounding) @ n
    best = len(error) - 1 - int(np.argmin(error[::-1]))
    return float(low_kept[best]), float(high_kept[best])
