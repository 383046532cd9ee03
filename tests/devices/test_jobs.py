"""A job is carried out once and to its end, whatever the link does; what cannot end is told, and ended there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

import msgspec
import pytest

from edgekit.devices import jobs
from edgekit.devices.events import Done, Event, Hello, Round
from edgekit.devices.fake import FakeDevice, FakeMachine, Fault, Program, ProgramError
from edgekit.devices.jobs import PATIENCE_SECONDS, Answer, Work, carry_out, pushed_name, reach
from edgekit.errors import DeviceError, LinkLostError
from tests.devices.fake_worker import INSTALLATION, FakeWorker, steady

LINK_FAULTS: tuple[Fault, ...] = ("cut_before", "cut_after", "freeze_before", "freeze_after")
MODEL, OTHER = b"a model", b"another model"
DONE = b'{"event": "done"}\n'
HELLO = b'{"event":"hello","worker":"c","version":1,"runtime":"onnx","runtime_version":"exact 1.0"}\n'


class MachineTime:
    """Stands in for the module ``time`` in jobs.py: waiting costs no time but the machine's."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine

    def monotonic(self) -> float:
        return self.machine.now_seconds

    def sleep(self, seconds: float) -> None:
        self.machine.now_seconds += seconds


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker({MODEL: steady(50), OTHER: steady(70)})


