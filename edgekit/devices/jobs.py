"""Carrying out a worker's job on a device from start to end, whatever the link does in between.

What a job file says is written by those who want something of it; what the answers mean is theirs too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from edgekit.devices._base import Device, Job, JobStatus
from edgekit.devices.events import Done, Error, Event, parse_events
from edgekit.devices.installation import Installation
from edgekit.errors import DeviceError, EdgekitError, LinkLostError
from edgekit.files import sha256_bytes
from edgekit.types import RuntimeName

JOB_FILE = "job.txt"
PATIENCE_SECONDS = 25.0
"""How long a lost link is tried again before the host gives up; the job on the device goes on."""
SILENCE_SECONDS = 600.0
"""How long a worker may say nothing before its job is ended: a model that takes longer than this is stuck."""
MAX_LINE_BYTES = 16 * 2**20
"""Longest line that a worker may write: the nodes of the largest models take a few MiB."""

Result = TypeVar("Result")

_POLL_SECONDS = (0.02, 0.5)
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Work:
    """A job of a worker: what its job file asks for, and the content of every file that it names."""

    runtime: RuntimeName
    tasks: tuple[str, ...]
    files: Mapping[str, bytes]
    provider: str = "cpu"
    threads: int = 1
    outputs: tuple[str, ...] = ()
    """Files that the worker leaves behind and that are wanted."""


@dataclass(frozen=True)
class Answer:
    """Everything that the worker said, and the files that were wanted."""

    events: tuple[Event, ...]
    outputs: Mapping[str, bytes] = field(default_factory=dict)

    def errors(self) -> tuple[Error, ...]:
        """What could not be done."""
        return tuple(event for event in self.events if isinstance(event, Error))


def pushed_name(content: bytes) -> str:
    """The name under which a file of a job is pushed: the same for the same content, so that it is pushed once."""
    return sha256_bytes(content)[:32]


def carry_out(
    device: Device,
    installation: Installation,
    work: Work,
    *,
    watch: Callable[[Sequence[Event]], None] = lambda _: None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Answer:
    """Push what is missing, start the job, follow it to its end, take its results and remove it.

    ``watch`` is called with the events that came in since the last time. The name of a job comes from its content: the
    same work asked for again after the host gave up or was killed picks the job up where it is. Whatever else ends this
    early, Ctrl-C too, ends the job on the device. The files of ``work`` stay there, for jobs to come: who is done with
    them removes them (`pushed_name`). Raises LinkLostError when the link stays away for ``patience_seconds`` (the job
    goes on), DeviceError when the worker was lost, ended early or fell silent.
    """
    follower = _Follower(device, installation, work, watch, patience_seconds)
    try:
        answer = follower.follow()
    except LinkLostError:
        raise
    except BaseException:
        with suppress(EdgekitError):
            follower.clear_away()
        raise
    reach(device, follower.clear_away, patience_seconds)
    return answer


def reach(device: Device, exchange: Callable[[], Result], patience_seconds: float = PATIENCE_SECONDS) -> Result:
    """The exchange's result, tried again over a new connection when the link is lost. Raises LinkLostError when it
    stays away for ``patience_seconds``."""
    give_up = None
    while True:
        try:
            return exchange()
        except LinkLostError as error:
            now = time.monotonic()
            give_up = give_up or now + patience_seconds
            if now >= give_up:
                raise LinkLostError(
                    f"the link to {device.name!r} was lost and did not come back: {error.message}",
                    "what runs there goes on: the same command picks it up",
                ) from error
            time.sleep(_RETRY_SECONDS)


class _Follower:
    """One job on its way; every exchange with the device is tried again while patience lasts."""

    def __init__(
        self,
        device: Device,
        installation: Installation,
        work: Work,
        watch: Callable[[Sequence[Event]], None],
        patience_seconds: float,
    ) -> None:
        self._device = device
        self._work = work
        self._watch = watch
        self._patience_seconds = patience_seconds
        text = _job_text(work, installation).encode()
        pushed = {name: pushed_name(content) for name, content in work.files.items()}
        files = {**installation.files, **pushed}
        named = "\n".join((*installation.argv, *(f"{name} {files[name]}" for name in sorted(files))))
        self._job_name = f"job-{sha256_bytes(text + named.encode())[:32]}"
        self._job_file = f"{self._job_name}.txt"
        self._contents = {pushed[name]: content for name, content in work.files.items()} | {self._job_file: text}
        self._job = Job(
            argv=(*installation.argv, JOB_FILE),
            files={**files, JOB_FILE: self._job_file},
            environment=installation.environment,
        )

    def follow(self) -> Answer:
        """Everything from the first file to the last result."""
        try:
            self._start()
        except LinkLostError:
            raise
        except DeviceError:
            # Another command may just have removed a file that both of them use.
            self._start()
        events = self._read()
        outputs = {
            name: self._reach(partial(self._device.fetch, f"{self._job_name}/{name}"))
            for name in self._work.outputs
            if not any(isinstance(event, Error) for event in events)
        }
        return Answer(tuple(events), outputs)

    def clear_away(self) -> None:
        """End the job if it runs, and remove what is of use to no other."""
        self._device.cancel(self._job_name)
        self._device.remove([self._job_file])

    def _reach(self, exchange: Callable[[], Result]) -> Result:
        return reach(self._device, exchange, self._patience_seconds)

    def _start(self) -> None:
        self._reach(partial(self._device.push_all, self._contents))
        self._reach(partial(self._device.start, self._job_name, self._job))

    def _read(self) -> list[Event]:
        events: list[Event] = []
        offset, rest, pause = 0, b"", _POLL_SECONDS[0]
        heard = time.monotonic()
        while True:
            status = self._reach(partial(self._device.poll, self._job_name, offset))
            offset += len(status.output)
            *lines, rest = (rest + status.output).split(b"\n")
            self._check_line(rest)
            if new := parse_events(lines, self._device.name):
                events += new
                self._watch(new)
            if status.output:
                heard, pause = time.monotonic(), _POLL_SECONDS[0]
            elif status.state != "running":
                self._check_end(status, events)
                return events
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise DeviceError(
                    f"the worker on {self._device.name!r} said nothing for {SILENCE_SECONDS:.0f} seconds: it was ended",
                    "a single run of a model has to end sooner: time a smaller one",
                )
            else:
                time.sleep(pause)
                pause = min(2 * pause, _POLL_SECONDS[1])

    def _check_line(self, rest: bytes) -> None:
        if len(rest) > MAX_LINE_BYTES:
            raise DeviceError(
                f"the worker on {self._device.name!r} wrote a line of over {MAX_LINE_BYTES} bytes: {rest[:80]!r}",
                f"install it again: edgekit target setup {self._device.name}",
            )

    def _check_end(self, status: JobStatus, events: Sequence[Event]) -> None:
        name = self._device.name
        if events and isinstance(events[-1], Done):
            return
        if status.state == "lost":
            raise DeviceError(
                f"the worker on {name!r} was lost: it was killed, or the device was started anew",
                "run the command again: what was measured before is kept",
            )
        if events and isinstance(events[-1], Error):
            raise DeviceError(
                f"the worker on {name!r} refused its job: {events[-1].message}",
                f"install it again: edgekit target setup {name}",
            )
        said = status.error.strip().splitlines()
        raise DeviceError(
            f"the worker on {name!r} ended early with exit code {status.exit_code}"
            + (f": {said[-1][:200]}" if said else ""),
            f"see what is missing there: edgekit target check {name}",
        )


def _job_text(work: Work, installation: Installation) -> str:
    library = [f"library {installation.library}"] if installation.library else []
    settings = ["edgekit-job 1", f"runtime {work.runtime}", f"provider {work.provider}", f"threads {work.threads}"]
    return "\n".join((*settings, *library, *work.tasks)) + "\n"
