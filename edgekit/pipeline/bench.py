"""Times of model files beside each other, and beside what was predicted for them.

All files are loaded in one process and take turns, so that ratios hold where the machine drifts; nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.codec import decode_model_info
from edgekit.errors import BadInputError, DeviceError, UsageError
from edgekit.files import read_bounded
from edgekit.profile import measure_interleaved, read_machine
from edgekit.profile.machine import taints
from edgekit.run.model import MAX_MODEL_BYTES, METADATA_KEY
from edgekit.runtimes import Session, get
from edgekit.types import (
    Count,
    Machine,
    Microseconds,
    ModelInfo,
    NumberFormat,
    Progress,
    ProgressCallback,
    RuntimeName,
    Target,
    Timing,
    ignore_progress,
)

BLOCKS = 9
"""Parts of a measurement, one ratio from each. The second smallest and second largest of 9 independent values enclose
the median with a probability of 96 % (1 - 2 * 10 / 2^9, sign test), whatever their distribution."""

_RUNS_PER_BLOCK = 6
_RUNTIMES: dict[str, RuntimeName] = {".onnx": "onnx", ".tflite": "tflite"}


class BenchRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model file. ``number_format`` and ``predicted_us`` are what the file says of itself, None where it says
    nothing. ``ratio`` is its time relative to the baseline's, ``ratio_low`` to ``ratio_high`` the 96 % interval."""

    path: str
    runtime: RuntimeName
    runtime_version: str
    number_format: NumberFormat | None
    measured: Timing
    predicted_us: Microseconds | None
    ratio: float
    ratio_low: float
    ratio_high: float
    kernels: tuple[str, ...]
    size_bytes: Count

    @property
    def prediction_error(self) -> float | None:
        """Predicted relative to measured time, less 1; None without a prediction."""
        return None if self.predicted_us is None else self.predicted_us / self.measured.median_us - 1.0


class BenchResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All rows, the baseline's among them, in the order in which the files were given (a baseline that is none of them
    comes first). ``tainted``: why the times may not be repeatable."""

    schema: int = 1
    baseline: str
    rows: tuple[BenchRow, ...]
    machine: Machine
    tainted: tuple[str, ...] = ()
    date: str


@dataclass(frozen=True, eq=False)
class _Loaded:
    path: Path
    runtime: RuntimeName
    info: ModelInfo | None
    size_bytes: int
    session: Session


def bench(
    models: Sequence[Path],
    *,
    baseline: Path | None = None,
    target: Target | None = None,
    threads: int | None = None,
    min_seconds: float = 1.0,
    progress: ProgressCallback = ignore_progress,
) -> BenchResult:
    """Time every model for at least ``min_seconds``; without a ``baseline`` the first one is it.

    ``threads`` is that of the ``target`` for each runtime if not given, else 1. Files that edgekit did not write are
    timed too, if they have one float input and output of known shapes. Raises UsageError without models, BadInputError
    for a file that is no model, DeviceError for a target that is not this machine.
    """
    _check_target(target)
    paths = _in_order(models, baseline)
    loaded = [_load(path, _threads(path, target, threads)) for path in paths]
    machine = read_machine()
    blocks = _measure([model.session for model in loaded], min_seconds, progress)
    base = paths.index(baseline or paths[0])
    ratios = [[block[index].median_us / block[base].median_us for block in blocks] for index in range(len(loaded))]
    rows = [_row(model, merge([block[index] for block in blocks]), ratios[index]) for index, model in enumerate(loaded)]
    return BenchResult(
        baseline=str(paths[base]),
        rows=tuple(rows),
        machine=machine,
        tainted=taints(machine),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_target(target: Target | None) -> None:
    if target is not None and target.transport != "local":
        raise DeviceError(
            f"target {target.name!r} is reached by {target.transport}, and models can be timed on this machine only",
            "run edgekit bench on the device itself, or use --target cpu",
        )


def _in_order(models: Sequence[Path], baseline: Path | None) -> list[Path]:
    paths = list(dict.fromkeys(models))
    if baseline is not None and baseline not in paths:
        paths.insert(0, baseline)
    if not paths:
        raise UsageError("there is no model to time", "name at least one .onnx or .tflite file")
    return paths


def _threads(path: Path, target: Target | None, threads: int | None) -> int:
    if threads is not None or target is None:
        return threads or 1
    name = _runtime_name(path)
    if name not in target.runtimes:
        raise UsageError(
            f"{path}: target {target.name!r} does not run {name}; it runs {', '.join(target.runtimes)}",
            f"add [runtimes.{name}] to the target file, or name another target",
        )
    return target.runtimes[name].threads


def _runtime_name(path: Path) -> RuntimeName:
    name = _RUNTIMES.get(path.suffix.lower())
    if name is None:
        raise BadInputError(f"{path}: the suffix {path.suffix!r} is no model's; allowed are {' and '.join(_RUNTIMES)}")
    return name


def _load(path: Path, threads: int) -> _Loaded:
    name = _runtime_name(path)
    content = read_bounded(path, MAX_MODEL_BYTES)
    runtime = get(name)
    try:
        text = runtime.metadata(content).get(METADATA_KEY)
        session = runtime.load(content, threads)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.message}", error.hint) from error
    info = decode_model_info(text, str(path)) if text is not None else None
    return _Loaded(path, name, info, len(content), session)


def _measure(sessions: Sequence[Session], min_seconds: float, progress: ProgressCallback) -> list[list[Timing]]:
    """Timings by block and model."""
    blocks = []
    for block in range(BLOCKS):
        blocks.append(measure_interleaved(sessions, min_seconds=min_seconds / BLOCKS, min_runs=_RUNS_PER_BLOCK))
        progress(Progress(stage="bench", done=block + 1, total=BLOCKS))
    return blocks


def merge(timings: Sequence[Timing]) -> Timing:
    """One timing of all blocks: runs added up, the median of the medians, and the outer quantiles of the blocks' own,
    which covers both the spread within blocks and a drift between them."""
    return Timing(
        count=sum(timing.count for timing in timings),
        median_us=float(np.median([timing.median_us for timing in timings])),
        p10_us=float(np.percentile([timing.p10_us for timing in timings], 10)),
        p90_us=float(np.percentile([timing.p90_us for timing in timings], 90)),
        min_us=min(timing.min_us for timing in timings),
    )


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median of `BLOCKS` or more values with the interval from the second smallest to the second largest."""
    ordered: NDArray[np.float64] = np.sort(np.array(values))
    return float(np.median(ordered)), float(ordered[1]), float(ordered[-2])


def _row(model: _Loaded, measured: Timing, ratios: Sequence[float]) -> BenchRow:
    ratio, low, high = median_interval(ratios)
    return BenchRow(
        path=str(model.path),
        runtime=model.runtime,
        runtime_version=get(model.runtime).version(),
        number_format=model.info.number_format if model.info else None,
        measured=measured,
        predicted_us=model.info.predicted_us if model.info else None,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        kernels=model.session.kernels(),
        size_bytes=model.size_bytes,
    )
