"""Timing loaded models beside each other, so that what disturbs the machine disturbs all of them alike.

What is timed, and what the times are used for, is decided elsewhere.

A run can be interrupted and so take longer than it needs, never shorter. Therefore a round's time of a model is its
fastest run of that round, and a `Timing` describes those round times: median, 10th and 90th percentile over the
rounds, the fastest run of all as minimum, and the number of runs. Rounds go over all models, which interleaves them.
A machine that others use is slow for whole rounds: one in which the models together took over 5 % longer than in the
quietest is repeated and not counted, as far as that is affordable.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.profile.frame import random_input
from edgekit.runtimes import Runtime, Session
from edgekit.types import Method, Progress, ProgressCallback, Timing, ignore_progress

CHUNK_MODELS = 32
"""Models that are loaded at a time: enough to interleave, few enough to keep memory small."""
DRIFT_LIMIT = 0.10
"""Relative change of the yardstick's time from which measurements are marked as tainted."""

# A slow model needs no more runs in a round than it takes to be sure of its fastest: this bounds a round's length.
_ROUND_NS = 20_000_000
_FEWEST_RUNS = 3
_QUIET = 1.05
_MOST_REPETITIONS = 3
_CLAMP = (0.5, 2.0)
# More than the first two levels of any core; the last level, shared by all cores, is left as it is.
_COLD_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Chunk:
    """Timings of one chunk of models, scaled to the yardstick's reference time ``reference_us``; ``drift`` is how much
    longer than that the yardstick took, relatively."""

    timings: tuple[Timing, ...]
    reference_us: float
    drift: float


def measure_models(
    runtime: Runtime,
    models: Sequence[bytes],
    method: Method,
    *,
    threads: int = 1,
    progress: ProgressCallback = ignore_progress,
) -> list[Timing]:
    """Times of any number of models, in their order, a chunk of them loaded at a time.

    Chunks are minutes apart at most, but a machine can drift by 16 % in that time: where ratios between models of
    different chunks matter, use `measure_chunk` with its yardstick.
    """
    timings: list[Timing] = []
    for start in range(0, len(models), CHUNK_MODELS):
        sessions = [runtime.load(model, threads) for model in models[start : start + CHUNK_MODELS]]
        timings += measure_sessions(sessions, method)
        progress(Progress(stage="measure", done=len(timings), total=len(models)))
    return timings


def measure_chunk(
    sessions: Sequence[Session], yardstick: Session, method: Method, reference_us: float | None = None
) -> Chunk:
    """Times of the sessions beside a yardstick, scaled by how much slower or faster than ``reference_us`` it ran.

    Without a reference, the yardstick's time now becomes it. The scale stays between 1/2 and 2: beyond, the machine is
    another one, and scaling would only hide it.
    """
    own, *others = measure_sessions([yardstick, *sessions], method)
    reference = reference_us or own.median_us
    factor = float(np.clip(reference / own.median_us, *_CLAMP))
    return Chunk(tuple(scale_timing(timing, factor) for timing in others), reference, own.median_us / reference - 1)


