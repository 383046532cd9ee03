"""What of a unit may vary while all else stays: its widths.

Nothing is timed or priced here. A width is the number of output channels (or features) of a unit; units whose input and
output must have equal channels (depthwise, add, pools, activations) are *tied* and have one width.
"""

from __future__ import annotations

from edgekit.types import UnitSpec

_TIED_KINDS = ("scale", "add", "max_pool", "average_pool", "global_average_pool", "flatten", "activation")


def is_tied(unit: UnitSpec) -> bool:
    """Whether the unit's output has as many channels as its input, by what it is."""
    return unit.kind in _TIED_KINDS or unit.is_depthwise


def widths(unit: UnitSpec) -> tuple[int, int]:
    """Input and output width; those of ``flatten`` are the channels of the image that it reads."""
    channels = unit.input_shape[0]
    return (channels, channels) if is_tied(unit) else (channels, unit.output_shape[0])
