"""Timing the units of a file beside the whole file, and adding them up.

How files are cut is in ``onnx`` and ``tflite``, how times are taken in ``edgekit.profile.measure``.

Units are run one behind the other in the order of the file, as the whole runs them: one that is run over and over has
its weights in the nearest cache, where in the whole the other layers have pushed them out. What it reads and writes
*is* there in the whole, so that is touched first.
The fastest run of a block of rounds counts: an interruption hits the long whole more often than the short units, so
that medians of single runs could not be compared on a machine that does anything else.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgekit.errors import BadInputError, UsageError
from edgekit.profile.files import onnx, tflite
from edgekit.profile.files.overhead import Overhead, overhead_models, overhead_of
from edgekit.profile.files.sessions import FileSession, OnnxFileSession, TfliteFileSession, Touching
from edgekit.profile.files.structs import (
    Arrays,
    CutFile,
    FileProfile,
    FileRow,
    FileUnit,
    GivenInput,
    NotSeparable,
    Tensor,
)
from edgekit.profile.machine import read_machine, taints
from edgekit.profile.measure import measure_sessions
from edgekit.runtimes import SUFFIXES, get, of_suffix
from edgekit.types import Method, Progress, ProgressCallback, RuntimeName, Timing, ignore_progress

BLOCKS = 5
"""Times are medians over so many blocks of rounds, of the fastest run of each."""
ROUNDS_PER_BLOCK = (3, 30)
"""Fewest and most."""


def runtime_of(path: Path) -> RuntimeName:
    """The runtime for a file by its suffix. Raises UsageError for another one than .onnx or .tflite."""
    runtime = of_suffix(path)
    if runtime is None:
        raise UsageError(f"{path}: a file to be profiled must be {' or '.join(SUFFIXES.values())}")
    return runtime


def units_of(model: bytes, runtime: RuntimeName, inputs: Sequence[GivenInput] = (), threads: int = 1) -> CutFile:
    """The distinct operators of ``model`` as models of their own, equal ones once with their number.

    ONNX: the nodes that ONNX Runtime runs on this machine after its optimisations; TFLite: the operators of the file.
    Whatever cannot be cut is in ``not_separable`` with the reason. Raises BadInputError for what is no model or leaves
    sizes open that ``inputs`` do not give, UnsupportedModelError when it does not run.
    """
    return onnx.cut(model, inputs, threads) if runtime == "onnx" else tflite.cut(model, inputs)


def profile_file(
    path: Path,
    *,
    threads: int = 1,
    inputs: Sequence[GivenInput] = (),
    seconds: float = 3.0,
    progress: ProgressCallback = ignore_progress,
) -> FileProfile:
    """Times of the operators of the file and of the file as a whole on this machine.

    ``seconds`` is the time to be spent on timing, about; slow files take longer, for some rounds are needed. Raises
    what `units_of` does, and UsageError for another kind of file.
    """
    started = time.monotonic()
    runtime = runtime_of(path)
    model = _read(path, runtime)
    progress(Progress(stage="cut", done=0, total=1))
    cut = units_of(model, runtime, inputs, threads)
    progress(Progress(stage="cut", done=1, total=1))
    loaded = _load(cut, runtime, threads)
    whole = _session(runtime, model, cut.inputs, threads)
    measured = _measure(runtime, threads, whole, loaded, seconds, progress)
    machine = read_machine()
    rows = _rows(loaded, measured)
    overhead_us = measured.hot.overhead.run_us
    sum_us = overhead_us + sum(row.total_us for row in rows)
    hot_sum_us = overhead_us + sum(row.count * row.hot_us for row in rows)
    return FileProfile(
        model=path.name,
        model_hash=hashlib.sha256(model).hexdigest(),
        size_bytes=len(model),
        runtime=runtime,
        runtime_version=get(runtime).version(),
        threads=threads,
        machine=machine,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=measured.rounds,
        inputs={name: Tensor(array.dtype.name, tuple(array.shape)) for name, array in cut.inputs.items()},
        rows=rows,
        overhead_us=overhead_us,
        sum_us=sum_us,
        hot_sum_us=hot_sum_us,
        whole=measured.whole,
        ratio=sum_us / measured.whole.median_us,
        hot_ratio=hot_sum_us / measured.whole.median_us,
        kernels=dict(Counter(whole.kernels())),
        not_separable=(*cut.not_separable, *loaded.refused),
        notes=cut.notes,
        tainted=taints(machine),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Loaded:
    units: tuple[FileUnit, ...]
    sessions: tuple[FileSession, ...]
    refused: tuple[NotSeparable, ...]


@dataclass(frozen=True)
class _Pass:
    """Times of all units in one state of the caches, and of a run in that state that computes nothing: a run behind
    other sessions' runs takes longer to begin than one behind its own."""

    timings: tuple[Timing, ...]
    overhead: Overhead

    def latencies_us(self, units: Sequence[FileUnit]) -> list[float]:
        """Times of the units without the overhead of their runs."""
        run_us, node_us = self.overhead.run_us, self.overhead.node_us
        return [
            max(0.0, timing.median_us - run_us - unit.extra_nodes * node_us)
            for unit, timing in zip(units, self.timings, strict=True)
        ]


