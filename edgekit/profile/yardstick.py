"""The fixed model that is timed beside everything else: how much it changes is how much the machine did.

No model is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.profile.measure import scale_timing
from edgekit.types import Timing, UnitSpec

YARDSTICK = UnitSpec(
    kind="conv",
    input_shape=(32, 14, 14),
    output_shape=(32, 14, 14),
    kernel=(3, 3),
    padding=(1, 1, 1, 1),
    activation="relu",
)
"""Unit whose framed model is timed in every chunk. Every profile holds it, so that times taken later are scaled to the
same reference."""
DRIFT_LIMIT = 0.10
"""Relative change of the yardstick's time from which measurements are marked as tainted."""

_CLAMP = (0.5, 2.0)


@dataclass(frozen=True)
class Chunk:
    """Timings of one chunk of models, scaled to the yardstick's reference time ``reference_us``; ``drift`` is how much
    longer than that the yardstick took, relatively."""

    timings: tuple[Timing, ...]
    reference_us: float
    drift: float


def scale_chunk(timings: Sequence[Timing], reference_us: float | None = None) -> Chunk:
    """Timings of models, the last of them the yardstick's, scaled by how much slower or faster than ``reference_us``
    the yardstick ran.

    Without a reference, the yardstick's time now becomes it. The scale stays between 1/2 and 2: beyond, the machine is
    another one, and scaling would only hide it.
    """
    *others, own = timings
    reference = reference_us or own.median_us
    factor = float(np.clip(reference / own.median_us, *_CLAMP))
    return Chunk(tuple(scale_timing(timing, factor) for timing in others), reference, own.median_us / reference - 1)
