"""Joining what was measured now with what a profile's file holds by then, in one scale.

Every profile's times are relative to its yardstick's (`yardstick`); files and locks are the caller's affair.
"""

from __future__ import annotations

import msgspec

from edgekit.codec import merge_profiles
from edgekit.profile.measure import scale_timing
from edgekit.profile.yardstick import DRIFT_LIMIT, YARDSTICK
from edgekit.types import NetworkCorrection, Profile, UnitTiming


def only_new(profile: Profile, existing: Profile | None) -> Profile:
    """``profile`` without what it took over from ``existing``: another process may have measured that again since."""
    if existing is None:
        return profile
    known = {timing.unit: timing for timing in existing.units}
    return msgspec.structs.replace(
        profile,
        units=tuple(timing for timing in profile.units if known.get(timing.unit) != timing),
        corrections=tuple(found for found in profile.corrections if found not in existing.corrections),
        tainted=tuple(reason for reason in profile.tainted if reason not in existing.tainted),
    )


def merge_measured(held: Profile, measured: Profile, where: str, reference_us: float | None = None) -> Profile:
    """What the file ``where`` holds and what was measured now, the latter where both have a unit or correction.

    A yardstick in ``measured`` sets the scale: all that is held is scaled to it. Without one, ``measured`` was scaled
    to a yardstick of ``reference_us``, and is scaled to the one that is held. Raises BadInputError as `merge_profiles`
    does.
    """
    before_us, now_us = yardstick_us(held), yardstick_us(measured)
    if before_us is not None and now_us is not None:
        held = _with_taint(scaled(held, now_us / before_us), now_us / before_us)
    elif before_us is not None and reference_us is not None:
        measured = scaled(measured, before_us / reference_us)
    return merge_profiles(held, measured, where)


def yardstick_us(profile: Profile) -> float | None:
    """Time of the yardstick to which every other time of ``profile`` was scaled; None before it is measured."""
    return next((timing.framed.median_us for timing in profile.units if timing.unit == YARDSTICK), None)


def scaled(profile: Profile, factor: float) -> Profile:
    """``profile`` as a machine has it that takes ``factor`` times as long."""
    if factor == 1.0:
        return profile
    return msgspec.structs.replace(
        profile,
        units=tuple(_scale_unit(timing, factor) for timing in profile.units),
        corrections=tuple(_scale_correction(found, factor) for found in profile.corrections),
    )


def _scale_unit(timing: UnitTiming, factor: float) -> UnitTiming:
    return msgspec.structs.replace(
        timing, framed=scale_timing(timing.framed, factor), frame=scale_timing(timing.frame, factor)
    )


def _scale_correction(found: NetworkCorrection, factor: float) -> NetworkCorrection:
    overhead_us = found.correction.overhead_us * factor
    return msgspec.structs.replace(found, correction=msgspec.structs.replace(found.correction, overhead_us=overhead_us))


def _with_taint(profile: Profile, factor: float) -> Profile:
    if abs(factor - 1.0) <= DRIFT_LIMIT:
        return profile
    taint = f"times of an earlier measurement were scaled by {factor:.2f}: a fixed model's time had changed as much"
    return msgspec.structs.replace(profile, tainted=tuple(dict.fromkeys((*profile.tainted, taint))))