def measure_cold(sessions: Sequence[Session], rounds: int = 5) -> list[Timing]:
    """Times of single runs, each behind a walk over more memory than a core's own caches hold."""
    walk = np.zeros(_COLD_BYTES // 8)
    for session in sessions:
        session.prepare(random_input(session.input_shape))
        session.invoke()
    with _no_garbage_collection():
        rounds_ns = [[_cold_run_ns(session.invoke, walk) for session in sessions] for _ in range(rounds)]
    return _timings(np.array(rounds_ns, dtype=np.float64), [rounds] * len(sessions))


def _cold_run_ns(invoke: Callable[[], None], walk: NDArray[np.float64]) -> float:
    walk += 1.0
    start = perf_counter_ns()
    invoke()
    return float(perf_counter_ns() - start)


def measure_sessions(sessions: Sequence[Session], method: Method) -> list[Timing]:
    """Times of loaded models in ``method.rounds`` interleaved rounds: the quietest of up to three times as many."""
    trials = [_Trial(session, method) for session in sessions]
    rounds: list[list[float]] = []
    with _no_garbage_collection():
        while len(rounds) < method.rounds * _MOST_REPETITIONS:
            rounds.append([trial.round_ns() for trial in trials])
            if _quiet_count(_slowness(rounds)) >= method.rounds:
                break
    return _summarize(rounds, trials, method.rounds)


def measure_interleaved(
    sessions: Sequence[Session],
    *,
    min_seconds: float = 1.0,
    min_runs: int = 50,
    method: Method | None = None,
    progress: ProgressCallback = ignore_progress,
) -> list[Timing]:
    """Times of whole models beside each other: rounds go on until every model ran ``min_runs`` times and for
    ``min_seconds``. Ratios of these times hold even where the machine itself drifts. At least half of the rounds count.

    Raises UsageError without sessions or with negative limits.
    """
    if not sessions or min_seconds < 0 or min_runs < 0:
        raise UsageError("timing needs at least one model, and limits of at least 0 runs and 0 seconds")
    trials = [_Trial(session, method or Method(runs_per_round=5, warmup_runs=1)) for session in sessions]
    rounds: list[list[float]] = []
    with _no_garbage_collection():
        while not rounds or any(trial.runs < min_runs or trial.seconds < min_seconds for trial in trials):
            rounds.append([trial.round_ns() for trial in trials])
            progress(_share_done(trials, min_seconds, min_runs))
    at_least = (len(rounds) + 1) // 2
    return _summarize(rounds, trials, max(at_least, _quiet_count(_slowness(rounds))))


def scale_timing(timing: Timing, factor: float) -> Timing:
    """``timing`` with all its times multiplied by ``factor``."""
    return Timing(
        count=timing.count,
        median_us=timing.median_us * factor,
        p10_us=timing.p10_us * factor,
        p90_us=timing.p90_us * factor,
        min_us=timing.min_us * factor,
    )


class _Trial:
    """One loaded model, how often it ran and for how long (timed runs only)."""

    def __init__(self, session: Session, method: Method) -> None:
        self._invoke: Callable[[], None] = session.invoke
        self.runs = 0
        self.total_ns = 0
        session.prepare(random_input(session.input_shape))
        session.invoke()
        self.runs_per_round, self._warmup_runs = self._affordable(method)

    def _affordable(self, method: Method) -> tuple[int, int]:
        start = perf_counter_ns()
        self._invoke()
        affordable = _ROUND_NS // max(1, perf_counter_ns() - start)
        runs = max(min(method.runs_per_round, _FEWEST_RUNS), min(method.runs_per_round, affordable))
        return runs, min(method.warmup_runs, max(1, affordable // 4))

    @property
    def seconds(self) -> float:
        return self.total_ns / 1e9

    def round_ns(self) -> float:
        """The fastest of a round's runs, behind runs that fetch weights and code back into the caches."""
        invoke, clock = self._invoke, perf_counter_ns
        for _ in range(self._warmup_runs):
            invoke()
        fastest = total = 0
        for _ in range(self.runs_per_round):
            start = clock()
            invoke()
            elapsed = clock() - start
            total += elapsed
            if not fastest or elapsed < fastest:
                fastest = elapsed
        self.runs += self.runs_per_round
        self.total_ns += total
        return float(fastest)


def _slowness(rounds: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """How much longer than its own fastest round the median model took, of shape (rounds,)."""
    rounds_ns = np.maximum(np.array(rounds, dtype=np.float64), 1.0)
    return np.asarray(np.median(rounds_ns / rounds_ns.min(axis=0), axis=1), dtype=np.float64)


def _quiet_count(slowness: NDArray[np.float64]) -> int:
    return int((slowness <= _QUIET * slowness.min()).sum())


def _summarize(rounds: Sequence[Sequence[float]], trials: Sequence[_Trial], kept: int) -> list[Timing]:
    """Timings of the ``kept`` quietest rounds."""
    quietest = np.argsort(_slowness(rounds), kind="stable")[:kept]
    return _timings(np.array(rounds)[quietest], [len(quietest) * trial.runs_per_round for trial in trials])


def _timings(rounds_ns: NDArray[np.float64], counts: Sequence[int]) -> list[Timing]:
    """``rounds_ns`` has shape (rounds, models), ``counts`` the runs of each model."""
    rounds_us = np.maximum(rounds_ns, 1.0) / 1e3
    p10, median, p90 = np.percentile(rounds_us, (10, 50, 90), axis=0)
    return [
        Timing(
            count=count,
            median_us=float(median[index]),
            p10_us=float(p10[index]),
            p90_us=float(p90[index]),
            min_us=float(rounds_us[:, index].min()),
        )
        for index, count in enumerate(counts)
    ]


def _share_done(trials: Sequence[_Trial], min_seconds: float, min_runs: int) -> Progress:
    runs = min(trial.runs for trial in trials)
    seconds = min(trial.seconds for trial in trials)
    shares = [done / wanted for done, wanted in ((seconds, min_seconds), (runs, min_runs)) if wanted]
    return Progress(
        stage="measure",
        done=min((1.0, *shares)),
        total=1.0,
        values={"runs": str(runs)},
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
