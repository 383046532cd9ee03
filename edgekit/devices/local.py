"""The machine that edgekit runs on as a device: its link is a child process.

What files and jobs are there is that of ``posix``; nothing here knows of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgekit.devices._base import Completed, Link
from edgekit.devices.posix import DEFAULT_FOLDER, PosixDevice
from edgekit.errors import DeviceError, LinkLostError

FOLDER_VARIABLE = "EDGEKIT_DEVICE_FOLDER"
"""Environment variable that says where edgekit keeps a local device's files when nothing else is said."""


class LocalLink(Link):
    """Runs commands as children in a session of their own, so that one that is late can be ended with its children."""

    def execute(self, argv: Sequence[str], stdin: bytes, deadline_seconds: float) -> Completed:
        # From a file, since communicate() fills a pipe 512 bytes at a time.
        with tempfile.TemporaryFile() as stream:
            stream.write(stdin)
            stream.seek(0)
            try:
                process = subprocess.Popen(
                    argv, stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
                )
            except OSError as error:
                return _not_started(argv[0], error)
        try:
            stdout, stderr = process.communicate(timeout=deadline_seconds)
        except subprocess.TimeoutExpired as error:
            raise LinkLostError(
                f"{argv[0]!r} took longer than the {deadline_seconds:g} seconds it was given"
            ) from error
        finally:
            _end(process)
        return Completed(_exit_code(process.returncode), stdout, stderr)

    def close(self) -> None:
        """There is nothing to close."""


def open_local(name: str, folder: str | Path | None = None) -> PosixDevice:
    """This machine as a device that keeps its files in ``folder`` (else $EDGEKIT_DEVICE_FOLDER, else
    ~/.cache/edgekit/device). Raises UsageError for a folder that is not absolute."""
    return PosixDevice(name, LocalLink(), str(folder or os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER))


def _not_started(program: str, error: OSError) -> Completed:
    """What a shell would answer."""
    if isinstance(error, FileNotFoundError):
        return Completed(127, b"", f"{program}: not found".encode())
    if isinstance(error, PermissionError):
        return Completed(126, b"", f"{program}: permission denied".encode())
    raise DeviceError(f"{program!r} cannot be started: {error.strerror or error}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # A program that left the session may hold them open: it is not waited for.
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _exit_code(code: int) -> int:
    """As shells count: 128 and the number of the signal that ended the program."""
    return code if code >= 0 else 128 - code
