"""Every line that docs/jobs.md describes is understood, and what a worker cannot have meant is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.devices.events import Begin, Done, Error, Event, Hello, Kernels, Node, Output, Round, State, parse_events
from edgekit.errors import DeviceError

DOCUMENT = Path(__file__).parents[2] / "docs" / "jobs.md"

LINES: dict[str, dict[str, Any]] = {
    "hello": {"worker": "c", "version": 1, "runtime": "onnx", "runtime_version": "onnxruntime 1.31.1", "pid": 7},
    "state": {"governor": "schedutil", "temperature_celsius": None, "thermal_status": 0, "throttled": "0x50005"},
    "begin": {"task": 0, "models": ["a", "b"], "runs_per_round": [12, 3]},
    "round": {"task": 0, "fastest_ns": [100, 2**40], "total_ns": [1500, 2**42]},
    "cold": {"task": 0, "ns": [100, 200]},
    "end": {"task": 0},
    "kernels": {"task": 1, "model": "a", "kernels": ["Conv[float]"], "nodes": [{"operator": "Conv"}]},
    "output": {"task": 2, "model": "a", "file": "output.npy", "samples": 3},
    "error": {"task": None, "code": "no_runtime", "model": None, "message": "there is none"},
    "done": {},
}

IMPOSSIBLE = {
    "a negative time": ("round", {"fastest_ns": [-1]}),
    "a time of a year": ("round", {"fastest_ns": [2**54]}),
    "a time with a fraction": ("round", {"total_ns": [1.5]}),
    "a number beyond 64 bits": ("cold", {"ns": [10**30]}),
    "a time in words": ("cold", {"ns": ["fast"]}),
    "no runs in a round": ("begin", {"runs_per_round": [0, 1]}),
    "a negative task": ("end", {"task": -1}),
    "no task": ("end", {"task": None}),
    "a worker of another version": ("hello", {"version": 2}),
    "a process number that is none": ("hello", {"pid": -1}),
    "a text that is too long": ("error", {"message": "x" * 10_001}),
    "heat that melts": ("state", {"temperature_celsius": 5000}),
    "flags that are none": ("state", {"throttled": "0x5; reboot"}),
    "a load below nothing": ("state", {"load_1min": -1}),
    "more samples than there can be": ("output", {"samples": 2**40}),
}

GARBAGE = {
    "nothing": b"",
    "a word": b"Segmentation fault",
    "no object": b"[1, 2]",
    "an event of no kind": b'{"task": 0}',
    "an event of an unknown kind": b'{"event": "reboot"}',
    "two events in one line": b'{"event": "done"} {"event": "done"}',
    "half an event": b'{"event": "do',
    "no text": b'{"event": "error", "code": "\xff", "message": ""}',
    "not a number": b'{"event": "cold", "task": 0, "ns": [NaN]}',
    "infinity": b'{"event": "state", "load_1min": Infinity}',
    "an overflow": b'{"event": "state", "load_1min": 1e999}',
    "deep nesting": b'{"event": ' + b"[" * 100_000,
}


def parse(line: bytes) -> Event:
    (event,) = parse_events([line], "shelf")
    return event


def line(kind: str, **changes: Any) -> bytes:
    return json.dumps({"event": kind, **LINES[kind], **changes}).encode()


def test_every_event_of_the_document_is_known_and_no_other() -> None:
    described = set(re.findall(r'^\{"event": "(\w+)"', DOCUMENT.read_text(), re.MULTILINE))

    assert described == set(LINES) == {kind.__struct_config__.tag for kind in get_args(Event)}


@pytest.mark.parametrize("kind", LINES)
def test_what_an_event_says_is_kept(kind: str) -> None:
    event = parse(line(kind))

    assert event.__struct_config__.tag == kind
    for key, value in LINES[kind].items():
        found = getattr(event, key)
        expected = value if not isinstance(value, list) else tuple(value)
        assert found == (expected if key != "nodes" else (Node(operator="Conv"),))


@pytest.mark.parametrize("kind", LINES)
def test_keys_that_are_not_known_are_left_out(kind: str) -> None:
    assert parse(line(kind, humidity=3, planets=[{"name": "x"}])) == parse(line(kind))


@pytest.mark.parametrize(("kind", "changes"), IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
def test_what_cannot_be_is_refused(kind: str, changes: dict[str, Any]) -> None:
    parse(line(kind))

    with pytest.raises(DeviceError, match="no event"):
        parse(line(kind, **changes))


@pytest.mark.parametrize("content", GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_is_told_by_its_beginning_and_the_device(content: bytes) -> None:
    with pytest.raises(DeviceError) as raised:
        parse(content)

    assert repr(content[:80]) in raised.value.message and "'shelf'" in raised.value.message
    assert len(raised.value.message) < 1000
    assert raised.value.hint == "install it again: edgekit target setup shelf"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_an_error(content: bytes) -> None:
    try:
        event = parse(content)
    except DeviceError:
        return
    assert isinstance(event, get_args(Event))


def test_events_come_in_the_order_of_their_lines() -> None:
    kinds = [type(event) for event in parse_events([line(kind) for kind in LINES], "shelf")]

    assert [kinds[0], kinds[1], kinds[2], kinds[3], kinds[-1]] == [Hello, State, Begin, Round, Done]


def test_a_task_of_an_error_may_be_missing() -> None:
    event = parse(b'{"event": "error", "code": "bad_job", "message": "line 3"}')

    assert event == Error(code="bad_job", message="line 3", task=None, model=None)


def test_a_node_may_have_no_name() -> None:
    event = parse(line("kernels", nodes=[{}]))

    assert isinstance(event, Kernels) and event.nodes == (Node(),)


def test_the_number_of_samples_is_a_whole_one() -> None:
    event = parse(line("output"))

    assert isinstance(event, Output) and event.samples == 3
