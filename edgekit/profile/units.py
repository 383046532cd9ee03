"""Which units there are to time: those of networks, and the same units at other widths.

Nothing is timed or priced here. A width is the number of output channels (or features) of a unit; units whose input and
output must have equal channels (depthwise, add, pools, activations) are *tied* and have one width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from edgekit.errors import UsageError
from edgekit.types import NetworkSpec, UnitSpec

_TIED_KINDS = ("scale", "add", "max_pool", "average_pool", "global_average_pool", "flatten", "activation")


def distinct_units(networks: Iterable[NetworkSpec]) -> tuple[UnitSpec, ...]:
    """Every unit of the networks once, in the order of appearance."""
    return tuple(dict.fromkeys(layer.unit for network in networks for layer in network.layers))


def is_tied(unit: UnitSpec) -> bool:
    """Whether the unit's output has as many channels as its input, by what it is."""
    return unit.kind in _TIED_KINDS or unit.is_depthwise


def with_widths(unit: UnitSpec, in_width: int, out_width: int) -> UnitSpec:
    """``unit`` with other input and output channels. A tied unit takes ``out_width`` for both; that of ``flatten`` are
    the channels of the image that it reads.

    Raises UsageError for a width that the unit's groups do not divide.
    """
    if in_width < 1 or out_width < 1:
        raise UsageError(f"a width must be at least 1, not {min(in_width, out_width)}")
    if is_tied(unit):
        return _with_tied_width(unit, out_width)
    if in_width % unit.groups or out_width % unit.groups:
        raise UsageError(f"{unit.groups} groups do not divide {in_width} input and {out_width} output channels")
    return _with_shapes(unit, in_width, out_width)


def width_variants(unit: UnitSpec, in_widths: Sequence[int], out_widths: Sequence[int]) -> tuple[UnitSpec, ...]:
    """The unit at every pair of input and output widths, each once; for a tied unit at every output width."""
    ins = (1,) if is_tied(unit) else in_widths
    return tuple(dict.fromkeys(with_widths(unit, i, o) for i in ins for o in out_widths))


def widths(unit: UnitSpec) -> tuple[int, int]:
    """Input and output width as `with_widths` takes them."""
    channels = unit.input_shape[0]
    return (channels, channels) if is_tied(unit) else (channels, unit.output_shape[0])


def _with_tied_width(unit: UnitSpec, width: int) -> UnitSpec:
    if unit.is_depthwise:
        return _with_shapes(msgspec.structs.replace(unit, groups=width), width, width)
    if unit.kind == "flatten":
        return _with_shapes(unit, width, width * math.prod(unit.input_shape[1:]))
    return _with_shapes(unit, width, width)


def _with_shapes(unit: UnitSpec, in_width: int, out_width: int) -> UnitSpec:
    return msgspec.structs.replace(
        unit,
        input_shape=(in_width, *unit.input_shape[1:]),
        output_shape=(out_width, *unit.output_shape[1:]),
    )
