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

from edgekit.devices._base import Device, Job, JobStatus, LinkLostError
from edgekit.devices.events import Done, Error, Event, parse_events
from edgekit.devices.installation import Installation
from edgekit.errors import DeviceError, EdgekitError
from edgekit.files import sha256_bytes
from edgekit.types import RuntimeName

JOB_FILE = "job.txt"
PATIENCE_SECONDS = 25.0
"""How long a lost link is tried again before the host gives up; the job on the device goes on."""
SILENCE_SECONDS = 600.0
"""How long a worker may say nothing before its job is ended: a model that takes longer than this is stuck."""

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
    same work asked for again after the host gave up or was killed picks the job up where it is. Ctrl-C ends it on the
    device too. Raises LinkLostError when the link stays away for ``patience_seconds`` (the job goes on), DeviceError
    when the worker was lost, ended early or fell silent.
    """
    follower = _Follower(device, installation, work, watch, patience_seconds)
    try:
        answer = follower.follow()
    except LinkLostError:
        raise
    except (EdgekitError, KeyboardInterrupt):
        with suppress(DeviceError):
            device.cancel(follower.job_name)
        raise
    follower.reach(partial(device.cancel, follower.job_name))
    return answer


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
        self._pushed = {name: f"{sha256_bytes(content)[:32]}" for name, content in work.files.items()}
        named = "\n".join((*installation.argv, *(f"{name} {self._pushed[name]}" for name in sorted(self._pushed))))
        self.job_name = f"job-{sha256_bytes(text + named.encode())[:32]}"
        self._job_file = f"{self.job_name}.txt"
        self._contents = {self._pushed[name]: content for name, content in work.files.items()} | {self._job_file: text}
        self._job = Job(
            argv=(*installation.argv, JOB_FILE),
            files={**installation.files, **self._pushed, JOB_FILE: self._job_file},
            environment=installation.environment,
        )

    def follow(self) -> Answer:
        for name, content in self._contents.items():
            self.reach(partial(self._device.push, name, content))
        self.reach(partial(self._device.start, self.job_name, self._job))
        events = self._read()
        outputs = {
            name: self.reach(partial(self._device.fetch, f"{self.job_name}/{name}"))
            for name in self._work.outputs
            if not any(isinstance(event, Error) for event in events)
        }
        return Answer(tuple(events), outputs)

    def reach(self, exchange: Callable[[], Result]) -> Result:
        """The exchange's result, tried again over a new connection when the link is lost."""
        give_up = None
        while True:
            try:
                return exchange()
            except LinkLostError as error:
                now = time.monotonic()
                give_up = give_up or now + self._patience_seconds
                if now >= give_up:
                    raise LinkLostError(
                        f"the link to {self._device.name!r} was lost and did not come back: {error.message}",
                        "what runs there goes on: the same command picks it up",
                    ) from error
                time.sleep(_RETRY_SECONDS)

    def _read(self) -> list[Event]:
        events: list[Event] = []
        offset, rest, pause = 0, b"", _POLL_SECONDS[0]
        heard = time.monotonic()
        while True:
            status = self.reach(partial(self._device.poll, self.job_name, offset))
            offset += len(status.output)
            *lines, rest = (rest + status.output).split(b"\n")
            if new := parse_events(lines, self._device.name):
                events += new
                self._watch(new)
            if status.output:
                heard, pause = time.monotonic(), _POLL_SECONDS[0]
            elif status.state != "running":
                self._check_end(status, events)
                return events
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise DeviceError(f"the worker on {self._device.name!r} said nothing for {SILENCE_SECONDS:.0f} seconds")
            else:
                time.sleep(pause)
                pause = min(2 * pause, _POLL_SECONDS[1])

    def _check_end(self, status: JobStatus, events: Sequence[Event]) -> None:
        name = self._device.name
        if status.state == "lost":
            raise DeviceError(
                f"the worker on {name!r} was lost: it was killed, or the device was started anew",
                "run the command again: what was measured before is kept",
            )
        if not events or not isinstance(events[-1], Done):
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
