"""A device with a POSIX shell, whatever link leads to it: files, jobs and facts by the scripts of ``posix_scripts``.

How commands get there is that of the links (``local``, ``ssh``, ``adb``); what a job computes is the worker's affair.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, cast

from edgekit.devices import posix_scripts
from edgekit.devices._base import (
    DEADLINE_SECONDS,
    Completed,
    Device,
    DeviceFacts,
    Job,
    JobStatus,
    Link,
)
from edgekit.devices.names import check_arguments, check_job, check_name, check_offset, split_name
from edgekit.errors import DeviceError, UsageError
from edgekit.files import sha256_bytes

DEFAULT_FOLDER = "~/.cache/edgekit/device"
PIECE_BYTES = 4 * 2**20
"""Most that one exchange carries of a file or an output, so that it fits its deadline on a slow link."""
FILES_PER_EXCHANGE = 200
"""Most files of a job that are linked in one exchange: each takes a process, some milliseconds on a phone."""
SMALL_FILE_BYTES = 2**20
"""Up to this size files are pushed many at a time."""
ERROR_BYTES = 8 * 2**10
"""How much of the end of a job's stderr is told."""
MAX_FILE_BYTES = 2**31 - PIECE_BYTES
"""Some programs on phones count with 32 bits."""

_SAME = b"same"
_CPU_NAMES = ("model name", "Model", "Hardware", "cpu model", "Processor", "isa")


