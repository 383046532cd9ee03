"""Each rule notices what it is for, says so in words, and leaves a calm device alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgekit.devices.state import DeviceState
from edgekit.profile import taint

_CALM = DeviceState(
    governor="performance",
    frequency_mhz=1500.0,
    max_frequency_mhz=1500.0,
    temperature_celsius=55.0,
    throttled="0x0",
    thermal_status=0,
    load_1min=0.1,
    boot_id="first",
    monotonic_ns=1_000,
)


def _state(**changes: Any) -> DeviceState:
    return msgspec.structs.replace(_CALM, **changes)


def _reasons(before: DeviceState, after: DeviceState, **options: Any) -> tuple[str, ...]:
    verdict = taint.judge(before, after, cores=4, **options)
    assert verdict.is_usable
    return verdict.reasons


def test_a_calm_device_taints_nothing() -> None:
    assert _reasons(_CALM, _state(monotonic_ns=2_000, load_1min=1.0)) == ()


def test_a_device_that_tells_nothing_taints_nothing() -> None:
    assert _reasons(DeviceState(), DeviceState()) == ()


def test_load_of_others_taints() -> None:
    assert _reasons(_state(load_1min=2.1), _CALM) == ("load was 2.1 on 4 cores",)


def test_half_of_the_cores_may_be_busy() -> None:
    assert taint.of_load(2.0, cores=4) == ()


def test_load_of_the_run_itself_does_not_taint() -> None:
    assert _reasons(_CALM, _state(load_1min=5.9), threads=4) == ()
    assert _reasons(_CALM, _state(load_1min=6.1), threads=4) == ("load was 6.1 on 4 cores, 4 of it edgekit's own",)


def test_load_of_the_task_before_does_not_taint() -> None:
    assert _reasons(_state(load_1min=2.9), _CALM, threads_before=1) == ()


def test_a_governor_that_changes_clocks_taints_once() -> None:
    (reason,) = _reasons(_state(governor="ondemand"), _state(governor="ondemand"))

    assert "'ondemand'" in reason


def test_a_governor_that_changes_on_the_way_taints() -> None:
    (reason,) = _reasons(_CALM, _state(governor="powersave"))

    assert "'powersave'" in reason


@pytest.mark.parametrize(("before", "after"), [(80.0, 60.0), (60.0, 80.0), (None, 80.0)])
def test_heat_at_either_end_taints(before: float | None, after: float) -> None:
    (reason,) = _reasons(_state(temperature_celsius=before), _state(temperature_celsius=after))

    assert reason.startswith("temperature was 80 degrees")


def test_below_the_limit_heat_does_not_taint() -> None:
    assert taint.of_temperature(79.9) == ()


def test_a_clock_that_is_slow_at_the_end_taints() -> None:
    assert _reasons(_CALM, _state(frequency_mhz=1200.0)) == ("frequency was 1200 of 1500 MHz at the end",)


def test_a_clock_that_is_slow_before_the_run_does_not_taint() -> None:
    assert _reasons(_state(frequency_mhz=600.0), _CALM) == ()


def test_a_clock_within_a_tenth_of_the_highest_does_not_taint() -> None:
    assert _reasons(_CALM, _state(frequency_mhz=1360.0)) == ()


def test_without_a_known_maximum_the_clock_is_compared_with_the_beginning() -> None:
    before, after = _state(max_frequency_mhz=0.0), _state(max_frequency_mhz=0.0, frequency_mhz=900.0)

    assert _reasons(before, after) == ("frequency was 900 of 1500 MHz at the end",)


def test_a_lowered_maximum_taints() -> None:
    after = _state(frequency_mhz=1200.0, max_frequency_mhz=1200.0)

    assert _reasons(_CALM, after) == ("the highest frequency allowed fell from 1500 to 1200 MHz",)


@pytest.mark.parametrize(
    ("bit", "name"), [(0, "under-voltage"), (1, "a capped clock"), (2, "throttling"), (3, "the soft temperature limit")]
)
def test_a_board_that_slows_itself_down_now_taints(bit: int, name: str) -> None:
    assert _reasons(_CALM, _state(throttled=hex(1 << bit))) == (f"the board reports {name}",)
    assert _reasons(_state(throttled=hex(1 << bit)), _CALM) == (f"the board reports {name}",)


@pytest.mark.parametrize(("bit", "name"), [(16, "under-voltage"), (18, "throttling"), (19, "the soft temperature")])
def test_a_board_that_slowed_itself_down_in_between_taints(bit: int, name: str) -> None:
    (reason,) = _reasons(_CALM, _state(throttled=hex(1 << bit)))

    assert name in reason and reason.endswith("during the run")


def test_throttling_long_before_the_run_does_not_taint() -> None:
    assert _reasons(_state(throttled="0x50000"), _state(throttled="0x50000")) == ()


def test_throttling_at_some_time_unknown_does_not_taint() -> None:
    assert _reasons(_state(throttled=None), _state(throttled="0x50000")) == ()


def test_bits_of_no_meaning_do_not_taint() -> None:
    assert _reasons(_CALM, _state(throttled="0xf0f0fff0")) == ()


@pytest.mark.parametrize(("status", "name"), [(1, "light"), (6, "shutdown"), (9, "unknown")])
def test_a_phone_that_slows_itself_down_taints(status: int, name: str) -> None:
    assert _reasons(_CALM, _state(thermal_status=status)) == (f"Android's thermal status was {status} ({name})",)


@pytest.mark.parametrize("after", [_state(boot_id="second", monotonic_ns=2_000), _state(monotonic_ns=999)])
def test_times_around_a_restart_are_not_usable(after: DeviceState) -> None:
    verdict = taint.judge(_CALM, after, cores=4)

    assert not verdict.is_usable and len(verdict.reasons) == 1 and "restarted" in verdict.reasons[0]


def test_a_boot_that_cannot_be_told_is_no_restart() -> None:
    assert taint.of_restart(_CALM, _state(boot_id="unknown")) == ()


def test_several_reasons_are_all_given() -> None:
    assert len(_reasons(_CALM, _state(governor="powersave", temperature_celsius=90.0, frequency_mhz=600.0))) == 3


@pytest.mark.parametrize("times", [[], [1.0], [100.0] * 9, [95.0, 100.0, 105.0]])
def test_times_close_together_are_stable(times: list[float]) -> None:
    assert taint.of_spread(times) == ()


def test_a_standard_deviation_of_a_tenth_of_the_mean_taints() -> None:
    assert taint.of_spread([90.0, 100.0, 110.0]) == ("the standard deviation was 10% of the mean",)


def test_a_shortest_time_half_below_the_mean_taints() -> None:
    assert "the shortest time was 51% below the mean" in taint.of_spread([49.0, *[102.0] * 50, 51.0])


def test_a_longest_time_half_above_the_mean_taints() -> None:
    assert taint.of_spread([*[100.0] * 99, 151.0]) == ("the longest time was 50% above the mean",)


def test_extremes_within_half_of_the_mean_do_not_taint() -> None:
    assert taint.of_spread([*[100.0] * 99, 149.0, 52.0]) == ()
