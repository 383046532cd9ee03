"""Times are those of undisturbed runs, models are interleaved, and a drifting machine is scaled away and noted."""

from __future__ import annotations

import gc

import pytest

from edgekit.errors import UsageError
from edgekit.profile import measure
from edgekit.types import Method, Progress
from tests.profile.clock import Clock, FakeSession

_METHOD = Method(rounds=5, runs_per_round=4, warmup_runs=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure, "perf_counter_ns", clock)
    return clock


def _steady(clock: Clock, microseconds: float) -> FakeSession:
    return FakeSession(clock, lambda _: int(microseconds * 1000))


def test_a_steady_model_takes_its_time_at_every_percentile(clock: Clock) -> None:
    (timing,) = measure.measure_sessions([_steady(clock, 50)], _METHOD)

    assert (timing.min_us, timing.p10_us, timing.median_us, timing.p90_us) == (50, 50, 50, 50)


def test_the_count_is_that_of_the_timed_runs(clock: Clock) -> None:
    (timing,) = measure.measure_sessions([_steady(clock, 50)], _METHOD)

    assert timing.count == 5 * 4


def test_interruptions_of_some_runs_do_not_change_the_times(clock: Clock) -> None:
    disturbed = FakeSession(clock, lambda run: 9_000_000 if run > 2 and run % 3 == 0 else 50_000)

    (timing,) = measure.measure_sessions([disturbed], _METHOD)

    assert timing.p90_us == 50


def test_rounds_in_which_the_machine_was_slow_are_repeated(clock: Clock) -> None:
    in_a_round = 2 * (_METHOD.runs_per_round + _METHOD.warmup_runs)
    log: list[str] = []
    sessions = [
        FakeSession(clock, lambda _: 90_000 if in_a_round < len(log) < 4 * in_a_round else 50_000, name, log)
        for name in "ab"
    ]

    timings = measure.measure_sessions(sessions, _METHOD)

    assert [timing.median_us for timing in timings] == [50, 50]


def test_a_machine_that_is_never_quiet_ends_the_repetition(clock: Clock) -> None:
    session = FakeSession(clock, lambda run: 50_000 + 10_000 * run)

    (timing,) = measure.measure_sessions([session], _METHOD)

    assert timing.count == _METHOD.rounds * _METHOD.runs_per_round
    assert session.run_count < 2 + 3 * _METHOD.rounds * (_METHOD.runs_per_round + _METHOD.warmup_runs) + 1


