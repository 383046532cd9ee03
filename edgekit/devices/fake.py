"""A device in memory, with faults on demand: for the tests of what uses devices, of edgekit and of its users.

Nothing runs on it but the Python function that it was given, and no time passes but its own::

    def program(argv, files, environment):
        yield b"measured "
        files["result.txt"] = files["model.onnx"][:4]
        yield b"once"

    machine = FakeMachine(program, faults={3: "cut_after"})
    device = FakeDevice("shelf", machine)
    device.push("a1b2.onnx", content)                                                      # exchanges 0 and 1
    device.start("first", Job(("measure",), {"model.onnx": "a1b2.onnx"}, {}))              # exchange 2
    device.poll("first")                                                                   # exchange 3: LinkLostError
    FakeDevice("shelf", machine).poll("first")                                             # goes on where it was
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, TypeAlias, TypeVar

from edgekit.devices._base import (
    DEADLINE_SECONDS,
    Completed,
    Device,
    DeviceFacts,
    Job,
    JobStatus,
)
from edgekit.devices.names import check_arguments, check_job, check_name, check_offset, split_name
from edgekit.errors import DeviceError, LinkLostError
from edgekit.files import sha256_bytes

PIECE_BYTES = 2**20
"""Most that one exchange carries of a file or an output."""
PROCESS_VARIABLE = "FAKE_PROCESS"
"""Environment variable in which a program finds its process number."""

Program: TypeAlias = Callable[[Sequence[str], dict[str, bytes], Mapping[str, str]], Iterator[bytes]]
"""What the device does for a command or job: called with its argv, the files of its current folder by name (changed and
added ones can be fetched) and its environment; gives what it writes to stdout, one piece for each step of time. A
command finds its stdin as the file ``stdin``. Ends with exit code 0, or as `ProgramError` says."""

Fault: TypeAlias = Literal[
    "cut_before",
    "cut_after",
    "freeze_before",
    "freeze_after",
    "refuse",
    "reboot",
    "corrupt",
    "fill_disk",
]
"""What goes wrong in an exchange. The link is cut, or falls silent until the deadline has passed, before the device did
what it was asked or after (then only the answer is lost); the device refuses; it starts anew, which loses the running
jobs; a byte of what is pushed arrives changed; its disk is full from then on."""

_Answer = TypeVar("_Answer")


class ProgramError(Exception):
    """Raised by a program to end with an exit code other than 0, and with ``error`` on stderr."""

    def __init__(self, exit_code: int, error: str = "") -> None:
        super().__init__(exit_code, error)
        self.exit_code = exit_code
        self.error = error


def no_program(argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> Iterator[bytes]:
    """The program of a machine that has none: as a shell answers for a command it does not find."""
    raise ProgramError(127, f"{argv[0]}: not found")


class _Process:
    """A program on its way, whose exit code is None until it ended."""

    def __init__(
        self, program: Program, argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]
    ) -> None:
        self.files = files
        self.state: Literal["running", "ended", "lost"] = "running"
        self.exit_code: int | None = None
        self.output = bytearray()
        self.error = ""
        self._steps = _steps(program, argv, files, environment)

    def step(self) -> None:
        """Let it run until it has written its next piece, or ended."""
        if self.state != "running":
            return
        try:
            self.output += next(self._steps)
        except StopIteration:
            self._end(0, "")
        except ProgramError as end:
            self._end(end.exit_code, end.error)
        except Exception:
            self._end(1, traceback.format_exc())

    def lose(self) -> None:
        """End it without an exit code."""
        if self.state == "running":
            self.state = "lost"
            self._steps.close()

    def _end(self, exit_code: int, error: str) -> None:
        self.state, self.exit_code, self.error = "ended", exit_code, error


def _steps(
    program: Program, argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]
) -> Generator[bytes, None, None]:
    # A program may be a plain function that returns an iterator: here it is first called in the first step.
    yield from program(argv, files, environment)


class FakeMachine:
    """The device itself, which goes on while no link leads to it: files, jobs, a clock, and what will go wrong.

    ``faults`` says in which exchange, counted from 0 over all links, what happens; it can be changed at any time. In
    each exchange every running job makes a step, and ``now_seconds`` goes on by ``step_seconds``.
    """

    def __init__(
        self,
        program: Program = no_program,
        *,
        faults: Mapping[int, Fault] | None = None,
        step_seconds: float = 0.01,
    ) -> None:
        self.program = program
        self.faults = dict(faults or {})
        self.step_seconds = step_seconds
        self.now_seconds = 0.0
        self.exchanges = 0
        self.boots = 1
        self.disk_is_full = False
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, _Process] = {}
        self._pieces: dict[tuple[str, str], dict[int, bytes]] = {}
        self._processes: list[_Process] = []

    @property
    def facts(self) -> DeviceFacts:
        return DeviceFacts(
            architecture="aarch64",
            kernel="6.1.0",
            cpu="Fake processor",
            cores=4,
            user_bits=64,
            boot_id=f"boot-{self.boots}",
            folder=PurePosixPath("/data/edgekit"),
            model="Fake device",
        )

    def step(self) -> None:
        """Let one step of time pass."""
        self.now_seconds += self.step_seconds
        for process in self.jobs.values():
            process.step()

    def reboot(self) -> None:
        """Start anew: files stay, what runs is lost, and ``boot_id`` is another one."""
        self.boots += 1
        for process in self._processes:
            process.lose()

    def is_alive(self, process_number: int) -> bool:
        """Whether the process that found this number in its environment runs."""
        return self._processes[process_number - 1].state == "running"

    def carry_out(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        """A command from its start to its end. Raises LinkLostError when that takes longer than the deadline."""
        process = self._run(argv, {"stdin": stdin}, {})
        end_seconds = self.now_seconds + deadline_seconds
        process.step()
        while process.exit_code is None:
            if self.now_seconds >= end_seconds:
                process.lose()
                raise LinkLostError(f"{argv[0]!r} took longer than the {deadline_seconds:g} seconds it was given")
            self.step()
            process.step()
        return Completed(process.exit_code, bytes(process.output), process.error.encode())

    def arrived(self, name: str, sha256: str) -> frozenset[int] | None:
        """Indices of the pieces of a file that are there; None if all of it is."""
        if name in self.files and sha256_bytes(self.files[name]) == sha256:
            return None
        return frozenset(self._pieces.get((name, sha256), {}))

    def keep_piece(self, name: str, sha256: str, index: int, piece: bytes, is_last: bool) -> None:
        """A piece of a file; the last one completes it."""
        self._check_disk()
        pieces = self._pieces.setdefault((name, sha256), {})
        pieces[index] = piece
        if is_last:
            content = b"".join(pieces[index] for index in sorted(pieces))
            del self._pieces[name, sha256]
            if sha256_bytes(content) != sha256:
                raise DeviceError(f"{name} arrived damaged")
            self.files[name] = content

    def read(self, job_name: str, file_name: str) -> bytes:
        """A pushed file or, with a job's name, one in its folder."""
        files = self._job(job_name).files if job_name else self.files
        if file_name not in files:
            raise DeviceError(f"there is no file {file_name}")
        return files[file_name]

    def remove(self, names: Sequence[str]) -> None:
        """Forget pushed files."""
        for name in names:
            self.files.pop(name, None)

    def start(self, job_name: str, job: Job) -> None:
        """Start a job, unless there is one of that name."""
        if job_name in self.jobs:
            return
        self._check_disk()
        for file in job.files.values():
            if file not in self.files:
                raise DeviceError(f"the file {file} was not pushed")
        files = {key: self.files[file] for key, file in job.files.items()}
        self.jobs[job_name] = self._run(job.argv, files, job.environment)

    def status(self, job_name: str, offset: int) -> JobStatus:
        """Where a job stands; it counts as running until the last piece of its output."""
        process = self._job(job_name)
        output = bytes(process.output[offset : offset + PIECE_BYTES])
        if process.state == "running" or offset + len(output) < len(process.output):
            return JobStatus("running", None, output, "")
        return JobStatus(process.state, process.exit_code, output, process.error)

    def cancel(self, job_name: str) -> None:
        """End a job and forget it; nothing if there is none."""
        if job_name in self.jobs:
            self.jobs.pop(job_name).lose()

    def _run(self, argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> _Process:
        variables = {**environment, PROCESS_VARIABLE: str(len(self._processes) + 1)}
        process = _Process(self.program, tuple(argv), files, variables)
        self._processes.append(process)
        return process

    def _job(self, job_name: str) -> _Process:
        if job_name not in self.jobs:
            raise DeviceError(f"there is no job {job_name}")
        return self.jobs[job_name]

    def _check_disk(self) -> None:
        if self.disk_is_full:
            raise DeviceError("no space is left on the device")


class FakeDevice(Device):
    """A link to a `FakeMachine`, used as any other device. Several may lead to the same one."""

    def __init__(self, name: str, machine: FakeMachine) -> None:
        self.name = name
        self.machine = machine

    def facts(self) -> DeviceFacts:
        return self._exchange(lambda: self.machine.facts)

    def execute(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline_seconds: float = DEADLINE_SECONDS
    ) -> Completed:
        check_arguments(argv)
        return self._exchange(lambda: self.machine.carry_out(argv, stdin, deadline_seconds), deadline_seconds)

    def push(self, name: str, content: bytes) -> None:
        check_name(name)
        sha256 = sha256_bytes(content)
        arrived = self._exchange(lambda: self.machine.arrived(name, sha256))
        if arrived is None:
            return
        pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)] or [b""]
        for index, piece in enumerate(pieces):
            if index not in arrived:
                self._send(name, sha256, index, piece, is_last=index == len(pieces) - 1)

    def _send(self, name: str, sha256: str, index: int, piece: bytes, *, is_last: bool) -> None:
        if self.machine.faults.get(self.machine.exchanges) == "corrupt":
            piece = (piece[:-1] + bytes([piece[-1] ^ 1])) if piece else b"\0"
        self._exchange(lambda: self.machine.keep_piece(name, sha256, index, piece, is_last))

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            check_name(name)
        self._exchange(lambda: self.machine.remove(names))

    def fetch(self, name: str) -> bytes:
        job_name, file_name = split_name(name)
        return self._exchange(lambda: self.machine.read(job_name, file_name))

    def start(self, job_name: str, job: Job) -> None:
        check_name(job_name)
        check_job(job)
        self._exchange(lambda: self.machine.start(job_name, job))

    def poll(self, job_name: str, offset: int = 0) -> JobStatus:
        check_name(job_name)
        check_offset(offset)
        return self._exchange(lambda: self.machine.status(job_name, offset))

    def cancel(self, job_name: str) -> None:
        check_name(job_name)
        self._exchange(lambda: self.machine.cancel(job_name))

    def jobs(self) -> tuple[str, ...]:
        return self._exchange(lambda: tuple(sorted(self.machine.jobs)))

    def close(self) -> None:
        """There is nothing to close: the machine goes on."""

    def _exchange(self, action: Callable[[], _Answer], deadline_seconds: float = DEADLINE_SECONDS) -> _Answer:
        machine = self.machine
        fault = machine.faults.get(machine.exchanges)
        machine.exchanges += 1
        if fault in ("freeze_before", "freeze_after"):
            machine.now_seconds += deadline_seconds
        if fault in ("cut_before", "freeze_before"):
            raise LinkLostError(f"{self.name}: the link was lost")
        if fault == "reboot":
            machine.reboot()
            raise LinkLostError(f"{self.name}: the link was lost, the device starts anew")
        if fault == "refuse":
            raise DeviceError(f"{self.name}: the device refused")
        if fault == "fill_disk":
            machine.disk_is_full = True
        machine.step()
        answer = action()
        if fault in ("cut_after", "freeze_after"):
            raise LinkLostError(f"{self.name}: the answer was lost")
        return answer
