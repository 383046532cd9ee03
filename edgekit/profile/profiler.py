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
from edgekit.errors import UsageError
from edgekit.profile.correction import fit_correction
from edgekit.profile.frame import frame, framed, identity, plausible_ranges, with_random_weights
from edgekit.profile.machine import read_machine, taints
from edgekit.profile.measure import (
    CHUNK_MODELS,
    DRIFT_LIMIT,
    Chunk,
    measure_chunk,
    measure_cold,
    measure_sessions,
    scale_timing,
)
from edgekit.profile.predict import PriceTable, number_format
from edgekit.runtimes import Runtime, Session, get
from edgekit.types import (
    Method,
    NetworkSpec,
    Profile,
    Progress,
    ProgressCallback,
    RuntimeName,
    RuntimeOptions,
    Target,
    UnitSpec,
    UnitTiming,
    ignore_progress,
)

YARDSTICK = UnitSpec(
    kind="conv",
    input_shape=(32, 14, 14),
    output_shape=(32, 14, 14),
    kernel=(3, 3),
    padding=(1, 1, 1, 1),
    activation="relu",
)
"""Unit whose framed model is timed in every chunk: its drift is the machine's. Every profile holds it, so that times
taken later are scaled to the same reference."""


def measure_profile(
    *,
    target: Target,
    runtime: RuntimeName,
    units: Sequence[UnitSpec],
    whole_networks: Sequence[NetworkSpec],
    existing: Profile | None,
    method: Method,
    save: Callable[[Profile], None] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Profile:
    """Time the units that ``existing`` lacks, then fit a correction for each number format among ``whole_networks``.

    ``save`` gets the profile after every chunk of models, so that an interruption loses one chunk at most. Without
    whole networks the corrections of ``existing`` stay. Raises UsageError for a target, runtime or number format that
    cannot be measured here, BadInputError when ``existing`` was measured on something else or lacks a unit of a whole
    network, UnsupportedModelError for a unit that the runtime does not execute.
    """
    options = _options(target, runtime, {unit.number_format for unit in units})
    stage = _Stage(get(runtime), options.threads, method, save or _keep_nothing, progress)
    profile = _begin(target, stage, existing)
    profile = _measure_units(profile, units, stage)
    if whole_networks:
        profile = _correct(profile, whole_networks, stage)
    stage.save(profile)
    return profile


@dataclass(frozen=True)
class _Stage:
    """What every step of the measurement needs."""

    runtime: Runtime
    threads: int
    method: Method
    save: Callable[[Profile], None]
    progress: ProgressCallback

    def load(self, spec: NetworkSpec) -> Session:
        wanted = number_format(spec)
        ranges = plausible_ranges(spec) if wanted == "int8" else None
        return self.runtime.load(self.runtime.write(with_random_weights(spec), wanted, ranges), self.threads)


def _keep_nothing(_: Profile) -> None:
    """Where no profile is to be kept on the way."""


def _options(target: Target, runtime: RuntimeName, formats: set[str]) -> RuntimeOptions:
    if target.transport != "local":
        raise UsageError(
            f"target {target.name!r} is reached by {target.transport}; only local targets can be measured",
            'run edgekit on that device, with a target file that says transport = "local"',
        )
    if runtime not in target.runtimes:
        known = ", ".join(target.runtimes)
        raise UsageError(f"target {target.name!r} has no runtime {runtime!r}", f"use one of: {known}")
    options = target.runtimes[runtime]
    if refused := formats.difference(options.formats):
        raise UsageError(
            f"target {target.name!r} does not execute {', '.join(sorted(refused))} on {runtime}",
            f"use one of: {', '.join(options.formats)}",
        )
    return options


def _begin(target: Target, stage: _Stage, existing: Profile | None) -> Profile:
    machine = read_machine()
    profile = Profile(
        target=target.name,
        runtime=stage.runtime.name,
        runtime_version=stage.runtime.version(),
        threads=stage.threads,
        machine=machine,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        method=stage.method,
        overhead_us=0.0,
        units=(),
        tainted=taints(machine),
    )
    if existing is None:
        (overhead,) = measure_sessions([stage.load(identity())], stage.method)
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
    yardstick = stage.load(framed(YARDSTICK))
    drifts: list[float] = []
    done = 0
    for chunk in _chunks(missing):
        timings, measured = _time_units(chunk, yardstick, _reference_us(profile), stage)
        profile = msgspec.structs.replace(profile, units=(*profile.units, *timings))
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
    scaled = tuple(_scale_unit(timing, usual) for timing in profile.units)
    return _with_taint(msgspec.structs.replace(profile, units=scaled), worst)


def _scale_unit(timing: UnitTiming, factor: float) -> UnitTiming:
    return msgspec.structs.replace(
        timing, framed=scale_timing(timing.framed, factor), frame=scale_timing(timing.frame, factor)
    )


def _reference_us(profile: Profile) -> float | None:
    """Time of the yardstick to which every other time of the profile was scaled; None before the first chunk."""
    return next((timing.framed.median_us for timing in profile.units if timing.unit == YARDSTICK), None)


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
    units: Sequence[UnitSpec], yardstick: Session, reference_us: float | None, stage: _Stage
) -> tuple[list[UnitTiming], Chunk]:
    frames = list(dict.fromkeys(frame(unit) for unit in units))
    sessions = [stage.load(spec) for spec in (*map(framed, units), *frames)]
    measured = measure_chunk(sessions, yardstick, stage.method, reference_us)
    cold = measure_cold(sessions[: len(units)])
    frame_timing = dict(zip(frames, measured.timings[len(units) :], strict=True))
    timings = [
        UnitTiming(unit=unit, framed=timing, frame=frame_timing[frame(unit)], cold=cold_timing)
        for unit, timing, cold_timing in zip(units, measured.timings[: len(units)], cold, strict=True)
    ]
    return timings, measured


def _with_taint(profile: Profile, drift: float) -> Profile:
    if abs(drift) <= DRIFT_LIMIT:
        return profile
    taint = f"the machine's speed drifted: a fixed model's time changed by {drift:+.0%}"
    return msgspec.structs.replace(profile, tainted=tuple(dict.fromkeys((*profile.tainted, taint))))


def _correct(profile: Profile, networks: Sequence[NetworkSpec], stage: _Stage) -> Profile:
    """Fit the corrections anew on networks that are timed whole, beside the yardstick."""
    table = PriceTable(profile)
    pairs: dict[str, list[tuple[float, float]]] = {}
    yardstick = stage.load(framed(YARDSTICK))
    for start in range(0, len(networks), CHUNK_MODELS):
        chunk = networks[start : start + CHUNK_MODELS]
        sums = [table.sum_us(network) for network in chunk]
        sessions = [stage.load(network) for network in chunk]
        measured = measure_chunk(sessions, yardstick, stage.method, _reference_us(profile))
        profile = _with_taint(profile, measured.drift)
        for network, sum_us, timing in zip(chunk, sums, measured.timings, strict=True):
            pairs.setdefault(number_format(network), []).append((sum_us, timing.median_us))
        done = start + len(chunk)
        stage.progress(Progress(stage="profile whole networks", done=done, total=len(networks)))
    fitted = {name: fit_correction(measured_pairs) for name, measured_pairs in pairs.items()}
    return msgspec.structs.replace(profile, corrections={**profile.corrections, **fitted})
