"""Times of model files beside each other, and beside what was predicted for them.

All files of a runtime are loaded in one process on the target and take turns, so that ratios hold where the machine
drifts; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.codec import decode_model_info
from edgekit.errors import BadInputError, UsageError
from edgekit.files import read_bounded
from edgekit.profile import LocalStopwatch, Stopwatch, open_stopwatch
from edgekit.profile.machine import taints
from edgekit.run.model import MAX_MODEL_BYTES, METADATA_KEY
from edgekit.runtimes import SUFFIXES, get, of_suffix
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
    content: bytes


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

    ``threads`` is that of the ``target`` for each runtime if not given, else 1; without a ``target`` models run here.
    Files that edgekit did not write are timed too, if they have one float input and output of known shapes. Raises
    UsageError without models or for a runtime that the target does not have, BadInputError for a file that is no model,
    DeviceError for a target that cannot be reached.
    """
    paths = _in_order(models, baseline)
    loaded = [_load(path) for path in paths]
    with ExitStack() as stack:
        watches = {
            name: stack.enter_context(_stopwatch(name, target, threads))
            for name in dict.fromkeys(model.runtime for model in loaded)
        }
        kernels = [_kernels(model, watches[model.runtime]) for model in loaded]
        machine = watches[loaded[0].runtime].machine()
        blocks = _measure(loaded, watches, min_seconds, progress)
        versions = {name: watch.version() for name, watch in watches.items()}
        seen = [reason for watch in watches.values() for reason in watch.tainted]
    base = paths.index(baseline or paths[0])
    ratios = [[block[index].median_us / block[base].median_us for block in blocks] for index in range(len(loaded))]
    rows = [
        _row(model, versions[model.runtime], kernels[index], merge([block[index] for block in blocks]), ratios[index])
        for index, model in enumerate(loaded)
    ]
    return BenchResult(
        baseline=str(paths[base]),
        rows=tuple(rows),
        machine=machine,
        tainted=tuple(dict.fromkeys((*taints(machine), *seen))),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _stopwatch(runtime: RuntimeName, target: Target | None, threads: int | None) -> Stopwatch:
    if target is None:
        return LocalStopwatch(get(runtime), threads or 1)
    return open_stopwatch(target, runtime, threads)


def _in_order(models: Sequence[Path], baseline: Path | None) -> list[Path]:
    paths = list(dict.fromkeys(models))
    if baseline is not None and baseline not in paths:
        paths.insert(0, baseline)
    if not paths:
        raise UsageError("there is no model to time", "name at least one .onnx or .tflite file")
    return paths


def _runtime_name(path: Path) -> RuntimeName:
    name = of_suffix(path)
    if name is None:
        allowed = " and ".join(SUFFIXES.values())
        raise BadInputError(f"{path}: the suffix {path.suffix!r} is no model's; allowed are {allowed}")
    return name


def _load(path: Path) -> _Loaded:
    name = _runtime_name(path)
    content = read_bounded(path, MAX_MODEL_BYTES)
    with _naming(path):
        text = get(name).metadata(content).get(METADATA_KEY)
    info = decode_model_info(text, str(path)) if text is not None else None
    return _Loaded(path, name, info, content)


def _kernels(model: _Loaded, stopwatch: Stopwatch) -> tuple[str, ...]:
    """What ran, asked before anything is timed: a model that does not load is told by its name."""
    with _naming(model.path):
        return stopwatch.kernels(model.content)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.message}", error.hint) from error


def _measure(
    models: Sequence[_Loaded],
    watches: Mapping[RuntimeName, Stopwatch],
    min_seconds: float,
    progress: ProgressCallback,
) -> list[list[Timing]]:
    """Timings by block and model. Where there are several runtimes they take turns too, block by block."""
    blocks: list[list[Timing]] = []
    turns, blocks_per_turn = (BLOCKS, 1) if len(watches) > 1 else (1, BLOCKS)
    for turn in range(turns):
        timings: dict[int, list[Timing]] = {}
        for name, watch in watches.items():
            own = [index for index, model in enumerate(models) if model.runtime == name]
            found = watch.measure_blocks(
                [models[index].content for index in own],
                blocks_per_turn,
                min_seconds=min_seconds / BLOCKS,
                min_runs=_RUNS_PER_BLOCK,
            )
            timings |= {index: [block[place] for block in found] for place, index in enumerate(own)}
        blocks += [[timings[index][block] for index in range(len(models))] for block in range(blocks_per_turn)]
        progress(Progress(stage="bench", done=turn + 1, total=turns))
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


def _row(model: _Loaded, version: str, kernels: tuple[str, ...], measured: Timing, ratios: Sequence[float]) -> BenchRow:
    ratio, low, high = median_interval(ratios)
    return BenchRow(
        path=str(model.path),
        runtime=model.runtime,
        runtime_version=version,
        number_format=model.info.number_format if model.info else None,
        measured=measured,
        predicted_us=model.info.predicted_us if model.info else None,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        kernels=kernels,
        size_bytes=len(model.content),
    )
