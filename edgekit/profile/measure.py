"""Timing loaded models beside each other on this machine, and summing up rounds that were timed here or on a device.

What is timed, and what the times are used for, is decided elsewhere; how a round is run is in `devices.worker`.

A round's time of a model is its fastest run of that round, and a `Timing` describes those round times: median, 10th and
90th percentile over the rounds, the fastest run of all as minimum, and the number of runs. A machine that others use is
slow for whole rounds: one in which the models together took over 5 % longer than in the quietest is repeated and not
counted, as far as that is affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from edgekit.devices.worker import (
    Trial,
    cold_rounds,
    no_garbage_collection,
    quiet_count,
    quiet_rounds,
    rounds_until,
    slowness,
)
from edgekit.errors import UsageError
from edgekit.profile.frame import random_input
from edgekit.runtimes import Runtime, Session
from edgekit.types import Method, Progress, ProgressCallback, Timing, ignore_progress

CHUNK_MODELS = 32
"""Models that are loaded at a time: enough to interleave, few enough to keep memory small."""
MOST_REPETITIONS = 3
"""How many times as many rounds as wanted are timed at most, on a machine that is not quiet."""


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
    different chunks matter, time a `yardstick` in each.
    """
    timings: list[Timing] = []
    for start in range(0, len(models), CHUNK_MODELS):
        sessions = [runtime.load(model, threads) for model in models[start : start + CHUNK_MODELS]]
        timings += measure_sessions(sessions, method)
        progress(Progress(stage="measure", done=len(timings), total=len(models)))
    return timings


def measure_cold(sessions: Sequence[Session], rounds: int = 5) -> list[Timing]:
    """Times of single runs, each behind a walk over more memory than a core's own caches hold."""
    for session in sessions:
        session.prepare(random_input(session.input_shape))
        session.invoke()
    with no_garbage_collection():
        times_ns = list(cold_rounds([session.invoke for session in sessions], rounds, perf_counter_ns))
    return summarize_cold(times_ns)


def measure_sessions(sessions: Sequence[Session], method: Method) -> list[Timing]:
    """Times of loaded models in ``method.rounds`` interleaved rounds: the quietest of up to three times as many."""
    trials = [_trial(session, method) for session in sessions]
    with no_garbage_collection():
        rounds = [found.fastest_ns for found in quiet_rounds(trials, method.rounds, MOST_REPETITIONS)]
    return summarize_rounds(rounds, [trial.runs_per_round for trial in trials], method.rounds)


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
    trials = [_trial(session, method or Method(runs_per_round=5, warmup_runs=1)) for session in sessions]
    rounds: list[list[int]] = []
    with no_garbage_collection():
        for found in rounds_until(trials, min_runs, min_seconds):
            rounds.append(found.fastest_ns)
            progress(_share_done(trials, min_seconds, min_runs))
    return summarize_rounds(rounds, [trial.runs_per_round for trial in trials], half_or_quiet(rounds))


def summarize_rounds(fastest_ns: Sequence[Sequence[float]], runs_per_round: Sequence[int], kept: int) -> list[Timing]:
    """Timings from the ``kept`` quietest rounds of those that were timed, here or on a device.

    ``fastest_ns`` has shape (rounds, models), ``runs_per_round`` holds the timed runs of each model in a round. Raises
    UsageError without rounds or models, when none is to be kept, or when lengths do not fit each other.
    """
    _check_shape(fastest_ns, len(runs_per_round))
    if kept < 1:
        raise UsageError(f"at least 1 round must be kept, not {kept}")
    quietest = np.argsort(slowness(fastest_ns), kind="stable")[:kept]
    counts = [len(quietest) * runs for runs in runs_per_round]
    return _timings([fastest_ns[index] for index in quietest], counts)


def half_or_quiet(fastest_ns: Sequence[Sequence[float]]) -> int:
    """How many rounds `measure_interleaved` keeps: those that are quiet, and at least half of all."""
    return max((len(fastest_ns) + 1) // 2, quiet_count(fastest_ns))


def summarize_cold(times_ns: Sequence[Sequence[float]]) -> list[Timing]:
    """Timings of single runs, one of each model a round; ``times_ns`` has shape (rounds, models). Raises UsageError as
    `summarize_rounds` does."""
    _check_shape(times_ns, len(times_ns[0]) if times_ns else 0)
    return _timings(times_ns, [len(times_ns)] * len(times_ns[0]))


def scale_timing(timing: Timing, factor: float) -> Timing:
    """``timing`` with all its times multiplied by ``factor``."""
    return Timing(
        count=timing.count,
        median_us=timing.median_us * factor,
        p10_us=timing.p10_us * factor,
        p90_us=timing.p90_us * factor,
        min_us=timing.min_us * factor,
    )


def _trial(session: Session, method: Method) -> Trial:
    session.prepare(random_input(session.input_shape))
    return Trial(session.invoke, method.runs_per_round, method.warmup_runs, perf_counter_ns)


def _check_shape(times_ns: Sequence[Sequence[float]], models: int) -> None:
    if not times_ns or not models or any(len(times) != models for times in times_ns):
        raise UsageError(f"times of at least one model in at least one round are needed, {models} in each")


def _timings(times_ns: Sequence[Sequence[float]], counts: Sequence[int]) -> list[Timing]:
    """``times_ns`` has shape (rounds, models), ``counts`` the runs of each model."""
    times_us = np.maximum(np.array(times_ns, dtype=np.float64), 1.0) / 1e3
    p10, median, p90 = np.percentile(times_us, (10, 50, 90), axis=0)
    return [
        Timing(
            count=count,
            median_us=float(median[index]),
            p10_us=float(p10[index]),
            p90_us=float(p90[index]),
            min_us=float(times_us[:, index].min()),
        )
        for index, count in enumerate(counts)
    ]


def _share_done(trials: Sequence[Trial], min_seconds: float, min_runs: int) -> Progress:
    runs = min(trial.runs for trial in trials)
    seconds = min(trial.seconds for trial in trials)
    shares = [done / wanted for done, wanted in ((seconds, min_seconds), (runs, min_runs)) if wanted]
    return Progress(
        stage="measure",
        done=min((1.0, *shares)),
        total=1.0,
        values={"runs": str(runs)},
    )
