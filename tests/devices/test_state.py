"""A state that a device tells is read within bounds, and what cannot be is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.devices.events import State, parse_events
from edgekit.devices.worker import read_state
from edgekit.errors import DeviceError


def state_of(event: dict[str, Any]) -> State:
    (state,) = parse_events([json.dumps({"event": "state", **event}).encode()], "shelf")
    assert isinstance(state, State)
    return state


def test_the_state_of_this_machine_is_believed() -> None:
    event = read_state()

    assert state_of(event).boot_id == event["boot_id"]


def test_keys_of_a_newer_worker_are_left_out() -> None:
    assert state_of({"humidity": 3}) == State()


def test_throttling_is_read_as_bits() -> None:
    assert state_of({"throttled": "0x50005"}).throttled_bits == 0x50005


def test_where_throttling_is_not_told_there_are_no_bits() -> None:
    assert State().throttled_bits is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("governor", 3),
        ("governor", "x" * 1000),
        ("frequency_mhz", -1),
        ("max_frequency_mhz", 1e308),
        ("temperature_celsius", 1001),
        ("throttled", "50005"),
        ("throttled", "0x5\n"),
        ("throttled", 5),
        ("thermal_status", -1),
        ("load_1min", "much"),
        ("boot_id", None),
        ("monotonic_ns", -1),
        ("monotonic_ns", 2**63),
    ],
)
def test_what_no_device_can_be_in_is_refused_with_its_place(field: str, value: Any) -> None:
    with pytest.raises(DeviceError, match=field):
        state_of({field: value})
