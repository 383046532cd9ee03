"""Numbers as a reader sees them: with a unit, three significant digits, and a dash for what is not known.

Only text is made here, no markup; nothing but the ratio of two known numbers is calculated.
"""

from __future__ import annotations

import math

import msgspec

from edgekit.types import SettingValue

UNKNOWN = "\N{EN DASH}"
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"


class LatencyUnit(msgspec.Struct, frozen=True):
    """A unit of time: its symbol, and how many microseconds it has."""

    symbol: str
    microseconds: float


MICROSECONDS = LatencyUnit("\N{MICRO SIGN}s", 1.0)
MILLISECONDS = LatencyUnit("ms", 1e3)
SECONDS = LatencyUnit("s", 1e6)


def latency_unit(largest_us: float) -> LatencyUnit:
    """The unit in which a figure or a table whose largest time is ``largest_us`` is easy to read."""
    if largest_us < MILLISECONDS.microseconds:
        return MICROSECONDS
    return MILLISECONDS if largest_us < SECONDS.microseconds else SECONDS


def significant(value: float, digits: int = 3) -> str:
    """``value`` with at least ``digits`` significant digits, never in exponent form; a dash when it is not finite."""
    if not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return _signed_text(value, min(max(decimals, 0), 6))


def latency_text(latency_us: float | None, unit: LatencyUnit | None = None) -> str:
    """A time with its unit, such as ``812 µs`` or ``1.23 ms``."""
    if latency_us is None:
        return UNKNOWN
    unit = unit or latency_unit(latency_us)
    return f"{significant(latency_us / unit.microseconds)}{_SPACE}{unit.symbol}"


def percent_text(fraction: float | None, decimals: int = 1) -> str:
    """A fraction in percent, such as ``87.9 %``."""
    if fraction is None or not math.isfinite(fraction):
        return UNKNOWN
    return f"{_signed_text(100 * fraction, decimals)}{_SPACE}%"


def signed_percent_text(fraction: float | None) -> str:
    """A relative difference in percent, always with its sign, such as ``+3.1 %``."""
    text = percent_text(fraction)
    return f"+{text}" if fraction is not None and fraction > 0 and text != UNKNOWN else text


def points_text(difference: float) -> str:
    """A difference of two fractions in percentage points, always with its sign."""
    sign = "+" if difference > 0 else ""
    return f"{sign}{_signed_text(100 * difference, 1)} points"


def size_text(size_bytes: int) -> str:
    """A file's size with its unit; a dash for 0, which stands for a model that was not written to a file."""
    if size_bytes <= 0:
        return UNKNOWN
    for symbol, factor in (("B", 1), ("kB", 10**3), ("MB", 10**6)):
        if size_bytes < 1000 * factor:
            return f"{significant(size_bytes / factor)}{_SPACE}{symbol}"
    return f"{significant(size_bytes / 10**9)}{_SPACE}GB"


def count_text(count: int) -> str:
    """A number of things with its thousands apart."""
    return f"{count:,}"


def times_text(factor: float | None) -> str:
    """A factor, such as 1.85 times."""
    return UNKNOWN if factor is None else f"{significant(factor)}{_SPACE}{_TIMES}"


def duration_text(seconds: float) -> str:
    """A time that a person waits for, such as ``4 min 20 s``."""
    if not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    if seconds < 60:
        return f"{significant(seconds)}{_SPACE}s"
    minutes, rest_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}{_SPACE}h {minutes}{_SPACE}min"
    return f"{minutes}{_SPACE}min {rest_seconds}{_SPACE}s"


def setting_text(value: SettingValue) -> str:
    """The value of one setting as its owner wrote it."""
    if value is None or value == ():
        return UNKNOWN
    if isinstance(value, tuple):
        return ", ".join(setting_text(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else UNKNOWN
    return str(value)


def shortened(text: str, length: int) -> str:
    """``text`` with its middle left out when it is longer than ``length``: names of layers differ at both ends."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """``numerator / denominator``, or None when either is not known or the result is no number."""
    if numerator is None or denominator is None or denominator <= 0:
        return None
    quotient = numerator / denominator
    return quotient if math.isfinite(quotient) else None


def relative_error(predicted_us: float, measured_us: float | None) -> float | None:
    """``predicted / measured - 1``: positive when the prediction was too slow, None without a measurement."""
    quotient = ratio(predicted_us, measured_us)
    return None if quotient is None else quotient - 1


def _signed_text(value: float, decimals: int) -> str:
    text = f"{abs(value):,.{decimals}f}"
    # A difference that rounds to nothing has no sign.
    return f"{_MINUS}{text}" if value < 0 and text.strip("0.") else text
