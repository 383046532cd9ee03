"""Measured times of units and networks, and the predictions that are made from them.

The parts: `units` (what to time), `frame` and `measure` (how), `profiler` (a whole profile), `predict` (its use); files
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
from edgekit.profile.units import distinct_units, is_tied, width_variants, with_widths

__all__ = [
    "LocalStopwatch",
    "Measured",
    "PriceTable",
    "Stopwatch",
    "check_runtime",
    "distinct_units",
    "fit_correction",
    "is_tied",
    "measure_interleaved",
    "measure_models",
    "measure_profile",
    "open_stopwatch",
    "read_machine",
    "width_variants",
    "with_widths",
]
