"""Prices from a profile: microseconds of a unit, of a unit at many widths, of a whole network.

Nothing is measured here. Between measured widths prices are interpolated, and said to be; beyond them there is none.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import msgspec

from edgekit.errors import BadInputError, UsageError
from edgekit.profile.units import is_tied, widths
from edgekit.types import (
    Correction,
    NetworkCorrection,
    NetworkSpec,
    NumberFormat,
    Prediction,
    Profile,
    Shape,
    UnitSpec,
)

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
            in_width, out_width = position_of(timing.unit)
            self._families.setdefault(family_of(timing.unit), {}).setdefault(in_width, {})[out_width] = (
                timing.latency_us
            )

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
        """Predicted time of a whole network, with its correction (see `correction`) and that correction's error.

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
        correction = self.correction(spec)
        return Prediction(
            latency_us=correction.overhead_us + correction.scale * total_us,
            error=correction.median_error,
            interpolated=tuple(interpolated),
        )

    def sum_us(self, spec: NetworkSpec) -> float:
        """Sum of the units of ``spec`` without any correction."""
        return sum(self._layer_us(layer.name, layer.unit)[0] for layer in spec.layers)

    def correction(self, spec: NetworkSpec, group_sizes: Shape = ()) -> Correction:
        """The correction fitted on the network of which ``spec`` is, or was cut from, in its number format.

        Of several it is that with the same ``group_sizes``, or of the same size; then that fitted on most networks.
        Where none was fitted on this network, it is that of the network on which most were timed, and as nobody knows
        how well it fits, its median error is its largest one. Without any, scale is 1 and the errors are infinite.
        Raises UsageError for a mix of number formats.
        """
        wanted = number_format(spec)
        fitted = [found for found in self._profile.corrections if found.number_format == wanted]
        if own := [found for found in fitted if _is_of(found, spec)]:
            return max(own, key=lambda found: _likeness(found, spec, group_sizes)).correction
        if not fitted:
            return _uncorrected(self._profile)
        other = max((found.correction for found in fitted), key=lambda found: (found.network_count, found.max_error))
        return msgspec.structs.replace(other, median_error=other.max_error)

    def _layer_us(self, name: str, unit: UnitSpec) -> tuple[float, bool]:
        try:
            return self.unit_us(unit)
        except BadInputError as error:
            raise BadInputError(f"layer {name!r}: {error.message}", error.hint) from error

    def _interpolate(self, unit: UnitSpec) -> float:
        in_width, out_width = position_of(unit)
        rows = self._families.get(family_of(unit), {})
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


def _is_of(found: NetworkCorrection, spec: NetworkSpec) -> bool:
    is_named = (found.network, found.input_shape) == (spec.name, spec.input_shape)
    return is_named and found.mac_count >= spec.mac_count


def _likeness(found: NetworkCorrection, spec: NetworkSpec, group_sizes: Shape) -> tuple[bool, bool, int, float]:
    correction = found.correction
    is_whole, is_cut_alike = found.mac_count == spec.mac_count, found.group_sizes == group_sizes
    return (is_whole, is_cut_alike, correction.network_count, correction.max_error)


def _uncorrected(profile: Profile) -> Correction:
    return Correction(
        overhead_us=profile.overhead_us, scale=1.0, network_count=0, median_error=math.inf, max_error=math.inf
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


def family_of(unit: UnitSpec) -> UnitSpec:
    """What units that differ in width alone have in common: the unit with widths that no unit has."""
    return msgspec.structs.replace(
        unit,
        input_shape=(0, *unit.input_shape[1:]),
        output_shape=(0, *unit.output_shape[1:]),
        groups=0 if unit.is_depthwise else unit.groups,
    )


def position_of(unit: UnitSpec) -> tuple[int, int]:
    """Where a unit stands in its family: input and output width; a tied unit has the input width 0."""
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