@pytest.fixture
def shelf(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    return device_with(worker, monkeypatch)


def device_with(program: Program, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    machine = FakeMachine(program)
    monkeypatch.setattr(jobs, "time", MachineTime(machine))
    return FakeDevice("shelf", machine)


def saying(*pieces: bytes, exit_code: int = 0, error: str = "") -> Program:
    """A worker that writes these pieces, one a step, and ends."""

    def program(argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> Iterator[bytes]:
        yield from pieces
        if exit_code:
            raise ProgramError(exit_code, error)

    return program


def timing(model: bytes = MODEL, rounds: int = 3) -> Work:
    return Work("onnx", (f"time rounds={rounds} runs=2\nmodel m.onnx", "run m.onnx i.npy o.npy"), files_of(model))


def files_of(model: bytes) -> dict[str, bytes]:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(117) + "\n"
    return {"m.onnx": model, "i.npy": b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\0\0\x80?"}


def asking(*tasks: str) -> Work:
    return Work("onnx", tasks or ("state",), {})


def wanting_output() -> Work:
    return replace(timing(), outputs=("o.npy",))


def rounds_of(answer: Answer) -> list[tuple[int, ...]]:
    return [event.fastest_ns for event in answer.events if isinstance(event, Round)]


def carry(device: FakeDevice, work: Work | None = None) -> Answer:
    return carry_out(device, INSTALLATION, work or timing())


def test_everything_that_the_worker_said_comes_back(shelf: FakeDevice) -> None:
    answer = carry(shelf)

    assert isinstance(answer.events[0], Hello) and isinstance(answer.events[-1], Done)
    assert rounds_of(answer) == [(50_000,)] * 3


def test_files_that_were_wanted_come_back(shelf: FakeDevice) -> None:
    assert carry(shelf, wanting_output()).outputs["o.npy"].startswith(b"\x93NUMPY")


def test_whoever_watches_hears_every_event_once(shelf: FakeDevice) -> None:
    heard: list[Event] = []

    answer = carry_out(shelf, INSTALLATION, timing(), watch=heard.extend)

    assert tuple(heard) == answer.events


def test_a_job_that_is_done_leaves_only_the_files_that_others_need(shelf: FakeDevice) -> None:
    carry(shelf)

    assert shelf.jobs() == ()
    assert set(shelf.machine.files) == {pushed_name(content) for content in files_of(MODEL).values()}


def test_settings_stand_in_the_job_file(shelf: FakeDevice, worker: FakeWorker) -> None:
    installation = msgspec.structs.replace(INSTALLATION, library="libonnxruntime.so")

    carry_out(shelf, installation, Work("tflite", ("state",), {}, provider="nnapi", threads=3))

    assert worker.job_texts == [
        "edgekit-job 1\nruntime tflite\nprovider nnapi\nthreads 3\nlibrary libonnxruntime.so\nstate\n"
    ]


@pytest.mark.parametrize("fault", LINK_FAULTS)
def test_a_link_lost_in_any_exchange_changes_nothing_and_nothing_is_measured_twice(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = carry(device_with(FakeWorker({MODEL: steady(50)}), monkeypatch), wanting_output())
    for number in count():
        worker = FakeWorker({MODEL: steady(50)})
        device = device_with(worker, monkeypatch)
        device.machine.faults = {number: fault}

        answer = carry(device, wanting_output())

        assert answer == wanted, number
        assert len(worker.job_texts) == 1 and device.machine.jobs == {}, number
        if device.machine.exchanges <= number:
            break
    assert number >= 12


@pytest.mark.parametrize("fault", LINK_FAULTS)
def test_two_losses_in_a_row_are_survived_too(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        worker = FakeWorker({MODEL: steady(50)})
        device = device_with(worker, monkeypatch)
        device.machine.faults = {number: fault, number + 1: "cut_after"}

        assert rounds_of(carry(device)) == [(50_000,)] * 3

        assert len(worker.job_texts) == 1


def test_a_link_that_stays_away_is_given_up_and_the_job_goes_on(shelf: FakeDevice, worker: FakeWorker) -> None:
    shelf.machine.faults = dict.fromkeys(range(8, 10_000), "cut_before")

    with pytest.raises(LinkLostError, match="did not come back") as raised:
        carry(shelf)

    assert "the same command picks it up" in str(raised.value.hint)
    assert len(shelf.machine.jobs) == 1
    assert PATIENCE_SECONDS <= shelf.machine.now_seconds <= PATIENCE_SECONDS + 2


def test_the_same_work_picks_up_what_was_given_up(shelf: FakeDevice, worker: FakeWorker) -> None:
    shelf.machine.faults = dict.fromkeys(range(8, 10_000), "cut_before")
    with pytest.raises(LinkLostError):
        carry(shelf)
    shelf.machine.faults = {}

    answer = carry(FakeDevice("shelf", shelf.machine))

    assert rounds_of(answer) == [(50_000,)] * 3
    assert len(worker.job_texts) == 1 and shelf.jobs() == ()


def test_the_same_work_asked_for_later_is_done_again(shelf: FakeDevice, worker: FakeWorker) -> None:
    carry(shelf)

    carry(shelf)

    assert len(worker.job_texts) == 2


def test_patience_begins_anew_with_every_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker({MODEL: steady(50)})
    device = device_with(worker, monkeypatch)
    device.machine.faults = dict.fromkeys(range(8, 1000, 3), "freeze_before")

    carry(device, timing(rounds=20))

    assert device.machine.now_seconds > 5 * PATIENCE_SECONDS


def test_a_question_is_asked_again_while_patience_lasts(shelf: FakeDevice) -> None:
    shelf.machine.faults = {0: "cut_before", 1: "cut_after"}

    assert reach(shelf, shelf.facts).cores == 4


def test_ctrl_c_ends_the_job_on_the_device(shelf: FakeDevice) -> None:
    def press(_: Sequence[Event]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(shelf, INSTALLATION, timing(), watch=press)

    assert shelf.jobs() == ()


def test_ctrl_c_is_not_held_up_by_a_lost_link(shelf: FakeDevice) -> None:
    def press(_: Sequence[Event]) -> None:
        shelf.machine.faults = dict.fromkeys(range(10_000), "cut_before")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(shelf, INSTALLATION, timing(), watch=press)


def test_a_mistake_of_whoever_watches_ends_the_job_too(shelf: FakeDevice) -> None:
    def stumble(_: Sequence[Event]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carry_out(shelf, INSTALLATION, timing(), watch=stumble)

    assert shelf.jobs() == ()


def test_a_restart_of_the_device_ends_the_job_with_what_to_do(shelf: FakeDevice) -> None:
    shelf.machine.faults = {8: "reboot"}

    with pytest.raises(DeviceError, match="started anew") as raised:
        carry(shelf)

    assert not isinstance(raised.value, LinkLostError)
    assert "run the command again" in str(raised.value.hint)
    assert shelf.jobs() == ()


def test_work_can_be_asked_for_again_after_a_restart(shelf: FakeDevice, worker: FakeWorker) -> None:
    shelf.machine.faults = {8: "reboot"}
    with pytest.raises(DeviceError):
        carry(shelf)

    assert rounds_of(carry(shelf)) == [(50_000,)] * 3


def test_what_was_done_before_a_restart_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def lingering(argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> Iterator[bytes]:
        yield HELLO + DONE
        yield from iter(bytes, None)

    device = device_with(lingering, monkeypatch)

    def restart(_: Sequence[Event]) -> None:
        device.machine.reboot()

    assert isinstance(carry_out(device, INSTALLATION, asking(), watch=restart).events[-1], Done)


def test_a_worker_that_falls_silent_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_with(saying(HELLO, *[b""] * 100_000), monkeypatch)

    with pytest.raises(DeviceError, match="said nothing for 600 seconds"):
        carry(device, asking())

    assert device.machine.jobs == {} and 600 < device.machine.now_seconds < 700


def test_a_worker_that_is_slow_and_speaks_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = [b""] * 1000
    device = device_with(saying(HELLO, *quiet, b'{"event": "state"}\n', *quiet, DONE), monkeypatch)

    answer = carry(device, asking())

    assert len(answer.events) == 3 and device.machine.now_seconds > 600


def test_a_torn_last_line_is_no_event_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_with(saying(HELLO, DONE[:-2], exit_code=137), monkeypatch)

    with pytest.raises(DeviceError, match="ended early with exit code 137"):
        carry(device, asking())


def test_an_exit_without_done_tells_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_with(saying(HELLO, exit_code=1, error="warning\nout of memory\n"), monkeypatch)

    with pytest.raises(DeviceError, match=r"exit code 1: out of memory$") as raised:
        carry(device, asking())

    assert raised.value.hint == "see what is missing there: edgekit target check shelf"


def test_a_worker_that_says_nothing_at_all_has_ended_early(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="ended early with exit code 0"):
        carry(device_with(saying(), monkeypatch), asking())


def test_a_job_that_the_worker_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b'{"event": "error", "code": "bad_job", "task": null, "message": "line 2: no runtime"}\n'
    device = device_with(saying(refusal, exit_code=2), monkeypatch)

    with pytest.raises(DeviceError, match="refused its job: line 2: no runtime"):
        carry(device, asking())


def test_what_could_not_be_done_is_told_and_has_no_outputs(shelf: FakeDevice) -> None:
    answer = carry(shelf, replace(wanting_output(), files=files_of(b"unknown")))

    assert [error.code for error in answer.errors()] == ["load_failed"] and answer.outputs == {}


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_output_may_come_in_any_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HELLO + b'{"event": "state"}\n' * 20 + DONE
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    answer = carry(device_with(saying(*pieces), monkeypatch), asking())

    assert len(answer.events) == 22


def test_much_output_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HELLO + b'{"event": "state"}\n' * 200_000 + DONE

    assert len(carry(device_with(saying(text), monkeypatch), asking()).events) == 200_002


def test_garbage_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    device = device_with(saying(HELLO, b"core dumped\n", *[b""] * 100), monkeypatch)

    with pytest.raises(DeviceError, match="no event"):
        carry(device, asking())

    assert device.machine.jobs == {}


def test_a_line_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_LINE_BYTES", 10_000)
    device = device_with(saying(HELLO, *[b"x" * 1000] * 1000), monkeypatch)

    with pytest.raises(DeviceError, match="a line of over 10000 bytes"):
        carry(device, asking())

    assert device.machine.jobs == {}


def test_two_works_at_once_do_not_meet(shelf: FakeDevice, worker: FakeWorker) -> None:
    inner: list[Answer] = []

    def meanwhile(_: Sequence[Event]) -> None:
        if not inner:
            inner.append(carry(FakeDevice("shelf", shelf.machine), timing(OTHER)))

    outer = carry_out(shelf, INSTALLATION, timing(), watch=meanwhile)

    assert (rounds_of(outer), rounds_of(inner[0])) == ([(50_000,)] * 3, [(70_000,)] * 3)
    assert len(worker.job_texts) == 2 and shelf.jobs() == ()


def test_a_file_that_another_command_took_away_is_pushed_again(shelf: FakeDevice) -> None:
    class Taking(FakeDevice):
        def push_all(self, contents: Mapping[str, bytes]) -> None:
            super().push_all(contents)
            if self.machine.boots == 1:
                self.machine.boots += 1
                self.machine.remove([pushed_name(MODEL)])

    assert rounds_of(carry(Taking("shelf", shelf.machine))) == [(50_000,)] * 3


def test_another_worker_makes_another_job(shelf: FakeDevice, worker: FakeWorker) -> None:
    """What an older worker began is not taken for the answer of the one that was installed since."""
    shelf.push("worker-1.py", b"old")
    shelf.push("worker-2.py", b"new")
    older, newer = (msgspec.structs.replace(INSTALLATION, files={"worker.py": f"worker-{n}.py"}) for n in (1, 2))
    before = shelf.machine.exchanges
    shelf.machine.faults = dict.fromkeys(range(before + 8, 10_000), "cut_before")
    with pytest.raises(LinkLostError):
        carry_out(shelf, older, timing())
    shelf.machine.faults = {}

    carry_out(shelf, newer, timing())

    assert len(worker.job_texts) == 2


def test_a_full_disk_is_told(shelf: FakeDevice) -> None:
    shelf.machine.disk_is_full = True

    with pytest.raises(DeviceError, match="no space"):
        carry(shelf)


def test_the_host_does_not_ask_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is asked all the time measures that."""
    device = device_with(saying(HELLO, *[b""] * 1000, DONE), monkeypatch)

    carry(device, asking())

    assert device.machine.now_seconds / device.machine.exchanges > 0.4