@dataclass(frozen=True)
class _Measured:
    whole: Timing
    rounds: int
    warm: _Pass
    hot: _Pass


def _read(path: Path, runtime: RuntimeName) -> bytes:
    try:
        return onnx.load_with_external_data(path) if runtime == "onnx" else path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _session(runtime: RuntimeName, model: bytes, inputs: Arrays, threads: int) -> FileSession:
    if runtime == "onnx":
        return OnnxFileSession(model, inputs, threads)
    return TfliteFileSession(model, inputs, threads)


def _unit_session(runtime: RuntimeName, model: bytes, sample: Arrays, threads: int) -> FileSession:
    if runtime == "onnx":
        return OnnxFileSession(model, sample, threads, as_written=True)
    return TfliteFileSession(model, sample, threads)


def _load(cut: CutFile, runtime: RuntimeName, threads: int) -> _Loaded:
    """The units that load and run; for the others, what the runtime said."""
    units, sessions, refused = [], [], []
    for unit in cut.units:
        try:
            session = _unit_session(runtime, unit.model, unit.sample, threads)
            session.invoke()
        except (BadInputError, RuntimeError, ValueError) as error:
            reason = f"alone it does not run: {(str(error).splitlines() or [type(error).__name__])[0]}"
            refused += [NotSeparable(name=name, operator=unit.operator, reason=reason) for name in unit.names]
            continue
        units.append(unit)
        sessions.append(session)
    return _Loaded(tuple(units), tuple(sessions), tuple(refused))


def _measure(
    runtime: RuntimeName,
    threads: int,
    whole: FileSession,
    loaded: _Loaded,
    seconds: float,
    progress: ProgressCallback,
) -> _Measured:
    empty = [_unit_session(runtime, model, sample, threads) for model, sample in overhead_models(runtime)]
    parts: list[FileSession] = []
    for session in (*empty, *loaded.sessions):
        parts += [Touching(session), session, session]
    rounds = _affordable_rounds([whole, *parts], seconds)
    # The whole in a row of its own: between the units it would push out what they left in the caches.
    timings = _time_blocks([[whole], parts], rounds, progress)
    warm, hot = timings[2::3], timings[3::3]
    return _Measured(
        whole=timings[0],
        rounds=rounds * BLOCKS,
        warm=_Pass(tuple(warm[len(empty) :]), overhead_of(warm[: len(empty)])),
        hot=_Pass(tuple(hot[len(empty) :]), overhead_of(hot[: len(empty)])),
    )


def _time_blocks(rows: Sequence[Sequence[FileSession]], rounds: int, progress: ProgressCallback) -> list[Timing]:
    """Distributions of the fastest runs of the blocks, for all sessions; a row is run through ``rounds`` times, then
    the next."""
    method = Method(rounds=rounds, runs_per_round=1, warmup_runs=0)
    fastest_us = []
    for block in range(BLOCKS):
        progress(Progress(stage="measure", done=block, total=BLOCKS))
        timings = [timing for row in rows for timing in measure_sessions(row, method)]
        fastest_us.append([timing.min_us for timing in timings])
    progress(Progress(stage="measure", done=BLOCKS, total=BLOCKS))
    return [_distribution(list(times), rounds * BLOCKS) for times in zip(*fastest_us, strict=True)]


def _distribution(times_us: Sequence[float], count: int) -> Timing:
    p10, median, p90 = (float(value) for value in np.percentile(times_us, (10, 50, 90)))
    return Timing(count=count, median_us=median, p10_us=p10, p90_us=p90, min_us=min(times_us))


def _affordable_rounds(sessions: Sequence[FileSession], seconds: float) -> int:
    """Rounds of a block, given that a restless machine makes `measure_sessions` repeat some."""
    for session in sessions:
        session.invoke()
    start = time.monotonic()
    for session in sessions:
        session.invoke()
    affordable = seconds / BLOCKS / max(time.monotonic() - start, 1e-6)
    return int(np.clip(affordable, *ROUNDS_PER_BLOCK))


def _rows(loaded: _Loaded, measured: _Measured) -> tuple[FileRow, ...]:
    """The rows in the order of the file."""
    latencies, hot = (one.latencies_us(loaded.units) for one in (measured.warm, measured.hot))
    total = sum(unit.count * latency for unit, latency in zip(loaded.units, latencies, strict=True)) or 1.0
    return tuple(
        FileRow(
            key=unit.key,
            operator=unit.operator,
            names=unit.names,
            inputs=unit.inputs,
            outputs=unit.outputs,
            kernels=loaded.sessions[index].kernels(),
            count=unit.count,
            latency_us=latencies[index],
            hot_us=hot[index],
            total_us=unit.count * latencies[index],
            share=unit.count * latencies[index] / total,
            timing=measured.warm.timings[index],
        )
        for index, unit in enumerate(loaded.units)
    )
