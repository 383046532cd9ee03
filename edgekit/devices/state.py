"""A device's state as its worker tells it before and after timing (docs/jobs.md), read within bounds: a device is not
trusted to be sane. What a state says about times is judged in ``profile.taint``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

_Megahertz = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
_Text = Annotated[str, msgspec.Meta(max_length=128)]


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a ``state`` event; what the device cannot tell is "unknown", 0.0 or None."""

    governor: _Text = "unknown"
    frequency_mhz: _Megahertz = 0.0
    max_frequency_mhz: _Megahertz = 0.0
    temperature_celsius: Annotated[float, msgspec.Meta(ge=-100, le=1000)] | None = None
    throttled: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{1,8}\Z")] | None = None
    thermal_status: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None
    load_1min: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    boot_id: _Text = "unknown"
    monotonic_ns: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0

    @property
    def throttled_bits(self) -> int | None:
        """``throttled`` as a number: bits 0-3 hold now, 16-19 have held since the device was started."""
        return None if self.throttled is None else int(self.throttled, 16)
