"""Timing of whole networks beside each other on the target's runtime, before and after they are trained.

The times of a network do not depend on its weights: what is too slow is found before an epoch is spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.nn.folding import fold
from edgekit.nn.network import Network
from edgekit.profile import Stopwatch
from edgekit.profile.frame import plausible_ranges
from edgekit.runtimes import FoldedNetwork, Runtime
from edgekit.types import NumberFormat, ProgressCallback, Timing, ignore_progress


def time_networks(
    networks: Sequence[Network],
    stopwatch: Stopwatch,
    number_format: NumberFormat,
    *,
    min_seconds: float = 0.5,
    progress: ProgressCallback = ignore_progress,
) -> list[Timing]:
    """Times of the networks as files of ``number_format``, interleaved in one process on the target."""
    models = [_written(network, stopwatch.runtime, number_format) for network in networks]
    return stopwatch.measure_whole(models, min_seconds=min_seconds, progress=progress)


def _written(network: Network, runtime: Runtime, number_format: NumberFormat) -> bytes:
    # The ranges decide what is computed, not how long it takes: calibrated ones come with the export.
    ranges = plausible_ranges(network.spec) if number_format == "int8" else None
    spec = network.spec.in_format(number_format)
    return runtime.write(FoldedNetwork(spec, fold(spec, network.layer_modules)), number_format, ranges)
