"""`edgekit profile`: the units that a network's gates can choose from, measured where they are not yet, kept in a file.

How a unit is timed is in ``profile``; which units there are is in ``train.pricing``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.codec import read_profile, replace_profile, write_profile
from edgekit.errors import BadInputError
from edgekit.nn.structure import Structure
from edgekit.profile import Stopwatch, measure_profile
from edgekit.train.pricing import priced_units, random_networks
from edgekit.types import (
    Method,
    NetworkSpec,
    NumberFormat,
    Profile,
    ProgressCallback,
    RuntimeName,
    Target,
    ignore_progress,
)

PROFILES_FOLDER = Path("profiles")
_CORRECTION_SEED = 0


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

    Nothing is measured when everything is there. ``force`` measures everything again. An interruption keeps what was
    measured.
    """
    method = method or Method()
    path = path or default_profile_path(target, stopwatch)
    existing = read_profile(path) if path.exists() and not force else None
    if existing is not None:
        _check_source(existing, path, target, stopwatch.runtime.name)
    units = [unit for number_format in formats for unit in priced_units(structure, number_format)]
    known = {timing.unit for timing in existing.units} if existing else set()
    missing = [unit for unit in dict.fromkeys(units) if unit not in known]
    uncorrected = [name for name in formats if existing is None or name not in existing.corrections]
    if existing is not None and not missing and not uncorrected:
        return Profiled(existing, path, 0)
    touched = {unit.number_format for unit in missing} | set(uncorrected)
    whole = [net for name in formats if name in touched for net in _whole_networks(structure, name, method)]
    if force and path.exists():
        path.unlink()
    profile = measure_profile(
        target=target,
        stopwatch=stopwatch,
        units=units,
        whole_networks=whole,
        existing=existing,
        method=method,
        save=lambda partial: replace_profile(path, partial),
        progress=progress,
    )
    return Profiled(write_profile(path, profile), path, len(missing))


def _check_source(profile: Profile, path: Path, target: Target, runtime: RuntimeName) -> None:
    """Refuse the times of another device or runtime: where none is missing, nothing else would look."""
    threads = target.runtimes[runtime].threads if runtime in target.runtimes else profile.threads
    if (profile.target, profile.runtime, profile.threads) != (target.name, runtime, threads):
        raise BadInputError(
            f"{path}: holds times of {profile.target} on {profile.runtime} with {profile.threads} threads, "
            f"not of {target.name} on {runtime} with {threads}",
            "give another --profile, or none: then it is found or made",
        )


def _whole_networks(structure: Structure, number_format: NumberFormat, method: Method) -> list[NetworkSpec]:
    networks = [structure.spec, *random_networks(structure, method.correction_networks, _CORRECTION_SEED)]
    return [network.in_format(number_format) for network in networks]
