"""Timing of whole networks beside each other on the target's runtime, before and after they are trained.

The times of a network do not depend on its weights: what is too slow is found before an epoch is spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.nn.folding import fold
from edgekit.nn.network import Network
from edgekit.profile import measure_interleaved
from edgekit.profile.frame import plausible_ranges
from edgekit.runtimes import FoldedNetwork, Runtime, Session
from edgekit.types import NumberFormat, ProgressCallback, Timing, ignore_progress


def time_networks(
    networks: Sequence[Network],
    runtime: Runtime,
    number_format: NumberFormat,
    *,
    threads: int = 1,
    min_seconds: float = 0.5,
    progress: ProgressCallback = ignore_progress,
) -> list[Timing]:
    """Times of the networks as files of ``number_format``, interleaved in one process."""
    sessions = [_load(network, runtime, number_format, threads) for network in networks]
    return measure_interleaved(sessions, min_seconds=min_seconds, progress=progress)


def _load(network: Network, runtime: Runtime, number_format: NumberFormat, threads: int) -> Session:
    # The ranges decide what is computed, not how long it takes: calibrated ones come with the export.
    ranges = plausible_ranges(network.spec) if number_format == "int8" else None
    spec = network.spec.in_format(number_format)
    folded = FoldedNetwork(spec, fold(spec, network.layer_modules))
    return runtime.load(runtime.write(folded, number_format, ranges), threads)
