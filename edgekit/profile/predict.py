"""Prices from a profile: microseconds of a unit, of a unit at many widths, of a whole network.

Nothing is measured here. Between measured widths prices are interpolated, and said to be; beyond them there is none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UsageError
from edgekit.profile.units import is_tied, widths, with_widths
from edgekit.types import Correction, NetworkSpec, NumberFormat, Prediction, Profile, UnitSpec

_Rows = dict[int, dict[int, float]]
"""Microseconds by input width and output width; a tied unit has the input width 0 in all."""


class PriceTable:
    """Times of a profile's units, exact where measured and interpolated between widths."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._exact: dict[UnitSpec, float] = {}
        self._families: dict[UnitSpec, _Rows] = {}
        self._interpolated: dict[UnitSpec, float] = {}
        for timing in profile.units:
            self._exact[timing.unit] = timing.latency_us
            in_width, out_width = _position(timing.unit)
            self._families.setdefault(_family(timing.unit), {}).setdefault(in_width, {})[out_width] = timing.latency_us

    def unit_us(self, unit: UnitSpec) -> tuple[float, bool]:
        """Microseconds that ``unit`` adds to a network, and whether they are interpolated between measured widths.

        Interpolation is linear in the channels, bilinear in input and output channels. Raises BadInputError naming the
        unit when its widths do not lie between measured ones, or no such unit was measured.
        """
        if (exact := self._exact.get(unit)) is not None:
            return exact, False
        if (known := self._interpolated.get(unit)) is None:
            known = self._interpolated[unit] = self._interpolate(unit)
        return known, True

    def network(self, spec: NetworkSpec) -> Prediction:
        """Predicted time of a whole network, with the correction of its number format and that correction's error.

        Without a fitted correction the time is overhead and sum as measured, and the error is unknown: infinite.
        Raises BadInputError naming the layer whose unit has no price, UsageError for a mix of number formats.
        """
        total_us = 0.0
        interpolated = []
        for layer in spec.layers:
            latency_us, is_interpolated = self._layer_us(layer.name, layer.unit)
            total_us += latency_us
            if is_interpolated:
                interpolated.append(layer.name)
        correction = self.correction(number_format(spec))
        return Prediction(
            latency_us=correction.overhead_us + correction.scale * total_us,
            error=correction.median_error,
            interpolated=tuple(interpolated),
        )

    def sum_us(self, spec: NetworkSpec) -> float:
        """Sum of the units of ``spec`` without any correction."""
        return sum(self._layer_us(layer.name, layer.unit)[0] for layer in spec.layers)

    def correction(self, number_format: NumberFormat) -> Correction:
        """The fitted correction of a number format; one of scale 1 and infinite error when none was fitted."""
        uncorrected = Correction(
            overhead_us=self._profile.overhead_us,
            scale=1.0,
            network_count=0,
            median_error=math.inf,
            max_error=math.inf,
        )
        return self._profile.corrections.get(number_format, uncorrected)

    def grid(self, unit: UnitSpec, in_widths: Sequence[int], out_widths: Sequence[int]) -> NDArray[np.float64]:
        """Microseconds of ``unit`` at every pair of widths: shape (len(in_widths), len(out_widths)); 0 at width 0.

        All rows of a tied unit (see `edgekit.profile.units`) are alike: its width is the output width.
        """
        grid = np.zeros((len(in_widths), len(out_widths)))
        for row, in_width in enumerate(in_widths):
            for column, out_width in enumerate(out_widths):
                if in_width and out_width:
                    grid[row, column] = self.unit_us(with_widths(unit, in_width, out_width))[0]
        return grid

    def _layer_us(self, name: str, unit: UnitSpec) -> tuple[float, bool]:
        try:
            return self.unit_us(unit)
        except BadInputError as error:
            raise BadInputError(f"layer {name!r}: {error.message}", error.hint) from error

    def _interpolate(self, unit: UnitSpec) -> float:
        in_width, out_width = _position(unit)
        rows = self._families.get(_family(unit), {})
        along_output = {row: us for row, columns in rows.items() if (us := _linear(columns, out_width)) is not None}
        latency_us = _linear(along_output, in_width)
        if latency_us is None:
            raise self._not_measured(unit, rows)
        return latency_us

    def _not_measured(self, unit: UnitSpec, rows: _Rows) -> BadInputError:
        profile = self._profile
        measured = f"; measured are {_extent(rows)}" if rows else "; no unit like it was measured"
        return BadInputError(
            f"{describe(unit)} has no time in the profile of {profile.target} on {profile.runtime}{measured}",
            "run `edgekit profile` with this model: it times what is missing and keeps the rest",
        )


def number_format(spec: NetworkSpec) -> NumberFormat:
    """The number format of all units of a network. Raises UsageError for a mix: no correction is fitted on such."""
    formats = {layer.unit.number_format for layer in spec.layers}
    if len(formats) != 1:
        raise UsageError(
            f"network {spec.name!r} mixes the number formats {', '.join(sorted(formats))}",
            "give all layers one format: network.in_format('int8')",
        )
    return formats.pop()


def describe(unit: UnitSpec) -> str:
    """A unit in words, for messages: kind, shapes, kernel, stride, format."""
    window = f" kernel {unit.kernel[0]}x{unit.kernel[1]} stride {unit.stride[0]}x{unit.stride[1]}"
    has_window = unit.kind in ("conv", "max_pool", "average_pool")
    shapes = " -> ".join("x".join(map(str, shape)) for shape in (unit.input_shape, unit.output_shape))
    groups = f" groups {unit.groups}" if unit.groups > 1 else ""
    return f"{unit.number_format} {unit.kind} {shapes}{window if has_window else ''}{groups}"


def _family(unit: UnitSpec) -> UnitSpec:
    """What units that differ in width alone have in common: the unit with widths that no unit has."""
    return msgspec.structs.replace(
        unit,
        input_shape=(0, *unit.input_shape[1:]),
        output_shape=(0, *unit.output_shape[1:]),
        groups=0 if unit.is_depthwise else unit.groups,
    )


def _position(unit: UnitSpec) -> tuple[int, int]:
    in_width, out_width = widths(unit)
    return (0, out_width) if is_tied(unit) else (in_width, out_width)


def _linear(points: dict[int, float], x: int) -> float | None:
    """Piecewise-linear interpolation at ``x``; None outside of the points."""
    if x in points:
        return points[x]
    positions = sorted(points)
    above = bisect_left(positions, x)
    if above in (0, len(positions)):
        return None
    left, right = positions[above - 1], positions[above]
    share = (x - left) / (right - left)
    return (1 - share) * points[left] + share * points[right]


def _extent(rows: _Rows) -> str:
    outs = sorted({out for columns in rows.values() for out in columns})
    span = f"output widths {outs[0]} to {outs[-1]}"
    return span if set(rows) == {0} else f"input widths {min(rows)} to {max(rows)}, {span}"
