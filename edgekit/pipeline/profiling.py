"""`edgekit profile`: the units that a network's gates can choose from, measured where they are not yet, kept in a file,
and checked against the device again.

How a unit is timed is in ``profile``; which units there are is in ``train.pricing``.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.codec import check_same_source, read_profile, source_differences, write_profile
from edgekit.errors import BadInputError, UsageError
from edgekit.nn.structure import Structure
from edgekit.profile import Stopwatch, measure_profile
from edgekit.profile.drift import Drift, Trend, find_drift, find_trend
from edgekit.profile.frame import framed
from edgekit.profile.measure import CHUNK_MODELS
from edgekit.profile.merge import merge_measured, only_new, yardstick_us
from edgekit.profile.profiler import new_profile, write_model
from edgekit.profile.yardstick import YARDSTICK
from edgekit.train.pricing import group_sizes, priced_units, random_networks
from edgekit.types import (
    Method,
    NetworkSpec,
    NumberFormat,
    Profile,
    Progress,
    ProgressCallback,
    Target,
    Timing,
    UnitTiming,
    ignore_progress,
)

PROFILES_FOLDER = Path("profiles")
_CORRECTION_SEED = 0
_CHECK_BLOCKS = 15


@dataclass(frozen=True)
class Profiled:
    """A profile, where it is kept, and how many units were measured just now."""

    profile: Profile
    path: Path
    measured_count: int


def default_profile_path(target: Target, stopwatch: Stopwatch) -> Path:
    """profiles/TARGET-RUNTIME-VERSION-CPU.json: times of another processor or version never share a file."""
    parts = (target.name, *stopwatch.version().split(), stopwatch.machine().cpu)
    return PROFILES_FOLDER / (re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-") + ".json")


def profile_network(
    structure: Structure,
    *,
    target: Target,
    stopwatch: Stopwatch,
    formats: tuple[NumberFormat, ...],
    path: Path | None = None,
    method: Method | None = None,
    force: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Profiled:
    """Measure what ``path`` lacks of the network's units at all widths, and fit the correction on networks cut from it.

    Nothing is measured when everything is there; with ``force`` all of this network is measured again, and the rest of
    the file scaled to it. The file is never shorter than before: each chunk of models is merged into what it holds by
    then, so that an interruption or another process loses nothing. Raises BadInputError when the file holds times of
    another target, machine, runtime, version or number of threads.
    """
    method = method or Method()
    path = path or default_profile_path(target, stopwatch)
    held = _read_same_source(path, new_profile(target, stopwatch, method))
    existing = None if force else held
    units = [unit for number_format in formats for unit in priced_units(structure, number_format)]
    known = {timing.unit for timing in existing.units} if existing else set()
    missing = [unit for unit in dict.fromkeys(units) if unit not in known]
    uncorrected = [name for name in formats if existing is None or not _is_corrected(existing, structure, name)]
    if existing is not None and not missing and not uncorrected:
        return Profiled(existing, path, 0)
    touched = {unit.number_format for unit in missing} | set(uncorrected)
    reference_us = yardstick_us(existing) if existing else None

    def save(profile: Profile) -> Profile:
        merge = partial(merge_measured, reference_us=reference_us)
        return write_profile(path, only_new(profile, existing), merge)

    profile = measure_profile(
        target=target,
        stopwatch=stopwatch,
        units=units,
        whole_networks=[net for name in formats if name in touched for net in _whole_networks(structure, name, method)],
        existing=existing,
        method=method,
        group_sizes=group_sizes(structure),
        save=save,
        progress=progress,
    )
    return Profiled(save(profile), path, len(missing))


def _read_same_source(path: Path, now: Profile) -> Profile | None:
    """What ``path`` holds; refused when it is of another source than ``now``, even if no time is missing."""
    if not path.exists():
        return None
    held = read_profile(path)
    check_same_source(held, now, str(path))
    return held


def _is_corrected(profile: Profile, structure: Structure, number_format: NumberFormat) -> bool:
    """Whether a correction was fitted on this very network: those of others say little of it."""
    spec = structure.spec
    key = (spec.name, spec.input_shape, spec.mac_count, group_sizes(structure), number_format)
    return any(found.key == key for found in profile.corrections)


def _whole_networks(structure: Structure, number_format: NumberFormat, method: Method) -> list[NetworkSpec]:
    networks = [structure.spec, *random_networks(structure, method.correction_networks, _CORRECTION_SEED)]
    return [network.in_format(number_format) for network in networks]


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a profile still holds: ``differences`` are reasons, in words, why it is of another machine or version
    (then nothing was timed); ``trend`` is that of the device's speed while it was checked."""

    path: str
    verdict: Literal["ok", "drifted", "another machine"]
    differences: tuple[str, ...] = ()
    drift: Drift | None = None
    trend: Trend | None = None
    tainted: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.drift is None:
            return f"{self.path}: not a profile of this device: {'; '.join(self.differences)}"
        drift = self.drift
        span = f"{drift.change:+.1%} ({drift.low:+.1%} to {drift.high:+.1%}) on {drift.unit_count} units"
        if self.verdict == "ok":
            return f"{self.path}: holds: the change is {span}"
        slower = "slower" if drift.change > 0 else "faster"
        beside = f"{drift.yardstick_change:+.1%} for a fixed model, {drift.relative_change:+.1%} beside it"
        return f"{self.path}: the device is {slower} than it was: {span}; {beside}"


def check_profile(
    path: Path,
    target: Target,
    stopwatch: Stopwatch,
    *,
    sample: int = 20,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> CheckResult:
    """Time ``sample`` units of the profile again, drawn by ``seed``, in many short blocks beside the yardstick.

    The file is not changed. Raises BadInputError when it is no profile or holds no unit, UsageError for a sample below
    1; DeviceError and TrustError as the stopwatch does.
    """
    if sample < 1:
        raise UsageError(f"a check needs a sample of at least 1 unit, not {sample}")
    held = read_profile(path)
    differences = source_differences(held, new_profile(target, stopwatch, held.method))
    if differences:
        return CheckResult(path=str(path), verdict="another machine", differences=differences)
    chosen = _sample(held, min(sample, CHUNK_MODELS - 1), seed)
    if len(chosen) < 2:
        raise BadInputError(f"{path}: holds no units beside the yardstick", "run `edgekit profile` first")
    models = [write_model(stopwatch.runtime, framed(timing.unit)) for timing in chosen]
    blocks: list[tuple[Timing, ...]] = []
    tainted: list[str] = []
    for index in range(_CHECK_BLOCKS):
        found = stopwatch.measure(models, held.method)
        blocks.append(found.timings)
        tainted += found.tainted
        progress(Progress(stage="check profile", done=index + 1, total=_CHECK_BLOCKS))
    drift = find_drift([timing.framed for timing in chosen], blocks)
    return CheckResult(
        path=str(path),
        verdict="drifted" if drift.is_drifted else "ok",
        drift=drift,
        trend=find_trend([block[-1].median_us for block in blocks]),
        tainted=tuple(dict.fromkeys(tainted)),
    )


def _sample(profile: Profile, count: int, seed: int) -> list[UnitTiming]:
    """Units of the profile drawn at random, and the yardstick behind them; the same for the same profile and seed."""
    yardstick = [timing for timing in profile.units if timing.unit == YARDSTICK]
    others = [timing for timing in profile.units if timing.unit != YARDSTICK]
    return [*random.Random(seed).sample(others, min(count, len(others))), *yardstick]
