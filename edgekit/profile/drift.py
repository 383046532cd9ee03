"""Whether a device still takes the times that its profile holds, from a few of its units that were timed again.

Only arithmetic on times: nothing is measured, read or written here.

Noise of shared machines is multiplicative, has heavy tails, and comes in bursts that slow everything down together. So
all statistics are of logarithms, centres are medians, blocks of times in which everything was slow do not count as long
as half of the blocks were calm, and the interval of a drift is a bootstrap (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.types import Timing

FloatArray = NDArray[np.float64]

CONFIDENCE = 0.90
"""Probability that an interval is meant to hold the true change."""
NEGLIGIBLE_CHANGE = 0.005
"""Relative change of the times that nobody would measure a profile again for."""
NEGLIGIBLE_TREND = 0.03
"""Relative change of the yardstick from the first to the last of its times that counts as standing still."""

FEWEST_TIMES = 6
"""Times from which a trend can be told from chance."""

_REPLICATES = 500
_DEVIATIONS = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_QUIET = 1.05
# Below this spread of a unit's own rounds, other noise dominates.
_SPREAD_FLOOR = 0.06


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How much longer units take than the profile says, relatively (0.12: 12 % longer), with its interval.

    ``yardstick_change`` is that of the fixed model alone: where it is the same, the whole device became slower or
    faster, and ratios between units still hold. ``is_drifted`` when the whole interval is beyond a negligible change.
    """

    change: float
    low: float
    high: float
    yardstick_change: float
    unit_count: int
    block_count: int
    is_drifted: bool

    @property
    def relative_change(self) -> float:
        """How much longer the units take than the yardstick would have them: near 0 when only the speed changed."""
        return (1 + self.change) / (1 + self.yardstick_change) - 1


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """How much longer the yardstick takes at the end of a measurement than at its beginning, relatively."""

    change: float
    low: float
    high: float
    is_drifting: bool


def find_drift(stored: Sequence[Timing], blocks: Sequence[Sequence[Timing]], seed: int = 0) -> Drift:
    """The change from ``stored`` to what was measured now, in ``blocks`` of the same models; the last model of each is
    the yardstick.

    A unit whose rounds spread widely, stored or now, counts less. The interval comes from resampling units and blocks.
    Raises UsageError without a unit beside the yardstick, without blocks, or when their lengths differ.
    """
    if len(stored) < 2 or not blocks or any(len(block) != len(stored) for block in blocks):
        raise UsageError("drift needs times of a unit and the yardstick at least, and as many in each block")
    before = np.log([timing.median_us for timing in stored])
    change = np.log([[timing.median_us for timing in block] for block in blocks]) - before
    units, yardstick = change[:, :-1], change[:, -1]
    calm = _calm(units)
    weights = _weights(stored[:-1], [block[:-1] for block in blocks])
    found = _centre(units[calm], weights)
    low, high = _interval(_resampled(units[calm], weights, seed))
    return Drift(
        change=_relative(found),
        low=_relative(low),
        high=_relative(high),
        yardstick_change=_relative(float(np.median(yardstick[calm]))),
        unit_count=len(stored) - 1,
        block_count=len(calm),
        is_drifted=_is_beyond(low, high, NEGLIGIBLE_CHANGE),
    )


def find_trend(times_us: Sequence[float]) -> Trend:
    """The slow change over times of one model, taken one after the other at about equal distances.

    The median of the slopes of all pairs (Theil 1950), which bursts do not move, with the interval of Sen (1968): the
    slopes at the ranks that Kendall's tau would have by chance. Fewer than `FEWEST_TIMES` say nothing: no change, in
    an interval that excludes none.
    """
    count = len(times_us)
    if count < FEWEST_TIMES:
        return Trend(change=0.0, low=-1.0, high=float("inf"), is_drifting=False)
    times = np.log(np.asarray(times_us, dtype=np.float64))
    left, right = np.triu_indices(count, k=1)
    slopes = np.sort((times[right] - times[left]) * (count - 1) / (right - left))
    by_chance = _DEVIATIONS * np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low_rank = max(0, int((len(slopes) - by_chance) / 2))
    low, high = float(slopes[low_rank]), float(slopes[-1 - low_rank])
    return Trend(
        change=_relative(float(np.median(slopes))),
        low=_relative(low),
        high=_relative(high),
        is_drifting=_is_beyond(low, high, NEGLIGIBLE_TREND),
    )


def _calm(change: FloatArray) -> NDArray[np.int64]:
    """Blocks in which the units together took at most 5 % longer than in the fastest, and at least half of all."""
    centres = np.median(change, axis=1)
    order = np.argsort(centres, kind="stable")
    quiet = int((centres <= centres.min() + np.log(_QUIET)).sum())
    return np.sort(order[: max(quiet, (len(centres) + 1) // 2)])


def _weights(stored: Sequence[Timing], blocks: Sequence[Sequence[Timing]]) -> FloatArray:
    spreads = np.array([[np.log(timing.p90_us / timing.p10_us) for timing in row] for row in (stored, *blocks)])
    variance = spreads[0] ** 2 + np.median(spreads[1:], axis=0) ** 2
    return np.asarray(1.0 / (_SPREAD_FLOOR**2 + variance), dtype=np.float64)


def _centre(change: FloatArray, weights: FloatArray) -> float:
    """Weighted median over the units of the median over the blocks."""
    return float(_weighted_medians(np.median(change, axis=0)[None], weights[None])[0])


def _resampled(change: FloatArray, weights: FloatArray, seed: int) -> FloatArray:
    """`_centre` of blocks and units drawn with replacement."""
    blocks, units = change.shape
    random = np.random.default_rng(seed)
    rows = random.integers(0, blocks, (_REPLICATES, blocks))
    columns = random.integers(0, units, (_REPLICATES, units))
    drawn = np.median(change[rows[:, :, None], columns[:, None, :]], axis=1)
    return _weighted_medians(drawn, weights[columns])


def _weighted_medians(values: FloatArray, weights: FloatArray) -> FloatArray:
    """By row, the value at which half of the weight is reached, between its neighbours where it is reached exactly."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    share = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    share /= share[:, -1:]
    lower = np.take_along_axis(ordered, (share < 0.5 - 1e-9).sum(axis=1, keepdims=True), axis=1)
    upper = np.take_along_axis(ordered, (share < 0.5 + 1e-9).sum(axis=1, keepdims=True), axis=1)
    return np.asarray((lower + upper)[:, 0] / 2, dtype=np.float64)


def _interval(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
    return float(low), float(high)


def _is_beyond(low: float, high: float, negligible: float) -> bool:
    """Whether an interval of logarithms lies wholly above or below what is negligible."""
    return bool(low > np.log1p(negligible) or high < np.log1p(-negligible))


def _relative(logarithm: float) -> float:
    return float(np.expm1(logarithm))
