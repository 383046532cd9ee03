"""What a device is to the rest of edgekit: a place that takes files and runs jobs that outlive the link to it.

One file per implementation beside this one; all of them pass tests/devices/conformance.py. What a job computes is the
worker's affair (``worker``); what its results mean is that of those who start it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import msgspec

DEADLINE_SECONDS = 20.0
"""Longest that one exchange with a device may take when nothing else is said: a link that is silent longer is cut."""


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the device says of itself. ``boot_id`` changes with every start of it; ``folder`` is where edgekit keeps its
    files there; ``python`` is the version of its interpreter, empty if it has none; ``user_bits`` is 32 where programs
    run in a 32-bit userland, whatever the kernel."""

    architecture: str
    kernel: str
    cpu: str
    cores: int
    user_bits: Literal[32, 64]
    boot_id: str
    folder: PurePosixPath
    python: str = ""
    model: str = ""


@dataclass(frozen=True)
class Job:
    """A program to run on the device: ``argv`` (never a shell line), the names of pushed ``files`` that it finds in its
    current folder under the keys of the mapping, and environment variables."""

    argv: tuple[str, ...]
    files: Mapping[str, str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands, and what it wrote to stdout from the offset asked for. ``exit_code`` is None while it runs;
    ``lost`` means that it ended without leaving one: killed, or the device was restarted."""

    state: Literal["running", "ended", "lost"]
    exit_code: int | None
    output: bytes
    error: str
    """The end of what it wrote to stderr, once it has ended."""


@dataclass(frozen=True)
class Completed:
    """What a command answered."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Device(ABC):
    """A device and the link to it. Names of files and jobs are ``[A-Za-z0-9._-]+``, not beginning with a dot or dash:
    anything else is refused before it reaches the device.

    Every method ends within its deadline. They raise LinkLostError when the link is cut or silent (the next call
    connects again), TrustError for a host key that is unknown or changed, DeviceError for what the device refused.
    """

    name: str

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """What the device is, read anew."""

    @abstractmethod
    def execute(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline_seconds: float = DEADLINE_SECONDS
    ) -> Completed:
        """Run a short command and wait for it. For questions and installation; work that takes long is a job."""

    @abstractmethod
    def push(self, name: str, content: bytes) -> None:
        """Put a file into edgekit's folder on the device, under a temporary name first; skipped if the same content is
        there (by sha256). After a cut link there is either the whole file under its name or none."""

    def push_all(self, contents: Mapping[str, bytes]) -> None:
        """`push` for many files: one after the other, unless a device knows better."""
        for name, content in contents.items():
            self.push(name, content)

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Remove pushed files; names that are not there are left out. Jobs that were started with them keep them."""

    @abstractmethod
    def fetch(self, name: str) -> bytes:
        """The content of a file in edgekit's folder or, as ``JOB/FILE``, of one that a job left in its current one."""

    @abstractmethod
    def start(self, job_name: str, job: Job) -> None:
        """Start a job, detached from the link. A job of that name that is known already is left as it is, so that a
        start whose answer was lost can be repeated."""

    @abstractmethod
    def poll(self, job_name: str, offset: int = 0) -> JobStatus:
        """Where the job stands, with its output from byte ``offset`` on."""

    @abstractmethod
    def cancel(self, job_name: str) -> None:
        """End the job with all its processes, if it runs, and remove its files."""

    @abstractmethod
    def jobs(self) -> tuple[str, ...]:
        """Names of the jobs whose files are on the device, running or ended."""

    @abstractmethod
    def close(self) -> None:
        """Give the link back. Jobs go on."""


class Link(ABC):
    """The way to a POSIX device: commands and bytes, nothing else. ``posix.PosixDevice`` makes a `Device` of it."""

    @abstractmethod
    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        """Run ``argv`` on the device (quoted for its shell where the transport knows only shell lines) with ``stdin``
        and wait for it. Raises LinkLostError when the link is cut or the deadline passes, TrustError for an unknown or
        changed host key. After a LinkLostError the next call connects again."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; the next call would open it again."""
