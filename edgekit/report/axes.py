"""Axes of a figure: ranges that do not flatter, ticks at round numbers, and values turned into pixels.

No markup is made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edgekit.report.quantities import LatencyUnit, latency_unit
from edgekit.report.runs import Run

# Below a nanosecond nothing is measured; the bound keeps the arithmetic of ticks away from zero.
_SMALLEST_RANGE_US = 1e-3
_SMALLEST_ACCURACY_RANGE = 0.02


class Scale(msgspec.Struct, frozen=True):
    """A linear map of values from ``low`` to ``high`` onto pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


class Ranges(msgspec.Struct, frozen=True):
    """What the axes of an accuracy/latency figure span. Latency starts at 0, so that lengths can be compared."""

    latency_high_us: float
    accuracy_low: float
    accuracy_high: float

    @property
    def unit(self) -> LatencyUnit:
        """Unit of the latency axis."""
        return latency_unit(self.latency_high_us)


def shared_ranges(runs: Sequence[Run]) -> Ranges:
    """Ranges that hold every point, prediction and budget of ``runs``."""
    points = [point for run in runs for point in run.result.points]
    latencies_us = [point.predicted_us for point in points]
    latencies_us += [point.measured_us for point in points if point.measured_us is not None]
    latencies_us += [run.result.budget_us for run in runs]
    low, high = _accuracy_range([point.accuracy for point in points])
    return Ranges(_latency_high(latencies_us), low, high)


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]: about ``count`` of them, 0 for zero."""
    step = tick_step(high - low, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Rounding must not push a tick out of the figure.
    return tuple(min(max(index * step, low), high) for index in range(first, last + 1))


def tick_step(span: float, count: int = 5) -> float:
    """The distance of ticks, 1, 2 or 5 times a power of ten, that gives about ``count`` of them over ``span``."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return float(min((1, 2, 5, 10), key=lambda multiple: abs(multiple * power - rough)) * power)


def tick_decimals(step: float) -> int:
    """Decimals that tell ticks apart which are ``step`` apart."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _latency_high(latencies_us: Sequence[float]) -> float:
    return max([*latencies_us, _SMALLEST_RANGE_US]) * 1.08


def _accuracy_range(accuracies: Sequence[float]) -> tuple[float, float]:
    """A little more than the accuracies span, moved rather than cut where it would leave [0, 1]."""
    lowest, highest = min(accuracies, default=0.0), max(accuracies, default=1.0)
    span = min(max(1.3 * (highest - lowest), _SMALLEST_ACCURACY_RANGE), 1.0)
    low = min(max((lowest + highest - span) / 2, 0.0), 1.0 - span)
    # Rounding must not push a point at either end out of the figure.
    return min(low, lowest), min(max(low + span, highest), 1.0)
