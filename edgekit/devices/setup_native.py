"""Installing the native worker: for devices without Python, such as phones, and with ONNX Runtime's own library.

The worker is built here or found built (``native_worker``); the library is the user's to give: the one that they ship.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from edgekit.devices._base import Device
from edgekit.devices.installation import Installation, write_installation
from edgekit.devices.native_worker import Architecture, System, find_worker
from edgekit.errors import BadInputError, DeviceError
from edgekit.files import read_bounded, sha256_bytes
from edgekit.types import Progress, ProgressCallback, ignore_progress

LIBRARY = "libonnxruntime.so"
_WORKER = "worker"
_LIBRARY_LIMIT_BYTES = 2**30
_ABIS: dict[Architecture, str] = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}
# System V ABI, ELF header: class and byte order at 4 and 5, type at 16, machine at 18.
_ELF = b"\x7fELF"
_ELF_HEADER_BYTES = 64
_64_BIT_LITTLE_ENDIAN = b"\x02\x01"
_SHARED_OBJECT = 3
_MACHINES: dict[int, Architecture] = {62: "x86_64", 183: "aarch64"}


def set_up_native(
    device: Device,
    library: Path,
    system: System,
    *,
    progress: ProgressCallback = ignore_progress,
) -> Installation:
    """Install the native worker and ``library`` (libonnxruntime.so, or the .aar that holds it) on ``device``.

    Raises BadInputError for a file that holds no such library for the device's architecture, DeviceError where no
    worker can be built for it.
    """
    architecture = _known(device.facts().architecture)
    content = read_library(library, architecture)
    worker = find_worker(system, architecture).read_bytes()
    named = {_WORKER: (f"worker-{sha256_bytes(worker)[:16]}", worker)}
    named[LIBRARY] = (f"onnxruntime-{sha256_bytes(content)[:16]}.so", content)
    for index, (name, data) in enumerate(named.values()):
        progress(Progress(stage="push", done=index, total=len(named), values={"file": name}))
        device.push(name, data)
    progress(Progress(stage="push", done=len(named), total=len(named)))
    installation = Installation(
        argv=(f"./{_WORKER}",),
        files={wanted: name for wanted, (name, _) in named.items()},
        library=LIBRARY,
        runtimes={"onnx": library.name},
    )
    write_installation(device, installation)
    return installation


def _known(architecture: str) -> Architecture:
    for known in _ABIS:
        if known == architecture:
            return known
    raise DeviceError(f"there is no native worker for {architecture!r}; known are {', '.join(_ABIS)}")


def read_library(path: Path, architecture: Architecture) -> bytes:
    """The library in ``path``: the file itself, or the one for ``architecture`` in an Android archive.

    Raises BadInputError for a file that a device of this architecture could not load, or that cannot be read.
    """
    if path.suffix.lower() not in (".aar", ".zip"):
        content = read_bounded(path, _LIBRARY_LIMIT_BYTES)
    else:
        content = _from_archive(path, architecture)
    if problem := _problem(content, architecture):
        raise BadInputError(f"{path}: {problem}", f"give {LIBRARY} for {architecture}, or the .aar")
    return content


def _problem(content: bytes, architecture: Architecture) -> str:
    """Why the device's linker would refuse the library; nothing if its header says nothing against it."""
    if len(content) < _ELF_HEADER_BYTES or not content.startswith(_ELF):
        return f"is no {LIBRARY} for Linux or Android"
    if content[4:6] != _64_BIT_LITTLE_ENDIAN:
        return f"is no 64-bit library for {architecture}"
    kind, machine = struct.unpack_from("<HH", content, 16)
    if kind != _SHARED_OBJECT:
        return f"is no shared library, and so no {LIBRARY}"
    if _MACHINES.get(machine) != architecture:
        return f"is for {_MACHINES.get(machine, 'another processor')}, and the device is {architecture}"
    return ""


def _from_archive(path: Path, architecture: Architecture) -> bytes:
    member = f"jni/{_ABIS[architecture]}/{LIBRARY}"
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = archive.getinfo(member).file_size
            if size_bytes <= _LIBRARY_LIMIT_BYTES:
                return archive.read(member)
    # For an archive that is damaged or lies, zipfile raises what it likes.
    except Exception as error:
        raise BadInputError(f"{path}: holds no {member}: {error}", "give the .aar of onnxruntime-android") from error
    raise BadInputError(f"{path}: {member} has {size_bytes} bytes; allowed are {_LIBRARY_LIMIT_BYTES}")
