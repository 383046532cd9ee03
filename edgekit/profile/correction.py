"""From the sum of a network's units to the time of the whole network: fitting overhead and scale, and their error.

The pairs are measured elsewhere; nothing here knows networks or runtimes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.types import Correction

FloatVector = NDArray[np.float64]

# Huber (1964): errors beyond 1.345 standard deviations count linearly, which keeps 95 % of the efficiency.
_HUBER = 1.345
_ITERATIONS = 20


def fit_correction(pairs: Sequence[tuple[float, float]]) -> Correction:
    """Fit ``measured = overhead_us + scale * sum`` on pairs of (sum_us, measured_us) of whole networks.

    Relative squares are least, with less weight on outliers; ``overhead_us`` is never negative. The errors are those of
    each network when it is left out of the fit; of a single network, the error is that of ``scale`` 1, overhead 0.
    Raises UsageError without pairs or when one is not positive.
    """
    if not pairs or any(not (np.isfinite(pair).all() and min(pair) > 0) for pair in pairs):
        raise UsageError("a correction needs at least one pair of positive times in microseconds")
    sums, measured = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    overhead, scale = _fit(sums, measured)
    errors = _left_out_errors(sums, measured)
    return Correction(
        overhead_us=overhead,
        scale=scale,
        network_count=len(pairs),
        median_error=float(np.median(errors)),
        max_error=float(errors.max()),
    )


def _left_out_errors(sums: FloatVector, measured: FloatVector) -> FloatVector:
    """Relative error of each network's prediction by a fit of all others."""
    if len(sums) == 1:
        return np.asarray(np.abs(sums / measured - 1.0), dtype=np.float64)
    errors = []
    for index in range(len(sums)):
        overhead, scale = _fit(np.delete(sums, index), np.delete(measured, index))
        errors.append(abs((overhead + scale * sums[index]) / measured[index] - 1.0))
    return np.array(errors)


def _fit(sums: FloatVector, measured: FloatVector) -> tuple[float, float]:
    """Iteratively reweighted least squares of the relative residuals."""
    weights = np.ones_like(sums)
    overhead, scale = 0.0, 1.0
    for _ in range(_ITERATIONS):
        overhead, scale = _weighted_fit(sums, measured, weights)
        residuals = np.abs((overhead + scale * sums) / measured - 1.0)
        spread = 1.4826 * float(np.median(residuals))
        if spread < 1e-9:
            break
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(residuals, 1e-12))
    return overhead, scale


def _weighted_fit(sums: FloatVector, measured: FloatVector, weights: FloatVector) -> tuple[float, float]:
    root = np.sqrt(weights)
    design = np.stack([root / measured, root * sums / measured], axis=1)
    # Networks of one size say nothing of the overhead: then it is left at 0.
    if np.ptp(sums) > 1e-3 * sums.max():
        overhead, scale = np.linalg.lstsq(design, root, rcond=None)[0]
        if overhead >= 0 and scale > 0:
            return float(overhead), float(scale)
    slope = design[:, 1]
    return 0.0, float(slope @ root / (slope @ slope))
