"""Rules by which times are marked as perhaps not repeatable: the state of the device around them, and their spread.

Nothing is read or timed here; every rule gives its reasons in words, for a profile's ``tainted``.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

import msgspec

from edgekit.devices.state import DeviceState

HOT_CELSIUS = 80.0
"""Temperature from which processors of boards and phones slow down."""

_LOAD_PER_CORE = 0.5
_SLOWED_CLOCK = 0.9
# Bits of `vcgencmd get_throttled`; 16 higher, the same since the device was started.
_THROTTLING = ("under-voltage", "a capped clock", "throttling", "the soft temperature limit")
_SINCE_START = 16
# https://source.android.com/docs/core/power/thermal-mitigation
_THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
# The limits at which pyperf warns.
_STDEV_SHARE = 0.10
_EXTREME_SHARE = 0.50


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the states around a measurement say about it. Times that are not usable are dropped and taken again."""

    reasons: tuple[str, ...]
    is_usable: bool


def judge(before: DeviceState, after: DeviceState, *, cores: int, threads: int = 1, threads_before: int = 0) -> Verdict:
    """All rules on the states before and after a measurement that kept ``threads`` threads busy.

    ``threads_before`` are those that edgekit itself kept busy in the minute before, as in a task behind another one.
    """
    restart = of_restart(before, after)
    if restart:
        return Verdict(reasons=restart, is_usable=False)
    reasons = (
        *of_load(before.load_1min, cores, threads_before),
        *of_load(after.load_1min, cores, threads),
        *of_governor(before.governor),
        *of_governor(after.governor),
        *of_temperature(_hottest(before, after)),
        *of_clock(before, after),
        *of_throttling(before, after),
        *of_thermal_status(before, after),
    )
    return Verdict(reasons=tuple(dict.fromkeys(reasons)), is_usable=True)


def of_load(load_1min: float, cores: int, own_threads: int = 0) -> tuple[str, ...]:
    """Others used over half of the cores; ``own_threads`` are edgekit's own part of the load."""
    if load_1min - own_threads <= _LOAD_PER_CORE * max(1, cores):
        return ()
    own = f", {own_threads} of it edgekit's own" if own_threads else ""
    return (f"load was {load_1min:.1f} on {cores} cores{own}",)


def of_governor(governor: str) -> tuple[str, ...]:
    """The clock is not fixed."""
    if governor in ("performance", "unknown"):
        return ()
    return (f"frequency governor was {governor!r}: clocks change with the load",)


def of_temperature(celsius: float | None) -> tuple[str, ...]:
    """The device was hot."""
    if celsius is None or celsius < HOT_CELSIUS:
        return ()
    return (f"temperature was {celsius:.0f} degrees Celsius: processors slow down there",)


def of_clock(before: DeviceState, after: DeviceState) -> tuple[str, ...]:
    """At the end, still under load, the clock was over 10 % below the highest (or, where that is not known, below that
    of the beginning), or less was allowed than at the beginning."""
    reasons = []
    if 0 < after.max_frequency_mhz < before.max_frequency_mhz:
        reasons.append(
            f"the highest frequency allowed fell from {before.max_frequency_mhz:.0f} to "
            f"{after.max_frequency_mhz:.0f} MHz"
        )
    highest = after.max_frequency_mhz or before.frequency_mhz
    if 0 < after.frequency_mhz < _SLOWED_CLOCK * highest:
        reasons.append(f"frequency was {after.frequency_mhz:.0f} of {highest:.0f} MHz at the end")
    return tuple(reasons)


def of_throttling(before: DeviceState, after: DeviceState) -> tuple[str, ...]:
    """The board slowed itself down at the beginning or the end, or for a while in between."""
    first, last = before.throttled_bits, after.throttled_bits
    now = (first or 0) | (last or 0)
    new = 0 if first is None or last is None else last & ~first
    return tuple(
        f"the board reports {name}{'' if _has(now, bit) else ' during the run'}"
        for bit, name in enumerate(_THROTTLING)
        if _has(now, bit) or _has(new, bit + _SINCE_START)
    )


def of_thermal_status(before: DeviceState, after: DeviceState) -> tuple[str, ...]:
    """Android slowed the device down."""
    worst = max(before.thermal_status or 0, after.thermal_status or 0)
    if not worst:
        return ()
    name = _THERMAL_STATUS[worst] if worst < len(_THERMAL_STATUS) else "unknown"
    return (f"Android's thermal status was {worst} ({name})",)


def of_restart(before: DeviceState, after: DeviceState) -> tuple[str, ...]:
    """The device was started anew in between: what was timed is of two different states of it."""
    ids = (before.boot_id, after.boot_id)
    is_other_start = "unknown" not in ids and ids[0] != ids[1]
    if is_other_start or after.monotonic_ns < before.monotonic_ns:
        return ("the device was restarted during the run: its times are dropped",)
    return ()


def of_spread(times: Sequence[float]) -> tuple[str, ...]:
    """pyperf's rules on times in any one unit: the standard deviation is 10 % of the mean or more, or an extreme is
    50 % off the mean or more. Fewer than two times say nothing."""
    if len(times) < 2 or (mean := fmean(times)) <= 0:
        return ()
    reasons = []
    if (share := stdev(times) / mean) >= _STDEV_SHARE:
        reasons.append(f"the standard deviation was {share:.0%} of the mean")
    if (share := 1 - min(times) / mean) >= _EXTREME_SHARE:
        reasons.append(f"the shortest time was {share:.0%} below the mean")
    if (share := max(times) / mean - 1) >= _EXTREME_SHARE:
        reasons.append(f"the longest time was {share:.0%} above the mean")
    return tuple(reasons)


def _hottest(before: DeviceState, after: DeviceState) -> float | None:
    known = [state.temperature_celsius for state in (before, after) if state.temperature_celsius is not None]
    return max(known, default=None)


def _has(bits: int, index: int) -> bool:
    return bool(bits >> index & 1)
