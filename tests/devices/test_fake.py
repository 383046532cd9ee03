"""The device in memory: the suite, with a program that plays the suite's scripts, and each of its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import get_args

import pytest

from edgekit.devices import Device, Job
from edgekit.devices.fake import PIECE_BYTES, PROCESS_VARIABLE, FakeDevice, FakeMachine, Fault, ProgramError
from edgekit.errors import DeviceError, LinkLostError
from tests.devices import conformance, cutting
from tests.devices.conformance import Connect, DeviceConformance
from tests.devices.cutting import CONTENT, survive_cuts

Files = dict[str, bytes]
Environment = Mapping[str, str]
WAIT = Job(("wait",), {}, {})
THREE_PIECES = CONTENT * 3
assert len(THREE_PIECES) == 3 * PIECE_BYTES


def say(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield b"said\n"
    raise ProgramError(3, "complaint\n")


def show_arguments(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield conformance.as_shown(argv[4:])


def show_variable(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield environment["EDGEKIT_WORD"].encode()


def show_input(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield files["input"]


def copy_input(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield b""
    files["output"] = files["input"]


def show_stdin(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield files["stdin"]


def speak_late(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield b"early\n"
    yield from [b""] * 5
    yield b"late\n"


def keep_running(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    if "input" in files:
        files["copy"] = files["input"]
    yield f"{environment[PROCESS_VARIABLE]}\n".encode()
    yield from iter(bytes, None)


def speak_much(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield bytes(5_000_000)


def count_starts(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    files["starts"] = files.get("starts", b"") + b"started\n"
    yield files["starts"]


PROGRAMS: dict[str, Callable[[Sequence[str], Files, Environment], Iterator[bytes]]] = {
    conformance.SAY: say,
    conformance.SHOW_ARGUMENTS: show_arguments,
    conformance.SHOW_VARIABLE: show_variable,
    conformance.SHOW_INPUT: show_input,
    conformance.COPY_INPUT: copy_input,
    conformance.SHOW_STDIN: show_stdin,
    conformance.SPEAK_LATE: speak_late,
    conformance.KEEP_RUNNING: keep_running,
    conformance.KEEP_RUNNING_AS_TWO: keep_running,
    conformance.IGNORE_TERM: keep_running,
    conformance.LEAVE_A_CHILD: keep_running,
    conformance.SPEAK_MUCH: speak_much,
    conformance.COUNT_STARTS: count_starts,
    cutting.KEEP_RUNNING: keep_running,
}


def play_scripts(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    if argv[0] != "sh":
        raise ProgramError(127, f"{argv[0]}: not found")
    return PROGRAMS[argv[2]](argv, files, environment)


class TestFakeDevice(DeviceConformance):
    machine: FakeMachine

    @pytest.fixture
    def connect(self) -> Connect:
        machine = self.machine = FakeMachine(play_scripts)
        return lambda: FakeDevice("shelf", machine)

    def alive(self, process: int) -> bool:
        return self.machine.is_alive(process)


@pytest.mark.parametrize("fault", ["cut_before", "cut_after", "freeze_before", "freeze_after"])
def test_a_job_survives_a_link_that_is_lost_in_each_of_its_exchanges(fault: Fault) -> None:
    for number in count():
        machine = FakeMachine(play_scripts, faults={number: fault})

        losses = survive_cuts(FakeDevice("shelf", machine), lambda step: None, machine.is_alive, THREE_PIECES)

        assert losses <= 1
        if machine.exchanges <= number:
            break
    assert number >= 10


def wait(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
    yield b"first\n"
    files["half"] = b"done"
    yield b"second\n"
    yield from iter(bytes, None)


def a_device(**faults: Fault) -> FakeDevice:
    """With faults in the exchanges ``at_N``."""
    return FakeDevice("shelf", FakeMachine(wait, faults={int(key[3:]): fault for key, fault in faults.items()}))


def test_a_cut_before_the_device_did_it_leaves_nothing() -> None:
    device = a_device(at_0="cut_before")

    with pytest.raises(LinkLostError):
        device.start("job", WAIT)

    assert device.jobs() == ()


def test_a_cut_after_the_device_did_it_loses_the_answer_only() -> None:
    device = a_device(at_0="cut_after")

    with pytest.raises(LinkLostError):
        device.start("job", WAIT)

    assert device.jobs() == ("job",)


@pytest.mark.parametrize("fault", ["freeze_before", "freeze_after"])
def test_a_silent_link_is_given_up_after_its_deadline(fault: Fault) -> None:
    device = a_device(at_0=fault)

    with pytest.raises(LinkLostError):
        device.execute(("wait",), deadline_seconds=7)

    assert device.machine.now_seconds >= 7


def test_a_refusal_is_no_lost_link_and_changes_nothing() -> None:
    device = a_device(at_0="refuse")

    with pytest.raises(DeviceError) as raised:
        device.start("job", WAIT)

    assert not isinstance(raised.value, LinkLostError)
    assert device.jobs() == ()


def test_a_restart_of_the_device_loses_its_running_jobs() -> None:
    device = a_device(at_1="reboot")
    device.start("job", WAIT)
    with pytest.raises(LinkLostError):
        device.poll("job")

    status = device.poll("job")

    assert (status.state, status.exit_code) == ("lost", None)


def test_a_restart_of_the_device_changes_its_boot_id_and_keeps_its_files() -> None:
    device = a_device()
    device.push("file", b"content")
    before = device.facts().boot_id

    device.machine.reboot()

    assert device.facts().boot_id != before
    assert device.fetch("file") == b"content"


@pytest.mark.parametrize("content", [b"content", b"", THREE_PIECES], ids=["short", "empty", "three pieces"])
def test_a_file_that_arrives_changed_is_refused_and_not_kept(content: bytes) -> None:
    device = a_device(at_1="corrupt")

    with pytest.raises(DeviceError, match="damaged"):
        device.push("file", content)

    with pytest.raises(DeviceError, match="no file"):
        device.fetch("file")


def test_a_file_that_arrived_changed_can_be_pushed_again() -> None:
    device = a_device(at_1="corrupt")
    with pytest.raises(DeviceError):
        device.push("file", THREE_PIECES)

    device.push("file", THREE_PIECES)

    assert device.fetch("file") == THREE_PIECES


def test_a_full_disk_refuses_files_and_jobs_until_there_is_room() -> None:
    device = a_device(at_1="fill_disk")
    with pytest.raises(DeviceError, match="no space"):
        device.push("file", b"content")
    with pytest.raises(DeviceError, match="no space"):
        device.start("job", WAIT)

    device.machine.disk_is_full = False
    device.push("file", b"content")

    assert device.fetch("file") == b"content"


def test_a_push_that_was_cut_goes_on_where_it_was() -> None:
    device = a_device(at_3="cut_before")
    with pytest.raises(LinkLostError):
        device.push("file", THREE_PIECES)
    before = device.machine.exchanges

    device.push("file", THREE_PIECES)

    assert device.machine.exchanges - before == 2


def test_pushing_what_is_there_takes_one_exchange() -> None:
    device = a_device()
    device.push("file", THREE_PIECES)
    before = device.machine.exchanges

    device.push("file", THREE_PIECES)

    assert device.machine.exchanges - before == 1


def test_a_job_makes_one_step_in_each_exchange() -> None:
    device = a_device()
    device.start("job", WAIT)

    assert [device.poll("job").output for _ in range(3)] == [b"first\n", b"first\nsecond\n", b"first\nsecond\n"]


def test_what_a_job_changes_is_its_own() -> None:
    device = a_device()
    device.push("file", b"content")
    device.start("job", Job(("wait",), {"half": "file"}, {}))
    device.poll("job")
    device.poll("job")

    assert (device.fetch("job/half"), device.fetch("file")) == (b"done", b"content")


def test_a_program_with_a_mistake_in_it_ends_as_one_that_crashes() -> None:
    def mistaken(argv: Sequence[str], files: Files, environment: Environment) -> Iterator[bytes]:
        yield files["nowhere"]

    device: Device = FakeDevice("shelf", FakeMachine(mistaken))
    device.start("job", WAIT)

    status = device.poll("job")

    assert status.exit_code == 1
    assert "KeyError: 'nowhere'" in status.error


def test_a_machine_without_a_program_finds_no_command() -> None:
    assert FakeDevice("shelf", FakeMachine()).execute(("anything",)).exit_code == 127


def test_every_fault_there_is_is_played_here() -> None:
    played = {"cut_before", "cut_after", "freeze_before", "freeze_after", "refuse", "reboot", "corrupt", "fill_disk"}

    assert played == set(get_args(Fault))