def test_a_slow_warm_up_is_not_timed(clock: Clock) -> None:
    runs_per_round = _METHOD.runs_per_round + _METHOD.warmup_runs
    session = FakeSession(clock, lambda run: 700_000 if (run - 2) % runs_per_round == 0 else 50_000)

    timing = measure.measure_interleaved([session], min_seconds=0, min_runs=40, method=_METHOD)[0]

    assert timing.count * 50_000 + (2 + timing.count // 4) * 700_000 >= clock.now_ns > timing.count * 50_000
    assert timing.p90_us == 50


def test_models_take_turns_round_by_round(clock: Clock) -> None:
    log: list[str] = []
    sessions = [FakeSession(clock, lambda _: 1000, name, log) for name in "ab"]

    measure.measure_sessions(sessions, Method(rounds=2, runs_per_round=2, warmup_runs=0))

    assert "".join(log[-8:]) == "aabbaabb"


def test_a_model_that_takes_long_runs_fewer_times_a_round(clock: Clock) -> None:
    (timing,) = measure.measure_sessions([_steady(clock, 1e6)], Method(rounds=2, runs_per_round=50))

    assert timing.count == 2 * 3


def test_a_round_of_a_model_takes_20_milliseconds_at_most(clock: Clock) -> None:
    (timing,) = measure.measure_sessions([_steady(clock, 1000)], Method(rounds=2, runs_per_round=50))

    assert timing.count == 2 * 20


def test_a_model_that_takes_long_is_still_warmed_up_once(clock: Clock) -> None:
    session = _steady(clock, 1e6)

    measure.measure_sessions([session], Method(rounds=2, runs_per_round=50, warmup_runs=9))

    assert session.run_count == 2 + 2 * (1 + 3)


def test_whole_models_do_not_run_longer_than_wanted(clock: Clock) -> None:
    session = _steady(clock, 10)

    measure.measure_interleaved([session], min_seconds=0, min_runs=20)

    assert session.run_count == 2 + 4 * (1 + 5)


def test_whole_models_run_until_each_has_its_runs_and_seconds(clock: Clock) -> None:
    fast, slow = _steady(clock, 10), _steady(clock, 1000)

    timings = measure.measure_interleaved([fast, slow], min_seconds=0.002, min_runs=20)

    assert timings[0].count * 10e-6 >= 0.002 and min(timing.count for timing in timings) >= 20


def test_whole_models_report_their_progress_up_to_the_end(clock: Clock) -> None:
    reports: list[Progress] = []

    measure.measure_interleaved([_steady(clock, 10)], min_seconds=0, min_runs=20, progress=reports.append)

    assert reports[-1].done == reports[-1].total


def test_timing_nothing_is_refused() -> None:
    with pytest.raises(UsageError):
        measure.measure_interleaved([])


def test_a_cold_time_is_that_of_single_runs(clock: Clock) -> None:
    (timing,) = measure.measure_cold([_steady(clock, 80)], rounds=3)

    assert (timing.count, timing.median_us) == (3, 80)


def test_garbage_collection_is_off_during_timing_and_on_behind_it(clock: Clock) -> None:
    states: list[bool] = []

    def duration_ns(_: int) -> int:
        states.append(gc.isenabled())
        return 1000

    measure.measure_sessions([FakeSession(clock, duration_ns)], _METHOD)

    assert not any(states[2:]) and gc.isenabled()


def test_rounds_of_a_device_are_summed_up_as_those_of_this_machine(clock: Clock) -> None:
    """The same pattern of slow and quiet rounds, once run here and once as a worker tells it."""
    in_a_round = _METHOD.runs_per_round + _METHOD.warmup_runs
    session = FakeSession(clock, lambda run: 50_000 + (40_000 if 2 + in_a_round <= run < 2 + 3 * in_a_round else 0))
    rounds_ns = [[50_000], [90_000], [90_000], [50_000], [50_000], [50_000], [50_000]]

    (here,) = measure.measure_sessions([session], _METHOD)

    assert measure.summarize_rounds(rounds_ns, [_METHOD.runs_per_round], _METHOD.rounds) == [here]
    assert session.run_count == 2 + len(rounds_ns) * in_a_round


def test_the_quietest_rounds_are_those_of_all_models_together() -> None:
    """The first model's fastest round is one in which the others were slow."""
    rounds_ns = [[900, 4000, 4000], [1000, 2000, 2000], [1040, 2000, 2000]]

    timings = measure.summarize_rounds(rounds_ns, [3, 5, 7], kept=2)

    assert [timing.count for timing in timings] == [6, 10, 14]
    assert [timing.min_us for timing in timings] == [1.0, 2.0, 2.0]


def test_half_of_the_rounds_count_on_a_machine_that_is_never_quiet() -> None:
    assert measure.half_or_quiet([[100], [200], [300], [400], [500]]) == 3


def test_all_quiet_rounds_count() -> None:
    assert measure.half_or_quiet([[100], [101], [105], [300]]) == 3


def test_cold_times_of_a_device_are_summed_up() -> None:
    first, second = measure.summarize_cold([[4000, 9000], [6000, 9000], [5000, 9000]])

    assert (first.count, first.min_us, first.median_us, second.median_us) == (3, 4, 5, 9)


@pytest.mark.parametrize(
    ("rounds_ns", "runs_per_round", "kept"),
    [([], [3], 1), ([[]], [], 1), ([[1, 2]], [3], 1), ([[1], [1, 2]], [3], 1), ([[1]], [3], 0)],
    ids=["no rounds", "no models", "too many times", "ragged", "none kept"],
)
def test_rounds_that_do_not_fit_are_refused(rounds_ns: list[list[int]], runs_per_round: list[int], kept: int) -> None:
    with pytest.raises(UsageError):
        measure.summarize_rounds(rounds_ns, runs_per_round, kept)


@pytest.mark.parametrize("times_ns", [[], [[]], [[1], [1, 2]]], ids=["no rounds", "no models", "ragged"])
def test_cold_times_that_do_not_fit_are_refused(times_ns: list[list[int]]) -> None:
    with pytest.raises(UsageError):
        measure.summarize_cold(times_ns)
