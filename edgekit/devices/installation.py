"""What edgekit has installed on a device: the worker, how it is started, and the runtimes beside it.

A small file among those pushed to the device says it, so that every later command finds the same. How an installation
is made is in ``setup``.
"""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Literal

import msgspec

from edgekit.devices._base import Device
from edgekit.errors import DeviceError, LinkLostError
from edgekit.files import sha256_bytes
from edgekit.types import RuntimeName

INSTALLATION_FILE = "installation.json"
PYTHON_WORKER = "worker.py"

# What a device says is bounded; names end up in its job files.
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Installation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``argv`` starts the worker in a job's folder, before the name of the job file; ``files`` are pushed ones that it
    finds there, by the name under which it wants them; ``library`` is what a native worker loads."""

    schema: Literal[1] = 1
    argv: Annotated[tuple[Annotated[_Text, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1, max_length=64)]
    files: dict[_Name, _Name] = {}
    library: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,99})?\Z")] = ""
    runtimes: dict[RuntimeName, _Text] = {}
    environment: dict[_Text, _Text] = {}


def worker_source() -> bytes:
    """The Python worker, as it is copied to devices."""
    return resources.files("edgekit.devices").joinpath("worker.py").read_bytes()


def read_installation(device: Device) -> Installation:
    """What is installed on ``device``; where nothing is, the device's own Python with whatever runtimes it has.

    Raises DeviceError for a device that has neither, or whose file is damaged.
    """
    installed = find_installation(device)
    if installed is not None:
        return installed
    if not device.facts().python:
        raise DeviceError(f"there is no worker on {device.name!r}, and no Python", _setup_hint(device))
    return with_python(device, "python3")


def find_installation(device: Device) -> Installation | None:
    """What `edgekit target setup` left on the device, if anything."""
    try:
        content = device.fetch(INSTALLATION_FILE)
    except LinkLostError:
        raise
    except DeviceError:
        return None
    try:
        return msgspec.json.decode(content, type=Installation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{INSTALLATION_FILE} on {device.name!r} is damaged: {error}", _setup_hint(device)) from error


def write_installation(device: Device, installation: Installation) -> None:
    """Leave word of it on the device, last of all that belongs to it."""
    device.push(INSTALLATION_FILE, msgspec.json.encode(installation))


def with_python(device: Device, interpreter: str) -> Installation:
    """The Python worker under ``interpreter``, pushed if it is not there yet in this version."""
    source = worker_source()
    name = f"worker-{sha256_bytes(source)[:16]}.py"
    device.push(name, source)
    return Installation(argv=(interpreter, PYTHON_WORKER), files={PYTHON_WORKER: name})


def _setup_hint(device: Device) -> str:
    return f"install it: edgekit target setup {device.name}"