class PosixDevice(Device):
    """A device behind ``link``. ``folder`` is where edgekit keeps its files there: an absolute path, or one below the
    home of the device's user that begins with ``~/``."""

    def __init__(self, name: str, link: Link, folder: str = DEFAULT_FOLDER) -> None:
        if not folder.startswith(("/", "~/")) or not folder.isprintable():
            raise UsageError(f"{folder!r} cannot be edgekit's folder on a device", "begin it with '/' or '~/'")
        self.name = name
        self._link = link
        self._folder = folder

    def facts(self) -> DeviceFacts:
        text = self._run(posix_scripts.FACTS).decode(errors="replace")
        lines, _, cpu_info = text.partition("cpuinfo=\n")
        told = dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)
        try:
            return _facts(told, cpu_info)
        except (KeyError, ValueError) as error:
            raise DeviceError(f"{self.name}: what the device says of itself cannot be read: {error}") from error

    def execute(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline_seconds: float = DEADLINE_SECONDS
    ) -> Completed:
        check_arguments(argv)
        return self._link.execute(argv, stdin, deadline_seconds)

    def push(self, name: str, content: bytes) -> None:
        check_name(name)
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"{name} holds {len(content)} bytes, and at most {MAX_FILE_BYTES} can be pushed")
        sha256 = sha256_bytes(content)
        answer = self._run(posix_scripts.CHECK_FILE, name, sha256).split()
        if _SAME in answer:
            return
        pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)] or [b""]
        for index, piece in enumerate(pieces[:-1]):
            if str(index).encode() not in answer:
                self._run(posix_scripts.WRITE_PIECE, name, sha256, str(index), str(len(piece)), stdin=piece)
        last = str(len(pieces) - 1)
        self._run(posix_scripts.WRITE_LAST_PIECE, name, sha256, last, str(len(content)), stdin=pieces[-1])

    def push_all(self, contents: Mapping[str, bytes]) -> None:
        """See `Device.push_all`: one exchange to ask which small files are missing, and one to write those."""
        sums = {check_name(name): sha256_bytes(content) for name, content in contents.items()}
        small = {name: content for name, content in contents.items() if len(content) <= SMALL_FILE_BYTES}
        for names in _groups(tuple(small)):
            has_tar, *lines = self._run(posix_scripts.CHECK_FILES, *names).decode(errors="replace").splitlines()
            missing = {name: small[name] for name in names if _sum_line(sums[name], name) not in lines}
            if has_tar != "tar":
                super().push_all(missing)
                continue
            for batch in _batches(missing):
                wanted = "\n".join(_sum_line(sums[name], name) for name in batch)
                self._run(posix_scripts.WRITE_FILES, wanted, *batch, stdin=_archive(batch))
        super().push_all({name: content for name, content in contents.items() if name not in small})

    def remove(self, names: Sequence[str]) -> None:
        for group in _groups([check_name(name) for name in names]):
            self._run(posix_scripts.REMOVE_FILES, *group)

    def fetch(self, name: str) -> bytes:
        job_name, file_name = split_name(name)
        path = f"jobs/{job_name}/work/{file_name}" if job_name else f"files/{file_name}"
        content = bytearray()
        while True:
            answer = self._run(posix_scripts.READ_PIECE, path, str(len(content) + 1), str(PIECE_BYTES))
            header, piece = self._split(answer)
            size_bytes = self._number(header)
            content += piece
            if not piece or len(content) >= size_bytes:
                break
        if len(content) < size_bytes:
            raise DeviceError(f"{self.name}: {path} ended before its size while it was read")
        # A job may still be writing to it: what is told is the file as it was when its size was.
        del content[size_bytes:]
        if size_bytes > PIECE_BYTES:
            self._run(posix_scripts.CHECK_SUM, path, sha256_bytes(bytes(content)))
        return bytes(content)

    def start(self, job_name: str, job: Job) -> None:
        check_name(job_name)
        check_job(job)
        files = [f"{key} {file}\n" for key, file in job.files.items()]
        whole_batches = len(files) - len(files) % FILES_PER_EXCHANGE
        for start in range(0, whole_batches, FILES_PER_EXCHANGE):
            batch = "".join(files[start : start + FILES_PER_EXCHANGE])
            self._run(posix_scripts.PREPARE_JOB, job_name, stdin=batch.encode())
        variables = [f"{name}={value}" for name, value in job.environment.items()]
        arguments = (job_name, posix_scripts.RUN_JOB, str(len(variables)), *variables, *job.argv)
        self._run(posix_scripts.START_JOB, *arguments, stdin="".join(files[whole_batches:]).encode())

    def poll(self, job_name: str, offset: int = 0) -> JobStatus:
        """At most ``PIECE_BYTES`` of output are told at a time; a job that has ended counts as running until the last
        piece of it."""
        check_name(job_name)
        check_offset(offset)
        arguments = (job_name, str(offset + 1), str(PIECE_BYTES), str(ERROR_BYTES))
        header, rest = self._split(self._run(posix_scripts.POLL_JOB, *arguments))
        match = re.fullmatch(rb"(running|ended|lost) (-|\d{1,3}) (\d+) (\d+)", header)
        if not match:
            raise DeviceError(f"{self.name}: the state of {job_name} cannot be read: {header[:100]!r}")
        output_bytes, error_bytes = int(match[3]), int(match[4])
        error, output = rest[:error_bytes], rest[error_bytes:]
        state = cast(Literal["running", "ended", "lost"], match[1].decode())
        if state == "running" or (output and offset + len(output) < output_bytes):
            return JobStatus("running", None, output, "")
        exit_code = int(match[2]) if state == "ended" else None
        return JobStatus(state, exit_code, output, error.decode(errors="replace"))

    def cancel(self, job_name: str) -> None:
        self._run(posix_scripts.CANCEL_JOB, check_name(job_name))

    def jobs(self) -> tuple[str, ...]:
        return tuple(self._run(posix_scripts.LIST_JOBS).decode(errors="replace").split())

    def close(self) -> None:
        self._link.close()

    def _run(self, script: str, *arguments: str, stdin: bytes = b"") -> bytes:
        completed = self._link.execute(("sh", "-c", script, "sh", self._folder, *arguments), stdin, DEADLINE_SECONDS)
        if completed.exit_code:
            said = " ".join(completed.stderr[-1000:].decode(errors="replace").split())
            raise DeviceError(f"{self.name}: {said or f'a command ended with exit code {completed.exit_code}'}")
        return completed.stdout

    def _split(self, answer: bytes) -> tuple[bytes, bytes]:
        header, _, rest = answer.partition(b"\n")
        return header, rest

    def _number(self, text: bytes) -> int:
        if not re.fullmatch(rb"\d{1,19}", text.strip()):
            raise DeviceError(f"{self.name}: the device answered {text[:100]!r} where it should say a size")
        return int(text)


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), FILES_PER_EXCHANGE):
        yield names[start : start + FILES_PER_EXCHANGE]


def _batches(contents: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Files that together are no more than one exchange should carry."""
    batch: dict[str, bytes] = {}
    for name, content in contents.items():
        if batch and sum(map(len, batch.values())) + len(content) > PIECE_BYTES:
            yield batch
            batch = {}
        batch[name] = content
    if batch:
        yield batch


def _sum_line(sha256: str, name: str) -> str:
    """What sha256sum writes of a file."""
    return f"{sha256}  {name}"


def _archive(contents: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _facts(told: Mapping[str, str], cpu_info: str) -> DeviceFacts:
    version = re.search(r"\d+\.\d+\S*", told["python"])
    return DeviceFacts(
        architecture=told["architecture"],
        kernel=told["kernel"],
        cpu=told.get("chip") or _cpu_name(cpu_info),
        cores=int(told["cores"]),
        user_bits=32 if told["user_bits"] == "32" else 64,
        boot_id=told["boot_id"],
        folder=PurePosixPath(told["folder"]),
        python=version[0] if version else "",
        model=told["model"].strip("\0 "),
    )


def _cpu_name(cpu_info: str) -> str:
    fields = dict(re.findall(r"^([^:\n]+?)\s*:\s*(.+)$", cpu_info, re.MULTILINE))
    return next((fields[name].strip() for name in _CPU_NAMES if name in fields), "unknown")
