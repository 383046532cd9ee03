"""Profiles as rows for people: the units of one, and what changed from one to another.

Pure functions on profiles that were read already; nothing is measured, read or printed here.
"""

from __future__ import annotations

import math
from statistics import median

import msgspec

from edgekit.codec import source_differences
from edgekit.profile.predict import describe
from edgekit.profile.yardstick import YARDSTICK
from edgekit.types import Correction, NetworkCorrection, NumberFormat, Profile, Timing, UnitSpec, UnitTiming


class UnitRow(msgspec.Struct, frozen=True, kw_only=True):
    """One measured unit, in microseconds. ``p10_us`` and ``p90_us`` are those of the unit between its neighbours less
    the neighbours' median, ``cold_us`` the whole framed model's with cold caches (None if it was not timed), ``share``
    the part of the sum of all units of the profile."""

    unit: str
    number_format: NumberFormat
    us: float
    p10_us: float
    p90_us: float
    cold_us: float | None
    share: float
    is_yardstick: bool


class UnitChange(msgspec.Struct, frozen=True, kw_only=True):
    """One unit in both profiles. ``ratio`` is new by old time, None where either is 0; ``is_beyond_noise`` when the
    10th to 90th percentiles of the two do not overlap."""

    unit: str
    old_us: float
    new_us: float
    ratio: float | None
    is_beyond_noise: bool


class CorrectionChange(msgspec.Struct, frozen=True, kw_only=True):
    """The correction of one network in both profiles; None where it is in one only."""

    network: str
    number_format: NumberFormat
    old: Correction | None
    new: Correction | None


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about the machine or the measurement that differs."""

    name: str
    old: str
    new: str


class ProfileDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from one profile to another: ``changes`` of units in both, the largest beyond noise first.

    ``median_ratio`` is that over all units with a time in both, None without any. ``source`` says, in words, why the
    two could not be kept in one file: their times are those of different things.
    """

    changes: tuple[UnitChange, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    corrections: tuple[CorrectionChange, ...]
    fields: tuple[FieldChange, ...]
    source: tuple[str, ...]
    median_ratio: float | None


def unit_rows(profile: Profile) -> tuple[UnitRow, ...]:
    """A row for every unit, the slowest first; units of the same time in the profile's order."""
    total_us = sum(timing.latency_us for timing in profile.units)
    rows = [_unit_row(timing, total_us) for timing in profile.units]
    return tuple(sorted(rows, key=lambda row: -row.us))


def diff(old: Profile, new: Profile) -> ProfileDiff:
    """What changed from ``old`` to ``new``: times, units, corrections, and facts of machine and measurement."""
    before = {timing.unit: timing for timing in old.units}
    after = {timing.unit: timing for timing in new.units}
    changes = [_unit_change(timing, after[unit]) for unit, timing in before.items() if unit in after]
    ratios = [change.ratio for change in changes if change.ratio is not None]
    return ProfileDiff(
        changes=tuple(sorted(changes, key=_largest_first)),
        only_old=tuple(describe_fully(unit) for unit in before if unit not in after),
        only_new=tuple(describe_fully(unit) for unit in after if unit not in before),
        corrections=_correction_changes(old, new),
        fields=_field_changes(old, new),
        source=source_differences(old, new),
        median_ratio=median(ratios) if ratios else None,
    )


def describe_fully(unit: UnitSpec) -> str:
    """A unit in words that no other unit has: `describe`, and what else is not as usual."""
    unusual = {
        "padding": "padding " + "/".join(map(str, unit.padding)) if any(unit.padding) else "",
        "dilation": f"dilation {unit.dilation[0]}x{unit.dilation[1]}" if unit.dilation != (1, 1) else "",
        "activation": unit.activation if unit.activation != "none" else "",
        "bits": f"{unit.weight_bits}-bit weights {unit.activation_bits}-bit activations" if _has_odd_bits(unit) else "",
        "sparsity": f"{unit.sparsity_kind} sparsity {unit.sparsity_level:g}" if unit.sparsity_kind != "dense" else "",
        "kernel": f"kernel {_by(unit.kernel)} stride {_by(unit.stride)}" if _has_odd_window(unit) else "",
    }
    return " ".join((describe(unit), *filter(None, unusual.values())))


def _has_odd_bits(unit: UnitSpec) -> bool:
    return (unit.weight_bits, unit.activation_bits) not in ((32, 32), (8, 8))


def _has_odd_window(unit: UnitSpec) -> bool:
    """Whether a window is given where `describe` expects none."""
    is_windowed = unit.kind in ("conv", "max_pool", "average_pool")
    return not is_windowed and (unit.kernel, unit.stride) != ((1, 1), (1, 1))


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def _unit_row(timing: UnitTiming, total_us: float) -> UnitRow:
    frame_us = timing.frame.median_us
    return UnitRow(
        unit=describe_fully(timing.unit),
        number_format=timing.unit.number_format,
        us=timing.latency_us,
        p10_us=max(0.0, timing.framed.p10_us - frame_us),
        p90_us=max(0.0, timing.framed.p90_us - frame_us),
        cold_us=timing.cold.median_us if timing.cold else None,
        share=timing.latency_us / total_us if total_us else 0.0,
        is_yardstick=timing.unit == YARDSTICK,
    )


def _unit_change(old: UnitTiming, new: UnitTiming) -> UnitChange:
    is_known = old.latency_us > 0 and new.latency_us > 0
    return UnitChange(
        unit=describe_fully(old.unit),
        old_us=old.latency_us,
        new_us=new.latency_us,
        ratio=new.latency_us / old.latency_us if is_known else None,
        is_beyond_noise=_is_apart(old.framed, new.framed),
    )


def _is_apart(old: Timing, new: Timing) -> bool:
    return new.p10_us > old.p90_us or old.p10_us > new.p90_us


def _largest_first(change: UnitChange) -> tuple[bool, float]:
    size = abs(math.log(change.ratio)) if change.ratio else math.inf if change.new_us != change.old_us else 0.0
    return (not change.is_beyond_noise, -size)


def _correction_changes(old: Profile, new: Profile) -> tuple[CorrectionChange, ...]:
    before = {found.key: found for found in old.corrections}
    after = {found.key: found for found in new.corrections}
    return tuple(_correction_change(before.get(key), after.get(key)) for key in dict.fromkeys((*before, *after)))


def _correction_change(old: NetworkCorrection | None, new: NetworkCorrection | None) -> CorrectionChange:
    known = old or new
    assert known is not None
    return CorrectionChange(
        network=known.network,
        number_format=known.number_format,
        old=old.correction if old else None,
        new=new.correction if new else None,
    )


def _field_changes(old: Profile, new: Profile) -> tuple[FieldChange, ...]:
    before, after = _fields(old), _fields(new)
    return tuple(
        FieldChange(name=name, old=before[name], new=after[name]) for name in before if before[name] != after[name]
    )


def _fields(profile: Profile) -> dict[str, str]:
    machine = {f"machine.{name}": value for name, value in msgspec.structs.asdict(profile.machine).items()}
    method = {f"method.{name}": value for name, value in msgspec.structs.asdict(profile.method).items()}
    own = ("target", "runtime", "runtime_version", "threads", "date", "overhead_us")
    plain = {name: getattr(profile, name) for name in own}
    tainted = {"tainted": "; ".join(profile.tainted)}
    return {name: str(value) for name, value in {**plain, **machine, **method, **tainted}.items()}
