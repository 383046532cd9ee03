"""What may be handed to a device: names of files and jobs, offsets, argument lists and environment variables.

Checked here once, before anything reaches a link; how they get to the device is that of the devices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.devices._base import Job
from edgekit.errors import UsageError

MAX_NAME_CHARACTERS = 100
MAX_ARGUMENTS_BYTES = 64 * 2**10
"""Most that argv and environment of a job may hold together: a transport passes them as one line."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_name(name: str) -> str:
    """``name`` itself, of a file or a job. Raises UsageError for what is none."""
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:MAX_NAME_CHARACTERS]!r} is no name for a file or a job on a device",
            f"use at most {MAX_NAME_CHARACTERS} letters, digits, '.', '_' and '-', not beginning with '.' or '-'",
        )
    return name


def split_name(name: str) -> tuple[str, str]:
    """Job and file of ``JOB/FILE``; the job is empty for a plain ``FILE``. Raises UsageError for any other form."""
    job_name, separator, file_name = name.rpartition("/")
    return check_name(job_name) if separator else "", check_name(file_name)


def check_offset(offset: int) -> None:
    """Raises UsageError for a negative offset into an output."""
    if offset < 0:
        raise UsageError(f"{offset} is no offset into an output", "count the bytes from 0 on")


def check_arguments(argv: Sequence[str]) -> None:
    """Raises UsageError for an argument list that cannot be passed to a program as it is."""
    if not argv or not argv[0] or argv[0].startswith("-"):
        raise UsageError("a command needs a program to run, whose name does not begin with '-'")
    for argument in argv:
        _check_text(argument)


def check_job(job: Job) -> None:
    """Raises UsageError for a job that no device could carry out as it is written."""
    check_arguments(job.argv)
    for name in (*job.files.keys(), *job.files.values()):
        check_name(name)
    for variable, value in job.environment.items():
        if not _VARIABLE.fullmatch(variable):
            raise UsageError(f"{variable!r} is no name for an environment variable", "use letters, digits and '_'")
        _check_text(value)
    size = sum(len(text.encode()) + 1 for text in (*job.argv, *job.environment, *job.environment.values()))
    if size > MAX_ARGUMENTS_BYTES:
        raise UsageError(
            f"arguments and environment of a job hold {size} bytes, and at most {MAX_ARGUMENTS_BYTES} are allowed",
            "put them into a file and push it",
        )


def _check_text(text: str) -> None:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{text[:MAX_NAME_CHARACTERS]!r} cannot be an argument: it holds a NUL or is no valid text")
