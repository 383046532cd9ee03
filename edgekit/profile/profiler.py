"""Making a profile: every unit that is not measured yet, then the correction from whole networks.

How times are taken is in ``measure``, which models stand for a unit in ``frame``; files are the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

import msgspec

from edgekit.codec import check_same_source
from edgekit.profile.correction import fit_correction
from edgekit.profile.frame import frame, framed, identity, plausible_ranges, with_random_weights
from edgekit.profile.machine import taints
from edgekit.profile.measure import CHUNK_MODELS
from edgekit.profile.merge import scaled, yardstick_us
from edgekit.profile.predict import PriceTable, number_format
from edgekit.profile.stopwatch import Stopwatch, check_runtime
from edgekit.profile.yardstick import DRIFT_LIMIT, YARDSTICK, Chunk, scale_chunk
from edgekit.runtimes import Runtime
from edgekit.types import (
    Method,
    NetworkCorrection,
    NetworkSpec,
    NumberFormat,
    Profile,
    Progress,
    ProgressCallback,
    Shape,
    Target,
    UnitSpec,
    UnitTiming,
    ignore_progress,
)


def measure_profile(
    *,
    target: Target,
    stopwatch: Stopwatch,
    units: Sequence[UnitSpec],
    whole_networks: Sequence[NetworkSpec],
    existing: Profile | None,
    method: Method,
    group_sizes: Shape = (),
    save: Callable[[Profile], object] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Profile:
    """Time the units that ``existing`` lacks, then fit a correction for each name and number format among
    ``whole_networks``; the largest of a name is the network itself, the others were cut from it by ``group_sizes``.

    ``save`` gets the profile after every chunk of models, so that an interruption loses one chunk at most. Without
    whole networks the corrections of ``existing`` stay. Raises UsageError for a runtime or format that the target does
    not have, BadInputError when ``existing`` was measured on something else or lacks a unit of a whole network,
    UnsupportedModelError for a unit that the runtime does not execute.
    """
    check_runtime(target, stopwatch.runtime.name, [unit.number_format for unit in units])
    stage = _Stage(stopwatch, method, save or _keep_nothing, progress)
    profile = _begin(target, stage, existing)
    profile = _measure_units(profile, units, stage)
    if whole_networks:
        profile = _correct(profile, whole_networks, group_sizes, stage)
    stage.save(profile)
    return profile


@dataclass(frozen=True)
class _Stage:
    """What every step of the measurement needs."""

    stopwatch: Stopwatch
    method: Method
    save: Callable[[Profile], object]
    progress: ProgressCallback

    def write(self, spec: NetworkSpec) -> bytes:
        return write_model(self.stopwatch.runtime, spec)


def write_model(runtime: Runtime, spec: NetworkSpec) -> bytes:
    """A file of ``spec`` that costs the time of a trained one: random weights, and plausible ranges for int8."""
    wanted = number_format(spec)
    return runtime.write(with_random_weights(spec), wanted, plausible_ranges(spec) if wanted == "int8" else None)


def _keep_nothing(_: Profile) -> None:
    """Where no profile is to be kept on the way."""


def new_profile(target: Target, stopwatch: Stopwatch, method: Method) -> Profile:
    """A profile without times, of what ``stopwatch`` says that it measures on now."""
    machine = stopwatch.machine()
    return Profile(
        target=target.name,
        runtime=stopwatch.runtime.name,
        runtime_version=stopwatch.version(),
        threads=stopwatch.threads,
        machine=machine,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        method=method,
        overhead_us=0.0,
        units=(),
        tainted=taints(machine),
    )


def _begin(target: Target, stage: _Stage, existing: Profile | None) -> Profile:
    profile = new_profile(target, stage.stopwatch, stage.method)
    if existing is None:
        (overhead,) = stage.stopwatch.measure([stage.write(identity())], stage.method).timings
        return msgspec.structs.replace(profile, overhead_us=overhead.median_us)
    check_same_source(existing, profile, "the profile to be continued")
    return msgspec.structs.replace(
        profile,
        overhead_us=existing.overhead_us,
        units=existing.units,
        corrections=existing.corrections,
        tainted=tuple(dict.fromkeys((*existing.tainted, *profile.tainted))),
    )


def _measure_units(profile: Profile, units: Sequence[UnitSpec], stage: _Stage) -> Profile:
    is_new = not profile.units
    known = {timing.unit for timing in profile.units}
    missing = [unit for unit in dict.fromkeys((YARDSTICK, *units)) if unit not in known]
    yardstick = stage.write(framed(YARDSTICK))
    drifts: list[float] = []
    done = 0
    for chunk in _chunks(missing):
        timings, measured, tainted = _time_units(chunk, yardstick, yardstick_us(profile), stage)
        profile = _tainted(msgspec.structs.replace(profile, units=(*profile.units, *timings)), *tainted)
        drifts.append(measured.drift)
        stage.save(profile)
        done += len(chunk)
        stage.progress(Progress(stage="profile units", done=done, total=len(missing)))
    return _settle(profile, drifts, is_new)


def _settle(profile: Profile, drifts: Sequence[float], is_new: bool) -> Profile:
    """The profile with the drift noted, and a new one scaled to the machine's usual state during the measurement: its
    first chunk, the reference until here, may have been the one that was disturbed."""
    usual = 1.0 + (median(drifts) if is_new else 0.0)
    worst = max(((1.0 + drift) / usual - 1.0 for drift in drifts), key=abs, default=0.0)
    return _with_taint(scaled(profile, usual), worst)


def _chunks(units: Sequence[UnitSpec]) -> Iterator[list[UnitSpec]]:
    """Units whose framed models and frames together are few enough to be loaded at a time; units with the same frame
    stay together, since a frame is timed again in each chunk."""
    position = {spec: index for index, spec in enumerate(dict.fromkeys(frame(unit) for unit in units))}
    chunk: list[UnitSpec] = []
    frames: set[NetworkSpec] = set()
    for unit in sorted(units, key=lambda unit: position[frame(unit)]):
        if chunk and len(chunk) + len(frames | {frame(unit)}) + 1 > CHUNK_MODELS:
            yield chunk
            chunk, frames = [], set()
        chunk.append(unit)
        frames.add(frame(unit))
    if chunk:
        yield chunk


def _time_units(
    units: Sequence[UnitSpec], yardstick: bytes, reference_us: float | None, stage: _Stage
) -> tuple[list[UnitTiming], Chunk, tuple[str, ...]]:
    frames = list(dict.fromkeys(frame(unit) for unit in units))
    models = [stage.write(spec) for spec in (*map(framed, units), *frames)]
    found = stage.stopwatch.measure([*models, yardstick], stage.method, cold_count=len(units))
    measured = scale_chunk(found.timings, reference_us)
    frame_timing = dict(zip(frames, measured.timings[len(units) :], strict=True))
    timings = [
        UnitTiming(unit=unit, framed=timing, frame=frame_timing[frame(unit)], cold=cold_timing)
        for unit, timing, cold_timing in zip(units, measured.timings[: len(units)], found.cold, strict=True)
    ]
    return timings, measured, found.tainted


def _with_taint(profile: Profile, drift: float) -> Profile:
    if abs(drift) <= DRIFT_LIMIT:
        return profile
    taint = f"the machine's speed drifted: a fixed model's time changed by {drift:+.0%}"
    return _tainted(profile, taint)


def _tainted(profile: Profile, *reasons: str) -> Profile:
    return msgspec.structs.replace(profile, tainted=tuple(dict.fromkeys((*profile.tainted, *reasons))))


def _correct(profile: Profile, networks: Sequence[NetworkSpec], group_sizes: Shape, stage: _Stage) -> Profile:
    """Fit the corrections anew on networks that are timed whole, beside the yardstick."""
    table = PriceTable(profile)
    pairs: list[tuple[float, float]] = []
    yardstick = stage.write(framed(YARDSTICK))
    for start in range(0, len(networks), CHUNK_MODELS):
        chunk = networks[start : start + CHUNK_MODELS]
        sums = [table.sum_us(network) for network in chunk]
        models = [stage.write(network) for network in chunk]
        found = stage.stopwatch.measure([*models, yardstick], stage.method)
        measured = scale_chunk(found.timings, yardstick_us(profile))
        profile = _tainted(_with_taint(profile, measured.drift), *found.tainted)
        pairs += [(sum_us, timing.median_us) for sum_us, timing in zip(sums, measured.timings, strict=True)]
        done = start + len(chunk)
        stage.progress(Progress(stage="profile whole networks", done=done, total=len(networks)))
    fitted = {found.key: found for found in _fitted(networks, pairs, group_sizes)}
    corrections = {found.key: found for found in profile.corrections} | fitted
    return msgspec.structs.replace(profile, corrections=tuple(corrections.values()))


def _fitted(
    networks: Sequence[NetworkSpec], pairs: Sequence[tuple[float, float]], group_sizes: Shape
) -> Iterator[NetworkCorrection]:
    """A correction for all networks of one name, input shape and number format."""
    alike: dict[tuple[str, Shape, NumberFormat], list[int]] = {}
    for index, network in enumerate(networks):
        alike.setdefault((network.name, network.input_shape, number_format(network)), []).append(index)
    for (name, input_shape, wanted), indices in alike.items():
        yield NetworkCorrection(
            network=name,
            input_shape=input_shape,
            mac_count=max(networks[index].mac_count for index in indices),
            group_sizes=group_sizes,
            number_format=wanted,
            correction=fit_correction([pairs[index] for index in indices]),
        )
