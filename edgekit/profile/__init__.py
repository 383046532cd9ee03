"""Measured times of units and networks, and the predictions that are made from them.

The parts: `frame` and `measure` (what is timed, and how), `profiler` (a whole profile), `predict` (its use); files
of profiles are read and written in `edgekit.codec`.
"""

from __future__ import annotations

from edgekit.profile.correction import fit_correction
from edgekit.profile.machine import read_machine
from edgekit.profile.measure import measure_interleaved, measure_models
from edgekit.profile.predict import PriceTable
from edgekit.profile.profiler import measure_profile
from edgekit.profile.reach import open_stopwatch
from edgekit.profile.stopwatch import LocalStopwatch, Measured, Stopwatch, check_runtime

__all__ = [
    "LocalStopwatch",
    "Measured",
    "PriceTable",
    "Stopwatch",
    "check_runtime",
    "fit_correction",
    "measure_interleaved",
    "measure_models",
    "measure_profile",
    "open_stopwatch",
    "read_machine",
]
